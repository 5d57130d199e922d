"""What the witnesses read: every request and every effect, in a SQLite file, and the counts of both."""

import asyncio
import itertools
import sqlite3
import sys
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, Literal

from pydantic import TypeAdapter

from trunkline.dev.target.call import Call, member

Outcome = Literal["applied", "repeat", "reused"]

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;  -- what is committed survives the process, in the system's cache; the machine need not
CREATE TABLE IF NOT EXISTS effects (
    name TEXT NOT NULL, key TEXT, method TEXT NOT NULL, path TEXT NOT NULL, body, body_sha256 TEXT NOT NULL,
    at REAL NOT NULL, first_seq INTEGER NOT NULL, times INTEGER NOT NULL, repeats INTEGER NOT NULL, UNIQUE (name, key));
CREATE TABLE IF NOT EXISTS attempts (
    seq INTEGER PRIMARY KEY, name TEXT NOT NULL, key TEXT, path TEXT NOT NULL, body_sha256 TEXT NOT NULL,
    status INTEGER, at REAL NOT NULL, in_flight_at_arrival INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS overlaps (seq INTEGER NOT NULL, beside INTEGER NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY, seq INTEGER NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL, version,
    body_sha256 TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS changes_of ON changes (name, path);
"""
ARRIVE = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, NULL, ?, ?)"
SETTLE = "UPDATE attempts SET status = ? WHERE seq = ?"
APPLY = """INSERT INTO effects VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 0) ON CONFLICT (name, key) DO UPDATE
    SET repeats = repeats + (body_sha256 = excluded.body_sha256) RETURNING first_seq, body_sha256"""
APPLY_AGAIN = """INSERT INTO effects VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 0) ON CONFLICT (name, key) DO UPDATE
    SET times = times + 1"""
OVERLAP = "INSERT INTO overlaps VALUES (?, ?, ?)"
CHANGE = """INSERT INTO changes (seq, name, path, version, body_sha256, at)
    SELECT :seq, :name, :path, :version, :body_sha256, :at WHERE :body_sha256 IS NOT (
        SELECT body_sha256 FROM changes WHERE name = :name AND path = :path ORDER BY number DESC LIMIT 1)"""


@dataclass(frozen=True, slots=True)
class Stats:
    """What one API has seen. `statuses` counts attempts by answer, "none" for those without one."""

    attempts: int = 0
    effects: int = 0
    duplicates: int = 0
    repeats: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    statuses: dict[str, int] = field(default_factory=dict)


STATS = TypeAdapter(dict[str, Stats])


class Records:
    """The SQLite file: what is written in one pass of the event loop is committed together at its end."""

    def __init__(self, database: Path) -> None:
        self.path = database
        database.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(database, isolation_level=None)
        self._file.executescript(SCHEMA)
        last: int = self._file.execute("SELECT coalesce(max(seq), 0) FROM attempts").fetchone()[0]
        self._seqs = itertools.count(last + 1)
        self._batch: asyncio.Event | None = None

    def arrive(self, call: Call, *, others: int, beside: Collection[int]) -> int:
        """Record an attempt, not answered yet, and return its seq; `beside` are the unanswered ones of its lane."""
        seq = next(self._seqs)
        self._write(ARRIVE, (seq, call.name, call.key, call.path, call.body_sha256, time(), others))
        for other in beside:
            self._write(OVERLAP, (seq, other, call.name))
        return seq

    def apply(self, call: Call, seq: int, *, honour_keys: bool) -> Outcome:
        """Let the effect happen, unless its key says that it has."""
        try:
            body: str | bytes = call.body.decode()
        except UnicodeDecodeError:
            body = call.body
        row = (call.name, call.key, call.method, call.path, body, call.body_sha256, time(), seq)
        if not honour_keys:
            self._write(APPLY_AGAIN, row)
            return "applied"
        [(first_seq, body_sha256)] = self._write(APPLY, row).fetchall()
        if first_seq == seq:
            return "applied"
        return "repeat" if body_sha256 == call.body_sha256 else "reused"

    def store(self, call: Call, seq: int, field: str) -> Outcome:
        """Let the path hold this body from now on, whatever its version."""
        self.apply(call, seq, honour_keys=False)
        values = {"seq": seq, "name": call.name, "path": call.path, "body_sha256": call.body_sha256, "at": time()}
        self._write(CHANGE, {**values, "version": member(call.body, field)})
        return "applied"

    def settle(self, seq: int, status: int) -> None:
        """Record how an attempt is answered."""
        self._write(SETTLE, (status, seq))

    async def committed(self) -> None:
        """Wait until everything written so far is in the file."""
        if self._batch is not None:
            await self._batch.wait()

    async def clear(self) -> None:
        """Empty every table; seq goes on rising."""
        for table in ("effects", "attempts", "overlaps", "changes"):
            self._write(f"DELETE FROM {table}", ())  # noqa: S608 - of the four names above
        await self.committed()

    def stats(self) -> dict[str, dict[str, Any]]:
        """Count the committed rows per API, on a connection of its own: any thread may ask."""
        found: dict[str, dict[str, Any]] = {}
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            file.execute("BEGIN")  # both questions are asked of the same moment
            for name, status, count in file.execute("SELECT name, status, count(*) FROM attempts GROUP BY 1, 2"):
                api = found.setdefault(name, {"attempts": 0, "statuses": {}})
                api["attempts"] += count
                api["statuses"]["none" if status is None else str(status)] = count
            for name, effects, duplicates, repeats in file.execute(
                "SELECT name, count(*), sum(times > 1), sum(repeats) FROM effects GROUP BY 1"
            ):
                found[name] |= {"effects": effects, "duplicates": duplicates, "repeats": repeats}
        return found

    def close(self) -> None:
        """Close the file; all of it is in one file then, without a WAL beside it."""
        self._file.close()

    def _write(self, statement: str, values: tuple[object, ...] | Mapping[str, object]) -> sqlite3.Cursor:
        if self._batch is None:
            self._file.execute("BEGIN IMMEDIATE")
            self._batch = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._commit, self._batch)
        return self._file.execute(statement, values)

    def _commit(self, batch: asyncio.Event) -> None:
        self._batch = None
        try:
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            # A witness that cannot write must not answer.
            sys.exit(f"target: {self.path} cannot be written ({error}); stopped. What was answered with 200 is in it.")
        batch.set()
