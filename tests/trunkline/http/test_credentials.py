"""What each declaration of credentials becomes, with the proof checked as its receiver checks it."""

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from trunkline import ApiKey, Basic, Bearer, ClientCredentials, Hmac, RefreshToken, Rotation, Secret, SignedWebhook, env
from trunkline.errors import Halt, UsageError
from trunkline.flow.credentials import Credentials, settings_of
from trunkline.http.proofs import NOTHING, OPEN, Proof
from trunkline.http.signatures import message_signature, signature_base, signed, webhook_signature
from trunkline.http.tokens import Caller, authority_of, prove
from trunkline.redact import redact
from trunkline.requests import Request
from trunkline.sinks import Part
from trunkline.sources import StandardWebhooks

URL = "https://API.example.com:443/v1"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def unreached(_url: str) -> Caller:
    raise AssertionError("nothing is to be fetched")


def proof_of(credentials: Credentials | None) -> Proof:
    return prove(credentials, URL, unreached)


def sign(proof: Proof, headers: Mapping[str, str] = NOTHING, body: bytes = b"{}") -> Mapping[str, str]:
    return asyncio.run(proof.sign("POST", "/v1/things?x=1", headers, body)).headers


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    values = {"USER": "ü ser", "PASSWORD": "pass:wörd", "KEY": "k-123456", "NEXT": "k-abcdef", "KEY_NAME": "ours"}
    for name, value in values.items():
        monkeypatch.setenv(f"DEPOT_{name}", value)
    return monkeypatch


@pytest.mark.usefixtures("setting")
@pytest.mark.parametrize(
    ("credentials", "headers", "query"),
    [
        (None, {}, {}),
        (ApiKey(Secret("DEPOT_KEY")), {"x-api-key": "k-123456"}, {}),
        (ApiKey(Secret("DEPOT_KEY"), header="X-Depot"), {"x-depot": "k-123456"}, {}),
        (ApiKey(Secret("DEPOT_KEY"), query="api_key"), {}, {"api_key": "k-123456"}),
        (Bearer(Secret("DEPOT_KEY")), {"authorization": "Bearer k-123456"}, {}),
        (
            Basic(env("DEPOT_USER"), Secret("DEPOT_PASSWORD")),
            {"authorization": "Basic " + base64.b64encode("ü ser:pass:wörd".encode()).decode()},
            {},
        ),
    ],
    ids=repr,
)
def test_what_never_changes_costs_nothing(
    credentials: Credentials | None, headers: dict[str, str], query: dict[str, str]
) -> None:
    proof = proof_of(credentials)
    assert (proof.fixed, proof.query, proof.signs) == (headers, query, False)
    assert "k-123456" not in repr(proof)
    assert not asyncio.run(proof.refused(asyncio.run(proof.sign("GET", "/", NOTHING, b""))))


def test_a_target_that_asks_for_nothing_gets_nothing() -> None:
    assert proof_of(None) is OPEN


@pytest.mark.usefixtures("setting")
def test_basic_is_kept_from_being_said_in_base64_too() -> None:
    header = proof_of(Basic(env("DEPOT_USER"), Secret("DEPOT_PASSWORD"))).fixed["authorization"]
    assert header.removeprefix("Basic ") not in redact(f"they sent {header}")


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a\r\nX-Admin: 1", "\x00", "a ", "a\x7f"], ids=repr)
@pytest.mark.parametrize(
    "credentials", [ApiKey(Secret("DEPOT_KEY")), ApiKey(Secret("DEPOT_KEY"), query="k"), Bearer(Secret("DEPOT_KEY"))]
)
def test_a_secret_that_cannot_be_sent_is_named_and_never_shown(
    setting: pytest.MonkeyPatch, tmp_path: Path, credentials: Credentials, value: str
) -> None:
    kept = secrets.token_hex() if value.strip() else ""
    (tmp_path / "key").write_text(kept + value)
    setting.delenv("DEPOT_KEY")
    setting.setenv("DEPOT_KEY_FILE", str(tmp_path / "key"))
    if kept and value == "a\nb":
        kept += "a"
    with pytest.raises(UsageError, match="Set DEPOT_KEY again") as error:
        proof_of(credentials)
    assert not kept or kept not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "credentials", "told"),
    [
        ("USER", "a:b", Basic(env("DEPOT_USER"), Secret("DEPOT_KEY")), "DEPOT_USER has a colon"),
        ("PASSWORD", "", Basic(env("DEPOT_USER"), Secret("DEPOT_PASSWORD")), "DEPOT_PASSWORD is empty"),
        ("KEY_NAME", 'a"b', Hmac(env("DEPOT_KEY_NAME"), Secret("DEPOT_KEY")), "DEPOT_KEY_NAME is no name of a key"),
        ("KEY_NAME", "ü", Hmac(env("DEPOT_KEY_NAME"), Secret("DEPOT_KEY")), "DEPOT_KEY_NAME is no name of a key"),
        ("KEY", "whsec_ü", SignedWebhook(Secret("DEPOT_KEY")), "DEPOT_KEY is no Standard Webhooks secret"),
        ("KEY", "whsec_", SignedWebhook(Secret("DEPOT_KEY")), "DEPOT_KEY is no Standard Webhooks secret"),
        (
            "URL",
            "login.example.com",
            ClientCredentials(env("DEPOT_URL"), env("DEPOT_USER"), Secret("DEPOT_KEY")),
            "URL",
        ),
        ("URL", "https://[::1", ClientCredentials(env("DEPOT_URL"), env("DEPOT_USER"), Secret("DEPOT_KEY")), "URL"),
        ("URL", "ftp://login", RefreshToken(env("DEPOT_URL"), env("DEPOT_USER"), Secret("DEPOT_KEY")), "DEPOT_URL"),
        (
            "URL",
            "https://us:hush@login.example.com/token",
            ClientCredentials(env("DEPOT_URL"), env("DEPOT_USER"), Secret("DEPOT_KEY")),
            "DEPOT_URL holds a user or password",
        ),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    setting: pytest.MonkeyPatch, name: str, value: str, credentials: Credentials, told: str
) -> None:
    setting.setenv(f"DEPOT_{name}", value)
    with pytest.raises(UsageError, match=told):
        proof_of(credentials)


