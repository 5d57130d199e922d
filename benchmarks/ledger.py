"""What the ledger costs when it is full: `make bench-ledger`.

It fills a ledger with rows of fourteen days, then does what a worker does with every batch: looks 500 events up and
records their outcomes, durable, in one commit. Exit code 1 when a database does less than the bar.
"""

import argparse
import json
import os
import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from pydantic import SecretStr

from benchmarks import results as section
from trunkline.dev.postgres import LocalPostgres
from trunkline.ledger import deliveries, history
from trunkline.ledger.attempts import Attempt, attempts_of, tried
from trunkline.ledger.database import Ledger
from trunkline.ledger.deliveries import Outcome, Place, State
from trunkline.ledger.postgres import Server
from trunkline.ledger.sqlite import File

WHOLE = 10_000_000
BAR = 10_000
"""Events a second that must be looked up and recorded."""
TRACE = 1.0
"""Seconds in which one event must be found among all, with its attempts."""
DAYS = 14
BATCH = 500
BATCHES = 200
BUILD = Path("build/bench")
NOW = datetime.now(UTC)
TODAY = int(NOW.timestamp() // 86_400)


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the results; `cpu_us_per_event` is the worker's own, without a server's."""

    case: str
    contender: str
    events_per_s: float
    cpu_us_per_event: float
    p50_ms: float
    p99_ms: float
    trace_ms: float
    bytes_per_row: float
    rows: int


def main() -> int:
    """Measure what was asked for and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=WHOLE, help="rows in the ledger before it is measured")
    parser.add_argument("--database", choices=["sqlite", "postgres"], help="only one of them")
    asked = parser.parse_args()
    stages: dict[str, Callable[[int], Iterator[tuple[Ledger, int]]]] = {"sqlite": sqlite, "postgres": postgres}
    results = []
    for name, stage in stages.items():
        if asked.database in {None, name}:
            with contextmanager(stage)(asked.rows) as (ledger, size):
                results.append(measure(name, ledger, asked.rows, size))
                say(str(results[-1]))
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "ledger.json").write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    if asked.rows == WHOLE and len(results) == len(stages):
        section.keep("The ledger when it is full (`make bench-ledger`)", told(results))
    slow = [one for one in results if not enough(one)]
    for one in slow:
        say(f"{one.contender} misses the bar of {BAR} events/s and {TRACE:g} s for a trace")
    return 1 if slow else 0


def told(results: Sequence[Result]) -> list[str]:
    """Write what is committed."""
    rows = [
        (
            *(one.contender, f"{one.events_per_s:,.0f}", f"{one.cpu_us_per_event:.1f}", f"{one.p50_ms:.1f}"),
            *(f"{one.p99_ms:.1f}", f"{one.trace_ms:.1f}", f"{one.bytes_per_row:.0f}"),
        )
        for one in results
    ]
    return [
        f"{NOW:%Y-%m-%d}. {section.machine()}. {WHOLE:,} rows of {DAYS} days.",
        "",
        f"A batch is {BATCH} events: one query for what is known of them, one durable commit of their outcomes. CPU is",
        "the process's own, without a server's. *Trace* finds one event and its attempts by the event's id alone.",
        "",
        *section.table(("database", "events/s", "CPU µs", "batch p50 ms", "p99 ms", "trace ms", "bytes a row"), rows),
        "",
        f"Bars: {BAR:,} events/s, a trace within {TRACE:g} s; "
        + ("both met." if all(map(enough, results)) else "**not met**."),
    ]


def enough(one: Result) -> bool:
    """Say whether a database reaches the bars."""
    return one.events_per_s >= BAR and one.trace_ms <= TRACE * 1000


