"""Tokens that expire, are revoked or cannot be had, under load: nothing is lost, doubled or dead-lettered."""

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.shared import free_port
from tests.trunkline.faults.targets.load import Load
from tests.trunkline.support import HASTY, QUICK, Running, Shelf, Stage, notes, say, wait_for
from trunkline import Bus, ClientCredentials, Deliver, Retry, Secret, Target, env

pytestmark = pytest.mark.faults(group="targets")

AT_ONCE = 256
"""Calls that a worker has in flight at most."""
DEADLINE = 0.5
"""Seconds that a token endpoint has in these cases."""

Answer = Callable[[], Awaitable[Response]]


class Gate:
    """Stands before the target and lets through who has a good token, which it gives out itself."""

    def __init__(self, target: str) -> None:
        self.tokens: dict[str, float] = {}
        """When each token that was given out ends, by the clock."""
        self.told = 3600.0
        """Seconds that a token is said to live."""
        self.life = 3600.0
        """Seconds that it does live."""
        self.fetches = 0
        self.calls = 0
        self.refused = 0
        self.waiting = 0
        self.answer: Answer = self.give
        self.opened = asyncio.Event()
        self.opened.set()
        self._target = target
        self.url = f"http://127.0.0.1:{free_port()}"

    async def give(self) -> Response:
        token = secrets.token_urlsafe(32)
        self.tokens[token] = time.monotonic() + self.life
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": self.told})

    async def fail(self) -> Response:
        return Response(status_code=503)

    async def hang(self) -> Response:
        await asyncio.sleep(3 * DEADLINE)
        return Response(status_code=503)

    async def refuse(self) -> Response:
        return JSONResponse({"error": "invalid_client"}, status_code=401)

    def open(self) -> None:
        """Let go on who waits."""
        self._loop.call_soon_threadsafe(self.opened.set)

    def revoke(self) -> None:
        """Let every token be worth nothing."""
        self.tokens = dict.fromkeys(self.tokens, 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        routes = [
            Route("/token", self._token, methods=["POST"]),
            Route("/{rest:path}", self._call, methods=["POST"]),
        ]
        port = int(self.url.rpartition(":")[2])
        app = Starlette(routes=routes, lifespan=self._forwarding)
        config = uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, name="gate")
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield
        finally:
            server.should_exit = True
            thread.join(30)

    @asynccontextmanager
    async def _forwarding(self, _app: Starlette) -> AsyncIterator[None]:
        """Have connections to the target for as long as the gate runs."""
        self._loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=32), timeout=60) as self._client:
            yield

    async def _token(self, _request: Request) -> Response:
        self.fetches += 1
        return await self.answer()

    async def _call(self, request: Request) -> Response:
        self.calls += 1
        self.waiting += 1
        await self.opened.wait()
        self.waiting -= 1
        token = request.headers["authorization"].removeprefix("Bearer ")
        if self.tokens[token] < time.monotonic():
            self.refused += 1
            return Response(status_code=401)
        headers = {"idempotency-key": request.headers["idempotency-key"]}
        body = await request.body()
        answer = await self._client.post(f"{self._target}{request.url.path}", headers=headers, content=body)
        return Response(answer.content, answer.status_code)


def bus_of(prefix: str, retry: Retry) -> Bus:
    auth = ClientCredentials(env("ERP_TOKEN_URL"), env("ERP_CLIENT"), Secret("ERP_SECRET"))
    return Bus(prefix, [Deliver(notes(prefix, 3), to=Shelf(Target("shelf", env("SHELF_URL"), auth=auth)), retry=retry)])


class Case(Load):
    """A bus whose target is behind a gate."""

    def __init__(self, stage: Stage, gate: Gate) -> None:
        super().__init__(stage)
        self.gate = gate
        self._began = time.monotonic()

    def make(self, retry: Retry = QUICK) -> Bus:
        self.bus = self.stage.make(bus_of(self.stage.prefix, retry))
        [self.flow] = self.bus.delivering
        return self.bus

    def why(self) -> object:
        return vars(self.gate), super().why()

    def settle_with(self, running: Running) -> None:
        """Fail unless every event had its one effect and nobody was told a secret."""
        gate = self.gate
        took = time.monotonic() - self._began
        say(f"\n{self.events} events, {gate.calls} calls, {gate.refused} x 401, {gate.fetches} tokens; {took:.1f} s")
        self.settle()
        told = repr(running.seen)
        assert not [token for token in (*gate.tokens, "a-client-secret") if token in told]


