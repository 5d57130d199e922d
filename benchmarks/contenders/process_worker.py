"""Trunkline as it is run: the real worker, transactions, metrics and logs on."""

import fcntl
import os
import sys
from contextlib import closing
from pathlib import Path

from benchmarks.topology import processing_bus, products
from trunkline.cli.worker import work
from trunkline.flow.declare import Bus, schemas_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.registry import Registry
from trunkline.kafka.topics import names, plan
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Worker


def prepare(bus: Bus, bootstrap: str) -> None:
    """Make the topics, and register the schemas in the order of the ids with which the events were written before."""
    with Control(Cluster(bootstrap)) as control:
        control.apply(plan(bus, control.existing(names(bus)), Kafka()))
    with closing(Registry(Cluster(bootstrap), schemas_of(bus))) as registry:
        for text in (*(topic.schema.text for topic in bus.topics), products.schema.text):
            registry.id_of(text)


def main() -> None:
    """Run until SIGTERM."""
    bootstrap, state = os.environ["BOOTSTRAP"], Path(os.environ["STATE"])
    bus = processing_bus(os.environ["TOPIC"], os.environ["OUT"], os.environ["GROUP"])
    with (state.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two workers that race, each would register some
        prepare(bus, bootstrap)
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
