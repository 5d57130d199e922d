"""What the way to a target costs: `python -m benchmarks.transport`.

The same call, a small JSON POST under an idempotency key whose answer is read, by the bus and by plain clients, at 1,
64 and 512 calls in flight, with TLS and without. The bus's call goes through all that stands before a target: limit,
breaker, traceparent, guard, deadline; and its answer is judged. The target runs in a process of its own and answers at
once. All contenders take short turns, so that whatever else this machine does is in all of them alike; each turn gives
one figure, and the middle one counts. Exit code 1 when the bus uses more processor time a call than the bar allows over
the client that it is built on, where that writes and reads the same objects for sinks.
"""

import argparse
import asyncio
import gc
import json
import platform
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple, cast

import aiohttp
import httpx
import orjson
import trustme
import uvloop
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from pyreqwest.client import Client, ClientBuilder

from benchmarks import results
from benchmarks.topology import sales
from trunkline import ApiKey, Bus, Deliver, Event, Limit, Secret, Target
from trunkline.cli.worker import settle
from trunkline.engine import spans
from trunkline.engine.affinity import Affinity, keep_affinity
from trunkline.engine.targets import Begun, Gate, Targets
from trunkline.flow.declare import Tls
from trunkline.kafka import events
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response
from trunkline.settings import Env
from trunkline.sinks import HttpSink

BAR = 1.15
"""Processor time of a call of the bus, as a multiple of that of the bare client."""
IN_FLIGHT = (1, 64, 512)
TURN = 0.2
"""Seconds."""
WARM = 1.0
"""Seconds of a turn before all others, which opens the connections and counts for nothing."""
PATIENCE = 10.0
"""Seconds after a turn in which what is in flight must have ended: one that stalls must not stop all."""
TURNS = 24
LIMIT = Limit(1_000_000, burst=1_000_000)
"""It is counted, and never reached."""
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BUILD = Path("build/bench")
KEY = "abcdefghijklmnopqrstuvwxyz234567"
SECRET = "bench-key"  # noqa: S105 - opens nothing
BODY = {"sku": "1095275", "event_id": "0123456789abcdef", "delta": -2, "occurred_at": "2026-01-01T00:00:00.000000Z"}
STORED = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"stored":true}'

Call = Callable[[], Awaitable[int]]
"""One call; gives the status."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the target is, and whose signature is under its certificate, if it has one."""

    url: str
    authority: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the results, the median of the turns; contenders share a process, so its memory is nobody's own."""

    case: str
    contender: str
    events_per_s: float
    cpu_us_per_event: float
    over_bare: float
    p50_ms: float
    p99_ms: float
    rss_mib: None
    order: str
    lost: int


class Collector(HttpSink):
    """The sink of the bus."""

    name = "collector"

    def request(self, event: Event[Any]) -> Request:
        """Send the event."""
        return Request("POST", "/events", event.data)


EVENT = Event("0123456789abcdef", datetime(2026, 1, 1, tzinfo=UTC), BODY, traceparent=TRACEPARENT)


class Dispatch:
    """Begins calls as `Delivering._act` does: room is asked for once in a turn of the loop."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._now = 0.0

    def begin(self) -> Begun:
        """Begin a call."""
        if not self._now:
            self._now = events.clock()
            assert self._gate.room(self._now) > 0
            asyncio.get_running_loop().call_soon(self._turned)
        return self._gate.begin(self._now)

    def _turned(self) -> None:
        self._now = 0.0


@asynccontextmanager
async def direct(place: Place) -> AsyncIterator[Call]:
    """Call as the bus does for a declared sink: `Delivering._attempt` without ledger and dead letters."""
    async with targets(place) as (sink, opened):
        gate = opened.gate("bench", sink.target)
        dispatch = Dispatch(gate)

        async def call() -> int:
            begun = dispatch.begin()
            request = sink.request(EVENT)
            span = spans.calling(sink.name, "bench", sink.target.name, [EVENT], replayed=False)
            response = await opened.send(sink.target, request, KEY, sink.idempotency, again=False)
            verdict = sink.verdict(response)
            opened.ended(gate, begun, verdict, response)
            spans.ended(span, response.status, [verdict])
            return response.status

        yield call


class Nowhere(SpanExporter):
    """Takes spans, and sends them nowhere."""

    def export(self, _spans: Any) -> SpanExportResult:
        """Forget them."""
        return SpanExportResult.SUCCESS


@asynccontextmanager
async def traced(place: Place) -> AsyncIterator[Call]:
    """Call so, with a span made of every call."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = BatchSpanProcessor(Nowhere())
    provider.add_span_processor(processor)
    recorder = spans.recorder_of(provider, processor)
    async with direct(place) as plain:

        async def call() -> int:
            spans.Exporting.recorder = recorder
            try:
                return await plain()
            finally:
                spans.Exporting.recorder = None

        yield call
    provider.shutdown()


