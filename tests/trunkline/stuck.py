"""A supervised worker that stands still once: `python -m tests.trunkline.stuck JSON` supervises itself as a worker.

The worker blocks the thread in which it observes a moment for the first time, unless there is a file that says that it
has been blocked before.
"""

import asyncio
import json
import os
import sys
import threading
from pathlib import Path

from tests.trunkline import support
from trunkline.cli import supervisor
from trunkline.cli.worker import work
from trunkline.engine import watchdog
from trunkline.kafka import events
from trunkline.observe import Observed
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Targets


def main() -> None:
    asked = json.loads(sys.argv[1])
    if "WORKER" not in os.environ:
        command = [sys.executable, "-m", "tests.trunkline.stuck", sys.argv[1]]
        process = supervisor.Process("worker 0", command, {"WORKER": "0"})
        sys.exit(asyncio.run(supervisor.supervise([process], support.say)))

    def observe(seen: Observed) -> None:
        if seen.what == asked["moment"] and not Path(asked["once"]).exists():
            Path(asked["once"]).write_text(threading.current_thread().name)
            threading.Event().wait()

    def tell(url: str) -> None:
        sys.stdout.write(f"{url} {os.getpid()}\n")
        sys.stdout.flush()

    events.SESSION_SECONDS = 6
    watchdog.SILENT = asked["silent"]
    settings = Settings(
        kafka=Kafka(bootstrap=asked["bootstrap"]),
        ledger=Ledger(path=Path(asked["ledger"])),
        gateway=Gateway(port=0),
        targets=Targets(allow=support.LOOPBACK),
    )
    sys.exit(
        0 if work(getattr(support, asked["bus"])(asked["prefix"]), settings, [], observe=observe, ready=tell) else 1
    )


if __name__ == "__main__":
    main()
