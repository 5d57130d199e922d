"""Calls over real sockets to targets that answer in every wrong way, both ways."""

import asyncio
import gzip
import json
import string
import zlib
from itertools import repeat

import httpx
import pytest

from tests.trunkline.http.served import LOOPBACK, Served, answer
from tests.trunkline.http.ways import KEPT_BY, KEY, Way, again, by_httpx, careful_ways, each_way, first
from trunkline.errors import Permanent, Retryable, Unknown
from trunkline.http.client import client_of
from trunkline.http.proofs import OPEN, Fixed
from trunkline.http.transport import READ, Transport
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response


def call(
    served: Served,
    request: Request = Request("POST", "/things", {"n": 1}),  # noqa: B008 - frozen
    *,
    way: Way = again,
    deadline: float = 20.0,
    below: str = "",
) -> Response:
    """Make one call to a target."""

    async def run() -> Response:
        async with (
            served,
            Transport(
                served.url + below, Fixed({"x-secret": "hush"}), guard=LOOPBACK, connections=1, deadline=deadline
            ) as transport,
        ):
            return await way(transport, request)

    return asyncio.run(run())


@each_way
def test_an_answer(way: Way) -> None:
    served = Served(answer(201, "Retry-After: 7", "X-Two: a", "x-two: b", body=b"created"))
    got = call(served, Request("PUT", "/a%2Fb?x=1", {"n": 2**53 + 1}, {"If-Match": '"3"'}), way=way)
    assert (got.status, got.body, got.whole) == (201, b"created", True)
    assert {name: got.headers[name] for name in ("retry-after", "x-two")} == {"retry-after": "7", "x-two": "a, b"}
    assert served.heads[0].startswith("PUT /a%2Fb?x=1 HTTP/1.1\r\n")
    assert json.loads(served.bodies[0]) == {"n": 2**53 + 1}
    sent = served.sent
    assert (sent["content-type"], sent["if-match"], sent["x-secret"]) == ("application/json", '"3"', "hush")
    assert sent["user-agent"] == "trunkline"


@each_way
def test_a_call_goes_below_the_targets_address(way: Way) -> None:
    served = Served(answer(200))
    call(served, Request("GET", "/things?x=1"), way=way, below="/v1/")
    assert served.heads[0].startswith("GET /v1/things?x=1 HTTP/1.1\r\n")


@each_way
def test_a_key_in_the_query_is_in_every_call(way: Way) -> None:
    async def run() -> None:
        async with Transport(served.url, Fixed(query={"key": "a b&c"}), guard=LOOPBACK, connections=1) as transport:
            await way(transport, Request("GET", "/x"))
            await way(transport, Request("GET", "/x?y=1"))

    async def main() -> None:
        async with served:
            await run()

    served = Served(answer(200, "connection: close"))
    asyncio.run(main())
    assert [head.split(" ")[1] for head in served.heads] == ["/x?key=a+b%26c", "/x?y=1&key=a+b%26c"]


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
    request = Request("POST", "/things", headers={header.title(): "theirs"})
    call(served, request, way=lambda transport, request: transport.send(request, KEY, under))
    assert {name: given for name, given in served.sent.items() if KEY[:16] in given} == {header: value}
    assert "theirs" not in served.heads[0]


def test_a_target_without_keys_gets_none() -> None:
    served = Served(answer(200))
    call(served, way=lambda transport, request: transport.send(request, KEY, None))
    assert KEY[:8] not in served.heads[0]
    assert "idempotency-key" not in served.sent


@each_way
def test_a_request_without_a_body_has_no_type(way: Way) -> None:
    served = Served(answer(204))
    call(served, Request.delete("/things/{id}", path={"id": 7}), way=way)
    assert served.heads[0].startswith("DELETE /things/7 HTTP/1.1\r\n")
    assert "content-type" not in served.sent


@each_way
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_never_followed(status: int, way: Way) -> None:
    served = Served(answer(status, "Location: /elsewhere"))
    assert call(served, way=way).status == status
    assert len(served.heads) == 1


@each_way
@pytest.mark.parametrize("status", [101, 299, 418, 599, 600, 999])
def test_any_status_is_an_answer(status: int, way: Way) -> None:
    assert call(Served(answer(status)), way=way).status == status


@each_way
def test_an_endless_body_is_cut(way: Way) -> None:
    served = Served(b"HTTP/1.1 500 Said\r\n\r\n", endless=repeat(b"x" * 65_536))
    got = call(served, deadline=3600, way=way)
    assert (got.status, got.body, got.whole) == (500, b"x" * KEPT_BY[way], False)
    assert served.taken < 64 * READ


