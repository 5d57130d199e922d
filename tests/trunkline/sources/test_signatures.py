"""A secret that is none lets nobody in: whoever posts could sign with it too."""

import pytest

from trunkline import Secret
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
