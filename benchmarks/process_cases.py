"""Who processes, and what: the contenders and the cases of `make bench-process`."""

import sys
from dataclasses import dataclass, replace

from benchmarks.stage import PEERS

EVENTS = 400_000


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who processes: how its process is started, and what it promises."""

    name: str
    command: tuple[str, ...]
    promise: str
    note: str = ""


def python(module: str, *arguments: str, interpreter: str = sys.executable) -> tuple[str, ...]:
    """Say how a contender is started."""
    return (interpreter, "-m", f"benchmarks.contenders.{module}", *arguments)


OURS = Contender(
    "Trunkline", python("process_worker"), "exactly once", "the real worker; it has no mode without transactions"
)
CEILING = Contender(
    "bare loop, transactions",
    python("route", "txn"),
    "exactly once",
    "no ids, headers, letters or metrics: the ceiling",
)
HEADED = Contender(
    "bare loop, transactions, headers",
    python("route", "txn", "headers"),
    "exactly once",
    "writes the bytes that we write",
)
PLAIN = Contender("bare loop", python("route", "no"), "at most once", "commits nothing")
QUIX_EXACTLY = Contender(
    "Quix Streams, exactly once",
    python("with_quix_process", "exactly-once", interpreter=str(PEERS)),
    "exactly once",
    "a dictionary for a table",
)
QUIX = Contender(
    "Quix Streams",
    python("with_quix_process", "at-least-once", interpreter=str(PEERS)),
    "at least once",
    "a dictionary for a table",
)
FAUST = Contender(
    "Faust",
    python("with_faust_process", "worker", "-l", "warn", "--without-web", interpreter=str(PEERS)),
    "at least once",
    "a dictionary for a table",
)
FASTSTREAM = Contender(
    "FastStream",
    python("with_faststream_process", interpreter=str(PEERS)),
    "at least once",
    "batches on aiokafka; a dictionary for a table",
)
PEERS_IN_PYTHON = (QUIX_EXACTLY, QUIX, FAUST, FASTSTREAM)


@dataclass(frozen=True, slots=True)
class Case:
    """What is processed: events of this topic, by so many processes."""

    name: str
    topic: str
    events: int
    pieces: int
    """Records that are made of one event at most; it is one to so many, evenly."""
    payload: int
    """Bytes of a note that each event has beside the hundred that all have."""
    workers: int = 1

    @property
    def records(self) -> int:
        """How many records are due."""
        return sum(number % self.pieces + 1 for number in range(self.events))


SMALL = Case("100 bytes", "bench.small", EVENTS, 1, 0)
LARGE = Case("1 KiB", "bench.large", EVENTS // 2, 1, 924)
MANY = Case("100 bytes, 1 to 10 records", "bench.many", EVENTS // 3, 10, 0)
PACED = Case("1,000/s", "bench.paced-sales", 12_000, 1, 0)
PAIR = replace(SMALL, name="100 bytes, 2 processes", workers=2)