@each_way
@pytest.mark.parametrize(("extra", "whole"), [(0, True), (1, False)])
def test_what_is_kept_of_a_body(*, extra: int, whole: bool, way: Way) -> None:
    got = call(Served(answer(200, body=b"x" * (KEPT_BY[way] + extra))), way=way)
    assert (len(got.body), got.whole) == (KEPT_BY[way], whole)


@each_way
def test_a_compressed_body_is_read(way: Way) -> None:
    got = call(Served(answer(200, "content-encoding: gzip", body=gzip.compress(b"created"))), way=way)
    assert got.body == b"created"


@each_way
def test_a_bomb_is_decoded_as_far_as_is_read(way: Way) -> None:
    packer = zlib.compressobj(9, wbits=31)
    begin, more = (packer.compress(b"\0" * 1024 * 1024) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    served = Served(b"HTTP/1.1 503 Said\r\ncontent-encoding: gzip\r\n\r\n", begin, endless=repeat(more * 64))
    got = call(served, deadline=3600, way=way)
    assert (got.status, got.body, got.whole) == (503, b"\0" * KEPT_BY[way], False)


BROKEN = [
    ([answer(503, "content-encoding: gzip", "retry-after: 7", body=b"no gzip")], 503, b""),
    ([b"HTTP/1.1 422 Said\r\ncontent-length: 100\r\n\r\nno such"], 422, b"no such"),
    ([b"HTTP/1.1 200 Said\r\ncontent-length: 100\r\n\r\n", b"a", b"b", None], 200, b"ab"),
]
broken = pytest.mark.parametrize(("parts", "status", "body"), BROKEN, ids=["no gzip", "cut off", "too slow"])


@careful_ways
@broken
def test_a_body_that_breaks_leaves_the_status_and_what_came(
    parts: list[bytes | None], status: int, body: bytes, way: Way
) -> None:
    got = call(Served(*parts), deadline=0.5, way=way)
    assert (got.status, got.body, got.whole) == (status, body, False)


@broken
def test_a_first_call_whose_answer_breaks_is_made_again_under_its_key(
    parts: list[bytes | None], status: int, body: bytes
) -> None:
    with pytest.raises(Unknown):
        call(Served(*parts), deadline=0.5, way=first)
    got = call(
        Served(*parts), deadline=0.5, way=lambda transport, request: transport.send(request, KEY, None, again=False)
    )
    assert (got.status, got.body, got.whole) == (status, body, False), "without a key there is no second call"


@each_way
def test_a_header_that_is_no_text_is_left_out(way: Way) -> None:
    got = call(Served(answer(200, "x-odd: \xff\xfe", "x-even: 2")), way=way)
    assert "x-odd" not in got.headers
    assert got.headers["x-even"] == "2"


@each_way
@pytest.mark.parametrize("type_", ["text/html", "application/json; charset=klingon", "\t", "a/b/c"])
def test_a_wrong_content_type_is_the_readers_to_judge(type_: str, way: Way) -> None:
    got = call(Served(answer(200, f"content-type: {type_}", body=b"\xff\xfe{")), way=way)
    assert (got.status, got.body, got.whole) == (200, b"\xff\xfe{", True)


SMUGGLED = [
    b"HTTP/1.1 200 Said\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    b"HTTP/1.1 200 Said\r\ncontent-length: -5\r\n\r\nhello",
    b"HTTP/1.1 200 Said\r\ncontent-length: 5\r\nx y: z\r\n\r\nhello",
    b"HTTP/1.1 200 Said\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 Said\r\n x: folded\r\ncontent-length: 0\r\n\r\n",
]


@each_way
@pytest.mark.parametrize("part", SMUGGLED)
def test_headers_that_can_be_read_in_two_ways_are_no_answer(part: bytes, way: Way) -> None:
    with pytest.raises(Unknown):
        call(Served(part), way=way, deadline=2.0)


@each_way
def test_a_second_answer_that_nobody_asked_for_is_nobodys(way: Way) -> None:
    async def run() -> list[int]:
        async with (
            Served(answer(200) + answer(503, body=b"smuggled"), None) as served,
            Transport(served.url, OPEN, guard=LOOPBACK, connections=1) as transport,
        ):
            return [(await way(transport, Request("GET", "/"))).status for _ in range(5)]

    assert asyncio.run(run()) == [200] * 5


@each_way
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
def test_without_a_status_the_outcome_is_unknown(parts: list[bytes | None], way: Way) -> None:
    with pytest.raises(Unknown, match="no answer from the target"):
        call(Served(*parts), deadline=0.5, way=way)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([None], "operation timed out"),
        ([b"HTTP/1.1 200 Sa"], "connection closed before message completed"),
        ([b"HTTP/1.1 200 Said\r\n" + b"x: y\r\n" * 500 + b"\r\n"], "message head is too large"),
        ([b"SSH-2.0-hello\r\n\r\n"], "DecodeError"),
    ],
)
def test_what_kept_an_answer_away_is_said(parts: list[bytes | None], told: str) -> None:
    """Not that there was no connection: the request was sent."""
    with pytest.raises(Unknown, match=f"no answer from the target: {told}$"):
        call(Served(*parts), deadline=0.5)


