"""The API that every contender calls, in a process of its own: `python -m benchmarks.target`.

It answers `POST /events` with 200 and a small JSON body after a fixed time, and counts what it got: per key, in order.
`POST /run` begins a run, `GET /report` tells of it. It parses just as much HTTP as the contenders write, so that it is
never what is measured. A run's window opens after a quarter of its events or some seconds after the first one, and
closes with the last one or some seconds later, in the same way for everybody; at both edges the processor time of all
who take part is read.
"""

import asyncio
import gc
import statistics
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, cast

import orjson
import uvloop

from benchmarks import processes

STORED = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"stored":true}'
BUSY = b'HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"busy":true}'


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is: how many events come, how the target behaves, and whose processor time is read.

    `apart` names keys that are treated otherwise: each of their events is answered 503 the first time (`failing`) or
    every call after `slow_ms`. `behind` names keys that share a partition with such a key. The run is over when the
    events of all other keys have come.
    """

    events: int
    latency_ms: float
    pid: int
    broker: int
    sender: int
    """The process that begins the run; where it is paced, it writes or posts the events."""
    others: int
    apart: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    failing: bool = False
    slow_ms: float = 0.0
    timed: bool = False
    """Whether `occurred_at` is the time of publishing, so that the latency added by the contender is kept."""
    warm_s: float = 5.0
    window_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Edge:
    """What was the case at one edge of the window; processor times in seconds."""

    at: float
    effects: int
    contender: float
    target: float
    broker: float
    sender: float
    anybody: float
    rss_mib: float
    peak_mib: float

    @property
    def part(self) -> float:
        """What those used who take part."""
        return self.contender + self.target + self.broker + self.sender


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has shown."""

    over: bool
    """Whether the window has closed."""
    whole: bool
    """Whether every event has come."""
    effects: int
    calls: int
    duplicates: int
    inversions: int
    """Events that came after a later one of their key."""
    lost: int
    others: int
    ended: bool = False
    """Whether every event had its time: only then is one that has not come lost."""
    window_s: float = 0.0
    window_effects: int = 0
    cpu_s: float = 0.0
    target_cpu_s: float = 0.0
    broker_cpu_s: float = 0.0
    strangers_cpu_s: float = 0.0
    """What processes that take no part have used: much of it makes a run worthless."""
    rss_mib: float = 0.0
    grown_mib: float = 0.0
    """How much of it was not there when the window opened."""
    peak_mib: float = 0.0
    """The most it ever had."""
    p50_ms: float | None = None
    p99_ms: float | None = None


class Run:
    """The counts of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._apart = frozenset(plan.apart)
        self._not_others = self._apart | frozenset(plan.behind)
        self._seen = bytearray(plan.events)
        self._last: dict[str, int] = {}
        self._refused: set[int] = set()
        self._calls = self._effects = self._others = self._duplicates = self._inversions = 0
        self._first: Edge | None = None
        self._end: Edge | None = None
        self._warm: asyncio.TimerHandle | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._added: list[float] = []
        self._quarter = max(1, plan.others // 4)

    def take(self, body: bytes) -> tuple[bytes, float]:
        """Count one call and say what to answer, after how many milliseconds."""
        event = orjson.loads(body)
        number, key = int(event["event_id"], 16), event["sku"]
        apart = key in self._apart
        self._calls += 1
        if apart and self.plan.failing and number not in self._refused:
            self._refused.add(number)
            return BUSY, self.plan.latency_ms
        if self._seen[number]:
            self._duplicates += 1
        else:
            self._effect(event, number, key)
        return STORED, self.plan.slow_ms if apart and self.plan.slow_ms else self.plan.latency_ms

    def _effect(self, event: dict[str, Any], number: int, key: str) -> None:
        self._seen[number] = 1
        self._effects += 1
        if number < self._last.get(key, -1):
            self._inversions += 1
        else:
            self._last[key] = number
        if self._warm is None:
            self._warm = asyncio.get_running_loop().call_later(self.plan.warm_s, self._open)
        if self.plan.timed and self._first is not None and self._end is None:
            self._added.append(time.time() - moment(event["occurred_at"]))
        if key not in self._not_others:
            self._others += 1
            if self._others == self._quarter:
                self._open()
            if self._others == self.plan.others:
                self._close()

    def _open(self) -> None:
        if self._first is None:
            self._first = self._edge()
            self._cut = asyncio.get_running_loop().call_later(self.plan.window_s, self._close)

    def _close(self) -> None:
        if self._end is None:
            self._end = self._edge()

    def _edge(self) -> Edge:
        return Edge(
            at=time.perf_counter(),
            effects=self._effects,
            contender=processes.seconds(self.plan.pid),
            target=time.process_time(),
            broker=processes.seconds(self.plan.broker),
            sender=processes.seconds(self.plan.sender),
            anybody=processes.busy(),
            rss_mib=processes.memory_mib(self.plan.pid),
            peak_mib=processes.memory_mib(self.plan.pid, "VmHWM"),
        )

    def stop(self) -> None:
        """Let nothing of this run happen any more."""
        for timer in (self._warm, self._cut):
            if timer is not None:
                timer.cancel()

    def report(self) -> Report:
        """Tell what has been counted so far."""
        counts: dict[str, Any] = {
            "over": self._end is not None,
            "whole": self._effects == self.plan.events,
            "effects": self._effects,
            "calls": self._calls,
            "duplicates": self._duplicates,
            "inversions": self._inversions,
            "lost": self.plan.events - self._effects,
            "others": self._others,
        }
        first, end = self._first, self._end
        if first is None or end is None:
            return Report(**counts)
        if len(self._added) > 1:
            hundredths = statistics.quantiles(self._added, n=100)
            counts |= {"p50_ms": hundredths[49] * 1e3, "p99_ms": hundredths[98] * 1e3}
        ours = end.part - first.part
        return Report(
            **counts,
            window_s=end.at - first.at,
            window_effects=end.effects - first.effects,
            cpu_s=end.contender - first.contender,
            target_cpu_s=end.target - first.target,
            broker_cpu_s=end.broker - first.broker,
            strangers_cpu_s=max(0.0, end.anybody - first.anybody - ours),
            rss_mib=end.rss_mib,
            grown_mib=end.rss_mib - first.rss_mib,
            peak_mib=end.peak_mib,
        )


def moment(value: str | float) -> float:
    """Read a time as seconds: contenders write Avro's microseconds as a number or as an ISO 8601 time."""
    return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else value / 1e6


