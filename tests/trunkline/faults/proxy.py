"""A TCP proxy before a broker that cuts, delays or swallows: everything, what the coordinator is asked, or commits."""

import asyncio
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Literal

Which = Literal["all", "group", "commits"]

COMMIT = 8

GROUP = {8, 9, 11, 12, 13, 14}
"""OffsetCommit, OffsetFetch, JoinGroup, Heartbeat, LeaveGroup, SyncGroup: what a coordinator alone is asked."""


class Link:
    """One connection of a client and the one behind it."""

    def __init__(self, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self.group = False
        self._writers = (client, broker)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Proxy:
    """Listens on `port`; speaks to `upstream` on this machine. Its thread ends with `close`."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._swallowed: Which | None = None
        self._delay = 0.0
        self.swallowed = 0
        """Pieces that were held back or dropped so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

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

    def close(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _cut(self, which: Which) -> None:
        for link in list(self._links):
            if which == "all" or link.group:  # commits go to the coordinator
                link.cut()

    async def _close(self) -> None:
        self._server.close()
        await self._cut("all")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, up_writer)
        self._links.add(link)
        pumps = {
            asyncio.ensure_future(self._requests(link, reader, up_writer)),
            asyncio.ensure_future(self._answers(link, up_reader, writer)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._links.discard(link)
            link.cut()

    async def _requests(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass whole requests on: the first two bytes of each, after its length, say what it asks."""
        while True:
            size = await reader.readexactly(4)
            body = await reader.readexactly(struct.unpack(">i", size)[0])
            asked = struct.unpack(">h", body[:2])[0]
            link.group |= asked in GROUP
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
        if self._swallowed == "all" or (self._swallowed == "group" and link.group):
            self.swallowed += 1
            return False
        if self._delay:
            await asyncio.sleep(self._delay)
        return True
