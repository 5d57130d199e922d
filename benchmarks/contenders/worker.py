"""Trunkline as it is run: real workers, with one ledger, look-ups, retries, metrics and logs.

The argument is how many processes: one for each processor is what `TRUNKLINE_WORKER__PROCESSES` is for.
"""

import asyncio
import os
import sys
from ipaddress import IPv4Network
from pathlib import Path

from benchmarks.topology import bus_of
from trunkline.cli.project import talk
from trunkline.cli.supervisor import Process, supervise
from trunkline.cli.worker import say_running, work
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.topics import names, plan
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Targets, Worker

SLOT = "TRUNKLINE_WORKER__SLOT"


def main(processes: int) -> int:
    """Run until SIGTERM and give the exit code."""
    bootstrap = os.environ["BOOTSTRAP"]
    bus = bus_of(os.environ["TOPIC"], os.environ["GROUP"])
    slot = os.environ.get(SLOT)
    if slot is None:
        with Control(Cluster(bootstrap)) as control:
            control.apply(plan(bus, control.existing(names(bus)), Kafka()))
    if processes > 1:
        again = [sys.executable, "-m", "benchmarks.contenders.worker", "1"]
        workers = [Process(f"worker {number}", again, {SLOT: str(number)}) for number in range(processes)]
        return asyncio.run(supervise(workers, talk.print))
    settings = Settings(
        kafka=Kafka(bootstrap=bootstrap),
        ledger=Ledger(path=Path(os.environ["LEDGER"])),
        gateway=Gateway(port=0),
        targets=Targets(allow=(IPv4Network("127.0.0.0/8"),)),
        worker=Worker(slot=int(slot or 0)),
    )
    ready = (lambda _: None) if slot is None else (lambda _: say_running())
    return 0 if work(bus, settings, [], start="earliest", ready=ready) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
