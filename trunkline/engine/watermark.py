"""Up to where a partition is finished. Sans-I/O."""

from collections import deque
from typing import NamedTuple


class Position(NamedTuple):
    """How far a partition is finished: every record below `offset` is.

    `published` is when the oldest fetched record that is not was published, in epoch milliseconds; None without one.
    """

    offset: int
    published: int | None


class Watermark:
    """The lowest unfinished offset of one partition: nothing at or above it may be committed.

    Offsets begin in the order in which they were fetched, with gaps where a topic has them, and finish in any order.
    One thread begins and finishes them; `position` may be read from any.
    """

    def __init__(self) -> None:
        self._begun: deque[int] = deque()
        self._finished: set[int] = set()
        self._next: int | None = None

    def begin(self, offset: int) -> None:
        """Note a fetched offset, higher than every one before."""
        self._begun.append(offset)
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        """Note that an offset that was begun is done with, durably."""
        self._finished.add(offset)
        while self._begun and self._begun[0] in self._finished:
            self._finished.remove(self._begun.popleft())

    @property
    def position(self) -> int | None:
        """The offset to commit: everything below it is finished. None before the first record."""
        after = self._next  # read first: what begins from here on is among the unfinished below
        try:
            return self._begun[0]
        except IndexError:
            return after

    @property
    def unfinished(self) -> int:
        """Offsets from the watermark to the newest one begun, finished or not."""
        return len(self._begun)
