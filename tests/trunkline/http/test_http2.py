"""What an HTTP/2 server does to calls that are under way: which of them it has certainly not begun with."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import ClassVar

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes

from tests.trunkline.http.served import LOOPBACK, Served, answer, left
from tests.trunkline.http.test_tls import AUTHORITY, GOOD, NAME, TLS, here, shown
from tests.trunkline.http.ways import Way, again, each_way
from trunkline.errors import Retryable, Unknown
from trunkline.http import transport as module
from trunkline.http.proofs import OPEN
from trunkline.http.transport import Transport
from trunkline.requests import Request
from trunkline.responses import Response

Answer = Callable[["Two", int], None]
"""What a server does about a request, given by its connection and stream."""


class Two(asyncio.Protocol):
    """One HTTP/2 connection of a server that does what it is told to about each request."""

    all: ClassVar[list["Two"]] = []

    def __init__(self, about: Answer) -> None:
        self.asked: list[int] = []
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._about = about

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        Two.all.append(self)
        self.wire = transport
        self.http.initiate_connection()
        transport.write(self.http.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.asked.append(stream := event.stream_id or 0)
                self._about(self, stream)
        self.wire.write(self.http.data_to_send())

    def answer(self, stream: int) -> None:
        self.http.send_headers(stream, [(":status", "200")])
        self.http.send_data(stream, b"done", end_stream=True)

    def say_goodbye(self, code: ErrorCodes, *, last: int) -> None:
        """Name the last stream that was or may be acted on, and go."""
        self.http.close_connection(code, last_stream_id=last)
        self.wire.write(self.http.data_to_send())
        self.wire.close()


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CRM_CA", AUTHORITY.cert_pem.bytes().decode())
    yield
    Two.all.clear()


def speaking() -> ssl.SSLContext:
    """Give what a server needs to speak nothing but HTTP/2."""
    context = shown(GOOD)
    context.set_alpn_protocols(["h2"])
    return context


@asynccontextmanager
async def opened(about: Answer) -> AsyncIterator[Transport]:
    """Open the way to a server."""
    server = await asyncio.get_running_loop().create_server(lambda: Two(about), "127.0.0.1", 0, ssl=speaking())
    url = f"https://{NAME}:{server.sockets[0].getsockname()[1]}"
    try:
        async with server, Transport(url, OPEN, guard=LOOPBACK, connections=1, tls=TLS, resolve=here) as transport:
            yield transport
    finally:
        for one in Two.all:
            one.wire.abort()
        await left(server)


def call(about: Answer, way: Way) -> Response:
    """Make one call of a server."""

    async def run() -> Response:
        async with opened(about) as transport:
            return await way(transport, Request.post("/"))

    return asyncio.run(run())


def refuse(code: ErrorCodes) -> Answer:
    """Reset each request's stream."""
    return lambda one, stream: one.http.reset_stream(stream, code)


def go(code: ErrorCodes, *, before: int) -> Answer:
    """Say goodbye at each request, whose stream comes `before` streams after the last that was begun with."""
    return lambda one, stream: one.say_goodbye(code, last=max(0, stream - before))


@each_way
@pytest.mark.parametrize(
    "about",
    [
        refuse(ErrorCodes.REFUSED_STREAM),
        go(ErrorCodes.NO_ERROR, before=2),
        go(ErrorCodes.ENHANCE_YOUR_CALM, before=2),
        go(ErrorCodes.INTERNAL_ERROR, before=2),
    ],
    ids=["refused", "gone before", "gone before, overrun", "gone before, broken"],
)
def test_what_the_server_has_not_begun_with_may_be_sent_again(about: Answer, way: Way) -> None:
    with pytest.raises(Retryable, match="the target has sent the request back and not begun with it"):
        call(about, way)


@each_way
@pytest.mark.parametrize(
    "about",
    [
        refuse(ErrorCodes.CANCEL),
        refuse(ErrorCodes.NO_ERROR),
        refuse(ErrorCodes.ENHANCE_YOUR_CALM),
        refuse(ErrorCodes.INTERNAL_ERROR),
        go(ErrorCodes.NO_ERROR, before=0),
        go(ErrorCodes.ENHANCE_YOUR_CALM, before=0),
        lambda one, _: one.wire.close(),
    ],
    ids=["cancelled", "ended", "overrun", "broken", "gone with it", "gone with it, overrun", "closed"],
)
def test_what_the_server_may_have_begun_with_is_unknown_and_sent_once(about: Answer, way: Way) -> None:
    with pytest.raises(Unknown):
        call(about, way)
    assert sum(len(one.asked) for one in Two.all) == 1


def test_of_calls_under_way_those_after_the_last_one_that_a_server_names_are_made_again() -> None:
    """As of a server that closes a connection after so many requests."""

    def leave(one: Two, stream: int) -> None:
        if one is not Two.all[0] or stream == 1:
            one.answer(stream)
        elif len(one.asked) == 6:
            one.say_goodbye(ErrorCodes.NO_ERROR, last=one.asked[2])

    async def run() -> list[Response | BaseException]:
        async with opened(leave) as transport:
            await again(transport, Request.post("/"))
            calls = (again(transport, Request.post("/")) for _ in range(5))
            return await asyncio.gather(*calls, return_exceptions=True)

    ends = asyncio.run(run())
    assert sorted(type(end).__name__ for end in ends) == ["Response", "Response", "Response", "Unknown", "Unknown"]
    assert [len(Two.all[0].asked), sum(len(one.asked) for one in Two.all[1:])] == [6, 3]


def test_a_connection_that_shows_no_life_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be used for ever: a call without an answer in time ends its stream, not the connection."""
    monkeypatch.setattr(module, "SILENCE", 0.5)

    def freeze(one: Two, stream: int) -> None:
        if one is Two.all[0] and stream > 1:
            one.wire.pause_reading()
        else:
            one.answer(stream)

    async def run() -> int:
        async with opened(freeze) as transport:
            await again(transport, Request.post("/"))
            with pytest.raises(Unknown):
                await again(transport, Request.post("/"))
            return (await again(transport, Request.post("/"))).status

    assert asyncio.run(run()) == 200
    assert len(Two.all) == 2


def test_a_connection_without_calls_is_left_before_a_server_would_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it closes it at times just as a call is sent, and nobody knows whether it took that."""
    assert module.IDLE < 5, "as long as Apache, Node.js and uvicorn keep one"
    monkeypatch.setattr(module, "IDLE", 0.1)

    async def run() -> None:
        async with (
            Served(answer(200), answer(200)) as served,
            Transport(served.url, OPEN, guard=LOOPBACK, connections=1) as transport,
        ):
            await again(transport, Request.post("/"))
            await asyncio.sleep(0.2)
            await again(transport, Request.post("/"))
            assert served.connections == 2

    asyncio.run(run())
