"""The connections to one target, each made to an address that was checked.

The HTTP client never asks what a name means: the pool does, checks every address that it is told, and gives the client
one of them to connect to. What the name means a moment later is of no consequence. Host header, SNI and the check of
the certificate keep the name.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.http import Url

from trunkline.errors import Halt, Retryable
from trunkline.http.guard import Address, Guard

TRUST = 30.0
"""Seconds for which the addresses of a name are believed."""
SOONEST = 1.0
"""Seconds from one question for a name's addresses to the next, where nothing answers at those that it had."""
PATIENCE = 5.0
"""Seconds in which a name must have an address, and an address a connection."""

Resolve = Callable[[str], Awaitable[Sequence[Address]]]


class Pool:
    """An HTTP client for each checked address of one host, one of them in use."""

    def __init__(
        self, url: Url, guard: Guard, build: Callable[[], ClientBuilder], resolve: Resolve, clock: Callable[[], float]
    ) -> None:
        """Prepare connections to the host of `url`; nothing is asked or built yet."""
        host = url.host_str or ""
        self._host = host
        self._literal = literal(host)
        self._encrypted = url.scheme == "https"
        self._port = url.port_or_known_default or 0
        self._guard = guard
        self._build = build
        self._resolve = resolve
        self._clock = clock
        self._addresses: Sequence[Address] = ()
        self._clients: dict[Address, Client] = {}
        self._using: Address | None = None
        self._client: Client | None = None
        self._asked = -math.inf
        self._due = -math.inf
        self._checking: asyncio.Task[Client] | None = None

    def ready(self, now: float) -> Client | None:
        """Give the client in use, None when none may be; where its address is due to be checked again, begin to."""
        if now >= self._due:
            self._begin()
        return self._client

    async def client(self) -> Client:
        """Give the client in use as soon as there is one.

        Raises:
            Retryable: the host has no address now.
            Halt: it is at one that must not be called.
        """
        if (client := self._client) is not None:
            return client
        return await asyncio.shield(self._begin())

    def leave(self, failed: Client) -> int:
        """Turn from an address at which nothing answers to the next one; give how many there are."""
        if failed is self._client:
            self._due = min(self._due, self._asked + SOONEST)
            at = self._addresses.index(self._using) if self._using in self._addresses else -1
            self._use(self._addresses[(at + 1) % len(self._addresses)])
        return len(self._addresses)

    async def close(self) -> None:
        """Close every connection."""
        if self._checking is not None:
            self._checking.cancel()
        for client in self._clients.values():
            await client.close()

    def _begin(self) -> asyncio.Task[Client]:
        if self._checking is None:
            self._checking = asyncio.get_running_loop().create_task(self._check())
            self._checking.add_done_callback(self._checked)
        return self._checking

    def _checked(self, task: asyncio.Task[Client]) -> None:
        self._checking = None
        if not task.cancelled():
            task.exception()  # who waited has it; whoever comes next has it anew

    async def _check(self) -> Client:
        """Find out the addresses, check each, and use the one in use as long as it is among them."""
        self._asked = self._clock()
        try:
            found = await self._find()
        except OSError:
            if self._client is None:
                raise Retryable(f"no connection to the target: {self._host} has no address now") from None
            self._due = self._asked + SOONEST  # an address that was checked stays so
            return self._client
        for address in found:
            if told := self._guard.refusal(address, self._port, encrypted=self._encrypted):
                self._client = self._using = None
                self._clients.clear()  # calls that are under way end by themselves
                name = "the target" if address == self._literal else f"the target {self._host}"
                raise Halt(f"{name} is at {address}, {told}")
        self._addresses = found
        self._clients = {address: client for address, client in self._clients.items() if address in found}
        self._due = math.inf if self._literal else self._asked + TRUST
        return self._use(self._using if self._using is not None and self._using in found else found[0])

    async def _find(self) -> Sequence[Address]:
        """Give the addresses of the host, at least one."""
        if self._literal is not None:
            return [self._literal]
        async with asyncio.timeout(PATIENCE):
            found = await self._resolve(self._host)
        if not found:
            raise OSError("it has none")
        return found

    def _use(self, address: Address) -> Client:
        if (client := self._clients.get(address)) is None:
            builder = self._build()
            if self._literal is None:
                builder = builder.resolve(self._host, str(address), 0)  # port 0: that of the call's own address
            client = self._clients[address] = builder.build()
        self._using, self._client = address, client
        return client


def literal(host: str) -> Address | None:
    """Read a host that is an address and no name, as the HTTP client has normalised it."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
