"""Credentials that a call is signed with, and the one deadline of everything that a call takes."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from standardwebhooks import Webhook

from tests.trunkline.http.served import LOOPBACK, Served, answer
from tests.trunkline.http.ways import KEY, Way, each_way, first
from trunkline.errors import Halt, Retryable
from trunkline.http.guard import Address
from trunkline.http.proofs import NOTHING, OPEN, NoToken, Signature, Signing
from trunkline.http.signatures import webhook_signature
from trunkline.http.tokens import authority_of
from trunkline.http.transport import Transport
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response


class Tokens:
    """Signs with one token after the other."""

    fixed = query = NOTHING
    signs = True

    def __init__(self, *tokens: str, slow: float = 0.0) -> None:
        self.seen: list[tuple[str, str, Mapping[str, str], bytes]] = []
        self.refusals: list[object] = []
        self.closed = False
        self._tokens = tokens
        self._slow = slow

    def ready(self) -> Signature | None:
        return None

    async def sign(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Signature:
        await asyncio.sleep(self._slow)
        self.seen.append((method, path, dict(headers), body))
        if not self._tokens:
            raise NoToken("the token endpoint is down", after=3.0)
        return Signature({"authorization": self._tokens[0]}, self._tokens[0])

    async def refused(self, signature: Signature) -> bool:
        self.refusals.append(signature.by)
        if len(self._tokens) == 1:
            return False
        self._tokens = self._tokens[1:]
        return True

    async def recover(self) -> None:
        """Never asked here."""

    async def close(self) -> None:
        self.closed = True


def call(
    served: Served, proof: Tokens, way: Way, *, deadline: float = 10.0, request: Request | None = None
) -> Response:
    async def run() -> Response:
        async with (
            served,
            Transport(served.url + "/v1", proof, guard=LOOPBACK, connections=1, deadline=deadline) as transport,
        ):
            return await way(transport, request or Request.post("/a b/{x}?q=ü", path={"x": "1/2"}, json={"n": 1}))

    return asyncio.run(run())


@each_way
def test_what_is_signed_is_what_is_sent(way: Way) -> None:
    proof, served = Tokens("one"), Served(answer(200))
    assert call(served, proof, way).status == 200
    [(method, path, headers, body)] = proof.seen
    assert served.heads[0].split("\r\n")[0] == f"{method} {path} HTTP/1.1"
    assert path == "/v1/a%20b/1%2F2?q=%C3%BC"
    assert served.bodies == [body]
    assert {name: served.sent[name] for name in headers} == dict(headers)
    assert served.sent["authorization"] == "one"
    assert headers.get("idempotency-key", KEY) == KEY
    assert proof.closed


def test_each_attempt_of_a_webhook_has_the_id_of_its_event_and_a_signature_of_its_own_time() -> None:
    """Else a receiver, who takes a signature for five minutes, would refuse whatever was sent again later."""
    secret, began = b"shared", datetime.now(UTC)
    times = iter([began - timedelta(minutes=4), began])
    proof = Signing(lambda _m, _p, headers, body, now: webhook_signature(headers, body, [secret], now), times.__next__)
    taken = Idempotency(header="webhook-id")

    async def run() -> list[dict[str, str]]:
        async with (
            Served(answer(503, "connection: close")) as served,
            Transport(served.url, proof, guard=LOOPBACK, connections=1) as transport,
        ):
            sent = []
            for attempt in range(2):
                await transport.send(Request.post("/", json={"n": "ü"}), KEY, taken, again=attempt > 0)
                sent.append(served.sent)
                Webhook(secret).verify(served.bodies[-1], served.sent)
            return sent

    first, second = asyncio.run(run())
    assert first["webhook-id"] == second["webhook-id"] == KEY
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 240


@each_way
def test_after_a_401_a_call_is_made_once_more_with_another_token(way: Way) -> None:
    proof, served = Tokens("old", "new"), Served(answer(401, "connection: close"))
    assert call(served, proof, way).status == 401
    assert [head.split("authorization: ")[1].split("\r\n")[0].lower() for head in map(str.lower, served.heads)] == [
        "old",
        "new",
    ]
    assert proof.refusals == ["old"]


@each_way
def test_without_other_credentials_a_401_is_the_answer(way: Way) -> None:
    proof, served = Tokens("only"), Served(answer(401))
    assert call(served, proof, way).status == 401
    assert len(served.heads) == 1


@each_way
def test_without_a_token_nothing_is_sent(way: Way) -> None:
    served, told = Served(answer(200)), list[NoToken]()

    async def listening(transport: Transport, request: Request) -> Response:
        transport.lacking = told.append
        return await way(transport, request)

    with pytest.raises(NoToken) as error:
        call(served, Tokens(), listening)
    assert error.value.after == 3.0
    assert served.heads == []
    assert told == [error.value], "all who call the target stand still"


@each_way
def test_a_token_that_takes_too_long_is_none(way: Way) -> None:
    served = Served(answer(200))
    with pytest.raises(NoToken, match="no credentials in time"):
        call(served, Tokens("one", slow=5.0), way, deadline=0.6)
    assert served.heads == []


def test_the_time_for_a_token_is_part_of_the_deadline() -> None:
    served = Served(None)
    began: list[float] = []

    async def timed(transport: Transport, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        began.append(loop.time())
        try:
            return await first(transport, request)
        finally:
            began.append(loop.time())

    with pytest.raises(Exception, match="no answer from the target"):
        call(served, Tokens("one", slow=1.5), timed, deadline=3.0)
    assert began[1] - began[0] < 4.4, "the deadline does not begin anew after the token"


@each_way
def test_a_proof_that_needs_a_person_halts(way: Way) -> None:
    class Barred(Tokens):
        async def sign(self, *_: object) -> Signature:
            raise Halt("the token endpoint refuses us")

    with pytest.raises(Halt, match="refuses us"):
        call(Served(answer(200)), Barred("x"), way)


def test_a_connection_that_cannot_be_made_is_told_apart() -> None:
    with pytest.raises(Retryable):
        asyncio.run(refused_port())


async def refused_port() -> None:
    async with Served() as served:
        url = served.url
    async with Transport(url, Tokens("x"), guard=LOOPBACK, connections=1) as transport:
        await first(transport, Request.get("/"))


@pytest.mark.parametrize("host", ["bücher.example", "BUECHER.example", "127.1", "0x7f.0.0.1", "depot.example."])
def test_what_is_signed_as_the_host_is_what_the_call_says(host: str) -> None:
    async def loopback(_: str) -> list[Address]:
        return [ip_address("127.0.0.1")]

    async def run() -> tuple[str, str]:
        async with Served(answer(200), host=host) as served:
            async with Transport(served.url, OPEN, guard=LOOPBACK, connections=1, resolve=loopback) as transport:
                await first(transport, Request.get("/"))
            [said] = [line for line in served.heads[0].split("\r\n") if line.lower().startswith("host: ")]
            return said[6:], authority_of(served.url)

    said, signed = asyncio.run(run())
    assert signed == said