@each_way
def test_endless_headers_are_unknown_and_not_kept(way: Way) -> None:
    served = Served(b"HTTP/1.1 200 Said\r\n", endless=repeat(b"x: " + b"y" * 60_000 + b"\r\n"))
    with pytest.raises(Unknown):
        call(served, way=way)
    assert served.taken < 64 * 1024 * 1024


@each_way
def test_a_refused_connection_was_not_sent(way: Way) -> None:
    async def run() -> None:
        async with Served() as served:
            url = served.url
        async with Transport(url, OPEN, guard=LOOPBACK, connections=1) as transport:
            await way(transport, Request.post("/"))

    with pytest.raises(Retryable, match="no connection to the target: connection refused"):
        asyncio.run(run())


ASTRAY = [
    *("@elsewhere.example/", "", "/a/../admin", "/a/..", "/a/%2e%2E/admin", "/a/.%2e", "/./a", "/a\\..\\b", "/a#b"),
    *("/a\r\nb", "/\tb", "/\x00", "/\x7f"),
]


@pytest.mark.parametrize(
    "request_",
    [
        Request("POST", "/", headers={"x": "1\r\nauthorization: theirs"}),
        Request("POST", "/", headers={"x": "1\n"}),
        Request("POST", "/", headers={"x": "\x00"}),
        Request("POST", "/", headers={"x": "\ud800"}),
        Request("POST", "/", headers={"x\r\ny": "1"}),
        Request("POST", "/", headers={"x y": "1"}),
        Request("POST", "/", headers={"x": "y" * 8_193}),
        Request("POST", "/", headers={"": "1"}),
        Request("POST", "/", headers={"x": 7}),  # type: ignore[dict-item]  # as an adapter may get it wrong
        Request("PO ST", "/"),
        Request("", "/"),
        *(Request("POST", path) for path in ASTRAY),
        Request("POST", "/\ud800"),
        Request("POST", "/", {"x": "\ud800"}),
        Request("POST", "/", {"x": {1, 2}}),
    ],
    ids=repr,
)
def test_what_is_no_request_is_the_events_fault_and_never_sent(request_: Request) -> None:
    served = Served(answer(200))
    with pytest.raises(Permanent) as error:
        call(served, request_)
    assert served.heads == []
    assert "theirs" not in str(error.value)


@each_way
@pytest.mark.parametrize(
    "key", ["../admin?x#y", "a\r\nb", "\x00", "ü/é", "a b", "%2e%2e", "..\\..", "//evil.example", "."]
)
def test_a_hostile_key_is_one_segment_of_the_path_or_refused(key: str, way: Way) -> None:
    served = Served(answer(200))
    if key == ".":
        with pytest.raises(Permanent):
            Request.get("/things/{key}/end", path={"key": key})
        return
    call(served, Request.get("/things/{key}/end", path={"key": key}), way=way)
    line = served.heads[0].split("\r\n")[0]
    plain = string.ascii_letters + string.digits + "._-~"
    encoded = "".join(c if c in plain else "".join(f"%{byte:02X}" for byte in c.encode()) for c in key)
    assert line == f"GET /things/{encoded}/end HTTP/1.1"


@pytest.mark.parametrize(
    "url",
    ["http://elsewhere.example/v1/x", "https://127.0.0.1/v1/x", "http://127.0.0.1:1/v1/x", "/../admin", "/../v1x/y"],
)
def test_httpx_calls_its_own_target_only(url: str) -> None:
    served = Served(answer(200))
    with pytest.raises(Permanent, match="its address is not the target's"):
        call(served, Request("GET", url), way=by_httpx, below="/v1")
    assert served.connections == 0


@each_way
def test_a_header_of_eight_kibibytes_is_sent(way: Way) -> None:
    served = Served(answer(200))
    call(served, Request("POST", "/", headers={"x": "y" * 8_192}), way=way)
    assert len(served.sent["x"]) == 8_192


@pytest.mark.parametrize("seconds", [0.2, httpx.Timeout(30.0, read=0.2)])
def test_a_request_of_httpx_may_have_less_time_than_the_target(seconds: float | httpx.Timeout) -> None:
    async def run() -> None:
        async with (
            Served(None) as silent,
            Transport(silent.url, OPEN, guard=LOOPBACK, connections=1) as transport,
            client_of(transport) as client,
        ):
            with pytest.raises(Unknown, match="no answer from the target: operation timed out"):
                await client.get("/", timeout=seconds)
            async with asyncio.timeout(10):  # not only at the target's own deadline
                await silent.gone.wait()

    asyncio.run(run())
