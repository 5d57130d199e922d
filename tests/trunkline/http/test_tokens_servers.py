"""Tokens of a real OAuth 2 server, and a target and an endpoint that answer in every wrong way."""

import asyncio
import base64
import json
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from textwrap import shorten
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.shared import running
from tests.trunkline.servers import WireMock, oauth, wiremock
from tests.trunkline.support import LOOPBACK
from trunkline import ClientCredentials, RefreshToken, Rotation, Secret, Target, env
from trunkline.errors import Halt
from trunkline.flow.credentials import Credentials
from trunkline.http.opening import open_to
from trunkline.http.proofs import NoToken
from trunkline.http.transport import Transport
from trunkline.requests import Request


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory, "oauth", partial(oauth, lives={"erp": 3600, "brief": 2})) as url:
        yield url


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireMock]:
    with running(tmp_path_factory, "wiremock", wiremock) as url:
        yield WireMock(url)


class Erp:
    """A target of a test and its token endpoint, on paths of their own."""

    def __init__(self, mock: WireMock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mock = mock
        self.path = f"/{uuid.uuid4().hex}"
        self.token_path = f"{self.path}/token"
        monkeypatch.setenv("ERP_URL", f"{mock.url}{self.path}")
        monkeypatch.setenv("ERP_TOKEN_URL", f"{mock.url}{self.token_path}")
        monkeypatch.setenv("ERP_CLIENT", "trunkline")
        monkeypatch.setenv("ERP_SECRET", "the-first-secret")
        self._set = monkeypatch.setenv

    def use(self, issuer: str) -> None:
        self._set("ERP_TOKEN_URL", issuer)

    def accept(self, token: str, **response: Any) -> None:
        """Let the target take calls with a token that begins so."""
        matching = {"Authorization": {"matches": f"Bearer {token}.*"}}
        request = {"method": "POST", "url": f"{self.path}/orders", "headers": matching}
        self.mock.answer(request, {"status": 201, **response})

    def refuse(self) -> None:
        self.mock.answer({"method": "POST", "url": f"{self.path}/orders"}, {"status": 401})

    def give(self, response: Mapping[str, Any], matching: str = "", **more: Any) -> None:
        """Let the token endpoint answer so."""
        headers = {"Authorization": {"equalTo": matching}} if matching else {}
        self.mock.answer({"method": "POST", "url": self.token_path, "headers": headers}, response, **more)

    @property
    def calls(self) -> list[dict[str, Any]]:
        return self.mock.asked(f"{self.path}/orders")

    @property
    def fetches(self) -> list[dict[str, Any]]:
        return self.mock.asked(self.token_path)


@pytest.fixture
def erp(mock: WireMock, monkeypatch: pytest.MonkeyPatch) -> Erp:
    found = Erp(mock, monkeypatch)
    found.refuse()
    return found


AUTH = ClientCredentials(env("ERP_TOKEN_URL"), env("ERP_CLIENT"), Secret("ERP_SECRET"), scope="orders")


def opened(auth: Credentials = AUTH) -> Transport:
    return open_to(Target("erp", env("ERP_URL"), auth=auth), allow=LOOPBACK, connections=256, deadline=20)


async def order(transport: Transport) -> int:
    return (await transport.send(Request.post("/orders", json={"n": 1}), "", None)).status


def orders(count: int = 1, auth: Credentials = AUTH) -> set[int]:
    async def run() -> set[int]:
        async with opened(auth) as transport:
            return set(await asyncio.gather(*(order(transport) for _ in range(count))))

    return asyncio.run(run())


def token(value: str, life: int = 3600) -> dict[str, Any]:
    return {"jsonBody": {"access_token": value, "token_type": "Bearer", "expires_in": life}}


def claims(call: Mapping[str, Any]) -> dict[str, Any]:
    part = call["headers"]["Authorization"].split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


@pytest.mark.parametrize("place", ["header", "body"])
def test_a_server_of_others_gives_one_token_for_all_calls(erp: Erp, issuer: str, place: Any) -> None:
    erp.use(f"{issuer}/erp/token")
    erp.accept("ey")
    auth = ClientCredentials(env("ERP_TOKEN_URL"), env("ERP_CLIENT"), Secret("ERP_SECRET"), "orders", sent_in=place)
    assert orders(256, auth) == {201}
    [found] = {call["headers"]["Authorization"] for call in erp.calls}
    assert claims(erp.calls[0])["iss"] == f"{issuer}/erp"
    assert claims(erp.calls[0])["sub"] == "trunkline"
    assert len(found) > 300


def until_renewed(erp: Erp, auth: Credentials = AUTH) -> set[int]:
    """Call until three tokens were used."""

    async def run() -> set[int]:
        found = set()
        async with opened(auth) as transport, asyncio.timeout(60):
            while len({call["headers"]["Authorization"] for call in erp.calls}) < 3:
                found |= set(await asyncio.gather(*(order(transport) for _ in range(8))))
                await asyncio.sleep(0.05)
        return found

    return asyncio.run(run())


def test_tokens_that_expire_under_way_are_renewed(erp: Erp, issuer: str) -> None:
    erp.use(f"{issuer}/brief/token")
    erp.accept("ey")
    assert until_renewed(erp) == {201}


def let_us(issuer: str) -> str:
    """Log a person in, and give the refresh token that they leave us."""
    asked = {"client_id": "trunkline", "response_type": "code", "scope": "openid orders", "redirect_uri": "http://x/"}
    came = httpx.get(f"{issuer}/authorize", params=asked)
    form = {
        "grant_type": "authorization_code",
        "code": parse_qs(urlsplit(came.headers["location"]).query)["code"][0],
        "redirect_uri": "http://x/",
        "scope": "openid orders",
    }
    answer = httpx.post(f"{issuer}/token", data=form, auth=("trunkline", "any")).raise_for_status()
    return str(answer.json()["refresh_token"])


def test_each_refresh_token_of_a_server_that_gives_a_new_one_with_each_answer_is_used_once(
    erp: Erp, issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    erp.accept("ey")
    erp.give({"proxyBaseUrl": f"{issuer}/brief", "proxyUrlPrefixToRemove": erp.path})
    first = let_us(f"{issuer}/brief")
    monkeypatch.setenv("ERP_REFRESH", first)
    address, client = env("ERP_TOKEN_URL"), env("ERP_CLIENT")
    auth = RefreshToken(address, client, Secret("ERP_REFRESH"), Secret("ERP_SECRET"), scope="orders")
    assert until_renewed(erp, auth) == {201}
    used = [parse_qs(fetch["body"])["refresh_token"][0] for fetch in erp.fetches]
    assert used[0] == first
    assert len(set(used)) == len(used) >= 3
    assert claims(erp.calls[-1])["iss"].endswith("/brief")


def test_a_storm_of_401_is_one_renewal(erp: Erp) -> None:
    erp.accept("new", fixedDelayMilliseconds=20)
    erp.give(token("new"), scenarioName=erp.path, requiredScenarioState="used")
    erp.give(token("old"), scenarioName=erp.path, requiredScenarioState="Started", newScenarioState="used")
    assert orders(256) == {201}
    assert len(erp.fetches) == 2
    assert len(erp.calls) == 512


def test_a_target_that_refuses_every_token_is_asked_twice(erp: Erp) -> None:
    erp.give(token("new"), scenarioName=erp.path, requiredScenarioState="used")
    erp.give(token("old"), scenarioName=erp.path, requiredScenarioState="Started", newScenarioState="used")
    assert orders() == {401}
    assert (len(erp.calls), len(erp.fetches)) == (2, 2)


@pytest.mark.parametrize(
    "response",
    [
        {"status": 500},
        {"status": 429, "headers": {"Retry-After": "3600"}},
        {"status": 200, "body": "<html>maintenance</html>"},
        {"status": 200, "body": '{"access_token": "abc'},
        {"status": 200, "jsonBody": {"access_token": "t" * 200_000}},
        {"status": 200, "fault": "RANDOM_DATA_THEN_CLOSE"},
        {"status": 200, "fault": "MALFORMED_RESPONSE_CHUNK"},
        {"fault": "EMPTY_RESPONSE"},
        {"fault": "CONNECTION_RESET_BY_PEER"},
    ],
    ids=lambda response: shorten(repr(response), 60),
)
def test_an_endpoint_without_a_token_lets_nothing_be_sent(erp: Erp, response: dict[str, Any]) -> None:
    erp.give(response)
    with pytest.raises(NoToken, match="ERP_TOKEN_URL") as error:
        orders()
    assert erp.calls == []
    assert "abc" not in str(error.value)
    assert 0 < error.value.after <= 300


def test_an_endpoint_that_is_too_slow_lets_nothing_be_sent(erp: Erp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.http.opening.DEADLINE", 0.3)
    erp.give({**token("slow"), "fixedDelayMilliseconds": 5_000})
    with pytest.raises(NoToken, match="ERP_TOKEN_URL"):
        orders(16)
    assert erp.calls == []
    assert len(erp.fetches) <= 1


def test_a_refusal_names_the_setting(erp: Erp) -> None:
    erp.give({"status": 401, "jsonBody": {"error": "invalid_client", "error_description": "no such client"}})
    with pytest.raises(Halt, match=r"invalid_client: no such client\. Check ERP_CLIENT and ERP_SECRET") as error:
        orders()
    assert "the-first-secret" not in str(error.value)
    assert erp.calls == []


def test_a_redirect_of_a_token_endpoint_is_not_followed(erp: Erp) -> None:
    erp.give({"status": 307, "headers": {"Location": f"{erp.mock.url}{erp.path}/elsewhere"}})
    with pytest.raises(Halt, match="ERP_TOKEN_URL answered 307"):
        orders()
    assert erp.mock.asked(f"{erp.path}/elsewhere") == []


def test_the_guard_is_for_token_endpoints_too(erp: Erp) -> None:
    erp.use("http://169.254.169.254/token")
    with pytest.raises(Halt, match="ERP_TOKEN_URL"):
        orders()


def test_a_client_may_have_two_live_secrets(erp: Erp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERP_NEXT", "the-next-secret")
    other = ClientCredentials(env("ERP_TOKEN_URL"), env("ERP_CLIENT"), Secret("ERP_NEXT"))
    erp.accept("new")
    erp.give({"status": 401, "jsonBody": {"error": "invalid_client"}})
    basic = base64.b64encode(b"trunkline:the-next-secret").decode()
    erp.give(token("new"), matching=f"Basic {basic}")
    assert orders(64, Rotation(AUTH, other)) == {201}
    assert len(erp.fetches) == 2
