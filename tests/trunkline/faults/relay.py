"""TCP from a port to another in a thread of its own; who inherits says what becomes of the bytes."""

import asyncio
import contextlib
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

HANDSHAKE = 5.0
"""Seconds that a client has for it: nothing else ends one in which it keeps silent."""


class Link:
    """One connection of a client and, once it stands, the one behind it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def closed(self) -> None:
        for writer in self.writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class Relay(ABC):
    """Listens on `port` of `host`; speaks to `upstream` on this machine. Its thread ends with `close`."""

    def __init__(
        self, upstream: int, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._upstream = upstream
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(self).__name__, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(self._listen(host, port, tls))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @abstractmethod
    async def _requests(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what a client sends; the link ends when this does."""

    @abstractmethod
    async def _answers(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what a client is sent; the link ends when this does."""

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> asyncio.Server:
        patience = None if tls is None else HANDSHAKE
        return await asyncio.start_server(self._serve, host, port, ssl=tls, ssl_handshake_timeout=patience)

    async def _close(self) -> None:
        """Cut every connection and return when none is left, of those too that have no task yet."""
        for listener in self._server.sockets:
            self._loop.remove_reader(listener.fileno())
        gone = asyncio.ensure_future(self._server.wait_closed())
        await asyncio.sleep(0)  # so that the server knows of all that it has accepted
        self._server.close()
        while not gone.done():
            for link in self._links:
                link.cut()  # which ends its task
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        link = Link(writer)
        self._links.add(link)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            link.writers.append(up_writer)
            await self._pass(self._requests(link, reader, up_writer), self._answers(link, up_reader, writer))
        except OSError:
            pass  # nobody listens there: who asks here is cut off
        finally:
            self._links.discard(link)
            link.cut()
            await link.closed()

    async def _pass(self, *pumps: Coroutine[Any, Any, None]) -> None:
        """Pass bytes on both ways until one of them ends."""
        tasks = [asyncio.ensure_future(pump) for pump in pumps]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Silence(Relay):
    """Passes everything on until it is told to be silent; then nothing, and keeps what is open so."""

    silent = False

    async def _requests(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._answers(link, reader, writer)

    async def _answers(self, _: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(64 * 1024):
            if not self.silent:
                writer.write(piece)
                await writer.drain()

    def heal(self) -> None:
        """Pass everything on again; what was swallowed is lost, so the connections are cut."""
        self.silent = False
        self._do(self._cut())

    async def _cut(self) -> None:
        for link in list(self._links):
            link.cut()
