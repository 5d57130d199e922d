"""Each example of docs/targets.md about credentials, as the target that it calls sees it."""

import asyncio
import base64
import json
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from standardwebhooks import Webhook

from tests.trunkline.http.served import Served, answer
from tests.trunkline.support import LOOPBACK
from trunkline import Target
from trunkline.http.opening import open_to
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response

PAGE = Path("docs/targets.md")
EXAMPLE = re.compile(r"<!-- example: (?P<name>\w+) -->\n```python\n(?P<body>.*?)```\n", re.DOTALL)
OLD, NEW = ("whsec_" + base64.b64encode(letter * 24).decode() for letter in (b"o", b"n"))
SETTINGS = {
    "ERP_KEY": "a-key",
    "ERP_USER": "us",
    "ERP_PASSWORD": "a-password",
    "ERP_TOKEN": "a-token",
    "ERP_CLIENT": "our-client",
    "ERP_SECRET": "a-secret",
    "ERP_REFRESH": "a-refresh-token",
    "ERP_KEY_NAME": "ours",
}


def declared(name: str) -> Target:
    """Run an example of the page and give the target that it declares."""
    [body] = [match["body"] for match in EXAMPLE.finditer(PAGE.read_text()) if match["name"] == name]
    defined: dict[str, Any] = {}
    exec(body, defined)  # noqa: S102 - the page is ours
    erp = defined["erp"]
    assert isinstance(erp, Target)
    return erp


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ERP_NEXT", raising=False)
    return monkeypatch


def call(target: Target, served: Served, settings: pytest.MonkeyPatch, login: Served | None = None) -> Response:
    """Make one call to the target of an example, whose token endpoint is `login`."""

    async def run() -> Response:
        async with served, login or Served():
            settings.setenv("ERP_URL", f"{served.url}/v1")
            if login is not None:
                settings.setenv("ERP_TOKEN_URL", f"{login.url}/token")
            async with open_to(target, allow=LOOPBACK, connections=1, deadline=20.0) as transport:
                request = Request.post("/orders", json={"n": 1})
                return await transport.send(request, "0123456789", Idempotency("webhook-id"))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("keyed", "x-erp-key", "a-key"),
        ("basic", "authorization", f"Basic {base64.b64encode(b'us:a-password').decode()}"),
        ("bearer", "authorization", "Bearer a-token"),
        ("rotation", "authorization", "Bearer a-token"),
    ],
)
def test_what_is_always_the_same(settings: pytest.MonkeyPatch, name: str, header: str, value: str) -> None:
    served = Served(answer(201))
    assert call(declared(name), served, settings).status == 201
    assert served.sent[header] == value


def test_a_key_in_the_query(settings: pytest.MonkeyPatch) -> None:
    served = Served(answer(201))
    assert call(declared("queried"), served, settings).status == 201
    assert served.heads[0].startswith("POST /v1/orders?api_key=a-key HTTP/1.1\r\n")
    assert "a-key" not in " ".join(served.sent.values())


def given(token: str) -> bytes:
    return answer(200, body=json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 60}).encode())


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("client", {"grant_type=client_credentials", "scope=orders.write"}),
        ("refresh", {"grant_type=refresh_token", "refresh_token=a-refresh-token"}),
    ],
)
def test_tokens(settings: pytest.MonkeyPatch, name: str, form: set[str]) -> None:
    served, login = Served(answer(201)), Served(given("fetched"))
    assert call(declared(name), served, settings, login).status == 201
    assert served.sent["authorization"] == "Bearer fetched"
    assert set(login.bodies[0].decode().split("&")) == form
    assert login.sent["authorization"] == f"Basic {base64.b64encode(b'our-client:a-secret').decode()}"
    assert login.sent["content-type"].startswith("application/x-www-form-urlencoded")


def test_a_signed_request(settings: pytest.MonkeyPatch) -> None:
    served = Served(answer(201))
    assert call(declared("signed"), served, settings).status == 201
    assert 'keyid="ours"' in served.sent["signature-input"]
    assert served.sent["signature"].startswith("sig1=:")


def test_a_signed_webhook(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("ERP_SECRET", OLD)
    settings.setenv("ERP_NEXT", NEW)
    served = Served(answer(201))
    assert call(declared("webhook"), served, settings).status == 201
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(served.bodies[0], served.sent) == {"n": 1}
    assert served.sent["webhook-id"] == "0123456789"


def test_a_rotation(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("ERP_NEXT", "the-next")
    served = Served(answer(401))
    assert call(declared("rotation"), served, settings).status == 401
    assert [re.findall(r"Bearer (\S+)", head) for head in served.heads] == [["a-token"], ["the-next"]]


def test_a_certificate_of_ours(settings: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    ours, theirs = authority.issue_cert("trunkline@example.com"), authority.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    settings.setenv("ERP_CA", authority.cert_pem.bytes().decode())
    settings.setenv("ERP_CERTIFICATE", ours.cert_chain_pems[0].bytes().decode())
    settings.setenv("ERP_KEY", ours.private_key_pem.bytes().decode())
    served = Served(answer(201), tls=context)
    assert call(declared("certificate"), served, settings).status == 201
