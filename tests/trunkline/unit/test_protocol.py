import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from tests.trunkline.support import wait_for
from trunkline.gateway import protocol
from trunkline.gateway.protocol import LARGEST_HEAD, WHOLE, Bounded

HEAD = b"POST /in/desk HTTP/1.1\r\nhost: gateway\r\n"


class Desk:
    """A server that says how long a body was; `broken` counts the requests that ended before their body did.

    `whole` says of each request whether it came as one whose body is there.
    """

    def __init__(self) -> None:
        self.broken = self.headers = self.taken = 0
        self.whole: list[bool] = []
        app = Starlette(routes=[Route("/in/desk", self.take, methods=["POST"]), Route("/much", self.much)])
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", http=Bounded, timeout_keep_alive=2)
        self.server = uvicorn.Server(config)

    async def much(self, _: Request) -> Response:
        return Response(b"x" * 20_000_000)

    async def take(self, request: Request) -> Response:
        self.taken += 1
        self.whole.append(WHOLE in request.scope.get("extensions", ()))
        try:
            if (body := await request.body()).startswith(b"slow"):
                await asyncio.sleep(0.05 * len(body))
            return Response(f"{len(body)}")
        except ClientDisconnect:
            self.broken += 1
            raise
        finally:
            self.headers = len(request.headers)

    def say(self, *pieces: bytes) -> tuple[int, bytes]:
        """Send pieces as long as the server reads, and give status and body of what it answers first."""
        with self.connected() as connection:
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except OSError:  # it has closed
                    break
            return heard(connection.makefile("rb"))

    def say_all(self, *requests: bytes) -> list[tuple[int, bytes]]:
        """Send requests over one connection, each after the answer to the last."""
        answers = []
        with self.connected() as connection:
            for request in requests:
                connection.sendall(request)
                answers.append(heard(connection.makefile("rb")))
        return answers

    def connected(self) -> socket.socket:
        return socket.create_connection(self.server.servers[0].sockets[0].getsockname(), timeout=20)


