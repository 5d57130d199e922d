"""The ledger in one SQLite file, shared by the processes of a machine: WAL, every commit synced to disk.

Reads happen on the caller's own connection. Writes go through one thread that commits in groups: the next commit
takes whatever came while the last one ran, so no timer delays a single write and many share one sync (D3).
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trunkline.errors import Unavailable

T = TypeVar("T")

Connection = sqlite3.Connection
Failure = sqlite3.Error
"""What reading the ledger raises when its file cannot be read."""

GROUP = 500
"""Writes that share one commit at most."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS sinks (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- One row per event and sink, clustered by the UTC day of the event's own time (L1, L2).
CREATE TABLE IF NOT EXISTS deliveries (
    day INTEGER NOT NULL,       -- days since 1970
    id BLOB NOT NULL,           -- digest of sink, source and event id
    sink INTEGER NOT NULL,
    state INTEGER NOT NULL,     -- deliveries.State
    key BLOB,                   -- digest of the record's key
    partition INTEGER NOT NULL, -- where the event first stood in the sink's topic
    offset INTEGER NOT NULL,
    payload BLOB NOT NULL,      -- digest of the Avro body
    attempts INTEGER NOT NULL,
    at INTEGER NOT NULL,        -- epoch milliseconds of the last change
    PRIMARY KEY (day, id)
) WITHOUT ROWID;

-- What a source has posted: PENDING until the broker has acknowledged it (G1).
CREATE TABLE IF NOT EXISTS claims (
    id BLOB PRIMARY KEY,        -- digest of source and event id
    payload BLOB NOT NULL,
    state INTEGER NOT NULL,     -- claims.State
    owner TEXT NOT NULL,
    deadline REAL NOT NULL      -- epoch seconds; after it another process may take the claim over
) WITHOUT ROWID;

-- Replays: a record of a replay topic counts only while its run is live (R2).
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    sink TEXT NOT NULL,
    planned INTEGER NOT NULL,
    started TEXT NOT NULL,
    finished TEXT
) WITHOUT ROWID;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger, made when absent.

    Raises:
        Unavailable: the file cannot be opened or is no ledger.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(SCHEMA)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"the ledger {path} cannot be opened: {error}") from None
    return db


class Writer:
    """Commits the writes of one process in groups; used from one asyncio loop."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path)
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """Run `work` inside the next group commit; the future has its result once that is durable.

        The future raises Unavailable when the commit failed: nothing of the group was written.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, future))
        return future

    async def close(self) -> None:
        """Commit what is queued and stop."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._db.close()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            group = [item]
            stopping = False
            while len(group) < GROUP and not self._queue.empty():
                if (item := self._queue.get()) is None:
                    stopping = True
                    break
                group.append(item)
            results: list[Any] | Unavailable
            try:
                results = self._commit([work for work, _ in group])
            except sqlite3.Error as error:
                results = Unavailable(f"the ledger cannot be written: {error}")
            self._loop.call_soon_threadsafe(settle, [future for _, future in group], results)
            if stopping:
                return

    def _commit(self, group: list[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            results = [work(self._db) for work in group]
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return results


def settle(futures: list["asyncio.Future[Any]"], results: list[Any] | Unavailable) -> None:
    """Give every waiter its result, or all of them the failure of their group."""
    for number, future in enumerate(futures):
        if future.done():
            continue
        if isinstance(results, Unavailable):
            future.set_exception(results)
        else:
            future.set_result(results[number])
