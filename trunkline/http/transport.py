"""Calls to one target over one connection pool: bounded, never redirected, with a deadline over the whole call."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Self

import orjson
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PoolTimeoutError, PyreqwestError

from trunkline.adapters import Request, Response
from trunkline.errors import Permanent, Retryable, Unknown

DEADLINE = 20.0
"""Seconds from the first byte of a call to the last of its answer."""
KEPT = 64 * 1024
"""Bytes of an answer that are read; the connection is closed on the rest."""


CONNECTING = "client error (Connect)"
"""What the HTTP client names as a cause when a call ended while it was connecting."""


class Transport:
    """One pool of connections to one target; an async context manager."""

    def __init__(self, url: str, headers: dict[str, str], *, connections: int) -> None:
        """Prepare calls below `url`; `headers` are sent with each and never shown."""
        self._url = url.rstrip("/")
        self._client = (
            ClientBuilder()
            .default_headers(headers)
            .follow_redirects(False)
            .no_proxy()
            .timeout(timedelta(seconds=DEADLINE))
            .connect_timeout(timedelta(seconds=5))
            .pool_max_idle_per_host(connections)
            .build()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def send(self, request: Request, key: str) -> Response:
        """Make one call under an idempotency key.

        Raises:
            Retryable: no connection, so the target has not seen it.
            Unknown: sent, and no answer: the target may have acted on it.
            Permanent: no such request can be made.
        """
        try:
            builder = self._client.request(request.method, self._url + request.path).header("Idempotency-Key", key)
            if request.json is not None:
                builder = builder.header("Content-Type", "application/json").body_bytes(body_of(request.json))
            async with builder.build_streamed() as answer:
                body = await answer.body_reader.read(KEPT)
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Response(answer.status, headers, b"" if body is None else bytes(body))
        except (BuilderError, TypeError, ValueError) as error:
            raise Permanent(f"the request cannot be made: {reason(error)}") from None
        except PyreqwestError as error:
            if unsent(error):
                raise Retryable(f"no connection to the target: {reason(error)}") from None
            raise Unknown(f"no answer from the target: {reason(error)}") from None


def body_of(value: Any) -> bytes:
    """Write a JSON body; a Decimal becomes its exact digits in a string.

    Raises:
        Permanent: the value holds something that JSON has not.
    """
    try:
        return orjson.dumps(value, default=str)
    except (TypeError, ValueError) as error:
        raise Permanent(f"the body is no JSON: {error}") from None


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
