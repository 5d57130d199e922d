"""The ledger in one SQLite file, shared by the processes of a machine: WAL, every commit synced to disk."""

import functools
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from trunkline.ledger import calls, delivered, identity
from trunkline.ledger.database import Failure, outdated

PATIENCE = 10.0
"""Seconds that a write waits for another process's; one that is frozen inside a commit holds it up longer."""

AT_ONCE = (256, 64, 16, 4, 1)
"""Rows of a join that go into one statement: few lengths, so that each is a statement that SQLite has read before."""

MIGRATIONS = (
    (
        "CREATE TABLE IF NOT EXISTS sinks (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        # One row per event and sink, clustered by the UTC day of the event's own time (L1, L2).
        """
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
        ) WITHOUT ROWID
        """,
        # What a source has posted: PENDING until the broker has acknowledged it (G1).
        """
        CREATE TABLE IF NOT EXISTS claims (
            id BLOB PRIMARY KEY,        -- digest of source and event id
            payload BLOB NOT NULL,
            state INTEGER NOT NULL,     -- claims.State
            owner TEXT NOT NULL,
            deadline REAL NOT NULL      -- epoch seconds; after it another process may take the claim over
        ) WITHOUT ROWID
        """,
        # Replays: a record of a replay topic counts only while its run is live (R2).
        """
        CREATE TABLE IF NOT EXISTS runs (
            id TEXT PRIMARY KEY,
            sink TEXT NOT NULL,
            planned INTEGER NOT NULL,
            started TEXT NOT NULL,
            finished TEXT
        ) WITHOUT ROWID
        """,
    ),
    (
        "ALTER TABLE deliveries ADD COLUMN owner TEXT",  # of an INTENT: the process that calls
        "ALTER TABLE deliveries ADD COLUMN deadline REAL",  # of an INTENT: epoch seconds at which the call is over
        "ALTER TABLE deliveries ADD COLUMN before INTEGER",  # of an INTENT: the state that it replaced, if any
        "ALTER TABLE deliveries ADD COLUMN run TEXT",  # the replay that ended so, if one did
        # When a day's rows were last written, to the hour: they go together (L2).
        "CREATE TABLE days (day INTEGER PRIMARY KEY, written INTEGER NOT NULL)",
        "INSERT INTO days SELECT day, max(at) FROM deliveries GROUP BY day",
        # Events that keep their key parked: it is parked while one of them is not free. They are kept for a while, so
        # that whoever asks again what was freed hears the same (D12).
        """
        CREATE TABLE parks (
            sink INTEGER NOT NULL,
            key BLOB NOT NULL,
            day INTEGER NOT NULL,       -- of the delivery
            id BLOB NOT NULL,
            partition INTEGER NOT NULL,
            offset INTEGER NOT NULL,
            freed INTEGER,              -- epoch milliseconds at which it was finished
            PRIMARY KEY (sink, key, day, id)
        ) WITHOUT ROWID
        """,
        # The newest delivered event of a key, for sinks that store the last state of it (R2).
        """
        CREATE TABLE latest (
            sink INTEGER NOT NULL,
            key BLOB NOT NULL,
            partition INTEGER NOT NULL,
            offset INTEGER NOT NULL,
            day INTEGER NOT NULL,       -- on which it was delivered, since 1970
            PRIMARY KEY (sink, key)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX latest_by_day ON latest (day)",
        "CREATE INDEX claims_by_deadline ON claims (deadline)",
        # Attempts that did not deliver, redacted; they go with their day.
        """
        CREATE TABLE attempts (
            day INTEGER NOT NULL,
            id BLOB NOT NULL,
            at INTEGER NOT NULL,        -- epoch milliseconds
            status INTEGER,
            seconds REAL NOT NULL,
            words TEXT NOT NULL,
            PRIMARY KEY (day, id, at)
        ) WITHOUT ROWID
        """,
        # How far every sink was when it last committed its offsets (L3).
        """
        CREATE TABLE progress (
            sink TEXT NOT NULL,
            topic TEXT NOT NULL,
            partition INTEGER NOT NULL,
            offset INTEGER NOT NULL,
            PRIMARY KEY (sink, topic, partition)
        ) WITHOUT ROWID
        """,
        # Which ledger this is, so that another one is not taken for it (L3).
        "CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, epoch INTEGER NOT NULL)",
        # How often every writer has committed, so that it notices a ledger that has lost one of its commits (L3).
        "CREATE TABLE writers (id TEXT PRIMARY KEY, commits INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID",
        "ALTER TABLE runs ADD COLUMN overwrite INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN keys TEXT NOT NULL DEFAULT ''",  # nobody reads them any more
    ),
    calls.SQLITE,
    delivered.SQLITE,
    identity.BUS,
    (
        # One of each topic: offsets of two say nothing of each other. Rows from before do not name theirs.
        "ALTER TABLE latest RENAME TO latest_before",
        """
        CREATE TABLE latest (
            sink INTEGER NOT NULL,
            key BLOB NOT NULL,
            topic TEXT NOT NULL,
            partition INTEGER NOT NULL,
            offset INTEGER NOT NULL,
            day INTEGER NOT NULL,       -- on which it was delivered, since 1970
            PRIMARY KEY (sink, key, topic)
        ) WITHOUT ROWID
        """,
        "INSERT INTO latest SELECT sink, key, '', partition, offset, day FROM latest_before",
        "DROP TABLE latest_before",
        "CREATE INDEX latest_by_day ON latest (day)",
    ),
)

LOGGED = 8_000
"""Pages that the log holds before they go into the file (32 MiB): rows have random places, and a page that is written
to again while it is in the log goes into the file once."""

LARGEST_LOG = 64 * 1024 * 1024
"""Bytes that the log keeps on disk when it begins anew: while somebody else has a transaction open it only grows."""


class File:
    """A ledger's file. Once this process has opened it, another file at its path is not taken for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = f"the ledger {path}"
        self._inode: tuple[int, int] | None = None

    def exists(self) -> bool:
        """Say whether there is a ledger, without making one."""
        return self.path.exists()

    def free(self) -> int | None:
        """Give the bytes that the disk of the file has left; None where there is no such folder."""
        try:
            return shutil.disk_usage(self.path.parent).free
        except OSError:
            return None

    def connect(self) -> "Connection":
        """Open the file; made when absent, unless this process knew it before.

        Raises:
            UsageError: it was made by a newer Trunkline.
            Failure: it cannot be opened, is no ledger, or has gone.
        """
        if self._inode is not None:
            same(self.path, self._inode)
        with ExitStack() as opened:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self._inode is None:
                    self.path.touch(0o640)  # SQLite itself would let everybody on the machine read it
                uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if self._inode is None else 'rw'}"
                raw = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=PATIENCE)
                opened.callback(raw.close)
                migrate(raw, self.name)
                if self._inode is None:
                    found = self.path.stat()
                    self._inode = (found.st_dev, found.st_ino)
            except (OSError, sqlite3.Error) as error:
                damaged = getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
                hint = ". Move it away and run `trunkline ledger rebuild`" if damaged else ""
                raise Failure(f"{self.name} cannot be opened: {error}{hint}") from None
            opened.pop_all()
        return Connection(raw, self.path, self._inode)


