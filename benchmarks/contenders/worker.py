"""Trunkline as it is run: the real worker, with its ledger, look-ups, retries, metrics and logs."""

import os
import sys
from ipaddress import IPv4Network
from pathlib import Path

from benchmarks.topology import bus_of
from trunkline.cli.run import work
from trunkline.kafka.control import Control
from trunkline.kafka.topics import names, plan
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Targets


def main() -> None:
    """Run until SIGTERM."""
    bootstrap = os.environ["BOOTSTRAP"]
    bus = bus_of(os.environ["TOPIC"], os.environ["GROUP"])
    with Control(bootstrap) as control:
        control.apply(plan(bus, control.existing(names(bus)), Kafka()))
    settings = Settings(
        kafka=Kafka(bootstrap=bootstrap),
        ledger=Ledger(path=Path(os.environ["LEDGER"])),
        gateway=Gateway(port=0),
        targets=Targets(allow=(IPv4Network("127.0.0.0/8"),)),
    )
    sys.exit(0 if work(bus, settings, [], start="earliest") else 1)


if __name__ == "__main__":
    main()