@pytest.fixture
def case(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    gate = Gate(stage.target.url)
    monkeypatch.setenv("SHELF_URL", f"{gate.url}/{stage.prefix}")
    monkeypatch.setenv("ERP_TOKEN_URL", f"{gate.url}/token")
    monkeypatch.setenv("ERP_CLIENT", "trunkline")
    monkeypatch.setenv("ERP_SECRET", "a-client-secret")
    with gate.running():
        yield Case(stage, gate)


def test_one_token_is_enough(case: Case) -> None:
    case.make()
    case.write(10, 50)
    with case.stage.running(case.bus) as running:
        case.until_finished()
    case.settle_with(running)
    assert (case.gate.fetches, case.gate.refused) == (1, 0)


def test_tokens_that_expire_as_they_said(case: Case) -> None:
    case.make()
    case.gate.told = case.gate.life = 2.0
    with case.stage.running(case.bus) as running:
        while case.gate.fetches < 4:
            case.write(5, 4)
            case.until_finished()
    case.settle_with(running)


def test_tokens_that_expire_earlier_than_they_said(case: Case) -> None:
    case.make()
    case.gate.life = 2.0
    with case.stage.running(case.bus) as running:
        while case.gate.fetches < 4:
            case.write(5, 20)
            case.until_finished()
    case.settle_with(running)
    assert case.gate.refused >= case.gate.fetches - 1 >= 3


def test_a_storm_of_401_is_one_renewal(case: Case) -> None:
    case.make()
    case.gate.opened.clear()
    case.write(3, AT_ONCE)
    with case.stage.running(case.bus) as running:
        wait_for(lambda: case.gate.waiting == AT_ONCE, why=lambda: vars(case.gate))
        case.gate.revoke()
        case.gate.open()
        case.until_finished()
    case.settle_with(running)
    assert case.gate.refused == AT_ONCE
    assert case.gate.fetches == 2


@pytest.mark.parametrize("how", ["fail", "hang"])
def test_an_endpoint_that_is_down_from_the_start(case: Case, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr("trunkline.http.opening.DEADLINE", DEADLINE)
    case.make(HASTY)
    case.gate.answer = getattr(case.gate, how)
    case.write(5, 20)
    with case.stage.running(case.bus) as running:
        until = time.monotonic() + 2 * HASTY.give_up_after.total_seconds()
        wait_for(lambda: case.gate.fetches >= 3 and time.monotonic() > until, why=lambda: vars(case.gate))
        assert case.gate.calls == 0
        assert case.gate.fetches < 20
        assert case.stage.letters(case.flow) == []
        case.gate.answer = case.gate.give
        case.until_finished()
    case.settle_with(running)


def test_an_endpoint_that_goes_down_while_tokens_expire(case: Case) -> None:
    case.make(HASTY)
    case.write(2, 20)
    with case.stage.running(case.bus) as running:
        case.until_finished()
        case.gate.answer = case.gate.fail
        case.gate.revoke()
        fetches = case.gate.fetches
        case.write(3, 20)
        until = time.monotonic() + 2 * HASTY.give_up_after.total_seconds()
        wait_for(lambda: case.gate.fetches >= fetches + 2 and time.monotonic() > until, why=lambda: vars(case.gate))
        assert case.stage.letters(case.flow) == []
        case.gate.answer = case.gate.give
        case.until_finished()
    case.settle_with(running)


def test_a_client_that_is_refused_halts_and_names_the_setting(case: Case) -> None:
    case.make(HASTY)
    case.gate.answer = case.gate.refuse
    case.write(5, 20)
    with case.stage.running(case.bus) as running:
        wait_for(lambda: running.details("halted"), why=lambda: vars(case.gate))
    [told] = running.details("halted")
    assert "ERP_TOKEN_URL answered 401: invalid_client. Check ERP_CLIENT and ERP_SECRET." in told
    assert "a-client-secret" not in told
    assert case.gate.calls == 0
    assert case.gate.fetches <= 2
    assert case.stage.letters(case.flow) == []
    assert set(case.stage.committed(case.bus, case.flow).values()) == {0}
    case.gate.answer = case.gate.give
    with case.stage.running(case.bus) as running:
        case.until_finished()
    case.settle_with(running)
