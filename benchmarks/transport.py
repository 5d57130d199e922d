"""What the way to a target costs: `python -m benchmarks.transport`.

The same call, a small JSON POST under an idempotency key whose answer is read, by the bus and by plain clients, at 1,
64 and 512 calls in flight, with TLS and without. The target runs in a process of its own and answers at once. All
contenders take turns of a second, so that whatever else this machine does is in all of them alike; each turn gives one
figure, and the middle one counts. Exit code 1 when the bus uses more processor time a call than the bar allows over the
client that it is built on, where that writes and reads the same objects for sinks.
"""

import argparse
import asyncio
import gc
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, cast

import aiohttp
import httpx
import orjson
import trustme
import uvloop
from pyreqwest.client import Client, ClientBuilder

from trunkline.adapters import Idempotency, Request, Response
from trunkline.flow.declare import Tls
from trunkline.http.client import client_of
from trunkline.http.guard import Guard, networks
from trunkline.http.proofs import Fixed
from trunkline.http.transport import Transport
from trunkline.settings import Env

BAR = 1.15
"""Processor time of a call of the bus, as a multiple of that of the bare client."""
IN_FLIGHT = (1, 64, 512)
TURN = 1.0
TURNS = 7
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
    """One row of the results: the median of the turns."""

    contender: str
    tls: bool
    in_flight: int
    calls_per_s: float
    cpu_us_per_call: float
    over_bare: float
    failed: int


@asynccontextmanager
async def direct(place: Place) -> AsyncIterator[Call]:
    """Call as the bus does for a declared sink."""
    under = Idempotency()
    async with transport(place) as way:

        async def call() -> int:
            return (await way.send(Request("POST", "/events", BODY), KEY, under)).status

        yield call


@asynccontextmanager
async def by_httpx(place: Place) -> AsyncIterator[Call]:
    """Call as a hand-written sink of the bus does."""
    headers = {"idempotency-key": KEY, "content-type": "application/json"}
    async with transport(place) as way, client_of(way) as client:

        async def call() -> int:
            return (await client.post("/events", content=orjson.dumps(BODY), headers=headers)).status_code

        yield call


@asynccontextmanager
async def transport(place: Place) -> AsyncIterator[Transport]:
    """Open the bus's way to the target."""
    tls = None if place.authority is None else Tls(ca=Written("BENCH_CA", place.authority))
    guard = Guard(networks(["127.0.0.0/8", "::1"]))
    async with Transport(
        place.url, Fixed({"x-api-key": SECRET}), guard=guard, tls=tls, connections=512, deadline=20.0
    ) as way:
        yield way


@dataclass(frozen=True, slots=True)
class Written(Env):
    """A setting whose value is known here."""

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
    """Call with that client from what a sink declares, and give what a sink is given: the least that a bus can do."""
    under = Idempotency()
    async with client_at(place) as client:

        async def call() -> int:
            request = Request("POST", "/events", BODY)
            content, headers = request.encode()
            headers |= under.headers(KEY)
            builder = client.request(request.method, place.url + request.path).headers(headers)
            async with builder.body_bytes(content or b"").build_streamed() as answer:
                body = bytes(await answer.body_reader.read(65_537) or b"")
                return Response(answer.status, dict(answer.headers), body, request.method).status

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
    "trunkline, httpx": by_httpx,
    "pyreqwest": pyreqwest,
    "pyreqwest, sinks": pyreqwest_for_sinks,
    "httpx": httpx_alone,
    "aiohttp": by_aiohttp,
}
BARE = "pyreqwest, sinks"


def context_of(place: Place) -> ssl.SSLContext:
    """Give what Python's own clients need to trust the target."""
    return ssl.create_default_context(cadata=place.authority)


class Figure(NamedTuple):
    """What one turn gave; what failed counts for neither of the first two."""

    calls_per_s: float
    cpu_us_per_call: float
    failed: int


async def turn(call: Call, in_flight: int) -> Figure:
    """Make calls for a second."""
    count = failed = 0
    ends = time.perf_counter() + TURN

    async def again() -> None:
        nonlocal count, failed
        while time.perf_counter() < ends:
            try:
                assert await call() == 200
                count += 1
            except Exception:  # noqa: BLE001 - some contenders break connections when they have many at once
                failed += 1

    gc.collect()
    began, worked = time.perf_counter(), time.process_time()
    await asyncio.gather(*(again() for _ in range(in_flight)))
    took, work = time.perf_counter() - began, time.process_time() - worked
    return Figure(count / took, work / max(1, count) * 1e6, failed)


async def compare(place: Place, turns: int) -> list[Result]:
    """Let all contenders take turns at one target."""
    results = []
    async with AsyncExitStack() as stack:
        calls = {name: await stack.enter_async_context(opened(place)) for name, opened in CONTENDERS.items()}
        for in_flight in IN_FLIGHT:
            figures: dict[str, list[Figure]] = {name: [] for name in calls}
            for number in range(turns + 1):
                for name, call in calls.items():
                    figure = await turn(call, in_flight)
                    if number:  # the first one opens the connections
                        figures[name].append(figure)
            bare = statistics.median(one.cpu_us_per_call for one in figures[BARE])
            for name, all_of_it in figures.items():
                cpu = statistics.median(one.cpu_us_per_call for one in all_of_it)
                pace = statistics.median(one.calls_per_s for one in all_of_it)
                failed = sum(one.failed for one in all_of_it)
                results.append(Result(name, place.authority is not None, in_flight, pace, cpu, cpu / bare, failed))
    return results


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
    parser.add_argument("--turns", type=int, default=TURNS, help="how many seconds each contender gets in each case")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve is not None:
        uvloop.run(serve(asked.serve))
    results: list[Result] = []
    for tls in (False, True):
        with served(tls=tls) as place:
            results += uvloop.run(compare(place, asked.turns))
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "transport.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    for result in results:
        case = f"{'https' if result.tls else 'http':5} {result.in_flight:3} in flight  {result.contender:17}"
        figures = f"{result.calls_per_s:8.0f} calls/s  {result.cpu_us_per_call:6.0f} µs a call"
        sys.stdout.write(f"{case} {figures}  {result.over_bare:5.2f} of {BARE}  {result.failed} failed\n")
    worst = max(result.over_bare for result in results if result.contender == "trunkline")
    sys.stdout.write(f"At worst the bus uses {worst:.2f} of the processor time of {BARE}; the bar is {BAR}.\n")
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
