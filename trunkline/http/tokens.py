"""Credentials as they are used: what each declaration becomes, and tokens that are fetched and renewed.

    credentials ──prove──▶ Proof
    answer of a token endpoint ──understood──▶ Token | Refused | Missing        pure

A token is renewed while it is still good, by one request however many calls wait for it. While there is none, nothing
is sent to the target and nothing fails.
"""

import asyncio
import base64
import contextlib
import json
import math
import random
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol, assert_never
from urllib.parse import quote_plus, urlsplit, urlunsplit

from pyreqwest.http import Url

from trunkline.errors import Halt, Unavailable, Undeliverable, UsageError
from trunkline.flow.credentials import (
    ApiKey,
    Basic,
    Bearer,
    ClientCredentials,
    Credentials,
    Hmac,
    RefreshToken,
    Rotation,
    SignedWebhook,
    settings_of,
)
from trunkline.http.proofs import NOTHING, OPEN, Fixed, NoToken, Proof, Rotating, Signature, Signing
from trunkline.http.signatures import message_signature, webhook_signature
from trunkline.redact import forget_secret, keep_secret
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response
from trunkline.settings import Env, filled, is_set
from trunkline.sources.signatures import key_of, live
from trunkline.verdict import wished, words

DEADLINE = 5.0
"""Seconds that a token endpoint has for its whole answer; calls to the target wait for it at most so long."""
EARLY = 0.2
"""The share of a token's life, before its end, in which it is renewed; it begins up to half as much earlier."""
FIRST, LONGEST = 0.5, 30.0
"""Seconds before a token endpoint that failed is asked again: after the first time, and at most."""
LONGEST_WISH = 300.0
"""Seconds for which the Retry-After of a token endpoint is honoured at most."""
AFTER_REFUSAL = 1.0
"""Seconds before a token endpoint that refused us is asked again, if anybody wants it to be."""
BUSY = ("temporarily_unavailable", "server_error")
"""Errors that pass, whatever the status (RFC 6749 §4.1.2.1): of a token endpoint too, as Microsoft documents them."""
KNOWN = 16
"""Tokens that are kept from being said: those in use, and the last ones before."""
VISIBLE = re.compile(r"[!-~]+")
"""What a token is made of (RFC 6750 §2.1, and what else servers use): nothing that ends a header."""
SENDABLE = re.compile(r"[!-~\u0080-\U0010ffff](?:[\t -~\u0080-\U0010ffff]*[!-~\u0080-\U0010ffff])?")
"""What a header's value may be (RFC 9110 §5.5)."""


class Caller(Protocol):
    """What calls are made with: one address, guarded and bounded, as `http.transport` makes it."""

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        ...

    async def send(self, request: Request, key: str, under: Idempotency | None, *, again: bool = False) -> Response:
        """Make one call."""
        ...


Open = Callable[[str], Caller]
"""Gives what calls an address, with `DEADLINE` over each call; it is closed with the proof."""


# From declarations to proofs.


def prove(credentials: Credentials | None, url: str, reach: Open) -> Proof:
    """Read the settings of a target's credentials; `url` is the target's address, `reach` opens a token endpoint's.

    Raises:
        UsageError: a setting is not set, or cannot be used; it is named, and its value never shown.
    """
    match credentials:
        case None:
            return OPEN
        case ApiKey(secret, header, ""):
            return Fixed({header.lower(): sendable(secret)})
        case ApiKey(secret, _, query):
            return Fixed(query={query: sendable(secret)})
        case Basic(user, password):
            return Fixed({"authorization": basic(user_of(user), filled(password))})
        case Bearer(token):
            return Fixed({"authorization": f"Bearer {sendable(token)}"})
        case ClientCredentials() | RefreshToken():
            grant = grant_of(credentials)
            address, _, path = address_of(credentials.token_url)
            return Tokens(grant, path, reach(address))
        case Hmac(key, secret):
            name, shared, authority = key_name(key), filled(secret).encode(), authority_of(url)
            return Signing(
                lambda method, path, _headers, body, now: message_signature(
                    method, authority, path, body, key=name, secret=shared, now=now
                )
            )
        case SignedWebhook(secret, also):
            keys = [key_of(one) for one in live(secret, also)]
            return Signing(lambda _method, _path, headers, body, now: webhook_signature(headers, body, keys, now))
        case Rotation(first, second):
            proof = prove(first, url, reach)
            return Rotating(proof, prove(second, url, reach)) if all(map(is_set, settings_of(second))) else proof
        case _:
            assert_never(credentials)


