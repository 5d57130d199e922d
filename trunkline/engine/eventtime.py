"""How far a partition is, in offsets and in the times of its records. Sans-I/O: clocks are arguments, in milliseconds.

Time goes on with the records that are read. Where none come it goes on with the clock: a topic that was read to its end
and has been silent for SILENT is as late as the clock, less SILENT. A record from the future does not take it there.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

SILENT = 2_000
"""Milliseconds; a record that takes longer from its writer to its topic may come after its time has passed."""
LATE = 60_000
"""Milliseconds by which records may come in another order than that of their times, and still survive a restart."""
GRAIN = 1_000
"""Milliseconds of records that are remembered or forgotten together."""


@dataclass(slots=True)
class Reach:
    """How far one topic of a partition is."""

    at: int
    """The next offset: everything below has been given to the body, or is a dead letter."""
    resume: int
    """Below it everything was given before, to a body that has forgotten it."""
    newest: int | None = None
    """The latest time of a record so far."""
    silent: int | None = None
    """Since when it has been at its end; None while there is more."""
    _kept: deque[tuple[int, int, int]] = field(default_factory=deque)
    """Of each grain of records its first offset, its first time and its latest time."""

    def read(self, offset: int, at: int) -> None:
        """Note that a record is behind us."""
        self.at = offset + 1
        self.newest = at if self.newest is None else max(self.newest, at)
        self.silent = None
        if self._kept and abs(at - self._kept[-1][1]) < GRAIN:
            first, begun, latest = self._kept[-1]
            self._kept[-1] = first, begun, max(latest, at)
        else:
            self._kept.append((offset, at, at))

    def ended(self, offset: int, now: int) -> None:
        """Note that the end is here, behind the marks of transactions."""
        self.at = max(self.at, offset)
        if self.silent is None:
            self.silent = now

    def time(self, now: int) -> int | None:
        """Say how late it is; None while nobody knows. It is never later than now, whatever a writer's clock says."""
        newest = None if self.newest is None else min(self.newest, now)
        if self.silent is not None and now - self.silent >= SILENT:
            return max(now - SILENT, newest or 0)
        return newest

    def since(self, limit: int) -> int:
        """Give the first offset that may hold a record later than `limit`: where a body that begins anew has to."""
        while self._kept and self._kept[0][2] <= limit:
            self._kept.popleft()
        return self._kept[0][0] if self._kept else self.at

    def again(self, resume: int) -> None:
        """Go back to the first offset that is remembered; below `resume` everything was given before."""
        self.resume = resume
        self.at = self._kept[0][0] if self._kept else self.at
        self._kept.clear()
        self.newest = self.silent = None


def time_of(reaches: Iterable[Reach], now: int) -> int | None:
    """Say how late it is on a stream of several topics: as late as on the slowest."""
    times = [reach.time(now) for reach in reaches]
    known = [time for time in times if time is not None]
    return min(known) if known and len(known) == len(times) else None


@dataclass(frozen=True, slots=True)
class Note:
    """What is written beside a committed offset: where a body that begins anew starts, and up to when it has spoken."""

    since: int
    time: int | None

    def __str__(self) -> str:
        return f"from={self.since}" if self.time is None else f"from={self.since} time={self.time}"


def note_of(text: str, offset: int) -> Note:
    """Read a note; one that is none begins at the offset itself."""
    found = dict(part.partition("=")[::2] for part in text.split())
    try:
        return Note(min(int(found["from"]), offset), int(found["time"]) if "time" in found else None)
    except (KeyError, ValueError):
        return Note(offset, None)
