"""Proofs of who sent a webhook, on the raw bytes."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from trunkline.errors import Rejected, UsageError
from trunkline.redact import keep_secret
from trunkline.settings import Secret, filled, is_set

OTHER = "No signature in webhook-signature is that of this id, timestamp and body under the secret that we share"
PARTS = ("webhook-id", "webhook-timestamp", "webhook-signature")
TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class StandardWebhooks:
    """Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`, five minutes of tolerance.

    While a secret is replaced, `also` names the other one, and a signature of either is believed; unset or empty, it is
    left out.
    """

    secret: Secret
    also: Secret | None = None

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return when a secret of ours signed this body in the last five minutes.

        Raises:
            Rejected: 401, whatever is wrong with the proof.
        """
        keys = [key_of(one) for one in live(self.secret, self.also)]
        given = {name.lower(): value for name, value in headers.items()}
        if why := fault(given, datetime.now(UTC)):
            raise unproven(why)
        told = [one.encode() for one in given["webhook-signature"].split()]
        rights = [signature(key, given["webhook-id"], given["webhook-timestamp"], body) for key in keys]
        if not any(hmac.compare_digest(right.encode(), one) for right in rights for one in told):
            raise unproven(OTHER)

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        """Give the three headers that a sender adds now."""
        first, *_ = [key_of(one) for one in live(self.secret, self.also)]  # a worker that starts asks for all
        now = str(int(datetime.now(UTC).timestamp()))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": now,
            "webhook-signature": signature(first, message_id, now, body),
        }


@dataclass(frozen=True, slots=True)
class SignedBody:
    """HMAC-SHA256 of the body under a shared secret, in hexadecimal, in one header: Sendcloud and many others.

    There is no time in it: a request that somebody has overheard may come again, and is then an event known before.
    `also` is as in `StandardWebhooks`.
    """

    secret: Secret
    header: str
    also: Secret | None = None

    def _signatures(self, body: bytes) -> list[str]:
        secrets = [filled(one).encode() for one in live(self.secret, self.also)]
        return [hmac.new(secret, body, hashlib.sha256).hexdigest() for secret in secrets]

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Return when our secret signed this body.

        Raises:
            Rejected: 401, whatever is wrong with the proof.
        """
        given = next((value for name, value in headers.items() if name.lower() == self.header.lower()), "").strip()
        if not given:
            raise unproven(f"The signature is missing: there is no {self.header}")
        told = given.lower().encode()
        if not any(hmac.compare_digest(told, right.encode()) for right in self._signatures(body)):
            raise unproven(f"The signature in {self.header} is not that of these bytes under the secret that we share")

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:  # noqa: ARG002 - this proof has no place for an id
        """Give the header that a sender adds."""
        return {self.header: self._signatures(body)[0]}


def live(secret: Secret, also: Secret | None) -> list[Secret]:
    """Give the secrets that count now."""
    return [secret] if also is None or not is_set(also) else [secret, also]


def key_of(secret: Secret) -> bytes:
    """Read a secret of Standard Webhooks.

    Raises:
        UsageError: it is not set, or is none.
    """
    text = filled(secret).removeprefix("whsec_")
    keep_secret(text)
    try:
        key = base64.b64decode(f"{text}==")  # its padding may be left out
    except ValueError:
        key = b""
    if not key:
        raise UsageError(f"{secret.name} is no Standard Webhooks secret (whsec_ and base64).")
    return key


def signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Sign a body as it is: the specification's own library signs text alone, and XML may be in another charset."""
    head = f"{message_id}.{timestamp}.".encode("latin-1", "replace")  # what stood in the headers, byte for byte
    return f"v1,{base64.b64encode(hmac.digest(key, head + body, 'sha256')).decode()}"


def fault(given: Mapping[str, str], now: datetime) -> str:
    """Say why no signature is looked at: what is wrong with the three headers of a Standard Webhook; "" for nothing."""
    if missing := [name for name in PARTS if not given.get(name)]:
        return f"The signature is not whole: there is no {' and no '.join(missing)}"
    try:
        at = datetime.fromtimestamp(float(given["webhook-timestamp"]), UTC)
    except (ValueError, OverflowError, OSError):
        return "The signature has no time: webhook-timestamp is no number of seconds since 1970"
    if abs(now - at) > TOLERANCE:
        way = "behind" if at < now else "ahead of"
        clock = f"{now:%Y-%m-%dT%H:%M:%SZ}"
        return f"The signature is of another time: webhook-timestamp is over five minutes {way} our clock, {clock}"
    return ""


def unproven(why: str) -> Rejected:
    """Refuse a request of which nobody knows who sent it."""
    return Rejected(401, "The request is not signed by a sender we know", f"{why}; nothing was published.")
