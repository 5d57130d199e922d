"""A TCP proxy before a broker that cuts, delays or swallows: everything, what the coordinator is asked, or commits."""

import asyncio
import struct
from typing import Literal

from tests.trunkline.faults.relay import Link, Relay

Which = Literal["all", "group", "commits"]

COMMIT = 8

GROUP = {8, 9, 11, 12, 13, 14}
"""OffsetCommit, OffsetFetch, JoinGroup, Heartbeat, LeaveGroup, SyncGroup: what a coordinator alone is asked."""


class Proxy(Relay):
    """Listens on `port`; speaks to the broker at `upstream` on this machine. Its thread ends with `close`."""

    def __init__(self, upstream: int) -> None:
        self._swallowed: Which | None = None
        self._delay = 0.0
        self._group: set[Link] = set()
        """Those that have asked a coordinator."""
        self.swallowed = 0
        """Pieces that were held back or dropped so far."""
        super().__init__(upstream)

    def swallow(self, which: Which) -> None:
        """Let nothing through any more on these connections, new ones included, and keep them open.

        Of `commits`, only those requests: the member's heartbeats go on, so it keeps its session.
        """
        self._swallowed = which

    def cut(self, which: Which) -> None:
        """Reset these connections; new ones work."""
        self._do(self._cut(which))

    def delay(self, seconds: float) -> None:
        """Let every piece come so much later."""
        self._delay = seconds

    def heal(self) -> None:
        """Let everything through again; what was swallowed is lost, so those connections are reset."""
        which, self._swallowed, self._delay = self._swallowed, None, 0.0
        if which is not None:
            self.cut(which)

    async def _cut(self, which: Which) -> None:
        for link in list(self._links):
            if which == "all" or link in self._group:  # commits go to the coordinator
                link.cut()

    async def _requests(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass whole requests on: the first two bytes of each, after its length, say what it asks."""
        while True:
            size = await reader.readexactly(4)
            body = await reader.readexactly(struct.unpack(">i", size)[0])
            asked = struct.unpack(">h", body[:2])[0]
            if asked in GROUP:
                self._group.add(link)
            if asked == COMMIT and self._swallowed == "commits":
                self.swallowed += 1
            elif await self._passes(link):
                writer.write(size + body)
                await writer.drain()

    async def _answers(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(64 * 1024):
            if await self._passes(link):
                writer.write(piece)
                await writer.drain()

    async def _passes(self, link: Link) -> bool:
        if self._swallowed == "all" or (self._swallowed == "group" and link in self._group):
            self.swallowed += 1
            return False
        if self._delay:
            await asyncio.sleep(self._delay)
        return True
