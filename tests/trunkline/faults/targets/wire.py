"""A TCP proxy before a target: slow, cutting, stalling, and the TLS of the target where there is any."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from random import Random
from typing import Any


class Wire:
    """Listens at `host` and speaks to `upstream` on this machine. Its thread ends with `close`."""

    def __init__(
        self, upstream: int, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.delay = 0.0
        """Seconds that every answer comes later."""
        self.cuts = 0.0
        """The share of requests at which the connection is reset, half of them before the target has heard of it."""
        self.stalls = 0.0
        """The share of answers after whose first bytes nothing comes any more; the connection stays open."""
        self.bitten = 0
        """Connections that were cut or have stalled."""
        self.connections = 0
        self._upstream = upstream
        self._random = Random(7)  # noqa: S311 - which connections are harmed
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(self._listen(host, port, tls))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def show(self, tls: ssl.SSLContext) -> None:
        """Show another certificate to whoever connects from now on."""
        self._do(self._close())
        self._server = self._do(self._listen("127.0.0.1", self.port, tls))

    def close(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> asyncio.Server:
        return await asyncio.start_server(self._serve, host, port, ssl=tls)

    async def _close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()  # which ends its task
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            self._writers.discard(writer)
            writer.transport.abort()
            return
        pumps = {
            asyncio.ensure_future(self._requests(reader, up_writer)),
            asyncio.ensure_future(self._answers(up_reader, writer)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers.discard(writer)
            for one in (writer, up_writer):
                one.transport.abort()
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(64 * 1024):
            if self._random.random() < self.cuts / 2:
                self.bitten += 1
                return
            writer.write(piece)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(64 * 1024):
            await asyncio.sleep(self.delay)
            if self._random.random() < self.cuts / 2:
                self.bitten += 1
                return
            if self._random.random() < self.stalls:
                self.bitten += 1
                writer.write(piece[:20])
                await asyncio.Event().wait()
            writer.write(piece)
            await writer.drain()
