"""Keeps the threads that hand calls to each other on one processor while there is much to do (CPU affinity).

The loop, the HTTP client's thread and the threads that fetch take turns at the interpreter's lock, so a second
processor lets them do little more at a time. But each turn that goes from one processor to another wakes that one up
and moves what both have read, and answers come in one by one; on one processor they come by dozens. While there is
little to do they may run anywhere: then it counts more that none waits for another. What works without the lock always
may: the ledger's thread, librdkafka's, and those of steps.

Linux only: elsewhere, or where one processor is allowed, nothing is done.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from random import random
from zlib import crc32

EVERY = 2.0
"""Seconds between two looks."""
BUSY = 0.5
"""Share of a processor from which on these threads run on one."""
IDLE = 0.35
"""Share below which they no longer do."""
WORTH = 0.2
"""Share of a processor that a move must gain at least."""
CLIENT = "pyreqwest"
"""The name of the HTTP client's own thread."""
TASKS = Path("/proc/self/task")
STAT = Path("/proc/stat")

Used = Mapping[int, float]
"""Seconds that each processor has been used for, or that each thread has used."""


def choose(current: int, others: Mapping[int, float], chance: float) -> int:
    """Give the processor to run on; `others` is the share that they use of each.

    A move must be worth it. Only every second `chance` (0 to 1) is taken, for others may look at the same moment, see
    the same and move to the same place.
    """
    best = min(others, key=lambda processor: (others[processor], processor))
    return best if others[current] - others[best] > WORTH and chance < 0.5 else current


class Affinity:
    """Which processors the threads of one worker process may run on; used from one thread."""

    def __init__(self, slot: int, fetching: Callable[[], Collection[int]]) -> None:
        """Prepare for the process with this `slot` on its host; `fetching` gives the ids of threads that fetch."""
        self.allowed = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        self.bound = False
        self._fetching = fetching
        self._loop = threading.get_native_id()
        self._ours: Used = {}
        self._all: Used = {}
        host = crc32(os.uname().nodename.encode())  # containers of one machine begin at different ones
        self.processor = self.allowed[(host + slot) % len(self.allowed)] if self.allowed else 0

    def look(self, seconds: float, chance: float) -> None:
        """Decide by what has been used in the last `seconds`, and bring the threads there.

        A thread that was started by one of them began where they are: it may run anywhere again.
        """
        threads = {int(task.name): task for task in TASKS.iterdir()}
        together = {self._loop, *self._fetching()}
        together |= {thread for thread, task in threads.items() if name_of(task) == CLIENT}
        ours = {thread: used_by(threads[thread]) for thread in together & threads.keys()}
        busy = {cpu: used for cpu, used in used_of_processors().items() if cpu in self.allowed}
        share = sum(used - self._ours.get(thread, used) for thread, used in ours.items()) / seconds
        if self.bound and self.processor in busy:
            others = {cpu: (used - self._all.get(cpu, used)) / seconds for cpu, used in busy.items()}
            others[self.processor] -= share
            self.processor = choose(self.processor, others, chance)
        self.bound = share >= (IDLE if self.bound else BUSY)
        self._ours, self._all = ours, busy
        for thread in threads:
            bring(thread, [self.processor] if self.bound and thread in together else self.allowed)

    def release(self) -> None:
        """Let every thread run anywhere again: whoever ends a worker goes on, and starts others."""
        for task in TASKS.iterdir():
            bring(int(task.name), self.allowed)


def name_of(task: Path) -> str:
    """Give the name by which the kernel knows a thread; empty when it has ended."""
    with suppress(OSError):
        return (task / "comm").read_text().strip()
    return ""


def used_by(task: Path) -> float:
    """Give the seconds of processor time that a thread has used (proc_pid_stat(5), utime and stime)."""
    with suppress(OSError):
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def used_of_processors() -> Used:
    """Give the seconds for which each processor was not idle (proc_stat(5))."""
    found = {}
    for line in STAT.read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:]:
            user, nice, system, _, _, *rest = map(int, ticks[:8])
            found[int(name[3:])] = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    return found


def bring(thread: int, processors: Collection[int]) -> None:
    """Have a thread run on these processors only, unless it has ended."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setaffinity(thread, processors)


async def keep_affinity(affinity: Affinity) -> None:
    """Look again and again until cancelled; nothing where there is no choice, or where the kernel says nothing."""
    with suppress(OSError):
        try:
            while len(affinity.allowed) > 1:
                affinity.look(EVERY, random())  # noqa: S311 - keeps two processes apart, no secret
                await asyncio.sleep(EVERY)
        finally:
            affinity.release()
