"""What is signed of a call, and how the signature is written. Pure: secrets and the time are arguments."""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime

from trunkline.errors import Halt
from trunkline.sources.signatures import signature


def message_signature(
    method: str, authority: str, target: str, body: bytes, *, key: str, secret: bytes, now: datetime
) -> dict[str, str]:
    """Give the headers of an HTTP message signature (RFC 9421, hmac-sha256) and of the digest it covers (RFC 9530).

    `authority` is host and port as in the Host header, `target` path and query as on the request line. `now` has a
    time zone.
    """
    path, _, query = target.partition("?")
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
    date = format_datetime(now, usegmt=True)
    covered = {
        "@method": method.upper(),
        "@authority": authority,
        "@path": path or "/",
        "@query": f"?{query}",
        "content-digest": digest,
        "date": date,
    }
    names = " ".join(f'"{name}"' for name in covered)
    parameters = f'({names});created={int(now.timestamp())};keyid="{key}";alg="hmac-sha256"'
    return {
        "date": date,
        "content-digest": digest,
        "signature-input": f"sig1={parameters}",
        "signature": f"sig1=:{signed(signature_base(covered, parameters), secret)}:",
    }


def signature_base(covered: Mapping[str, str], parameters: str) -> str:
    """Give the text that is signed: a line for each component, and the parameters last (RFC 9421 §2.5)."""
    lines = [f'"{name}": {value}' for name, value in covered.items()]
    return "\n".join([*lines, f'"@signature-params": {parameters}'])


def signed(base: str, secret: bytes) -> str:
    """Sign with HMAC-SHA256 (RFC 9421 §3.3.3), in base64."""
    return base64.b64encode(hmac.digest(secret, base.encode(), "sha256")).decode()


def webhook_signature(headers: Mapping[str, str], body: bytes, keys: Sequence[bytes], now: datetime) -> dict[str, str]:
    """Give the headers of a signed webhook, one signature under each secret (Standard Webhooks 1.0).

    Raises:
        Halt: the call has no `webhook-id`, so no event could be signed.
    """
    if not (name := headers.get("webhook-id")):
        wanted = 'idempotency = Idempotency(header="webhook-id")'
        raise Halt(f"a signed webhook has our idempotency key as its id, and the sink does not send it. Say {wanted}.")
    timestamp = str(int(now.timestamp()))
    return {
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signature(key, name, timestamp, body) for key in keys),
    }
