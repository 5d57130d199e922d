"""Keeps processes running: one that ends by itself is started again, and none outlives its supervisor.

A process has one line to its supervisor, its standard input. It writes a byte there when it runs; it ends itself when
it reads the end of it, for then the supervisor has gone, however it went.
"""

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from trunkline.errors import EXIT

USAGE = 2
"""The exit code of a process that cannot run as it was asked to."""
FIRST = 1.0
LONGEST = 30.0
STEADY = 60.0
"""Seconds of life after which a process counts as one that had worked."""


def again(row: int, lived: float) -> int:
    """Give how many early ends in a row there are, when there were `row` before one after so many seconds of life."""
    return 1 if lived >= STEADY else row + 1


def backoff(row: int, chance: float) -> float:
    """Give the seconds before a start that follows `row` early ends: 1, 2, 4 … 30, less up to a quarter by chance."""
    return min(LONGEST, FIRST * 2.0 ** min(row - 1, 16)) * (1 - chance / 4)


def why(code: int) -> str:
    """Say how a process ended."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == EXIT:
        return f"its watchdog ended it, exit code {code}"
    return f"exit code {code}"


@dataclass(frozen=True, slots=True)
class Process:
    """One to keep running: how it is called in lines for people, and what it is started with."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    files: Sequence[int] = ()
    """Descriptors that it inherits under the same number."""


async def supervise(
    processes: Sequence[Process],
    say: Callable[[str], None],
    *,
    chance: Callable[[], float] = random.random,
) -> int:
    """Keep processes running until SIGTERM, SIGINT or SIGHUP; then let them drain, and give the exit code.

    The first process starts alone; the others follow when it runs, so that what is wrong for all is said once. The
    signal is passed on once, as SIGTERM; a second SIGTERM or SIGINT kills every process at once. The exit code is 0
    when all had drained, 1 when one had not, 2 when a process exited with 2 before any had run.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs, ExitStack() as handlers:
        ours.setblocking(False)
        run = Run(say, chance, theirs)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(number, run.stop, number)
                handlers.callback(loop.remove_signal_handler, number)
        loop.add_reader(ours, run.hear, ours)
        handlers.callback(loop.remove_reader, ours)
        first, *others = processes
        return max(await asyncio.gather(run.keep(first), *(run.follow(one) for one in others)))


class Run:
    """One supervision from its start to its end."""

    def __init__(self, say: Callable[[str], None], chance: Callable[[], float], line: socket.socket) -> None:
        self._say = say
        self._chance = chance
        self._line = line
        self._up = asyncio.Event()
        self._stopping = asyncio.Event()
        self._living: dict[str, asyncio.subprocess.Process] = {}

    def hear(self, line: socket.socket) -> None:
        """Note that a process runs."""
        line.recv(1024)
        self._up.set()

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on; when asked twice, kill."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._send(signal.SIGTERM)
        elif number is not signal.SIGHUP:
            self._send(signal.SIGKILL)

    async def follow(self, process: Process) -> int:
        """Keep a process once another one runs."""
        await self._either(self._up)
        return await self.keep(process)

    async def keep(self, process: Process) -> int:
        """Start a process again and again until all shall stop; give its share of the exit code."""
        row = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                code = await self._live(process)
                told = f"{process.name} has ended: {why(code)}"
            except OSError as error:
                code, told = 1, f"{process.name} cannot be started: {error.strerror}"
            if self._stopping.is_set():
                # One that was still starting dies of the signal itself, with nothing in flight.
                return int(code not in (0, -signal.SIGTERM))
            if code == USAGE and not self._up.is_set():
                self.stop(signal.SIGTERM)
                return USAGE
            row = again(row, time.monotonic() - began)
            seconds = backoff(row, self._chance())
            self._say(f"{told}; it starts again in {seconds:.1f} s.")
            await self._either(asyncio.Event(), seconds)
        return 0

    async def _live(self, process: Process) -> int:
        """Start a process in a group of its own, where no terminal's Ctrl-C reaches it twice, and wait for its end."""
        child = await asyncio.create_subprocess_exec(
            *process.command,
            stdin=self._line.fileno(),
            env={**os.environ, **process.environment},
            pass_fds=process.files,
            process_group=0,
        )
        self._living[process.name] = child
        if self._stopping.is_set():
            os.kill(child.pid, signal.SIGTERM)
        try:
            return await child.wait()
        finally:
            del self._living[process.name]

    def _send(self, number: signal.Signals) -> None:
        for child in self._living.values():
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)  # asyncio's own way may reap the process, and its exit code is lost

    async def _either(self, event: asyncio.Event, seconds: float | None = None) -> None:
        """Wait for an event, the end or so many seconds, whichever comes first."""
        waits = [asyncio.ensure_future(one.wait()) for one in (event, self._stopping)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
