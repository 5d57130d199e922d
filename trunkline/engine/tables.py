"""Tables: compacted topics held in memory, the last row of every key; ready before a flow starts (P4)."""

import threading
from collections.abc import Mapping
from typing import Any

from trunkline.errors import Poison, Unavailable
from trunkline.flow.declare import Table
from trunkline.kafka.events import Follower
from trunkline.kafka.registry import Format
from trunkline.observe import Observed, Observer


class TableReader:
    """Follows one table for as long as the worker lives; `rows` may be read from any thread."""

    def __init__(self, table: Table, form: Format, bootstrap: str, observe: Observer) -> None:
        self.rows: dict[str, Mapping[str, Any]] = {}
        self._table = table
        self._form = form
        self._bootstrap = bootstrap
        self._observe = observe
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"table {table.name}", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Return when the table has been read to the end it had at the start.

        Raises:
            Unavailable: it could not be, in this time.
        """
        if not self._ready.wait(seconds) or self._failure is not None:
            raise Unavailable(f"the table {self._table.name} cannot be read: {self._failure or 'not read to its end'}")

    def stop(self) -> None:
        """Stop following."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            follower = Follower(self._bootstrap, self._table.name)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the table
            self._failure = error
            self._ready.set()
            return
        while not self._stopping.is_set():
            for record in follower.fetch(0.2):
                self._apply(record.key, record.value)
            if follower.caught_up:
                self._ready.set()
        follower.close()

    def _apply(self, key: bytes | None, value: bytes | None) -> None:
        """Keep the row; a null value deletes it. One that cannot be read is told, and its predecessor kept."""
        if key is None:
            return
        name = key.decode(errors="surrogateescape")
        if value is None:
            self.rows.pop(name, None)
            return
        try:
            self.rows[name] = self._form.decode(value)
        except (Poison, Unavailable) as error:
            self._observe(Observed("stuck", self._table.name, event=name, detail=f"a row cannot be read: {error}"))
