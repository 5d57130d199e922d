"""Proofs of who sent a webhook, on the raw bytes."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from standardwebhooks import Webhook, WebhookVerificationError

from trunkline.errors import Rejected, UsageError
from trunkline.settings import Secret

UNSIGNED = "The signature is missing or wrong; nothing was published."
NO_TEXT = "The signature is over text in UTF-8, and the body is none: it is compressed, or of another charset"
NOT_SIGNED = "The signature is missing or wrong, or its time is more than five minutes off; nothing was published."


@dataclass(frozen=True, slots=True)
class StandardWebhooks:
    """Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`, five minutes of tolerance."""

    secret: Secret

    def _webhook(self) -> Webhook:
        try:
            return Webhook(self.secret.read())
        except ValueError:
            raise UsageError(f"{self.secret.name} is no Standard Webhooks secret (whsec_ and base64).") from None

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return when a secret of ours signed this body in the last five minutes.

        Raises:
            Rejected: 401, whatever is wrong with the proof.
        """
        try:
            self._webhook().verify(body, dict(headers), json_parse=False)
        except UnicodeDecodeError:
            why = f"{NO_TEXT}; nothing was published."
            raise Rejected(401, "The request is not signed by a sender we know", why) from None
        except (WebhookVerificationError, ValueError):
            raise Rejected(401, "The request is not signed by a sender we know", NOT_SIGNED) from None

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        """Give the three headers that a sender adds now.

        Raises:
            UsageError: the body is no text in UTF-8.
        """
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise UsageError(f"{NO_TEXT}.") from None
        now = datetime.now(UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook().sign(message_id, now, text),
        }


@dataclass(frozen=True, slots=True)
class SignedBody:
    """HMAC-SHA256 of the body under a shared secret, in hexadecimal, in one header: Sendcloud and many others.

    There is no time in it: a request that somebody has overheard may come again, and is then an event known before.
    """

    secret: Secret
    header: str

    def _signature(self, body: bytes) -> str:
        return hmac.new(self.secret.read().encode(), body, hashlib.sha256).hexdigest()

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return when our secret signed this body.

        Raises:
            Rejected: 401, whatever is wrong with the proof.
        """
        given = next((value for name, value in headers.items() if name.lower() == self.header.lower()), "")
        if not hmac.compare_digest(given.strip().lower().encode(), self._signature(body).encode()):
            raise Rejected(401, "The request is not signed by a sender we know", UNSIGNED)

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:  # noqa: ARG002 - this proof has no place for an id
        """Give the header that a sender adds."""
        return {self.header: self._signature(body)}
