"""Tokens without a network: what answers mean, when one is renewed, and by how many requests."""

import asyncio
import json
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from trunkline import ClientCredentials, RefreshToken, Secret, env
from trunkline.errors import Halt, Retryable, Unknown
from trunkline.http import tokens
from trunkline.http.proofs import NOTHING, NoToken, Proof, Signature
from trunkline.http.tokens import Grant, Missing, Names, Refused, Token, Tokens, pause, prove, request_of, understood
from trunkline.redact import redact
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response

T = TypeVar("T")
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NAMES = Names("ERP_TOKEN_URL", "ERP_CLIENT", "ERP_SECRET", "ERP_REFRESH")
NO_LIFE: list[object] = [None, 0, -1, "", "soon", "1e9", "-5", [], {}, True, 10**400]
HUGE = {"access_token": "t", "more": "x" * 100_000}


def said(status: int, body: Any = None, headers: Mapping[str, str] = NOTHING, *, whole: bool = True) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, headers, content, whole=whole)


def meaning(answer: Response, *, names: Names = NAMES, random: float = 0.0) -> Token | Refused | Missing:
    return understood(answer, names, asked=100.0, now=NOW, random=lambda: random)


# What answers mean.


@pytest.mark.parametrize(
    ("life", "ends", "renew"),
    [
        (1000, 1100.0, 900.0),
        ("1000", 1100.0, 900.0),
        (1000.5, 1100.5, 900.4),
        (5, 105.0, 104.0),
        *((nothing, math.inf, math.inf) for nothing in NO_LIFE),
    ],
)
def test_a_token_and_its_life(life: object, ends: float, renew: float) -> None:
    token = meaning(said(200, {"access_token": "abc", "token_type": "bearer", "expires_in": life}))
    assert isinstance(token, Token)
    assert (token.value, token.ends) == ("abc", ends)
    assert token.renew == pytest.approx(renew)


def test_workers_do_not_renew_at_once() -> None:
    answer = said(200, {"access_token": "abc", "expires_in": 1000})
    early, late = (meaning(answer, random=random) for random in (0.999_999, 0.0))
    assert isinstance(early, Token)
    assert isinstance(late, Token)
    assert early.renew == pytest.approx(800, abs=0.01)
    assert late.renew == 900


@pytest.mark.parametrize(
    "answer",
    [
        said(200, b""),
        said(200, b"<html>maintenance</html>"),
        said(200, b'{"access_token": "abc'),
        said(200, b"[" * 50_000),
        said(200, b"\xff"),
        said(200, []),
        said(200, "abc"),
        said(200, {}),
        said(200, {"access_token": None}),
        said(200, {"access_token": 7}),
        said(200, {"access_token": ""}),
        said(200, {"access_token": "abc\r\nX-Admin: 1"}),
        said(200, {"access_token": "a c"}),
        said(200, {"access_token": "ü"}),
        said(200, HUGE, whole=False),
        *(said(status, {"error": "later"}) for status in (408, 425, 429, 500, 502, 503, 599, 600, 101)),
        *(said(status, {"error": "temporarily_unavailable"}) for status in (400, 401, 403)),
        said(400, {"error": "server_error"}),
    ],
    ids=lambda answer: f"{answer.status} {answer.body[:24]!r}",
)
def test_an_answer_without_a_token_is_asked_for_again(answer: Response) -> None:
    found = meaning(answer)
    assert isinstance(found, Missing)
    assert found.reason.startswith(f"ERP_TOKEN_URL answered {answer.status}")
    assert "X-Admin" not in found.reason


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (said(302, b"", {"location": "https://elsewhere"}), "new address of the token endpoint in ERP_TOKEN_URL"),
        (said(401, {"error": "invalid_client"}), "invalid_client. Check ERP_CLIENT and ERP_SECRET."),
        (said(401, b"<html>"), "401. Check ERP_CLIENT and ERP_SECRET."),
        (said(403, b""), "Check ERP_CLIENT and ERP_SECRET."),
        (said(400, {"error": "invalid_scope", "error_description": "no x"}), "invalid_scope: no x. Check the scope"),
        (said(400, {"error": "invalid_target"}), "Check the audience and resource"),
        (said(400, {"error": "unauthorized_client"}), "allow ERP_CLIENT this grant"),
        (said(400, {"error": "unsupported_grant_type"}), "allow ERP_CLIENT this grant"),
        (said(400, {"error": "invalid_grant"}), "put a new one in ERP_REFRESH"),
        (said(404, b"no such page"), "404. Check ERP_TOKEN_URL"),
        (said(400, {"error": ["odd"]}), "400. Check ERP_TOKEN_URL"),
        (said(200, {"access_token": "a", "token_type": "DPoP"}), "another type than Bearer"),
        (said(200, {"access_token": "a", "token_type": 7}), "another type than Bearer"),
    ],
)
def test_a_refusal_names_what_to_mend(answer: Response, told: str) -> None:
    found = meaning(answer)
    assert isinstance(found, Refused)
    assert found.reason.startswith(f"ERP_TOKEN_URL answered {answer.status}")
    assert told in found.reason


