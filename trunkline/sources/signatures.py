"""Proofs of who sent a webhook, on the raw bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from standardwebhooks import Webhook, WebhookVerificationError

from trunkline.errors import Rejected, UsageError
from trunkline.settings import Secret

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
        except (WebhookVerificationError, ValueError):
            raise Rejected(401, "The request is not signed by a sender we know", NOT_SIGNED) from None

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        """Give the three headers that a sender adds now."""
        now = datetime.now(UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook().sign(message_id, now, body.decode()),
        }
