"""Calls over real sockets to targets that answer in every wrong way."""

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import Iterable
from decimal import Decimal
from itertools import repeat
from typing import Self

import pytest

from trunkline.adapters import Idempotency, Request, Response
from trunkline.errors import Permanent, Retryable, Unknown
from trunkline.http.transport import KEPT, Transport

KEY = "abcdefghijklmnopqrstuvwxyz234567"
STANDARD = Idempotency()


class Served:
    """A target that reads one request a connection, notes it and writes what it was told to."""

    def __init__(self, *parts: bytes | None, endless: Iterable[bytes] = ()) -> None:
        """Answer with `parts`, where None waits for the client to go, then with as much of `endless` as is taken."""
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.taken = 0
        self.asked = asyncio.Event()
        self._parts = parts
        self._endless = endless
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.create_task(self._answer(reader, writer)))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            self.asked.set()
            self.bodies.append(await reader.readexactly(int(self.sent.get("content-length", 0))))
            for part in self._parts:
                if part is None:
                    await reader.read()
                    return
                writer.write(part)
                await writer.drain()
            for part in self._endless:
                writer.write(part)
                await writer.drain()
                self.taken += len(part)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._writers.append(writer)

    @property
    def sent(self) -> dict[str, str]:
        """The headers of the only request."""
        [head] = self.heads
        lines = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
        return {name.lower(): value for name, value in lines}


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} Said", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def call(
    served: Served,
    request: Request = Request("POST", "/things", {"n": 1}),  # noqa: B008 - frozen
    *,
    under: Idempotency | None = STANDARD,
    deadline: float = 20.0,
    again: bool = True,
) -> Response:
    """Make one call to a target."""

    async def run() -> Response:
        async with served, Transport(served.url, {"x-secret": "hush"}, connections=1, deadline=deadline) as transport:
            return await transport.send(request, KEY, under, again=again)

    return asyncio.run(run())


twice = pytest.mark.parametrize("again", [False, True], ids=["first call", "call again"])


@twice
def test_an_answer(*, again: bool) -> None:
    served = Served(answer(201, "Retry-After: 7", "X-Two: a", "x-two: b", body=b"created"))
    got = call(served, Request("PUT", "/a%2Fb?x=1", {"n": Decimal("1.50")}, {"If-Match": '"3"'}), again=again)
    headers = {"retry-after": "7", "x-two": "a, b", "content-length": "7"}
    assert got == Response(201, headers, b"created", "PUT", whole=True)
    assert served.heads[0].startswith("PUT /a%2Fb?x=1 HTTP/1.1\r\n")
    assert served.bodies == [b'{"n":"1.50"}']
    sent = served.sent
    assert (sent["content-type"], sent["if-match"], sent["x-secret"]) == ("application/json", '"3"', "hush")


@pytest.mark.parametrize(
    ("under", "header", "value"),
    [
        (Idempotency(), "idempotency-key", KEY),
        (Idempotency(quoted=True), "idempotency-key", f'"{KEY}"'),
        (Idempotency("X-Request-Id", longest=20), "x-request-id", KEY[:20]),
        (Idempotency("PayPal-Request-Id", quoted=True, longest=16), "paypal-request-id", f'"{KEY[:16]}"'),
    ],
)
def test_the_key_goes_as_the_target_takes_it(under: Idempotency, header: str, value: str) -> None:
    served = Served(answer(200))
    call(served, Request("POST", "/things", headers={header.title(): "theirs"}), under=under)
    assert {name: given for name, given in served.sent.items() if KEY[:16] in given} == {header: value}
    assert "theirs" not in served.heads[0]


def test_a_target_without_keys_gets_none() -> None:
    served = Served(answer(200))
    call(served, under=None)
    assert KEY[:8] not in served.heads[0]
    assert "idempotency-key" not in served.sent


def test_a_request_without_a_body_has_no_type() -> None:
    served = Served(answer(204))
    call(served, Request.delete("/things/{id}", path={"id": 7}))
    assert served.heads[0].startswith("DELETE /things/7 HTTP/1.1\r\n")
    assert "content-type" not in served.sent


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_never_followed(status: int) -> None:
    served = Served(answer(status, "Location: /elsewhere"))
    assert call(served).status == status
    assert len(served.heads) == 1


@pytest.mark.parametrize("status", [101, 299, 418, 599, 600, 999])
def test_any_status_is_an_answer(status: int) -> None:
    assert call(Served(answer(status))).status == status


@twice
def test_an_endless_body_is_cut(*, again: bool) -> None:
    served = Served(b"HTTP/1.1 500 Said\r\n\r\n", endless=repeat(b"x" * 65_536))
    assert call(served, deadline=3600, again=again) == Response(500, {}, b"x" * KEPT, "POST", whole=False)


@twice
@pytest.mark.parametrize(("extra", "whole"), [(0, True), (1, False)])
def test_what_is_kept_of_a_body(*, extra: int, whole: bool, again: bool) -> None:
    got = call(Served(answer(200, body=b"x" * (KEPT + extra))), again=again)
    assert (len(got.body), got.whole) == (KEPT, whole)


@twice
def test_a_compressed_body_is_read(*, again: bool) -> None:
    assert (
        call(Served(answer(200, "content-encoding: gzip", body=gzip.compress(b"created"))), again=again).body
        == b"created"
    )


