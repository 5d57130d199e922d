"""A worker of a small bus as a process: `python -m tests.trunkline.child JSON`, started by `support.Stage.child`."""

import faulthandler
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from tests.trunkline import support
from trunkline.cli.run import work
from trunkline.errors import TrunklineError
from trunkline.kafka import events
from trunkline.observe import Observed
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Worker


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    asked = json.loads(sys.argv[1])
    seen: Counter[str] = Counter()

    def observe(observed: Observed) -> None:
        seen[observed.what] += 1
        if observed.what == asked["die"] and seen[observed.what] == asked["after"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(url: str) -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    events.SESSION_SECONDS = 6  # the shortest that brokers allow: a killed worker's partitions are free sooner
    bus = getattr(support, asked["bus"])(asked["prefix"], **asked["options"])
    settings = Settings(
        kafka=Kafka(bootstrap=asked["bootstrap"]),
        ledger=Ledger(path=Path(asked["ledger"])),
        gateway=Gateway(port=0),
        worker=Worker(slot=asked["slot"], drain_seconds=asked["drain_seconds"]),
    )
    try:
        ended = work(bus, settings, asked["flows"], observe=observe, ready=tell)
    except TrunklineError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.exit(0 if ended else 1)


if __name__ == "__main__":
    main()