def sendable(secret: Env) -> str:
    """Read a value that goes into a request as it is.

    Raises:
        UsageError: it is not set, or holds what no header can.
    """
    value = filled(secret)
    if not SENDABLE.fullmatch(value):
        raise UsageError(
            f"{secret.name} cannot be sent: it holds a line break, a control character or a space at an end. "
            f"Set {secret.name} again."
        )
    return value


def user_of(user: Env) -> str:
    """Read a user's name, or a client's.

    Raises:
        UsageError: it is not set, or has a colon, which would end it (RFC 7617 §2).
    """
    if ":" in (name := filled(user)):
        raise UsageError(f"{user.name} has a colon, and a user's name can have none. Set {user.name} again.")
    return name


def key_name(key: Env) -> str:
    """Read the name of a key, which is written between quotation marks (RFC 8941 §3.3.3).

    Raises:
        UsageError: it is not set, or has other characters than printable ASCII without quotes and backslashes.
    """
    name = filled(key)
    if not re.fullmatch(r"[ !#-\[\]-~]+", name):
        raise UsageError(f"{key.name} is no name of a key: it has more than printable ASCII, or quotes. Set it again.")
    return name


def basic(user: str, password: str) -> str:
    """Write user and password as a header (RFC 7617), and keep them from being said."""
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    keep_secret(value)
    return f"Basic {value}"


def authority_of(url: str) -> str:
    """Give host and port of an address as RFC 9421 §2.2.3 signs them, which is as the Host header has them."""
    place = Url.parse(url)  # a name is in ASCII then, an address in its usual form, the scheme's own port left out
    return place.host_str or "" if place.port is None else f"{place.host_str}:{place.port}"