class Later:
    """Answers that are due after one fixed time, so the first asked is the first due: one timer serves all."""

    def __init__(self, milliseconds: float) -> None:
        self._seconds = milliseconds / 1e3
        self._due: deque[tuple[float, asyncio.Transport, bytes]] = deque()
        self._loop = asyncio.get_running_loop()

    def answer(self, connection: asyncio.Transport, answer: bytes) -> None:
        """Write an answer when it is due."""
        if not self._due:
            self._loop.call_later(self._seconds, self._flush)
        self._due.append((time.perf_counter() + self._seconds, connection, answer))

    def _flush(self) -> None:
        now = time.perf_counter()
        while self._due and self._due[0][0] <= now + 0.0005:
            _, connection, answer = self._due.popleft()
            if not connection.is_closing():  # a contender may have been ended
                connection.write(answer)
        if self._due:
            self._loop.call_later(self._due[0][0] - now, self._flush)


class State:
    """What the connections of the target share."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._later: dict[float, Later] = {}

    def begin(self, plan: Plan) -> None:
        """Forget the last run and begin another."""
        if self.run is not None:
            self.run.stop()
        self.run = Run(plan)
        gc.collect()
        gc.freeze()

    def later(self, milliseconds: float) -> Later:
        """Give the queue of answers that are due after this time."""
        if milliseconds not in self._later:
            self._later[milliseconds] = Later(milliseconds)
        return self._later[milliseconds]


class Connection(asyncio.Protocol):
    """One client's connection, kept alive."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being declared one

    def data_received(self, data: bytes) -> None:
        """Take every whole request that is there."""
        data = self._rest + data if self._rest else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end].lower()
            at = head.find(b"\ncontent-length:")
            if at < 0 and b"\ntransfer-encoding:" in head:
                sys.exit("a contender sends its bodies in chunks, which this target does not read")
            length = 0 if at < 0 else int(head[at + 16 :].split(b"\r", 1)[0])
            if len(data) < end + 4 + length:
                break
            body, after = data[end + 4 : end + 4 + length], data[end + 4 + length :]
            self._request(head, body)
            data = after
        self._rest = data

    def _request(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"post /events"):
            assert self._state.run is not None
            answer, milliseconds = self._state.run.take(body)
            if milliseconds:
                self._state.later(milliseconds).answer(self._transport, answer)
            else:
                self._transport.write(answer)
        elif head.startswith(b"post /run"):
            self._state.begin(Plan(**orjson.loads(body)))
            self._transport.write(STORED)
        else:
            report = orjson.dumps(None if self._state.run is None else asdict(self._state.run.report()))
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(report) + report)


async def main() -> None:
    """Serve on a free port, told on stdout, until killed."""
    state = State()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    gc.disable()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
