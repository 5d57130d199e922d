"""Calls to one target over one connection pool: bounded, never redirected, with a deadline over the whole call."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Self
from urllib.parse import urlsplit

import orjson
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PoolTimeoutError, PyreqwestError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response as Answer
from pyreqwest.response import ResponseBodyReader

from trunkline.adapters import Idempotency, Request, Response
from trunkline.errors import Permanent, Retryable, Unknown

DEADLINE = 20.0
"""Seconds from the first byte of a call to the last of its answer."""
KEPT = 64 * 1024
"""Bytes of an answer that are read; the connection is closed on the rest."""
CONNECTING = "client error (Connect)"
"""What the HTTP client names as a cause when a call ended while it was connecting."""


class Transport:
    """One pool of connections to one target; an async context manager."""

    def __init__(self, url: str, headers: dict[str, str], *, connections: int, deadline: float = DEADLINE) -> None:
        """Prepare calls below `url`; `headers` are sent with each and never shown, `deadline` is in seconds.

        Raises:
            ValueError: a header cannot be sent; the message does not show it.
        """
        self._url = url.rstrip("/")
        try:
            builder = ClientBuilder().default_headers(headers)
        except ValueError:
            raise ValueError("a header cannot be sent") from None
        self._client = (
            builder.follow_redirects(False)
            .no_proxy()
            .timeout(timedelta(seconds=deadline))
            .connect_timeout(timedelta(seconds=5))
            .pool_max_idle_per_host(connections)
            .build()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def send(self, request: Request, key: str, under: Idempotency | None, *, again: bool = False) -> Response:
        """Make one call, with the idempotency key as the target takes it; without when `under` is None.

        Once the target has named a status, that status is the answer: a body that is too long, too slow for the
        deadline, broken off or wrongly compressed is cut where it failed, and `Response.whole` is False. The first
        call under a key is quicker and does without that: what breaks in the body is Unknown then, and `again` is
        for the calls that follow.

        Raises:
            Retryable: no connection, so the target has not seen it.
            Unknown: sent, and no status came back: the target may have acted on it.
            Permanent: no such request can be made.
        """
        careful = again or under is None
        call = self._build(request, {} if under is None else under.headers(key), careful=careful)
        try:
            async with call as answer:
                body, whole = await read(answer.body_reader, careful=careful)
                return Response(answer.status, headers_of(answer), body, request.method, whole)
        except PyreqwestError as error:
            if unsent(error):
                raise Retryable(f"no connection to the target: {reason(error)}") from None
            raise Unknown(f"no answer from the target: {reason(error)}") from None

    def _build(self, request: Request, ours: Mapping[str, str], *, careful: bool) -> StreamRequest:
        """Write a request; a header of ours replaces the sink's of that name."""
        if not request.path.startswith("/"):
            raise Permanent("the request cannot be made: its path does not begin with a slash")
        try:
            builder = self._client.request(request.method, self._url + request.path)
            headers = {name.lower(): value for name, value in request.headers.items()}
            if request.json is not None:
                headers.setdefault("content-type", "application/json")
                builder = builder.body_bytes(body_of(request.json))
            headers |= {name.lower(): value for name, value in ours.items()}
            if careful:  # nothing of the answer's body is read ahead: an error in it must not hide the status
                builder = builder.streamed_read_buffer_limit(0)
            return builder.headers(headers).build_streamed()
        except (BuilderError, TypeError, ValueError) as error:
            raise Permanent(f"the request cannot be made: {reason(error)}") from None


async def read(body: ResponseBodyReader, *, careful: bool) -> tuple[bytes, bool]:
    """Read what is kept of a body and say whether that is all of it; no more is decoded than that and one chunk."""
    if not careful:
        found = bytes(await body.read(KEPT + 1) or b"")
        return found[:KEPT], len(found) <= KEPT
    kept = bytearray()
    try:
        while len(kept) <= KEPT and (chunk := await body.read_chunk()) is not None:
            kept += chunk
    except PyreqwestError:
        return bytes(kept[:KEPT]), False
    return bytes(kept[:KEPT]), len(kept) <= KEPT


def headers_of(answer: Answer) -> dict[str, str]:
    """Give the headers of an answer: several of one name as one list (RFC 9110 §5.3), none whose value is no text."""
    found: dict[str, str] = {}
    for name in answer.headers:
        with contextlib.suppress(ValueError):
            found[name.lower()] = ", ".join(answer.headers.getall(name))
    return found


def is_address(url: str) -> bool:
    """Say whether calls can be made below an address: http or https, a host, neither query nor fragment."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment


def body_of(value: Any) -> bytes:
    """Write a JSON body; a Decimal becomes its exact digits in a string.

    Raises:
        Permanent: the value holds something that JSON has not.
    """
    try:
        return orjson.dumps(value, default=digits)
    except (TypeError, ValueError) as error:
        raise Permanent(f"the body is no JSON: {error}") from None


def digits(value: object) -> str:
    """Write what JSON has no form for, if it is a Decimal."""
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"it holds a value of type {type(value).__name__}")


def unsent(error: PyreqwestError) -> bool:
    """Say whether a call certainly failed before the request was sent.

    The exception's type does not say so: a connection that is reset after the request is a ConnectError too.
    """
    causes = error.details["causes"] or [] if isinstance(error, DetailedPyreqwestError) else []
    return isinstance(error, PoolTimeoutError) or any(cause["message"] == CONNECTING for cause in causes)


def reason(error: Exception) -> str:
    """Name an error without the address, which may hold what is not for a log."""
    return type(error).__name__


class Pace:
    """At most `rate` calls a second, a tenth of a second's worth at once; waits in order of arrival."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._gap = 1.0 / rate
        self._burst = max(1.0, rate / 10) * self._gap
        self._clock = clock
        self._next = clock()

    def book(self) -> float:
        """Take the next turn and say how many seconds it is away."""
        now = self._clock()
        self._next = max(self._next, now - self._burst) + self._gap
        return max(0.0, self._next - self._gap - now)

    async def turn(self) -> None:
        """Wait for the next turn."""
        if (wait := self.book()) > 0:
            await asyncio.sleep(wait)