def heard(answer: BinaryIO) -> tuple[int, bytes]:
    """Read status and body of an answer."""
    status = int(answer.readline().split()[1])
    length = 0
    while (line := answer.readline().lower()) != b"\r\n":
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, answer.read(length)


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
    chunks = b"".join(b"1\r\nx\r\n" for _ in range(LARGEST_HEAD))
    assert desk.say(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n") == (200, b"16384")


def test_only_a_body_that_is_there_is_said_to_be_whole(desk: Desk) -> None:
    desk.whole.clear()
    assert desk.say(HEAD + b"content-length: 1\r\n\r\nx") == (200, b"1")
    assert desk.say(HEAD + b"\r\n") == (200, b"0")
    taken = desk.taken
    with desk.connected() as connection:
        connection.sendall(HEAD + b"content-length: 2\r\n\r\nx")
        wait_for(lambda: desk.taken == taken + 1)
        connection.sendall(b"y")
        assert heard(connection.makefile("rb")) == (200, b"2")
    assert desk.whole == [True, True, False]


def test_who_closes_its_side_gets_the_answer_to_a_whole_request(desk: Desk) -> None:
    for sent, answer in ((b"content-length: 4\r\n\r\nslow", b"200"), (b"content-length: 5\r\n\r\nslow", None)):
        with desk.connected() as connection:
            connection.sendall(HEAD + sent)
            connection.shutdown(socket.SHUT_WR)
            told = connection.makefile("rb").read()
        assert told.split()[1:2] == ([answer] if answer else []), "then the connection is closed"


def test_a_head_of_the_largest_size_is_read(desk: Desk) -> None:
    rest = b"content-length: 1\r\nx: %s\r\n\r\n"
    room = LARGEST_HEAD - len(HEAD) - len(rest % b"")
    assert desk.say(HEAD + rest % (b"y" * room) + b"z") == (200, b"1")


@pytest.mark.parametrize(
    "more",
    [b"x: " + b"y" * LARGEST_HEAD, b"x: y\r\n" * LARGEST_HEAD, b"x" * 2 * LARGEST_HEAD],
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
    status, _ = desk.say(HEAD + b"transfer-encoding: chunked\r\n\r\n" + before, *([again] * LARGEST_HEAD))
    assert status == 431
    wait_for(lambda: desk.broken == broken + 1)
    assert desk.headers == 2  # none of a trailer's reaches the app


OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [OFFER + b"content-length: 3\r\n\r\nabc"],
        [OFFER + b"content-length: 3\r\n\r\n", b"a", b"bc"],
        [OFFER[:30], OFFER[30:], b"content-length: 3\r\n\r\nabc"],
        [OFFER + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
        [OFFER + b"content-length: 3\r\nx: ", b"y" * 10_000, b"\r\n\r\nabc"],
    ],
    ids=["at once", "a body later", "in two", "chunks", "a long head"],
)
def test_who_offers_another_protocol_is_answered_in_this_one(desk: Desk, pieces: list[bytes]) -> None:
    assert desk.say(HEAD + pieces[0], *pieces[1:]) == (200, b"3")


def test_an_offer_on_a_connection_in_use_is_read_once(desk: Desk) -> None:
    plain = HEAD + b"content-length: 2\r\n\r\nab"
    offering = HEAD + OFFER + b"content-length: 3\r\n\r\nabc"
    assert desk.say_all(plain, offering, plain) == [(200, b"2"), (200, b"3"), (200, b"2")]
    taken = desk.taken
    assert desk.say(plain + offering) == (200, b"2")  # behind a request that has no answer yet
    assert desk.taken - taken == 1
    status, _ = desk.say(HEAD + OFFER + b"content-length: 3\r\n" + b"x: y\r\n" * LARGEST_HEAD)
    assert status in (400, 431)


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


@pytest.mark.parametrize(
    "behind",
    [b"nonsense\r\n\r\n", b"POST /in/desk HTTP/1.1\r\n" + b"x: y\r\n" * LARGEST_HEAD, HEAD + OFFER + b"\r\n"],
    ids=["nonsense", "a head too large", "an offer"],
)
def test_what_is_refused_behind_a_request_is_not_taken_for_its_answer(desk: Desk, behind: bytes) -> None:
    """It would say that nothing was published, of an event that was."""
    for ahead in (1, 2):
        with desk.connected() as connection:
            connection.sendall((HEAD + b"content-length: 4\r\n\r\nslow") * ahead)
            with contextlib.suppress(OSError):
                connection.sendall(behind)
            answers = connection.makefile("rb")
            assert [heard(answers) for _ in range(ahead)] == [(200, b"4")] * ahead
            with contextlib.suppress(ConnectionError):
                assert answers.read() == b"", "then the connection is closed"


@pytest.mark.parametrize(
    ("begun", "again", "status"),
    [
        (b"", b"", None),
        (b"\r\n", b"\r\n", None),
        (HEAD[:20], b"", 408),
        (HEAD + b"x: ", b"y", 408),
        (HEAD + OFFER + b"x: ", b"y", 408),
        (HEAD + b"content-length: 9\r\n\r\nab", b"", None),
        (b"GET /nothing HTTP/1.1\r\nhost: gateway\r\ncontent-length: 9999\r\n\r\n", b"y", 404),
        (HEAD + OFFER + b"content-length: 9999\r\n\r\n", b"y", None),
    ],
    ids=["nothing", "empty lines", "half a line", "a header", "an offer", "half a body", "after the answer", "offered"],
)
def test_a_sender_that_dawdles_loses_its_connection(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, begun: bytes, again: bytes, status: int | None
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.3)
    told = b""
    with desk.connected() as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(0.05)
        connection.sendall(begun)
        for _ in range(200):
            with contextlib.suppress(TimeoutError):
                if not (more := connection.recv(65536)):
                    break
                told += more
            connection.sendall(again)
        else:
            pytest.fail("the connection is still open")
    assert told.startswith(b"HTTP/1.1 %d " % status if status else b""), told
    assert status or not told


@pytest.mark.parametrize("once", [True, False], ids=["one answer", "several"])
def test_who_reads_no_answer_loses_the_connection(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    once: bool,  # noqa: FBT001
) -> None:
    wait_for(lambda: not desk.server.server_state.connections)
    ask = b"GET /much HTTP/1.1\r\nhost: gateway\r\n\r\n"
    with monkeypatch.context() as hurried, desk.connected() as connection:
        hurried.setattr(protocol, "READ_SECONDS", 0.3)
        connection.sendall(ask if once else 3 * ask)
        wait_for(lambda: desk.server.server_state.connections)
        wait_for(lambda: not desk.server.server_state.connections)
    with desk.connected() as connection:
        connection.sendall(ask)
        assert heard(connection.makefile("rb")) == (200, b"x" * 20_000_000), "who reads gets it"


def test_a_request_behind_a_slow_one_is_not_late(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 1.5)
    ahead = HEAD + b"content-length: 40\r\n\r\n" + 10 * b"slow"
    with desk.connected() as connection:
        connection.sendall(ahead + HEAD + b"content-length: 3\r\n\r\n")
        answer = connection.makefile("rb")
        assert heard(answer) == (200, b"40")
        connection.sendall(b"abc")
        assert heard(answer) == (200, b"3")


def test_no_more_connections_are_taken_than_there_is_room_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for(lambda: not desk.server.server_state.connections)
    monkeypatch.setattr(protocol, "MOST", 2)
    request = HEAD + b"content-length: 1\r\n\r\na"
    with desk.connected(), desk.connected(), capture_logs() as logs:
        for _ in range(2):
            status, told = desk.say(b"")
            assert (status, json.loads(told)["title"]) == (503, "Too many connections")
        assert [entry["event"] for entry in logs] == ["gateway"], "said once a minute"
    wait_for(lambda: not desk.server.server_state.connections)
    assert desk.say(request) == (200, b"1")
