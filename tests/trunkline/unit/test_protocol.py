import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tests.trunkline.support import wait_for
from trunkline.gateway.protocol import LARGEST, Bounded

HEAD = b"POST /in/desk HTTP/1.1\r\nhost: gateway\r\n"


class Desk:
    """A server that says how long a body was; `broken` counts the requests that ended before their body did."""

    def __init__(self) -> None:
        self.broken = 0
        self.headers = 0
        app = Starlette(routes=[Route("/in/desk", self.take, methods=["POST"])])
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", http=Bounded)
        self.server = uvicorn.Server(config)

    async def take(self, request: Request) -> Response:
        try:
            return Response(f"{len(await request.body())}")
        except ClientDisconnect:
            self.broken += 1
            raise
        finally:
            self.headers = len(request.headers)

    def say(self, *pieces: bytes) -> tuple[int, bytes]:
        """Send pieces as long as the server reads, and give status and body of what it answers before it closes."""
        address = self.server.servers[0].sockets[0].getsockname()
        with socket.create_connection(address, timeout=20) as connection:
            heard = connection.makefile("rb")
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except OSError:  # it has closed
                    break
            status = int(heard.readline().split()[1])
            length = 0
            while (line := heard.readline().lower()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, heard.read(length)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with opened() as one:
        yield one


@contextmanager
def opened() -> Iterator[Desk]:
    one = Desk()
    thread = threading.Thread(target=one.server.run, name="desk")
    thread.start()
    try:
        wait_for(lambda: one.server.started)
        yield one
    finally:
        one.server.should_exit = True
        thread.join(30)


def test_a_body_is_read_however_it_comes(desk: Desk) -> None:
    body = b"x" * 1_000_000
    assert desk.say(HEAD + b"content-length: 1000000\r\n\r\n" + body) == (200, b"1000000")
    slow = [HEAD, b"content-length: 3\r\n", b"\r\n", b"a", b"bc"]
    assert desk.say(*slow) == (200, b"3")
    chunks = b"".join(b"1\r\nx\r\n" for _ in range(LARGEST))
    assert desk.say(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n") == (200, b"16384")


def test_a_head_of_the_largest_size_is_read(desk: Desk) -> None:
    rest = b"content-length: 1\r\nx: %s\r\n\r\n"
    room = LARGEST - len(HEAD) - len(rest % b"")
    assert desk.say(HEAD + rest % (b"y" * room) + b"z") == (200, b"1")


@pytest.mark.parametrize(
    "more",
    [b"x: " + b"y" * LARGEST, b"x: y\r\n" * LARGEST, b"x" * 2 * LARGEST],
    ids=["a value", "many", "a name"],
)
@pytest.mark.parametrize("whole", [True, False], ids=["at once", "bit by bit"])
def test_a_head_that_grows_is_refused(desk: Desk, more: bytes, whole: bool) -> None:  # noqa: FBT001
    sent = HEAD + more
    pieces = [sent] if whole else [sent[at : at + 512] for at in range(0, len(sent), 512)]
    status, told = desk.say(*pieces)
    assert status == 431
    assert json.loads(told)["detail"].startswith("More than 16384 bytes of it are no body. Nothing was published")


@pytest.mark.parametrize(
    ("before", "again"),
    [(b"0\r\n", b"x: y\r\n"), (b"1;", b"x" * 512)],
    ids=["a trailer", "what stands beside a chunk"],
)
def test_what_follows_a_head_is_bounded_too(desk: Desk, before: bytes, again: bytes) -> None:
    broken = desk.broken
    status, _ = desk.say(HEAD + b"transfer-encoding: chunked\r\n\r\n" + before, *([again] * LARGEST))
    assert status == 431
    wait_for(lambda: desk.broken == broken + 1)
    assert desk.headers == 2  # none of a trailer's reaches the app


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"x: a\0b\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        b"POST /in/d\xff HTTP/1.1\r\n\r\n",
    ],
    ids=["nonsense", "no colon", "two lengths", "length and chunks", "NUL", "negative", "no ASCII"],
)
def test_what_is_no_http_is_refused_with_a_problem(desk: Desk, sent: bytes) -> None:
    status, told = desk.say(sent)
    assert status == 400
    assert json.loads(told)["title"] == "This is no HTTP request"
