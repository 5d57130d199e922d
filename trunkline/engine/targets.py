"""Targets: every sink that names one shares its connections, its credentials and its limit."""

import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Self

from trunkline.adapters import Request, Response
from trunkline.flow.declare import Limit, Target
from trunkline.http.transport import Pace, Transport

SECONDS = {"second": 1.0, "minute": 60.0}


class Targets:
    """The open targets of one worker, an async context manager."""

    def __init__(self, declared: Iterable[Target], *, connections: int) -> None:
        """Read addresses and secrets.

        Raises:
            UsageError: an address or secret is not set.
        """
        self._stack = AsyncExitStack()
        self._transports: dict[str, Transport] = {}
        self._paces: dict[str, Pace] = {}
        for target in declared:
            if target.name in self._transports:
                continue
            headers = {} if target.auth is None else {target.auth.header: target.auth.secret.read()}
            self._transports[target.name] = Transport(target.url.read(), headers, connections=connections)
            if target.limit is not None:
                self._paces[target.name] = Pace(per_second(target.limit), time.monotonic)

    async def __aenter__(self) -> Self:
        for transport in self._transports.values():
            await self._stack.enter_async_context(transport)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def turn(self, target: Target) -> None:
        """Wait until the target's limit allows one more call."""
        if (pace := self._paces.get(target.name)) is not None:
            await pace.turn()

    async def send(self, target: Target, request: Request, key: str) -> Response:
        """Make one call.

        Raises:
            Retryable, Unknown, Permanent: as `Transport.send`.
        """
        return await self._transports[target.name].send(request, key)


def per_second(limit: Limit) -> float:
    """Give a limit as calls per second."""
    return limit.events / SECONDS[limit.per]
