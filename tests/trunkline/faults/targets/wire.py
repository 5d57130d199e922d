"""A TCP proxy before a target: slow, cutting, stalling, and the TLS of the target where there is any."""

import asyncio
import ssl
from random import Random

from tests.trunkline.faults.relay import Link, Relay


class Wire(Relay):
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
        self._random = Random(7)  # noqa: S311 - which connections are harmed
        super().__init__(upstream, host=host, port=port, tls=tls)

    def show(self, tls: ssl.SSLContext) -> None:
        """Show another certificate to whoever connects from now on."""
        self._do(self._close())
        self._server = self._do(self._listen("127.0.0.1", self.port, tls))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await super()._serve(reader, writer)

    async def _requests(self, _link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(64 * 1024):
            if self._random.random() < self.cuts / 2:
                self.bitten += 1
                return
            writer.write(piece)
            await writer.drain()

    async def _answers(self, _link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