@asynccontextmanager
async def by_httpx(place: Place) -> AsyncIterator[Call]:
    """Call as a hand-written sink of the bus does."""
    headers = {"idempotency-key": KEY, "content-type": "application/json"}
    async with targets(place) as (sink, opened):
        client = opened.client(sink.target)

        async def call() -> int:
            return (await client.post("/events", content=orjson.dumps(BODY), headers=headers)).status_code

        yield call


@asynccontextmanager
async def targets(place: Place) -> AsyncIterator[tuple[Collector, Targets]]:
    """Open the bus's way to the target."""
    tls = None if place.authority is None else Tls(ca=Written("BENCH_CA", place.authority))
    key = ApiKey(Known("BENCH_KEY", SECRET))
    sink = Collector(Target("collector", Written("BENCH_URL", place.url), auth=key, limit=LIMIT, tls=tls))
    bus = Bus("bench", [Deliver(sales("bench"), to=sink, name="bench")])
    loopback = (ip_network("127.0.0.0/8"), ip_network("::1"))
    async with Targets(bus, ["bench"], allow=loopback, connections=512) as opened:
        opened.divide("bench", 1.0)
        yield sink, opened


@dataclass(frozen=True, slots=True)
class Written(Env):
    """A setting whose value is known here."""

    value: str

    def read(self, _environment: object = None) -> str:
        """Give it."""
        return self.value


@dataclass(frozen=True, slots=True)
class Known(Secret):
    """A secret that is none."""

    value: str

    def read(self, _environment: object = None) -> str:
        """Give it."""
        return self.value


def client_at(place: Place) -> Client:
    """Build the client that the bus is built on, as plainly as it does the job."""
    builder = ClientBuilder().default_headers({"x-api-key": SECRET}).no_proxy().follow_redirects(False)
    builder = builder.timeout(timedelta(seconds=20)).pool_max_idle_per_host(512)
    if place.authority is not None:
        builder = builder.add_root_certificate_pem(place.authority.encode())
    return builder.build()


@asynccontextmanager
async def pyreqwest(place: Place) -> AsyncIterator[Call]:
    """Call with the client that the bus is built on, and nothing else."""
    headers = {"idempotency-key": KEY, "content-type": "application/json"}
    async with client_at(place) as client:

        async def call() -> int:
            request = client.post(place.url + "/events").headers(headers).body_bytes(orjson.dumps(BODY))
            async with request.build_streamed() as answer:
                await answer.body_reader.read(65_537)
                return answer.status

        yield call


@asynccontextmanager
async def pyreqwest_for_sinks(place: Place) -> AsyncIterator[Call]:
    """Call with that client what a sink asks for, and let the sink judge the answer: the least that a bus can do."""
    under, sink = Idempotency(), Collector(Target("collector", Written("BENCH_URL", place.url)))
    async with client_at(place) as client:

        async def call() -> int:
            request = sink.request(EVENT)
            content, headers = request.encode()
            headers |= under.headers(KEY)
            builder = client.request(request.method, place.url + request.path).headers(headers)
            async with builder.body_bytes(content or b"").build_streamed() as answer:
                body = bytes(await answer.body_reader.read(65_537) or b"")
                response = Response(answer.status, dict(answer.headers), body, request.method)
                sink.verdict(response)
                return response.status

        yield call


