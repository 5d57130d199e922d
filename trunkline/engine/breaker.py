"""When a target that fails is left alone, and how it is found well again: decisions only, the clock is an argument.

CLOSED ─ most calls fail ─▶ OPEN ─ pause ─▶ PROBING ─ trials succeed ─▶ CLOSED
                             ▲──── a trial fails ────┘
"""

import enum
from collections import deque
from dataclasses import dataclass

from trunkline.flow.declare import Breaker

SHARE = 0.7
"""Of the last calls so many must have failed."""
RECENT = 1.0
"""Seconds whose calls all count: where thousands are made in one, the last twenty may be those of a few bad keys."""
SLICE = 0.05
"""Seconds whose calls are remembered as one, by how many they were."""
LONGEST = 60.0
"""Seconds to which the pauses between trials grow."""
ANY = 1 << 30
"""As many calls as anybody wants."""


class State(enum.Enum):
    """How a target is thought to be."""

    CLOSED = "closed"
    """Well: it is called."""
    OPEN = "open"
    """Down: it is not called."""
    PROBING = "probing"
    """Perhaps well again: a few events are tried."""


CLOSED, OPEN, PROBING = State
"""Asked about at every call, and to look a member up in its class takes five times as long."""


@dataclass(slots=True)
class Slice:
    """The calls that ended in a moment."""

    began: float
    calls: int = 0
    failures: int = 0


class Circuit:
    """The breaker of one target in one process.

    What ended counts only for the state in which it began: late ends of calls from before say nothing new.
    """

    def __init__(self, declared: Breaker) -> None:
        self.state = CLOSED
        self.until = 0.0
        """When the next trial begins, while it is open."""
        self._declared = declared
        self.epoch = 0
        """How often the state has changed."""
        self._last: deque[Slice] = deque()
        self._calls = self._failures = 0
        """Of all these slices."""
        self._pause = 0.0
        self._flying = self._succeeded = 0

    def room(self, now: float) -> int:
        """Say how many calls may begin now."""
        if self.state is CLOSED:
            return ANY
        if self.state is OPEN:
            if now < self.until:
                return 0
            self._become(PROBING)
        return min(1 + self._succeeded, self._declared.probes) - self._flying

    def begin(self, now: float) -> int:
        """Take note that a call begins and give what `ended` asks for."""
        if self.state is CLOSED:
            return self.epoch
        if self.room(now) <= 0:
            return -1
        self._flying += 1
        return self.epoch

    def ended(self, begun: int, now: float, *, failed: bool | None) -> None:
        """Take the end of a call; `failed` is None when it says nothing of the target, or was not made."""
        if begun != self.epoch:
            return
        if self.state is PROBING:
            self._flying -= 1
            if failed:
                self._open(now)
            elif failed is False:
                self._succeeded += 1
                if self._succeeded >= self._declared.probes:
                    self._become(CLOSED)
        elif failed is not None:
            self._count(now, failed=failed)

    def try_now(self, now: float) -> None:
        """End the pause: a person says that the target is well."""
        self.until = min(self.until, now)

    def _count(self, now: float, *, failed: bool) -> None:
        last = self._last
        if not last or now - last[-1].began >= SLICE:
            last.append(Slice(now))
            while last[0].began <= now - RECENT and self._calls - last[0].calls >= 2 * self._declared.failures:
                gone = last.popleft()
                self._calls -= gone.calls
                self._failures -= gone.failures
        last[-1].calls += 1
        self._calls += 1
        if failed:
            last[-1].failures += 1
            self._failures += 1
            if self._failures >= max(self._declared.failures, SHARE * self._calls):
                self._open(now)

    def _open(self, now: float) -> None:
        longest = max(LONGEST, self._declared.pause.total_seconds())
        self._pause = min(longest, 2 * self._pause) if self._pause else self._declared.pause.total_seconds()
        self.until = now + self._pause
        self._become(OPEN)

    def _become(self, state: State) -> None:
        self.state = state
        self.epoch += 1
        self._flying = self._succeeded = self._calls = self._failures = 0
        self._last.clear()
        if state is CLOSED:
            self._pause = 0.0
