"""What may happen next in a simulated world, and when: virtual time, and one source of chance for everything."""

import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol


class Actor(Protocol):
    """A process. What it was about to do waits while it is frozen, and never happens once it is dead."""

    dead: bool
    frozen: bool
    stash: "list[Step]"


Step = tuple[Callable[[Any], None], Actor | None, Any]
"""A function, whose process does it (None: the world outside), and its argument."""


class Agenda:
    """Steps that may happen now, in any order, and steps whose time has not come."""

    def __init__(self, seed: int, *, trace: bool) -> None:
        self.chance = random.Random(seed).random  # noqa: S311 - it must be the same every time
        self.now = 0.0
        self.pending: list[Step] = []
        self.timers: list[tuple[float, int, Step]] = []
        self.told: list[str] | None = [] if trace else None
        self._tickets = count()

    def below(self, n: int) -> int:
        """Choose a number from 0 to below `n`."""
        return int(self.chance() * n)

    def soon(self, function: Callable[[Any], None], actor: Actor | None, argument: Any = None) -> None:
        """Let a step happen at any time from now."""
        self.pending.append((function, actor, argument))

    def later(self, seconds: float, function: Callable[[Any], None], actor: Actor | None, argument: Any = None) -> None:
        """Let a step happen at any time after so many seconds."""
        heapq.heappush(self.timers, (self.now + seconds, next(self._tickets), (function, actor, argument)))

    def happen(self, at: int) -> None:
        """Let one of the pending steps happen."""
        pending = self.pending
        step = pending[at]
        last = pending.pop()
        if last is not step:
            pending[at] = last
        function, actor, argument = step
        if actor is None or not (actor.dead or actor.frozen):
            function(argument)
        elif actor.frozen and not actor.dead:
            actor.stash.append(step)

    def move_to(self, when: float) -> None:
        """Let time pass."""
        self.now = when
        while self.timers and self.timers[0][0] <= when:
            self.pending.append(heapq.heappop(self.timers)[2])

    def say(self, what: str) -> None:
        """Add to the trace, if there is one."""
        if self.told is not None:
            self.told.append(f"{self.now:8.2f}  {what}")
