"""One thread that writes for a whole process, many writes to a commit.

The next commit takes whatever came while the last one ran, so no timer delays a single write and many share one sync
to disk (D3). What nobody waits for goes with the next commit that somebody does wait for. Reads happen on the reader's
own connection.
"""

import asyncio
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from trunkline.errors import Halt
from trunkline.ledger.database import Connection, Failure, Ledger
from trunkline.ledger.trust import REBUILD

T = TypeVar("T")

GROUP = 500
"""Writes that share one commit at most."""
LATER = 0.02
"""Seconds that a write waits for another's commit which nobody waits for."""

AGAIN = 5.0
"""Seconds after which a ledger that has failed is tried again, whether somebody writes or not."""

Work = Callable[[Connection], Any]


class Rewound(Failure):
    """The ledger has lost commits that it had acknowledged; only a person can say what becomes of it (L3)."""

    def halt(self) -> Halt:
        """Give the halt of whoever meets it: to ask again is in vain."""
        return Halt(str(self), run=REBUILD)


class Writer:
    """Commits the writes of one process in groups; used from one asyncio loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._db = ledger.connect()
        self.failing: tuple[float, str] | None = None
        """Since when every commit has failed, by `time.monotonic`, and why; may be read from any thread."""
        self._id = secrets.token_hex(8)
        self._commits = 0
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Work, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._later: deque[Work] = deque()
        self._due: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def write(self, work: Callable[[Connection], T]) -> "asyncio.Future[T]":
        """Run `work` inside the next group commit; the future has its result once that is durable.

        The future raises Failure when the database failed, and whatever `work` raised when that was its own fault;
        `work` may have run more than once, but all of it counts or nothing.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, future))
        return future

    def later(self, work: Work) -> None:
        """Run `work` inside the next group commit, before what is written from now on, or in one after `LATER` seconds.

        Nobody hears what has become of it; when the process ends without `close`, nothing may have.
        """
        self._later.append(work)
        if self._due is None:
            self._due = self._loop.call_later(LATER, self._write_late)

    async def close(self) -> None:
        """Commit what is queued and stop."""
        if self._due is not None:
            self._due.cancel()
            self._write_late()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        with self._db, suppress(Failure):
            self._db.run("DELETE FROM writers WHERE id = ?", self._id)

    def _write_late(self) -> None:
        self._due = None
        if self._later:  # nobody else has written meanwhile
            self.write(lambda _: None).add_done_callback(asyncio.Future.exception)

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=AGAIN if self.failing else None)
            except queue.Empty:
                self._commit([])
                continue
            if item is None:
                return
            group = [item]
            stopping = False
            while len(group) < GROUP and not self._queue.empty():
                if (item := self._queue.get()) is None:
                    stopping = True
                    break
                group.append(item)
            late = [self._later.popleft() for _ in range(len(self._later))]
            results = self._commit([*late, *[work for work, _ in group]])
            self._loop.call_soon_threadsafe(settle, [future for _, future in group], results[len(late) :])
            if stopping:
                return

    def _commit(self, group: Sequence[Work]) -> list[Any]:
        """Commit a group and give the result of each write, or the exception that it ended with.

        A database that fails fails all of them. Where one write is at fault, each gets a commit of its own, so that no
        other suffers for it.
        """
        try:
            with self._db.transaction():
                number = self._count()
                results = [work(self._db) for work in group]
            self._commits = number
        except Failure as failure:
            self.failing = self.failing[0] if self.failing else time.monotonic(), str(failure)
            return [failure] * len(group)
        except Exception as fault:  # noqa: BLE001 - handed to whoever asked for the write
            return [fault] if len(group) == 1 else [result for work in group for result in self._commit([work])]
        self.failing = None
        return results

    def _count(self) -> int:
        """Count this commit in the ledger itself: there it must come after all that were acknowledged."""
        number: int = self._db.run(
            "INSERT INTO writers (id, commits, at) VALUES (?, 1, ?) "
            "ON CONFLICT (id) DO UPDATE SET commits = writers.commits + 1, at = excluded.at RETURNING commits",
            *(self._id, int(time.time() * 1000)),
        )[0][0]
        if number <= self._commits:
            raise Rewound(
                f"{self._ledger.name} has lost commits that it had acknowledged: a backup was restored, or a standby "
                "took over that had not received them. Nothing more is written to it. Stop the workers of the bus and "
                f"run `{REBUILD}`."
            )
        return number


def settle(futures: Sequence["asyncio.Future[Any]"], results: Sequence[Any]) -> None:
    """Give every waiter its result, or the exception that its write ended with."""
    for future, result in zip(futures, results, strict=True):
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