def same(path: Path, inode: tuple[int, int]) -> None:
    """Make sure that a file is still the one at its path: what is written to a removed one is lost.

    Raises:
        Failure: it is not.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - called with every statement: half of Path's time
    except OSError as error:
        raise Failure(f"the ledger {path} has gone: {error.strerror}") from None
    if (found.st_dev, found.st_ino) != inode:
        raise Failure(f"the ledger {path} is not the file that it was: somebody replaced it")


def migrate(raw: sqlite3.Connection, name: str) -> None:
    """Set the connection up, and bring the ledger up to date; one process at a time does."""
    until = time.monotonic() + PATIENCE
    while True:  # the change to WAL does not wait for a lock by itself
        try:
            raw.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute(f"PRAGMA wal_autocheckpoint = {LOGGED}")
    raw.execute(f"PRAGMA journal_size_limit = {LARGEST_LOG}")
    if outdated(version_of(raw), len(MIGRATIONS), name):
        raw.execute("BEGIN IMMEDIATE")
        try:
            for statement in itertools.chain(*MIGRATIONS[version_of(raw) :]):
                raw.execute(statement)
            raw.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
            raw.execute("DELETE FROM schema_version")
            raw.execute("INSERT INTO schema_version VALUES (?)", (len(MIGRATIONS),))
            raw.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise


def version_of(raw: sqlite3.Connection) -> int:
    """Read which migrations the file has seen."""
    if not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone():
        return 0
    version: int = raw.execute("SELECT version FROM schema_version").fetchone()[0]
    return version


@functools.lru_cache(256)
def joined(sql: str, width: int, length: int) -> str:
    """Write a statement over so many rows of so many values."""
    row = f"({', '.join('?' * width)})"
    return sql.replace(":deliveries", "deliveries").replace(":rows", f"VALUES {', '.join([row] * length)}")


class Connection:
    """A connection to the file, as database.Connection promises."""

    def __init__(self, raw: sqlite3.Connection, path: Path, inode: tuple[int, int]) -> None:
        self._raw = raw
        self._path = path
        self._inode = inode

    @property
    def number(self) -> int:
        """Give 0: one transaction writes at a time."""
        return 0

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement and give its rows."""
        with self._failing():
            return self._raw.execute(sql, values).fetchall()

    def join(self, sql: str, kinds: str, rows: Iterable[Sequence[object]]) -> list[tuple[Any, ...]]:
        """Run one statement over many rows, 256 at a time."""
        width, found, at = len(kinds.split()), [], 0
        values = list(itertools.chain.from_iterable(rows))
        with self._failing():
            for length in AT_ONCE:
                while len(values) - at >= length * width:
                    part = values[at : at + length * width]
                    found += self._raw.execute(joined(sql, width, length), part).fetchall()
                    at += length * width
        return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what runs inside one transaction; nobody else writes meanwhile."""
        with self._failing():
            self._raw.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._failing():
                self._raw.execute("COMMIT")
        finally:
            if self._raw.in_transaction:
                with self._failing():
                    self._raw.execute("ROLLBACK")
        same(self._path, self._inode)  # a file that was removed meanwhile took with it what was committed

    def begin_day(self, day: int) -> None:
        """Do nothing: all days are in one table."""

    def end_day(self, day: int) -> bool:
        """Say whether no delivery of a day is left: there is no more to remove then."""
        return not self.run("SELECT 1 FROM deliveries WHERE day = ? LIMIT 1", day)

    def close(self) -> None:
        """End the connection."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn what the database says of itself into Failure; a wrong statement or value stays what it is."""
        same(self._path, self._inode)
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.NotSupportedError):
            raise
        except sqlite3.Error as error:
            raise Failure(f"the ledger {self._path} fails: {error}") from None
