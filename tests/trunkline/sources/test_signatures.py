"""Which secrets let somebody in. One that is none lets nobody: whoever posts could sign with it too."""

import pytest

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