def test_the_servers_own_wish_counts() -> None:
    found = meaning(said(429, {}, {"retry-after": "7"}))
    assert isinstance(found, Missing)
    assert found.after == 7


def test_pauses_grow_and_end() -> None:
    assert [pause(failures, None, lambda: 1.0) for failures in (1, 2, 3, 7, 50, 10**9)] == [0.5, 1, 2, 30, 30, 30]
    assert pause(1, None, lambda: 0.0) == 0.25
    assert pause(1, 7.0, lambda: 0.0) == 7
    assert pause(1, 1e12, lambda: 0.0) == tokens.LONGEST_WISH


# What is asked.


@pytest.fixture
def erp(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("ERP_TOKEN_URL", "https://login.example.com/oauth/token?tenant=7")
    monkeypatch.setenv("ERP_CLIENT", "our client")
    monkeypatch.setenv("ERP_SECRET", "s+cret%")
    monkeypatch.setenv("ERP_REFRESH", "first-refresh")
    return monkeypatch


CLIENT = ClientCredentials(env("ERP_TOKEN_URL"), env("ERP_CLIENT"), Secret("ERP_SECRET"), "a b", "aud", "https://res")
BODY = ClientCredentials(env("ERP_TOKEN_URL"), env("ERP_CLIENT"), Secret("ERP_SECRET"), sent_in="body")
REFRESH = RefreshToken(env("ERP_TOKEN_URL"), env("ERP_CLIENT"), Secret("ERP_REFRESH"), scope="a")
BASIC = "Basic b3VyK2NsaWVudDpzJTJCY3JldCUyNQ=="


@pytest.mark.usefixtures("erp")
@pytest.mark.parametrize(
    ("credentials", "form", "authorization"),
    [
        (
            CLIENT,
            {"grant_type": "client_credentials", "scope": "a b", "audience": "aud", "resource": "https://res"},
            BASIC,
        ),
        (BODY, {"grant_type": "client_credentials", "client_id": "our client", "client_secret": "s+cret%"}, None),
        (
            REFRESH,
            {"grant_type": "refresh_token", "scope": "a", "client_id": "our client", "refresh_token": "first-refresh"},
            None,
        ),
    ],
)
def test_the_request_for_a_token(
    credentials: ClientCredentials | RefreshToken, form: dict[str, str], authorization: str | None
) -> None:
    grant = tokens.grant_of(credentials)
    request = request_of(grant, "/oauth/token", grant.refresh)
    assert request.form == form
    assert request.headers.get("authorization") == authorization
    assert (request.method, request.headers["accept"]) == ("POST", "application/json")
    assert "s+cret%" not in repr(grant)
    assert "first-refresh" not in repr(grant)


# When it is asked.


class Endpoint:
    """A token endpoint that answers what it is told to, when it is let; it stands where the HTTP stack stands."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers = list(answers)
        self.forms: list[Any] = []
        self.addresses: list[str] = []
        self.closed = False
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    def reach(self, address: str) -> "Endpoint":
        self.addresses.append(address)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert not self.asked, "it is closed under a call"
        self.closed = True

    async def send(self, request: Request, _key: str, _under: Idempotency | None, *, again: bool = False) -> Response:
        assert not again
        self.addresses.append(request.path)
        self.forms.append(request.form)
        self.asked += 1
        try:
            await self.open.wait()
        finally:
            self.asked -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def good(value: str, life: float | None = 100, refresh: str = "") -> Response:
    more = {"refresh_token": refresh} if refresh else {}
    return said(200, {"access_token": value, "token_type": "Bearer", "expires_in": life, **more})


def use(run: Callable[[Tokens, Endpoint, Clock], Awaitable[T]], *answers: Response | Exception) -> T:
    """Run something with tokens of an endpoint that gives these answers, the last one again and again."""

    async def begin() -> T:
        endpoint, clock = Endpoint(*answers), Clock()
        grant = Grant(NAMES, {"grant_type": "refresh_token"}, refresh="r0")
        proof = Tokens(grant, "/token", endpoint, clock=clock, random=lambda: 0.0)
        try:
            return await run(proof, endpoint, clock)
        finally:
            await proof.close()
            assert endpoint.closed

    return asyncio.run(begin())


async def sign(proof: Proof) -> Signature:
    return await proof.sign("POST", "/", NOTHING, b"")


async def value(proof: Proof) -> str:
    return (await sign(proof)).headers["authorization"]


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("erp")
def test_a_token_is_fetched_where_the_setting_says() -> None:
    async def run() -> Endpoint:
        endpoint = Endpoint(good("abc"))
        proof = prove(CLIENT, "https://api.example.com", endpoint.reach)
        assert await value(proof) == "Bearer abc"
        await proof.close()
        return endpoint

    assert asyncio.run(run()).addresses == ["https://login.example.com", "/oauth/token?tenant=7"]


def test_one_request_for_all_who_wait() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, _clock: Clock) -> None:
        assert set(await asyncio.gather(*(value(proof) for _ in range(256)))) == {"Bearer a"}
        assert len(endpoint.forms) == 1

    use(run, good("a"), good("b"))


def test_it_is_renewed_while_it_is_good_and_nobody_waits() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, clock: Clock) -> None:
        assert await value(proof) == "Bearer a"
        clock.now = 79.9
        assert await value(proof) == "Bearer a"
        await settle()
        assert len(endpoint.forms) == 1
        endpoint.open.clear()
        clock.now = 80.1
        assert {await value(proof) for _ in range(256)} == {"Bearer a"}
        await settle()
        assert len(endpoint.forms) == 2
        endpoint.open.set()
        await settle()
        assert await value(proof) == "Bearer b"
        assert len(endpoint.forms) == 2

    use(run, good("a"), good("b"))


def test_a_storm_of_401_renews_it_once() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, _clock: Clock) -> None:
        calls = await asyncio.gather(*(sign(proof) for _ in range(256)))
        early = await asyncio.gather(*map(proof.refused, calls[:200]))
        late = await asyncio.gather(*map(proof.refused, calls[200:]))
        assert [*early, *late] == [True] * 256
        assert await value(proof) == "Bearer b"
        assert len(endpoint.forms) == 2

    use(run, good("a"), good("b"))


def test_the_same_token_again_is_no_reason_to_call_again() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, _clock: Clock) -> None:
        assert not await proof.refused(await sign(proof))
        assert len(endpoint.forms) == 2

    use(run, good("a"))


DOWN = [Retryable("no connection to the target: X"), Unknown("no answer from the target: X"), said(503, {})]


@pytest.mark.parametrize("trouble", DOWN, ids=["refused", "silent", "503"])
def test_an_endpoint_that_is_down_is_asked_seldom_and_nothing_is_sent(trouble: Response | Exception) -> None:
    async def run(proof: Tokens, endpoint: Endpoint, clock: Clock) -> None:
        told = await asyncio.gather(*(sign(proof) for _ in range(256)), return_exceptions=True)
        assert {type(one) for one in told} == {NoToken}
        assert len(endpoint.forms) == 1
        with pytest.raises(NoToken, match="ERP_TOKEN_URL") as error:
            await sign(proof)
        assert error.value.after == 0.25
        assert len(endpoint.forms) == 1
        clock.now = 0.3
        assert await value(proof) == "Bearer a"

    use(run, trouble, good("a"))


def test_a_good_token_outlives_an_endpoint_that_is_down() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, clock: Clock) -> None:
        await sign(proof)
        for clock.now in (85.0, 85.1, 90.0, 99.0):
            assert await value(proof) == "Bearer a"
            await settle()
        assert len(endpoint.forms) == 4, "two of these moments lie within a pause"
        clock.now = 101.0
        with pytest.raises(NoToken):
            await sign(proof)

    use(run, good("a"), said(500, {}))


def test_a_refusal_halts_and_is_not_hammered() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, clock: Clock) -> None:
        for _ in range(9):
            with pytest.raises(Halt, match="Check ERP_CLIENT and ERP_SECRET"):
                await sign(proof)
        assert len(endpoint.forms) == 1
        clock.now = 1.1
        assert await value(proof) == "Bearer a", "somebody has mended it and resumed the sink"

    use(run, said(401, {"error": "invalid_client"}), good("a"))


def test_an_address_that_must_not_be_called_halts() -> None:
    async def run(proof: Tokens, _endpoint: Endpoint, _clock: Clock) -> None:
        with pytest.raises(Halt, match=r"ERP_TOKEN_URL: .*169\.254"):
            await sign(proof)

    use(run, Halt("the target is at 169.254.169.254, which is never called"))


def test_pauses_grow_with_each_failure_and_begin_anew_after_a_token() -> None:
    async def run(proof: Tokens, _endpoint: Endpoint, clock: Clock) -> list[float]:
        waits = []
        for _ in range(5):
            try:
                await sign(proof)
                clock.now += 100
            except NoToken as error:
                waits.append(error.after)
                clock.now += error.after
        return waits

    answers = said(503, {}), said(200, b"<html>"), Retryable("no"), good("a"), said(503, {})
    assert use(run, *answers) == [0.25, 0.5, 1.0, 0.25]


def test_who_gives_up_waiting_takes_nobodys_token() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, _clock: Clock) -> None:
        endpoint.open.clear()
        first, second = asyncio.create_task(value(proof)), asyncio.create_task(value(proof))
        await settle()
        first.cancel()
        await settle()
        endpoint.open.set()
        assert await second == "Bearer a"
        assert len(endpoint.forms) == 1

    use(run, good("a"), good("b"))


def test_a_refresh_token_is_replaced_by_the_one_that_comes() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, clock: Clock) -> None:
        for clock.now in (0.0, 200.0, 400.0):
            await sign(proof)
        assert [form["refresh_token"] for form in endpoint.forms] == ["r0", "r1", "r1"]

    use(run, good("a", refresh="r1"), good("b"), good("c"))


def test_a_token_without_an_end_is_renewed_when_it_is_refused() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, clock: Clock) -> None:
        call = await sign(proof)
        clock.now = 1e9
        assert await value(proof) == "Bearer a"
        assert await proof.refused(call)
        assert len(endpoint.forms) == 2

    use(run, good("a", None), good("b", None))


def test_closing_ends_what_is_asked() -> None:
    async def run(proof: Tokens, endpoint: Endpoint, _clock: Clock) -> None:
        endpoint.open.clear()
        waiting = asyncio.create_task(value(proof))
        await settle()
        await proof.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    use(run, good("a"))


def test_a_token_is_never_said() -> None:
    token, refresh = secrets.token_urlsafe(), secrets.token_urlsafe()
    answer = good(token, refresh=refresh)

    async def run(proof: Tokens, _endpoint: Endpoint, _clock: Clock) -> str:
        signature = await sign(proof)
        assert signature.headers["authorization"] == f"Bearer {token}"
        return f"{signature!r} {signature.by!r} {proof!r} {meaning(answer)!r}"

    shown = use(run, answer)
    said_by_others = redact(f"they sent {token} and {refresh}")
    for one in (token, refresh):
        assert one not in shown
        assert one not in said_by_others


def test_tokens_that_were_replaced_long_ago_are_forgotten() -> None:
    values = [secrets.token_urlsafe() for _ in range(tokens.KNOWN + 1)]

    async def run(proof: Tokens, _endpoint: Endpoint, clock: Clock) -> list[str]:
        for _ in values:
            clock.now += 1000
            await sign(proof)
        return [redact(f"they sent {one}") for one in values]

    first, *others = use(run, *map(good, values))
    assert values[0] in first
    assert not [one for one, shown in zip(values[1:], others, strict=True) if one in shown]
