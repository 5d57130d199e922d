"""Which secrets let somebody in. One that is none lets nobody: whoever posts could sign with it too."""

import base64
import hmac
import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from trunkline import Rejected, Secret
from trunkline.errors import UsageError
from trunkline.sources import SignedBody, StandardWebhooks

SECRET = Secret("DESK_SECRET")


@pytest.mark.parametrize("proof", [SignedBody(SECRET, header="x-signature"), StandardWebhooks(SECRET)], ids=type)
@pytest.mark.parametrize("value", ["", " \t"])
def test_an_empty_secret_proves_nothing(
    proof: SignedBody | StandardWebhooks, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_SECRET", "whsec_c2VjcmV0")
    signed = proof.sign("a", b"{}")
    monkeypatch.setenv("DESK_SECRET", value)
    for use in (lambda: proof.sign("a", b"{}"), lambda: proof.check(signed, b"{}")):
        with pytest.raises(UsageError, match=r"DESK_SECRET is empty\. Set DESK_SECRET again"):
            use()


def test_a_prefix_alone_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_SECRET", "whsec_")
    with pytest.raises(UsageError, match="DESK_SECRET is no Standard Webhooks secret"):
        StandardWebhooks(SECRET).sign("a", b"{}")


NEXT = Secret("DESK_NEXT")


@pytest.mark.parametrize(
    ("proof", "newer"),
    [
        (StandardWebhooks(SECRET, also=NEXT), StandardWebhooks(NEXT)),
        (SignedBody(SECRET, header="x-signature", also=NEXT), SignedBody(NEXT, header="x-signature")),
    ],
    ids=["StandardWebhooks", "SignedBody"],
)
def test_two_secrets_are_believed_while_one_is_replaced(
    proof: SignedBody | StandardWebhooks, newer: SignedBody | StandardWebhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_SECRET", "whsec_c2VjcmV0")
    monkeypatch.setenv("DESK_NEXT", "whsec_bmV4dA==")
    by_old, by_new = proof.sign("a", b"{}"), newer.sign("a", b"{}")
    proof.check(by_old, b"{}")
    proof.check(by_new, b"{}")
    with pytest.raises(Rejected):
        proof.check(by_new, b"[]")
    for nothing in ("", None):
        if nothing is None:
            monkeypatch.delenv("DESK_NEXT")
        else:
            monkeypatch.setenv("DESK_NEXT", nothing)
        proof.check(by_old, b"{}")
        with pytest.raises(Rejected):
            proof.check(by_new, b"{}")


def test_a_second_secret_that_is_none_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_SECRET", "whsec_c2VjcmV0")
    monkeypatch.setenv("DESK_NEXT", "whsec_")
    with pytest.raises(UsageError, match="DESK_NEXT is no Standard Webhooks secret"):
        StandardWebhooks(SECRET, also=NEXT).sign("a", b"{}")


@pytest.mark.parametrize("body", ["<a>\u00fc</a>".encode("iso-8859-1"), b"\xff\x00\xfe", b"", "{}\u00fc".encode()])
def test_a_body_is_signed_as_its_bytes_are(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESK_SECRET", "whsec_c2VjcmV0")
    proof, now = StandardWebhooks(SECRET), f"{time.time():.0f}"
    mac = hmac.new(b"secret", b"m.%s." % now.encode() + body, "sha256").digest()
    signed = {"Webhook-Id": "m", "Webhook-Timestamp": now, "Webhook-Signature": f"v1a,x {vone(b'0')} {vone(mac)}"}
    proof.check(signed, body)
    proof.check(proof.sign("m", body), body)
    for wrong in ({**signed, "Webhook-Signature": vone(b"0")}, {**signed, "Webhook-Signature": "\u00e9"}):
        with pytest.raises(Rejected, match="is that of this id, timestamp and body"):
            proof.check(wrong, body)
    with pytest.raises(Rejected, match="is that of this id, timestamp and body"):
        proof.check(signed, body + b" ")


@given(body=st.text(), name=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1))
def test_text_is_signed_as_the_specifications_own_library_does(body: str, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESK_SECRET", "whsec_c2VjcmV0")
        proof, theirs = StandardWebhooks(SECRET), Webhook("whsec_c2VjcmV0")
        theirs.verify(body, proof.sign(name, body.encode()), json_parse=False)
        now = datetime.now(UTC)
        signed = theirs.sign(name, now, body)
        stamp = {"webhook-id": name, "webhook-timestamp": f"{math.floor(now.timestamp())}"}
        proof.check({**stamp, "webhook-signature": signed}, body.encode())


def vone(mac: bytes) -> str:
    return f"v1,{base64.b64encode(mac).decode()}"