def address_of(setting: Env) -> tuple[str, str, str]:
    """Read the address of a token endpoint: where it is, its host, its path and query.

    Raises:
        UsageError: it is not set, or is no address of http or https.
    """
    url = setting.read()
    try:
        parts = urlsplit(url)
        Url.parse(url)  # which is stricter, and is what calls are made with
    except ValueError:
        parts = urlsplit("")
    if "@" in parts.netloc:
        raise UsageError(f"{setting.name} holds a user or password. Name the client and its secret beside it.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        told = f"{setting.name} is no address that tokens can be fetched at"
        raise UsageError(f"{told}. Set it to one such as https://login.example.com/oauth2/token.")
    at = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    return at, parts.hostname, urlunsplit(("", "", parts.path or "/", parts.query, ""))


# What is asked of a token endpoint, and what its answer means.


@dataclass(frozen=True, slots=True)
class Names:
    """The settings to name when something is wrong."""

    url: str
    client: str
    secret: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What is asked for, and with what; `refresh` is "" where the client asks for itself."""

    names: Names
    form: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    refresh: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A token: good until `ends`, to be renewed from `renew` on, both by the clock that it was read with.

    Both are infinite where the server does not say how long it lives. `refresh` is the refresh token that came with
    it, "" for none.
    """

    value: str = field(repr=False)
    ends: float = math.inf
    renew: float = math.inf
    refresh: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """The server will not give a token until a person has acted."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The server gave none this time; `after` is its own wish in seconds, when it named one."""

    reason: str
    after: float | None = None


def grant_of(credentials: ClientCredentials | RefreshToken) -> Grant:
    """Read the settings of what is asked of a token endpoint.

    Raises:
        UsageError: one is not set.
    """
    client = filled(credentials.client)
    secret = "" if credentials.secret is None else filled(credentials.secret)
    form = {"scope": credentials.scope} if credentials.scope else {}
    refresh = ""
    match credentials:
        case ClientCredentials(audience=audience, resource=resource):
            form = {"grant_type": "client_credentials", **form}
            form |= {"audience": audience} if audience else {}
            form |= {"resource": resource} if resource else {}
            names = Names(credentials.token_url.name, credentials.client.name, credentials.secret.name)
        case RefreshToken(token=token):
            form = {"grant_type": "refresh_token", **form}
            refresh = filled(token)
            own = "" if credentials.secret is None else credentials.secret.name
            names = Names(credentials.token_url.name, credentials.client.name, own, token.name)
    if not secret:
        return Grant(names, {**form, "client_id": client}, refresh=refresh)
    if credentials.sent_in == "body":
        return Grant(names, {**form, "client_id": client, "client_secret": secret}, refresh=refresh)
    return Grant(names, form, {"authorization": basic(quote_plus(client), quote_plus(secret))}, refresh)


def request_of(grant: Grant, path: str, refresh: str) -> Request:
    """Write the request for a token (RFC 6749 §4.4.2, §6)."""
    form = {**grant.form, "refresh_token": refresh} if refresh else grant.form
    return Request("POST", path, headers={**grant.headers, "accept": "application/json"}, form=form)


def understood(
    answer: Response, names: Names, *, asked: float, now: datetime, random: Callable[[], float]
) -> Token | Refused | Missing:
    """Say what a token endpoint's answer means (RFC 6749 §5).

    `asked` is when it was asked, by the clock that tokens are measured with; `now` the wall clock, for a Retry-After;
    `random` gives numbers in [0, 1), so that many workers do not renew at once. Of a good answer nothing is quoted.
    """
    status, at = answer.status, f"{names.url} answered {answer.status}"
    if 300 <= status < 400:
        return Refused(f"{at}: redirects are never followed. Put the new address of the token endpoint in {names.url}.")
    if (
        status in (408, 425, 429)
        or not 200 <= status < 500
        or (status >= 400 and read(answer.body).get("error") in BUSY)
    ):
        return Missing(f"{at}{words_of(answer)}", wished(answer.headers, now))
    if status >= 400:
        return Refused(f"{at}{words_of(answer)}. {advice(answer, names)}")
    if not answer.whole:
        return Missing(f"{at} with more than a token is, or broke off; {names.url} may be no token endpoint")
    said = read(answer.body)
    value, kind = said.get("access_token"), said.get("token_type", "bearer")
    if not isinstance(value, str) or not VISIBLE.fullmatch(value):
        return Missing(f"{at} without an access_token that can be sent; {names.url} may be no token endpoint")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return Refused(f"{at} with a token of another type than Bearer, and only these can be sent. Ask its owner.")
    refresh = said.get("refresh_token")
    life = life_of(said.get("expires_in"))
    return Token(
        value,
        ends=asked + life,
        renew=asked + life * (1 - EARLY - EARLY / 2 * random()) if life < math.inf else math.inf,
        refresh=refresh if isinstance(refresh, str) else "",
    )


def life_of(said: object) -> float:
    """Read expires_in: seconds, also as a text, as some servers write it; infinite where it says nothing sensible."""
    if isinstance(said, str):
        said = float(said) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", said.strip()) else None
    if isinstance(said, bool) or not isinstance(said, int | float):
        return math.inf
    return float(said) if 0 < said < 1e12 else math.inf


def read(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object, empty when it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    return {}


def words_of(answer: Response) -> str:
    """Give the error that a token endpoint names, and nothing else that it says."""
    said = read(answer.body)
    parts = [said[name] for name in ("error", "error_description") if isinstance(said.get(name), str)]
    return words(": ".join(parts).encode())


def advice(answer: Response, names: Names) -> str:
    """Say which setting a refusal is about (RFC 6749 §5.2, RFC 8707 §2)."""
    match read(answer.body).get("error"):
        case "invalid_grant" if names.token:
            told = f"The refresh token was used, revoked or has expired: put a new one in {names.token}"
            return f"{told} and start the workers again."
        case "invalid_scope":
            return "Check the scope that the topology asks for."
        case "invalid_target":
            return "Check the audience and resource that the topology asks for."
        case "unauthorized_client" | "unsupported_grant_type":
            return f"Let the owner of the server allow {names.client} this grant."
        case "invalid_client" | "invalid_grant" | "access_denied":
            return f"Check {' and '.join(filter(None, (names.client, names.secret)))}."
        case _ if answer.status in (401, 403):
            return f"Check {' and '.join(filter(None, (names.client, names.secret)))}."
        case _:
            return f"Check {names.url}, and what the topology asks for."


def pause(failures: int, wish: float | None, random: Callable[[], float]) -> float:
    """Seconds until a token endpoint that has failed so many times in a row is asked again."""
    own: float = min(LONGEST, FIRST * 2.0 ** min(failures - 1, 16)) * (0.5 + random() / 2)
    return own if wish is None else max(own, min(wish, LONGEST_WISH))


# Effects.


class Tokens:
    """A token, fetched when it is first wanted and renewed by one request at a time."""

    fixed = query = NOTHING
    signs = True

    def __init__(
        self,
        grant: Grant,
        path: str,
        caller: Caller,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        """Prepare to ask for tokens at a path of what `caller` calls; nothing is asked yet."""
        self._grant = grant
        self._path = path
        self._caller = caller
        self._clock = clock
        self._random = random
        self._refresh = grant.refresh
        self._token: Token | None = None
        self._signature = Signature(NOTHING)
        self._asking: asyncio.Task[None] | None = None
        self._known: deque[str] = deque()
        self._trouble: Refused | Missing | None = None
        self._failures = 0
        self._next = -math.inf

    def ready(self) -> Signature | None:
        """Give the header of a token that is good, and begin to renew it when that is due."""
        now = self._clock()
        if self._token is None or self._token.ends <= now:
            return None
        if self._token.renew <= now and self._next <= now:
            self._ask()
        return self._signature

    async def sign(self, _method: str, _path: str, _headers: Mapping[str, str], _body: bytes) -> Signature:
        """Give the token's header; it is waited for only when there is none that is good."""
        return self.ready() or await self._wanted()

    async def refused(self, signature: Signature) -> bool:
        """Renew a token that the target has refused, once for however many calls had it."""
        if signature.by is self._token:
            self._token = None
        return (await self._wanted()).headers != signature.headers

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._caller.__aexit__()

    async def _wanted(self) -> Signature:
        """Wait for a good token: one that has come meanwhile, or the one that is asked for now."""
        if self._token is not None and self._clock() < self._token.ends:
            return self._signature
        if self._next <= self._clock():
            await asyncio.shield(self._ask())
        match self._trouble:
            case Refused(reason):
                raise Halt(reason)
            case Missing(reason):
                raise NoToken(reason, after=max(0.0, self._next - self._clock()))
            case None:
                return self._signature
            case _:
                assert_never(self._trouble)

    def _ask(self) -> "asyncio.Task[None]":
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._fetch())
            self._asking.add_done_callback(self._asked)
        return self._asking

    def _asked(self, task: "asyncio.Task[None]") -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # who waited has it; whoever comes next asks anew

    async def _fetch(self) -> None:
        asked = self._clock()
        match found := await self._answer(asked):
            case Token():
                self._keep(found.value)
                self._keep(found.refresh)
                self._refresh = found.refresh or self._refresh
                self._token = replace(found, refresh="")
                self._signature = Signature({"authorization": f"Bearer {found.value}"}, self._token)
                self._trouble, self._failures, self._next = None, 0, -math.inf
            case Missing(_, wish):
                self._failures += 1
                self._trouble, self._next = found, self._clock() + pause(self._failures, wish, self._random)
            case Refused():
                self._trouble, self._next = found, self._clock() + AFTER_REFUSAL
            case _:
                assert_never(found)

    def _keep(self, value: str) -> None:
        """Keep a token from being said, and forget one that has long been replaced."""
        if not value or value in self._known:
            return
        keep_secret(value)
        self._known.append(value)
        if len(self._known) > KNOWN:
            oldest = self._known.popleft()
            if oldest != self._refresh:
                forget_secret(oldest)

    async def _answer(self, asked: float) -> Token | Refused | Missing:
        names = self._grant.names
        try:
            answer = await self._caller.send(request_of(self._grant, self._path, self._refresh), "", None)
        except Halt as error:
            return Refused(f"no token can be fetched at {names.url}: {error}")
        except (Undeliverable, Unavailable) as error:
            return Missing(f"no token from {names.url}: {error}")
        return understood(answer, names, asked=asked, now=datetime.now(UTC), random=self._random)