@twice
def test_a_bomb_is_decoded_as_far_as_is_kept(*, again: bool) -> None:
    packer = zlib.compressobj(9, wbits=31)
    first, next_ = (packer.compress(b"\0" * 1024 * 1024) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    served = Served(b"HTTP/1.1 503 Said\r\ncontent-encoding: gzip\r\n\r\n", first, endless=repeat(next_ * 64))
    assert call(served, deadline=3600, again=again) == Response(503, {}, b"\0" * KEPT, "POST", whole=False)


BROKEN = [
    ([answer(503, "content-encoding: gzip", "retry-after: 7", body=b"no gzip")], 503, b""),
    ([b"HTTP/1.1 422 Said\r\ncontent-length: 100\r\n\r\nno such"], 422, b"no such"),
    ([b"HTTP/1.1 200 Said\r\ncontent-length: 100\r\n\r\n", b"a", b"b", None], 200, b"ab"),
]
broken = pytest.mark.parametrize(("parts", "status", "body"), BROKEN, ids=["no gzip", "cut off", "too slow"])


@broken
def test_a_body_that_breaks_leaves_the_status_and_what_came(
    parts: list[bytes | None], status: int, body: bytes
) -> None:
    got = call(Served(*parts), deadline=0.5)
    assert (got.status, got.body, got.whole) == (status, body, False)


@broken
def test_a_first_call_whose_answer_breaks_is_made_again_under_its_key(
    parts: list[bytes | None], status: int, body: bytes
) -> None:
    with pytest.raises(Unknown):
        call(Served(*parts), deadline=0.5, again=False)
    got = call(Served(*parts), deadline=0.5, under=None, again=False)
    assert (got.status, got.body, got.whole) == (status, body, False), "without a key there is no second call"


@twice
def test_a_header_that_is_no_text_is_left_out(*, again: bool) -> None:
    got = call(Served(answer(200, "x-odd: \xff\xfe", "x-even: 2")), again=again)
    assert got.headers == {"x-even": "2", "content-length": "0"}


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [None],
        [b"HTTP/1.1 200 Sa", None],
        [b"HTTP/1.1 200 Said\r\nx: ", None],
        [b"SSH-2.0-hello\r\n\r\n"],
        [b"HTTP/1.1 99 Said\r\ncontent-length: 0\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n"],
        [b"HTTP/1.1 200 Said\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(500)) + b"\r\n"],
        [b"HTTP/1.1 200 Said\r\nx: " + b"y" * 2_000_000 + b"\r\n\r\n"],
    ],
    ids=lambda parts: repr(parts[0])[:30] if parts else "nothing",
)
def test_without_a_status_the_outcome_is_unknown(parts: list[bytes | None]) -> None:
    with pytest.raises(Unknown, match="no answer from the target"):
        call(Served(*parts), deadline=0.5)


def test_endless_headers_are_unknown_and_not_kept() -> None:
    served = Served(b"HTTP/1.1 200 Said\r\n", endless=repeat(b"x: " + b"y" * 60_000 + b"\r\n"))
    with pytest.raises(Unknown):
        call(served)
    assert served.taken < 64 * 1024 * 1024


def test_a_refused_connection_was_not_sent() -> None:
    async def run() -> None:
        async with Served() as served:
            url = served.url
        async with Transport(url, {}, connections=1) as transport:
            await transport.send(Request.post("/"), KEY, STANDARD)

    with pytest.raises(Retryable, match="no connection to the target"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "request_",
    [
        Request("POST", "/", headers={"x": "1\r\nauthorization: theirs"}),
        Request("POST", "/", headers={"x": "1\n"}),
        Request("POST", "/", headers={"x": "\x00"}),
        Request("POST", "/", headers={"x": "\ud800"}),
        Request("POST", "/", headers={"x\r\ny": "1"}),
        Request("POST", "/", headers={"x y": "1"}),
        Request("POST", "/", headers={"": "1"}),
        Request("POST", "/", headers={"x": 7}),  # type: ignore[dict-item]  # as an adapter may get it wrong
        Request("PO ST", "/"),
        Request("", "/"),
        Request("POST", "@elsewhere.example/"),
        Request("POST", ""),
        Request("POST", "/\ud800"),
        Request("POST", "/", {"x": "\ud800"}),
        Request("POST", "/", {"x": {1, 2}}),
        Request("POST", "/", {"x": b"1"}),
        Request("POST", "/", {"x": 2**64}),
    ],
    ids=repr,
)
def test_what_is_no_request_is_the_events_fault_and_never_sent(request_: Request) -> None:
    served = Served(answer(200))
    with pytest.raises(Permanent) as error:
        call(served, request_)
    assert served.heads == []
    assert "theirs" not in str(error.value)


def test_a_call_is_abandoned_when_it_is_cancelled() -> None:
    async def run() -> Response:
        async with Served(None) as silent, Transport(silent.url, {}, connections=1) as transport:
            task = asyncio.create_task(transport.send(Request.post("/"), KEY, STANDARD))
            await silent.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with Served(answer(200)) as served, Transport(served.url, {}, connections=1) as transport:
            return await transport.send(Request.post("/"), KEY, STANDARD)

    assert asyncio.run(run()).status == 200
