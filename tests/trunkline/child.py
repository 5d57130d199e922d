"""A worker of a small bus as a process: `python -m tests.trunkline.child JSON`, started by `support.Stage.child`."""

import faulthandler
import importlib
import json
import os
import signal
import sys
import time
from collections import Counter
from datetime import datetime, tzinfo
from typing import Any

from tests.trunkline.support import LOOPBACK
from trunkline.cli.worker import work
from trunkline.errors import TrunklineError
from trunkline.kafka import events
from trunkline.observe import Observed
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Targets, Worker


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    asked = json.loads(sys.argv[1])
    seen: Counter[str] = Counter()

    def observe(observed: Observed) -> None:
        seen[observed.what] += observed.count
        if observed.what == asked["die"] and seen[observed.what] >= asked["after"]:
            os.kill(os.getpid(), asked["by"])

    def tell(url: str) -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    events.SESSION_SECONDS = 6  # the shortest that brokers allow: a killed worker's partitions are free sooner
    if asked["clock"]:
        advance(asked["clock"])
    for path, value in asked["constants"].items():
        module, _, name = path.rpartition(".")
        getattr(importlib.import_module(module), name)  # one that is not there would scale nothing
        setattr(importlib.import_module(module), name, value)
    module, _, function = asked["bus"].rpartition(":")
    make = getattr(importlib.import_module(module or "tests.trunkline.support"), function)
    bus = make(asked["prefix"], **asked["options"])
    settings = Settings(
        kafka=Kafka(bootstrap=asked["bootstrap"], registry=asked["registry"] or None),
        ledger=Ledger(**asked["ledger"]),
        gateway=Gateway(port=0),
        state=asked["state"],
        targets=Targets(allow=LOOPBACK),
        worker=Worker(slot=asked["slot"], drain_seconds=asked["drain_seconds"]),
    )
    try:
        ended = work(bus, settings, asked["flows"], start=asked["start"] or None, observe=observe, ready=tell)
    except TrunklineError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.exit(0 if ended else 1)


def advance(seconds: float) -> None:
    """Let the wall clock be so much fast, for everything that is imported by now; monotonic clocks stay."""
    right = time.time

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

    class Fast(datetime, metaclass=Kind):
        def __new__(cls, *parts: Any, **more: Any) -> datetime:  # type: ignore[misc]  # all that it makes are plain
            return datetime(*parts, **more)  # noqa: DTZ001 - with the zone that it was given

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # the module's own kind
            return datetime.fromtimestamp(right() + seconds, tz)

    time.time = lambda: right() + seconds
    for name, module in list(sys.modules.items()):
        if name.startswith("trunkline.") and getattr(module, "datetime", None) is datetime:
            module.datetime = Fast  # type: ignore[attr-defined]  # it has one


if __name__ == "__main__":
    main()
