"""Ends a process that has stopped getting on, so that its supervisor starts a fresh one (D9).

Three things may stand still: the thread that polls for a flow, the asyncio loop, and work that nothing keeps from being
done. Each shows life by counting. The watchdog is a thread, so that it also sees a loop that is blocked; twice a
second it compares the counts with the last ones.

It has a time of its own: the steps between its looks, each counted as two seconds at most. A process that was stopped
(SIGSTOP, a suspended machine) did not look either, so the time it slept counts for nothing. For the same reason the
watchdog is blind while a C extension holds the interpreter lock for ever: that is for whoever asks /healthz.
"""

import asyncio
import faulthandler
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import structlog

from trunkline.errors import EXIT
from trunkline.http.transport import DEADLINE

SILENT = 10.0
UNFINISHED = DEADLINE + 30.0
LOOK_EVERY = 0.5
LONGEST_STEP = 2.0
"""Seconds between two looks that count at most."""
DUMPING = 5.0
"""Seconds that the dump may take: what is stuck may be the very pipe it is written to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds without a sign of life after which a process is given up."""

    silent: float
    """For the loop and, besides what it said it would take, for a thread that polls."""
    unfinished: float
    """For work that could be done."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What something shows at one look: how often it has moved, and how long it may stand still; None: for ever."""

    count: int
    allowed: float | None


@dataclass(slots=True)
class Pulse:
    """Decides from one look to the next what has stood still for too long. Pure: the clock is an argument."""

    began: float
    time: float = 0.0
    """Seconds that have passed by the watchdog's own reckoning."""
    _last: dict[str, tuple[int, float]] = field(default_factory=dict)

    def look(self, now: float, signs: Mapping[str, Sign]) -> list[str]:
        """Give one line for each thing that has not moved for longer than it may."""
        self.time += max(0.0, min(now - self.began, LONGEST_STEP))
        self.began = now
        found = []
        for name, sign in signs.items():
            count, since = self._last.get(name, (None, 0.0))
            if sign.allowed is None or sign.count != count:
                self._last[name] = (sign.count, self.time)
            elif self.time - since > sign.allowed:
                found.append(f"{name}: nothing for {self.time - since:.0f} s, {sign.allowed:.0f} are allowed")
        return found


class Heart:
    """The signs of life of one reading flow; it beats whether or not a watchdog looks.

    Its methods cost an addition each. Those of the polling thread and those of the loop may be called at the same time.
    """

    def __init__(
        self,
        flow: str,
        *,
        runnable: Callable[[], bool] = lambda: False,
        tell: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        """Name the flow.

        `runnable`, asked in the loop, says whether there is work that waits for nothing but being done: no verdict,
        limit, pause or halt. `tell`, asked from another thread when the process is given up, says what the engine
        knows of itself: no payloads, and keys as hashes only.
        """
        self.flow = flow
        self.joined = False
        """Set by the polling thread when the group has taken it in, for good."""
        self.tell = tell
        self._runnable = runnable
        self._beats = 0
        self._extra: float | None = None
        self._done = 0
        self._work = Sign(0, None)

    def beat(self) -> None:
        """Say from the polling thread that it turns."""
        self._beats += 1
        if self._extra is None:
            self._extra = 0.0

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Say that the polling thread is about to do something that may take so long."""
        before, self._extra = self._extra, seconds
        self._beats += 1
        try:
            yield
        finally:
            self._beats += 1
            self._extra = before

    def rest(self) -> None:
        """Say that the polling thread ends or stands still on purpose, until it beats again."""
        self._extra = None

    def done(self) -> None:
        """Say from the loop that a call was answered or a delivery has ended, whatever came out."""
        self._done += 1

    def turn(self, limits: Limits) -> None:
        """Look in the loop for work that could be done."""
        self._work = Sign(self._done, limits.unfinished if self._runnable() else None)

    def signs(self, limits: Limits) -> dict[str, Sign]:
        """Give what the flow shows now."""
        extra = self._extra
        polls = Sign(self._beats, None if extra is None else extra + limits.silent)
        return {f"the thread that polls for {self.flow}": polls, f"the work of {self.flow}": self._work}


class Watchdog:
    """Watches the loop it is entered in and the flows it is given; a context manager.

    `act` is called once, in the watchdog's own thread, with what stands still and the report of `state`.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        act: Callable[[Sequence[str], Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._limits = limits or Limits(SILENT, UNFINISHED)
        self._clock = clock
        self._act = act or give_up
        self._hearts: list[Heart] = []
        self._turns = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._turn()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._timer.cancel()
        self._thread.join(DUMPING)

    def watch(self, hearts: Sequence[Heart]) -> None:
        """Watch these flows from now on."""
        self._hearts = [*self._hearts, *hearts]

    def _turn(self) -> None:
        self._turns += 1
        for heart in self._hearts:
            heart.turn(self._limits)
        self._timer = self._loop.call_later(LOOK_EVERY, self._turn)

    def _watch(self) -> None:
        pulse = Pulse(self._clock())
        while not self._stopping.wait(LOOK_EVERY):
            signs = {"the loop": Sign(self._turns, self._limits.silent)}
            for heart in self._hearts:
                signs |= heart.signs(self._limits)
            if found := pulse.look(self._clock(), signs):
                self._act(found, state(self._loop, self._hearts))
                return


def state(loop: asyncio.AbstractEventLoop, hearts: Sequence[Heart]) -> dict[str, Any]:
    """Say where every thread and task stands and what the flows know of themselves, without anything they carry."""
    return {
        "threads": guarded(stacks),
        "tasks": guarded(lambda: dict(Counter(map(place, asyncio.all_tasks(loop))))),
        "flows": {heart.flow: guarded(heart.tell) for heart in hearts},
    }


def guarded(ask: Callable[[], Any]) -> Any:
    """Ask something that another thread may be changing; if that goes wrong the rest of a report is still worth it."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - a last word must not fail
        return f"not known: {type(error).__name__}"


def stacks() -> list[str]:
    """Give the stack of every thread, innermost call first: files, lines and functions, no values."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        text = file.read().decode(errors="replace")
    for thread in threading.enumerate():
        text = text.replace(f"0x{thread.ident or 0:016x}", thread.name)
    return text.splitlines()


def place(task: "asyncio.Task[Any]") -> str:
    """Say where a task waits."""
    frames = task.get_stack(limit=1)
    where = f" at {Path(frames[0].f_code.co_filename).name}:{frames[0].f_lineno}" if frames else ""
    return f"{getattr(task.get_coro(), '__qualname__', 'task')}{where}"


def give_up(found: Sequence[str], report: Mapping[str, Any]) -> None:
    """Log what stands still and where everything was, and end the process at once: what is not recorded comes again."""

    def tell() -> None:
        structlog.get_logger("trunkline").critical("watchdog", why="; ".join(found), exit_code=EXIT, **report)

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(DUMPING)
    os._exit(EXIT)
