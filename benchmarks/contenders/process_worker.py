"""Trunkline as it is run: the real worker, transactions, metrics and logs on."""

import os
import sys
from pathlib import Path

from benchmarks.topology import processing_bus
from trunkline.cli.worker import work
from trunkline.kafka.control import Control
from trunkline.kafka.topics import names, plan
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Worker


def main() -> None:
    """Run until SIGTERM."""
    bootstrap = os.environ["BOOTSTRAP"]
    bus = processing_bus(os.environ["TOPIC"], os.environ["OUT"], os.environ["GROUP"])
    with Control(bootstrap) as control:
        control.apply(plan(bus, control.existing(names(bus)), Kafka()))
    state = Path(os.environ["STATE"])
    settings = Settings(
        kafka=Kafka(bootstrap=bootstrap),
        ledger=Ledger(path=state / "ledger.db"),
        gateway=Gateway(port=0),
        state=state,
        worker=Worker(slot=int(os.environ["SLOT"])),
    )
    sys.exit(0 if work(bus, settings, [], start="earliest") else 1)


if __name__ == "__main__":
    main()
