"""Tables: compacted topics of which each worker holds the last row of every key; ready before a flow starts (P4).

    topic ─▶ Changes ─▶ Store (on disk, with how far it has read) ─▶ Kept (decoded when asked for) ─▶ steps

A worker that starts again reads what has changed meanwhile and nothing else. As long as the rows cannot be those of the
topic, asking for one raises Unavailable: the flow waits, and nothing goes dead.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from trunkline.engine.store import Damaged, Store, discard
from trunkline.errors import Permanent, Poison, Unavailable, UnknownSchema
from trunkline.flow.declare import Table
from trunkline.flow.rows import Row, Rows, asked, no_text
from trunkline.kafka.changes import Changes
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.registry import Format
from trunkline.observe import Observed, Observer

DECODED = 8 * 1024 * 1024
"""Bytes of rows, as they lie on disk, that are kept decoded in each of two generations."""
VERIFYING = 5.0
"""Seconds between two looks whether the topic is still the one that it was."""
AGAIN = 1.0
"""Seconds after which an unavailable topic is looked for again."""
STOPPING = 2.0


class Kept(Rows):
    """The rows of one table for any thread; those that were asked for lately stay decoded."""

    def __init__(self, table: str, form: Format) -> None:
        self._table = table
        self._form = form
        self._store: Store | None = None
        self._why = "not read to its end yet"
        self._lock = threading.Lock()
        self.changes = 0
        """Counts up whenever a row may have come or gone."""
        self._young: dict[str, Row | None] = {}
        """Rows by key; None of a key that has none."""
        self._old: dict[str, Row | None] = {}
        self._bytes = 0
        self.damaged = False
        """Whether a row could not be read back: they have to be read anew."""

    def get(self, key: str, default: Any = None) -> Any:
        """Give a row.

        Raises:
            Unavailable: the rows cannot be those of the topic now.
            Permanent: the row is no record of the table.
            UnknownSchema: the row was written with a schema that this worker does not know.
        """
        if (row := self._young.get(key)) is None and (row := self._find(key)) is None:
            return default
        return row

    def __getitem__(self, key: str) -> Row:
        if (row := self.get(key)) is None:
            raise KeyError(key)
        found: Row = row
        return found

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[arg-type]  # whatever it is, it is told as it is

    def __iter__(self) -> Iterator[str]:
        return (key.decode(errors="surrogateescape") for key in self._open().keys())  # noqa: SIM118 - a store is no dict

    def __len__(self) -> int:
        return self._open().count

    def have(self, store: Store) -> None:
        """Give the rows of a store from now on."""
        self.damaged = False
        self._store = store

    def lose(self, why: str) -> None:
        """Give no rows from now on."""
        with self._lock:
            self._store, self._why = None, why
            self._forget()

    def changed(self, keys: Iterable[str]) -> None:
        """Decode these rows anew when they are asked for again."""
        with self._lock:
            self.changes += 1
            for key in keys:
                self._young.pop(key, None)
                self._old.pop(key, None)

    def _open(self) -> Store:
        if (store := self._store) is None:
            raise Unavailable(f"the table {self._table} cannot be read: {self._why}")
        return store

    def _find(self, key: object) -> Row | None:
        changes, store = self.changes, self._open()
        if not isinstance(key, str):
            if key is None:
                return None
            raise no_text(self._table, key)
        if key in self._young:
            return self._young.get(key)
        if key in self._old:
            row, size = self._old.get(key), 0
        else:
            try:
                value = store.get(key.encode(errors="surrogateescape"))
            except Damaged:
                self.damaged = True
                raise Unavailable(f"the table {self._table} cannot be read: its rows on disk are damaged") from None
            row, size = (None, len(key)) if value is None else (self._decode(key, value), len(value))
        with self._lock:
            if changes == self.changes and store is self._store:  # else it may be a row of before
                if self._bytes > DECODED:
                    self._old, self._young, self._bytes = self._young, {}, 0
                self._young[key] = row
                self._bytes += size
        return row

    def _decode(self, key: str, value: bytes) -> Row:
        try:
            return self._form.decode(value)
        except UnknownSchema:
            raise
        except Poison as error:
            raise Permanent(f'the row "{key}" of {self._table} cannot be read: {error}') from None

    def _forget(self) -> None:
        self.changes += 1
        self._young, self._old, self._bytes = {}, {}, 0


class TableReader:
    """Follows one table for as long as the worker lives."""

    def __init__(self, table: Table, form: Format, cluster: Cluster, folder: Path, observe: Observer) -> None:
        """Begin; the rows lie below `folder`."""
        self.name = table.name
        self._held = Kept(table.name, form)
        self.rows: Rows = asked(table, self._held)
        """What steps get; to be read from any thread."""
        self.ready = threading.Event()
        """Set while the rows are those of the topic."""
        self.count, self.size, self.lag = 0, 0, 0
        """Rows, their bytes on disk, and the records of the topic that are not read yet."""
        self._cluster = cluster
        self._folder = folder / table.name
        self._observe = observe
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"table {table.name}", daemon=True)
        self._thread.start()

    @property
    def changes(self) -> int:
        """Counts up whenever a row may have come or gone."""
        return self._held.changes

    def stop(self) -> None:
        """Stop following; what is asked of a broker that does not answer is not waited for."""
        self._stopping.set()
        self._thread.join(STOPPING)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with closing(Changes(self._cluster, self.name)) as changes, closing(self._open(changes)) as store:
                    try:
                        self._follow(changes, store)
                    finally:
                        self.ready.clear()
                        self._held.lose("it is not followed now")
            except Damaged as error:
                discard(self._folder)
                self._lose(f"its rows on disk are damaged and are read anew: {error}")
            except Unavailable as error:
                self._lose(str(error))
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be a stalled flow
                self._lose(f"bug in Trunkline: {type(error).__name__}: {error}")

    def _lose(self, why: str) -> None:
        self._held.lose(why)
        self._observe(Observed("stuck", self.name, detail=why))
        self._stopping.wait(AGAIN)

    def _open(self, changes: Changes) -> Store:
        """Open what was read before; what is not a beginning of the topic is thrown away."""
        try:
            store = Store(self._folder)
            if (why := stale(store, changes, time.time())) is None:
                return store
            store.close()
        except Damaged as error:
            why = f"damaged: {error}"
        discard(self._folder)
        self._observe(Observed("table", self.name, topic=self.name, detail=f"its rows on disk are thrown away: {why}"))
        return Store(self._folder)

    def _follow(self, changes: Changes, store: Store) -> None:
        began, read, fresh = time.monotonic(), 0, store.read_at or time.time()
        changes.begin(store.position)
        verified = began
        while not self._stopping.is_set():
            found = dict(changes.fetch(0.1))
            read += len(found)
            now = time.monotonic()
            due = now - verified > VERIFYING
            if due:
                changes.verify()
                verified = now
            if self._held.damaged:
                raise Damaged("a row cannot be read back")
            # Until the end was met once, deletions that come later may be forgotten before we read them.
            if found or due or (changes.caught_up and not self.ready.is_set()):
                at = time.time() if changes.caught_up else fresh
                store.apply(found, changes.identity, changes.position, at)
                self._held.changed(key.decode(errors="surrogateescape") for key in found)
            self.count, self.size, self.lag = store.count, store.size, changes.lag
            if changes.caught_up and not self.ready.is_set():
                self._held.have(store)
                self.ready.set()
                told = f"{read} changed rows read, {store.count} rows held"
                took = now - began
                self._observe(Observed("table", self.name, read, topic=self.name, detail=told, seconds=took))


def stale(store: Store, changes: Changes, now: float) -> str | None:
    """Say why one cannot go on from what a store holds; None when one can, or when it is empty."""
    if not store.position:
        return None
    if not store.is_of(changes.identity):
        return "they are of another cluster, or of a topic that was made again"
    if not changes.suits(store.position):
        return "the topic does not go on where they end"
    if now - store.read_at > changes.remembers / 2:
        return "they are so old that the topic may have forgotten what was deleted since"
    return None