@asynccontextmanager
async def httpx_alone(place: Place) -> AsyncIterator[Call]:
    """Call with httpx over its own transport."""
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
    headers = {"idempotency-key": KEY, "content-type": "application/json"}
    async with httpx.AsyncClient(
        limits=limits, verify=context_of(place), trust_env=False, timeout=20.0, headers={"x-api-key": SECRET}
    ) as client:

        async def call() -> int:
            body = orjson.dumps(BODY)
            return (await client.post(place.url + "/events", content=body, headers=headers)).status_code

        yield call


@asynccontextmanager
async def by_aiohttp(place: Place) -> AsyncIterator[Call]:
    """Call with aiohttp."""
    connector = aiohttp.TCPConnector(limit=512, ssl=context_of(place))
    headers = {"idempotency-key": KEY, "content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(20.0)
    async with aiohttp.ClientSession(connector=connector, headers={"x-api-key": SECRET}, timeout=timeout) as client:

        async def call() -> int:
            body = orjson.dumps(BODY)
            async with client.post(place.url + "/events", data=body, headers=headers, allow_redirects=False) as answer:
                await answer.read()
                return answer.status

        yield call


CONTENDERS = {
    "trunkline": direct,
    "pyreqwest, sinks": pyreqwest_for_sinks,
    "pyreqwest": pyreqwest,
    "trunkline, spans": traced,
    "trunkline, httpx": by_httpx,
    "httpx": httpx_alone,
    "aiohttp": by_aiohttp,
}
BARE = "pyreqwest, sinks"


def context_of(place: Place) -> ssl.SSLContext:
    """Give what Python's own clients need to trust the target."""
    return ssl.create_default_context(cadata=place.authority)


class Figure(NamedTuple):
    """What one turn gave; what failed counts for nothing but itself."""

    calls_per_s: float
    cpu_us_per_call: float
    p50_ms: float
    p99_ms: float
    failed: int


async def turn(call: Call, in_flight: int, seconds: float = TURN) -> Figure:
    """Make calls for a while, after one of each that opens again what was closed since the last turn."""
    took_each: list[float] = []
    failed = 0

    async def again() -> None:
        nonlocal failed
        while (started := time.perf_counter()) < ends:
            try:
                assert await call() == 200
                took_each.append(time.perf_counter() - started)
            except Exception:  # noqa: BLE001 - some contenders break connections when they have many at once
                failed += 1

    await asyncio.wait([asyncio.create_task(open_again(call)) for _ in range(in_flight)], timeout=PATIENCE)
    gc.collect()
    began, worked = time.perf_counter(), time.process_time()
    ends = began + seconds
    _, late = await asyncio.wait([asyncio.create_task(again()) for _ in range(in_flight)], timeout=seconds + PATIENCE)
    for task in late:
        task.cancel()
    failed += len(late)
    took, work = time.perf_counter() - began, time.process_time() - worked
    count = len(took_each)
    shares = statistics.quantiles(took_each, n=100) if count > 1 else [TURN] * 99
    return Figure(count / took, work / max(1, count) * 1e6, 1000 * shares[49], 1000 * shares[98], failed)


async def open_again(call: Call) -> None:
    """Make a call that counts for nothing."""
    with suppress(Exception):
        await call()


async def compare(place: Place, turns: int) -> list[Result]:
    """Let all contenders take turns at one target."""
    rows = []
    bound = asyncio.create_task(keep_affinity(Affinity(0, tuple)))
    async with AsyncExitStack() as stack:
        calls = {name: await stack.enter_async_context(opened(place)) for name, opened in CONTENDERS.items()}
        for in_flight in IN_FLIGHT:
            figures: dict[str, list[Figure]] = {name: [] for name in calls}
            for number in range(turns + 1):
                # To and fro: whoever comes after a client of another kind finds nothing of its own in the caches.
                for name, call in [*calls.items()][:: 1 if number % 2 else -1]:
                    figure = await turn(call, in_flight, TURN if number else WARM)
                    if number:
                        figures[name].append(figure)
            case = f"{'http' if place.authority is None else 'https'}, {in_flight} in flight"
            for name, all_of_it in figures.items():
                pace, cpu, p50, p99 = (statistics.median(one[at] for one in all_of_it) for at in range(4))
                failed = sum(one.failed for one in all_of_it)
                pairs = zip(all_of_it, figures[BARE], strict=True)
                over = statistics.median(one.cpu_us_per_call / bare.cpu_us_per_call for one, bare in pairs)
                rows.append(Result(case, name, pace, cpu, over, p50, p99, None, "none", failed))
    bound.cancel()
    return rows


class Connection(asyncio.Protocol):
    """One client's connection: every request is answered at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being declared one
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """Answer every whole request that is there."""
        data = self._rest + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end].lower()
            at = head.find(b"\ncontent-length:")
            length = 0 if at < 0 else int(head[at + 16 :].split(b"\r", 1)[0])
            if len(data) < end + 4 + length:
                break
            data = data[end + 4 + length :]
            self._transport.write(STORED)
        self._rest = data


async def serve(certificate: str) -> None:
    """Serve on a free port, told on stdout, until killed; with TLS where there is a certificate."""
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096, ssl=context)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextmanager
def served(*, tls: bool) -> Iterator[Place]:
    """Start the target in a process of its own."""
    authority = trustme.CA() if tls else None
    with tempfile.TemporaryDirectory() as directory:
        certificate = Path(directory, "certificate.pem")
        if authority is not None:
            certificate.write_bytes(authority.issue_cert("localhost").private_key_and_cert_chain_pem.bytes())
        command = [sys.executable, "-m", "benchmarks.transport", "--serve", str(certificate) if tls else ""]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - ourselves
            try:
                assert process.stdout is not None
                port = int(process.stdout.readline())
                pem = None if authority is None else authority.cert_pem.bytes().decode()
                yield Place(f"{'https' if tls else 'http'}://localhost:{port}", pem)
            finally:
                process.kill()


def main() -> int:
    """Measure and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS, help="how many turns each contender has in each case")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve is not None:
        uvloop.run(serve(asked.serve))
    rows: list[Result] = []
    settle()
    for tls in (False, True):
        with served(tls=tls) as place:
            rows += uvloop.run(compare(place, asked.turns))
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "transport.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    lines = results.table(HEADS, map(cells, rows))
    worst = max(row.over_bare for row in rows if row.contender == "trunkline")
    told = f"At worst the bus uses {worst:.2f} of the processor time of {BARE}; the bar is {BAR}."
    sys.stdout.write("\n".join([*lines, told, ""]))
    if asked.turns >= TURNS:
        results.keep("The way to a target", [*introduction(), "", *lines, "", told])
    return int(worst > BAR)