def measure(name: str, ledger: Ledger, rows: int, size: int) -> Result:
    """Look up and record batches, then trace one event."""
    chance = random.Random(2)  # noqa: S311 - the same events in every run
    batches = [[outcome(chance) for _ in range(BATCH)] for _ in range(BATCHES)]
    took = []
    with ledger.connect() as reader, ledger.connect() as writer:
        cpu, began = time.process_time(), time.perf_counter()
        for batch in batches:
            start = time.perf_counter()
            found = deliveries.look_up(reader, (one.place for one in batch))
            with writer.transaction():
                deliveries.record(writer, [one for one in batch if one.place not in found])
            took.append(time.perf_counter() - start)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        dead = batches[7][7].place
        tried(writer, [Attempt(dead, NOW, 503, 0.2, "answered 503")] * 3)
        start = time.perf_counter()
        places = [Place(day, dead.id) for day in history.days(reader, dead.day)]
        assert [*history.fates(reader, places)] == [dead]
        assert len(attempts_of(reader, places)) == 1
        trace = time.perf_counter() - start
    took.sort()
    return Result(
        case="ledger: look up and record",
        contender=name,
        events_per_s=round(BATCH * BATCHES / seconds),
        cpu_us_per_event=round(1e6 * cpu / (BATCH * BATCHES), 1),
        p50_ms=round(1000 * took[len(took) // 2], 1),
        p99_ms=round(1000 * took[len(took) * 99 // 100], 1),
        trace_ms=round(1000 * trace, 1),
        bytes_per_row=round(size / rows, 1),
        rows=rows,
    )


def outcome(chance: random.Random) -> Outcome:
    """Make an outcome: most events are of today, some of the days before."""
    day = TODAY if chance.random() < 0.9 else TODAY - chance.randrange(1, DAYS)
    key, payload = chance.randbytes(16), chance.randbytes(16)
    return Outcome(Place(day, chance.randbytes(16)), 1, State.DONE, key, 3, chance.randrange(10**9), payload, 1, NOW)


def filling(rows: int) -> Iterator[tuple[int, list[tuple[object, ...]]]]:
    """Yield the rows of each day in portions, as a worker might have written them: by time, so with ids in no order."""
    at = int(NOW.timestamp() * 1000)
    for day in range(TODAY - DAYS + 1, TODAY + 1):
        left = rows // DAYS
        while left > 0:
            many = min(left, 20_000)
            left -= many
            noise = os.urandom(48 * many)
            yield (
                day,
                [
                    (day, noise[n : n + 16], 1, 1, noise[n + 16 : n + 32], 3, left + n, noise[n + 32 : n + 48], 1, at)
                    for n in range(0, 48 * many, 48)
                ],
            )


def sqlite(rows: int) -> Iterator[tuple[Ledger, int]]:
    """Fill a file."""
    folder = BUILD / "ledger"
    shutil.rmtree(folder, ignore_errors=True)
    ledger = File(folder / "ledger.db")
    ledger.connect().close()
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("PRAGMA cache_size = -500000")
        known = None
        for day, portion in filling(rows):
            raw.execute("BEGIN")
            if day != known:
                known = day
                say(f"sqlite: filling day {TODAY - day} ago")
                raw.execute("INSERT INTO days VALUES (?, ?)", (day, int(NOW.timestamp() * 1000)))
            raw.executemany(
                "INSERT INTO deliveries (day, id, sink, state, key, partition, offset, payload, attempts, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                portion,
            )
            raw.execute("COMMIT")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.sync()  # what the filling left to be written is not the ledger's
    yield ledger, ledger.path.stat().st_size
    shutil.rmtree(folder)


def postgres(rows: int) -> Iterator[tuple[Ledger, int]]:
    """Fill a database."""
    server = LocalPostgres(BUILD / "ledger-postgres", progress=say)
    server.remove()
    try:
        server.start()
        ledger = Server(SecretStr(server.url()))
        with ledger.connect() as db, psycopg.connect(server.url(), autocommit=True) as raw:
            known = None
            for day, portion in filling(rows):
                if day != known:
                    known = day
                    say(f"postgres: filling day {TODAY - day} ago")
                    with db.transaction():
                        deliveries.open_days(db, {day: int(NOW.timestamp() * 1000)})
                columns = 'day, id, sink, state, key, partition, "offset", payload, attempts, at'
                with raw.cursor().copy(f"COPY deliveries_{day} ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
                    copy.set_types(["int4", "bytea", "int4", "int4", "bytea", "int4", "int8", "bytea", "int4", "int8"])
                    for row in portion:
                        copy.write_row(row)
            found = raw.execute("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relispartition").fetchone()
            raw.execute("CHECKPOINT")
        os.sync()
        yield ledger, int(found[0]) if found else 0
    finally:
        server.remove()


def say(line: str) -> None:
    """Tell the person who waits."""
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