def test_the_signature_is_that_of_the_standards_own_example() -> None:
    """RFC 9421 §B.2.5."""
    secret = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="  # noqa: S105
    covered = {
        "date": "Tue, 20 Apr 2021 02:07:55 GMT",
        "@authority": "example.com",
        "content-type": "application/json",
    }
    base = signature_base(covered, '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"')
    assert signed(base, base64.b64decode(secret)) == "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="


def received(headers: Mapping[str, str], *, method: str, host: str, target: str, body: bytes, secret: bytes) -> bool:
    """Check a message signature as a receiver does, who reads what was covered from the request."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    if headers["content-digest"] != f"sha-256=:{digest}:":
        return False
    found = re.fullmatch(r"sig1=(\(([^)]*)\);.*)", headers["signature-input"])
    assert found is not None
    path, _, query = target.partition("?")
    parts = {"@method": method, "@authority": host, "@path": path, "@query": f"?{query}", **headers}
    lines = [f"{name}: {parts[name.strip(chr(34))]}" for name in found[2].split(" ")]
    base = "\n".join([*lines, f'"@signature-params": {found[1]}'])
    mac = base64.b64encode(hmac.new(secret, base.encode(), hashlib.sha256).digest()).decode()
    return hmac.compare_digest(headers["signature"], f"sig1=:{mac}:")


@pytest.mark.usefixtures("setting")
def test_a_signed_call_is_what_its_receiver_expects_and_nothing_else() -> None:
    headers = sign(proof_of(Hmac(env("DEPOT_KEY_NAME"), Secret("DEPOT_KEY"))))
    sent = {"method": "POST", "host": "api.example.com", "target": "/v1/things?x=1", "body": b"{}"}
    assert received(headers, secret=b"k-123456", **sent)  # type: ignore[arg-type]  # of several types
    assert 'keyid="ours"' in headers["signature-input"]
    others = [("method", "PUT"), ("host", "evil"), ("target", "/v1/thing?x=1"), ("target", "/v1/things?x=2")]
    for name, other in (*others, ("body", b"{ }")):
        assert not received(headers, secret=b"k-123456", **{**sent, name: other}), other  # type: ignore[arg-type]
    assert not received({**headers, "date": "Mon, 23 Nov 2026 12:00:01 GMT"}, secret=b"k-123456", **sent)  # type: ignore[arg-type]


def test_a_call_is_signed_as_another_library_signs_it() -> None:
    """http-message-signatures 3.0.0 has written and verified this one."""
    here = {"authority": "api.example.com", "target": "/v1/things?x=1"}
    headers = message_signature("POST", **here, body=b"{}", key="ours", secret=b"k-123456", now=NOW)
    covered = '("@method" "@authority" "@path" "@query" "content-digest" "date")'
    assert headers["signature-input"] == f'sig1={covered};created=1795435200;keyid="ours";alg="hmac-sha256"'
    assert headers["signature"] == "sig1=:7ztqi0nXYLa+HM2+N5xqZaA7XZrAskTEirkvm3KZTxE=:"


@pytest.mark.parametrize("method", ["PUT", "delete"])
@pytest.mark.parametrize("target", ["/", "/v1/a%2Fb", "/x?a=1&b=%20"])
@pytest.mark.parametrize("body", [b"", b"\x00\xff"])
def test_whatever_is_sent_is_what_is_signed(method: str, target: str, body: bytes) -> None:
    headers = message_signature(method, "h.example:8443", target, body, key="k", secret=b"s", now=NOW)
    assert received(headers, method=method.upper(), host="h.example:8443", target=target, body=body, secret=b"s")


def test_the_time_of_a_signature() -> None:
    headers = message_signature("put", "h", "/", b"", key="k", secret=b"s", now=NOW)
    assert headers["date"] == "Mon, 23 Nov 2026 12:00:00 GMT"
    assert f";created={int(NOW.timestamp())};" in headers["signature-input"]


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://API.example.com:443/v1", "api.example.com"),
        ("http://u:p@api.example.com:80", "api.example.com"),
        ("http://api.example.com:443", "api.example.com:443"),
        ("http://[::1]:8080/x", "[::1]:8080"),
    ],
)
def test_the_authority_is_that_of_the_host_header(url: str, authority: str) -> None:
    assert authority_of(url) == authority


def whsec() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def test_a_signed_webhook_is_believed_under_either_secret(setting: pytest.MonkeyPatch) -> None:
    old, new = whsec(), whsec()
    setting.setenv("DEPOT_KEY", old)
    setting.setenv("DEPOT_NEXT", new)
    body = '{"n": "ü"}'.encode()
    given = {"webhook-id": "abc", "content-type": "application/json"}
    both = sign(proof_of(SignedWebhook(Secret("DEPOT_KEY"), also=Secret("DEPOT_NEXT"))), given, body)
    for secret in (old, new):
        Webhook(secret).verify(body, {**given, **both}, json_parse=False)
    setting.setenv("DEPOT_NEXT", "")
    one = sign(proof_of(SignedWebhook(Secret("DEPOT_KEY"), also=Secret("DEPOT_NEXT"))), given, body)
    Webhook(old).verify(body, {**given, **one}, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(body, {**given, **one}, json_parse=False)


@pytest.mark.parametrize(
    "request_",
    [
        Request.post("/", json={"n": "ü"}, gzip=True),
        Request.post("/", raw=('<?xml version="1.0" encoding="ISO-8859-1"?><a>ü</a>'.encode("latin-1"), "text/xml")),
        Request.post("/", multipart={"scan": Part(b"\x89PNG\xff", "image/png", filename="scan.png")}),
        Request.delete("/"),
    ],
    ids=["compressed", "of another charset", "binary", "none"],
)
def test_a_signed_webhook_carries_any_body(request_: Request, setting: pytest.MonkeyPatch) -> None:
    setting.setenv("DEPOT_KEY", "whsec_" + base64.b64encode(b"shared").decode())
    body, given = request_.encode()
    told = sign(proof_of(SignedWebhook(Secret("DEPOT_KEY"))), {**given, "webhook-id": "abc"}, body or b"")
    right = hmac.new(b"shared", b"abc.%b.%b" % (told["webhook-timestamp"].encode(), body or b""), hashlib.sha256)
    assert told["webhook-signature"] == f"v1,{base64.b64encode(right.digest()).decode()}"
    StandardWebhooks(Secret("DEPOT_KEY")).check({**told, "webhook-id": "abc"}, body or b"")  # as our own gateway does


def test_a_webhook_without_an_id_is_not_signed() -> None:
    with pytest.raises(Halt, match=r'Idempotency\(header="webhook-id"\)'):
        webhook_signature({}, b"{}", [], NOW)


ROTATION = Rotation(Bearer(Secret("DEPOT_KEY")), Bearer(Secret("DEPOT_NEXT")))


@pytest.mark.usefixtures("setting")
def test_of_two_live_secrets_the_other_one_is_used_when_one_is_refused() -> None:
    async def run() -> None:
        proof = proof_of(ROTATION)
        assert proof.signs
        calls = [await proof.sign("GET", "/", NOTHING, b"") for _ in range(256)]
        assert {call.headers["authorization"] for call in calls} == {"Bearer k-123456"}
        assert await asyncio.gather(*map(proof.refused, calls)) == [True] * 256
        [second] = {(await proof.sign("GET", "/", NOTHING, b"")).headers["authorization"] for _ in range(9)}
        assert second == "Bearer k-abcdef"
        assert await proof.refused(await proof.sign("GET", "/", NOTHING, b""))
        third = await proof.sign("GET", "/", NOTHING, b"")
        assert third.headers["authorization"] == "Bearer k-123456", "both are refused: the first may be good again"
        await proof.close()

    asyncio.run(run())


@pytest.mark.parametrize("value", [None, "", " "])
def test_nothing_is_rotated_while_there_is_no_second_secret(setting: pytest.MonkeyPatch, value: str | None) -> None:
    setting.delenv("DEPOT_NEXT") if value is None else setting.setenv("DEPOT_NEXT", value)
    proof = proof_of(ROTATION)
    assert (proof.fixed, proof.signs) == ({"authorization": "Bearer k-123456"}, False)


def test_every_setting_of_credentials_is_known() -> None:
    named = {setting.name for setting in settings_of(Rotation(ROTATION.first, Basic(env("A"), Secret("B"))))}
    assert named == {"DEPOT_KEY", "A", "B"}
    assert list(settings_of(None)) == []
