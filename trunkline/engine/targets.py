"""Targets: every sink that names one shares its connections, its credentials and its limit."""

import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Self
from urllib.parse import unquote, urlsplit

from trunkline.adapters import Idempotency, Request, Response
from trunkline.errors import UsageError
from trunkline.flow.declare import Limit, Target
from trunkline.http import transport
from trunkline.http.transport import Pace, Transport, is_address
from trunkline.redact import keep_secret

SECONDS = {"second": 1.0, "minute": 60.0}


class Targets:
    """The open targets of one worker, an async context manager."""

    def __init__(self, declared: Iterable[Target], *, connections: int) -> None:
        """Read addresses and secrets.

        Raises:
            UsageError: an address or secret is not set, or cannot be used.
        """
        self._stack = AsyncExitStack()
        self._transports: dict[str, Transport] = {}
        self._paces: dict[str, Pace] = {}
        for target in declared:
            if target.name in self._transports:
                continue
            self._transports[target.name] = open_to(target, connections=connections, deadline=transport.DEADLINE)
            if target.limit is not None:
                self._paces[target.name] = Pace(per_second(target.limit), time.monotonic)

    async def __aenter__(self) -> Self:
        for one in self._transports.values():
            await self._stack.enter_async_context(one)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def turn(self, target: Target) -> None:
        """Wait until the target's limit allows one more call."""
        if (pace := self._paces.get(target.name)) is not None:
            await pace.turn()

    async def send(
        self, target: Target, request: Request, key: str, under: Idempotency | None, *, again: bool
    ) -> Response:
        """Make one call, with the idempotency key as the target takes it; without when `under` is None.

        `again` says that it is not the first one for its event.

        Raises:
            Retryable, Unknown, Permanent: as `Transport.send`.
        """
        return await self._transports[target.name].send(request, key, under, again=again)


def open_to(target: Target, *, connections: int, deadline: float) -> Transport:
    """Prepare calls to a target.

    Raises:
        UsageError: its address or secret is not set, or cannot be used; the secret itself is never shown.
    """
    url, auth = target.url.read(), target.auth
    if not is_address(url):
        told = f"{target.url.name} is no address that target {target.name} can be called at"
        raise UsageError(f"{told}. Set it to one such as https://api.example.com/v1, without a query.")
    if password := urlsplit(url).password:
        keep_secret(password)
        keep_secret(unquote(password))
    headers = {} if auth is None else {auth.header: auth.secret.read()}
    try:
        return Transport(url, headers, connections=connections, deadline=deadline)
    except ValueError:
        told = f"the secret of target {target.name} cannot be sent in a header: it holds a line break or the like"
        raise UsageError(f"{told}. Set {'' if auth is None else auth.secret.name} again.") from None


def per_second(limit: Limit) -> float:
    """Give a limit as calls per second."""
    return limit.events / SECONDS[limit.per]
