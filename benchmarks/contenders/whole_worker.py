"""Trunkline from a source to a target in one worker, as it is run: every hop, transactions and ledger on."""

import os
import sys
from ipaddress import IPv4Network
from pathlib import Path

from benchmarks.topology import whole_bus
from trunkline.cli.worker import work
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.topics import names, plan
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Targets


def main() -> None:
    """Run until SIGTERM."""
    bootstrap, state = os.environ["BOOTSTRAP"], Path(os.environ["STATE"])
    bus = whole_bus(os.environ["GROUP"])
    with Control(Cluster(bootstrap)) as control:
        control.apply(plan(bus, control.existing(names(bus)), Kafka()))
    settings = Settings(
        kafka=Kafka(bootstrap=bootstrap),
        ledger=Ledger(path=state / "ledger.db"),
        gateway=Gateway(port=int(os.environ["PORT"])),
        state=state,
        targets=Targets(allow=(IPv4Network("127.0.0.0/8"),)),
    )
    sys.exit(0 if work(bus, settings, [], start="earliest") else 1)


if __name__ == "__main__":
    main()
