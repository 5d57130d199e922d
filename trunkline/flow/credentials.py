"""How a target knows us: declarations of credentials, one per kind of target.

Frozen values that read nothing: settings and secrets are named here and read when the bus starts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from trunkline.settings import Env, Secret


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A secret in a header or, when `query` names one, in a query parameter instead.

    A query stands in the access logs of every proxy on the way: where the target takes either, use the header.
    """

    secret: Secret
    header: str = "X-Api-Key"
    query: str = ""


@dataclass(frozen=True, slots=True)
class Basic:
    """User and password (RFC 7617), in UTF-8; the user has no colon."""

    user: Env
    password: Secret


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token that somebody else renews (RFC 6750 §2.1): it is read when the bus starts."""

    token: Secret


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """Tokens of an OAuth 2 server for ourselves (RFC 6749 §4.4), fetched and renewed by the bus.

    `sent_in` says where the server takes the client's secret: "header" is HTTP Basic, which every server must take,
    "body" the form (§2.3.1). `audience` is what Auth0 and the like ask for, `resource` the standard (RFC 8707).
    """

    token_url: Env
    client: Env
    secret: Secret
    scope: str = ""
    audience: str = ""
    resource: str = ""
    sent_in: Literal["header", "body"] = "header"


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """Tokens of an OAuth 2 server for somebody who let us act for them (RFC 6749 §6).

    A server may give a new refresh token with each answer. It is kept in memory alone: after a restart the configured
    one is used again. So do not use this kind where the server lets each refresh token be used once, or put the new
    one into the setting before each restart. A public client has no secret.
    """

    token_url: Env
    client: Env
    token: Secret
    secret: Secret | None = None
    scope: str = ""
    sent_in: Literal["header", "body"] = "header"


@dataclass(frozen=True, slots=True)
class Hmac:
    """A signature over method, host, path, query, body and date with a shared secret: HTTP Message Signatures.

    RFC 9421 with hmac-sha256, over "@method" "@authority" "@path" "@query" "content-digest" "date", the digest as in
    RFC 9530 with sha-256. `key` is the name by which the target knows the secret; the secret is its UTF-8 bytes.
    """

    key: Env
    secret: Secret


@dataclass(frozen=True, slots=True)
class SignedWebhook:
    """A webhook of ours, signed as Standard Webhooks 1.0 has it: HMAC-SHA256 over `id.timestamp.body`.

    The id is the idempotency key, so the sink says `idempotency = Idempotency(header="webhook-id")`. While a secret
    is replaced, `also` names the other one, and each call carries both signatures; unset or empty, it is left out.
    """

    secret: Secret
    also: Secret | None = None


Alone = ApiKey | Basic | Bearer | ClientCredentials | RefreshToken | Hmac
"""Credentials of which a call carries one set at a time."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """Two live credentials, so that one can be replaced without an interruption.

    The first is used until the target, or the token endpoint, refuses it; then the other one is, until that is
    refused. Nothing is set for the second one when there is nothing to replace: settings that are unset or empty mean
    that there is only the first.
    """

    first: Alone
    second: Alone


Credentials = Alone | SignedWebhook | Rotation


def settings_of(credentials: Credentials | None) -> Iterator[Env]:
    """Give the settings that credentials are read from."""
    for one in () if credentials is None else fields(credentials):
        match getattr(credentials, one.name):
            case Env() as setting:
                yield setting
            case ApiKey() | Basic() | Bearer() | ClientCredentials() | RefreshToken() | Hmac() as inner:
                yield from settings_of(inner)