HEADS = ("case", "contender", "calls/s", "CPU µs a call", f"of {BARE}", "p50 ms", "p99 ms", "failed")


def cells(row: Result) -> list[str]:
    """Give a row as text."""
    figures = (f"{row.events_per_s:,.0f}", f"{row.cpu_us_per_event:.0f}", f"{row.over_bare:.2f}")
    return [row.case, row.contender, *figures, f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", str(row.lost)]


def introduction() -> list[str]:
    """Say how it was measured."""
    clients = ", ".join(f"{name} {version(name)}" for name in ("trunkline", "pyreqwest", "httpx", "aiohttp", "uvloop"))
    here = f"{results.machine()}. Python {platform.python_version()}, {clients}"
    return [f"`make bench-transport`, {datetime.now(UTC):%Y-%m-%d}. {here}.", "", INTRODUCTION]


INTRODUCTION = f"""\
A small JSON POST under a key whose answer is read and judged; the target, a process on the same machine, answers at
once. Contenders take turns of {TURN:g} s, to and fro, in one process that has the interpreter and the processors as a
worker has them, and each opens its connections before its turn; figures are medians, and a multiple of *pyreqwest,
sinks* is the median of the rounds', each of which has both within half a second. *trunkline* has limit, breaker, guard,
traceparent and deadline, each counted for every call, and asked for room once in a turn of the loop, as a worker asks;
*spans* makes a span of every call as well; *trunkline, httpx* is the client that hand-written sinks get. *pyreqwest,
sinks* sends what the same sink asks for with the bare client, and lets it judge the answer: what a bus costs at the
least. *pyreqwest*, *httpx* and *aiohttp* are those clients alone."""


if __name__ == "__main__":
    sys.exit(main())
