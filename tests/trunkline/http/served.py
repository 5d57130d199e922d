"""A target of a test: it answers each connection once, with whatever bytes it was told to."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import Self

from trunkline.http.guard import Guard, networks

LOOPBACK = Guard(networks(["127.0.0.0/8", "::1/128"]))


class Served:
    """Reads one request a connection, notes it and writes what it was told to."""

    def __init__(
        self, *parts: bytes | None, endless: Iterable[bytes] = (), tls: ssl.SSLContext | None = None, host: str = ""
    ) -> None:
        """Answer with `parts`, where None waits for the client to go, then with as much of `endless` as is taken.

        `host` is the name by which its address calls it.
        """
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.taken = 0
        self.connections = 0
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()
        """Set when a client has gone that was waited for."""
        self._parts = parts
        self._endless = endless
        self._tls = tls
        self._host = host or "127.0.0.1"
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{'http' if self._tls is None else 'https'}://{self._host}:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            if self._tls is not None or writer.transport.get_write_buffer_size():
                writer.transport.abort()  # a shutdown of TLS would wait for the client's
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await left(self._server)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        self._tasks.append(asyncio.create_task(self._answer(reader, writer)))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            self.asked.set()
            self.bodies.append(await reader.readexactly(int(self.sent.get("content-length", 0))))
            for part in self._parts:
                if part is None:
                    await reader.read()
                    self.gone.set()
                    return
                writer.write(part)
                await writer.drain()
            for part in self._endless:
                writer.write(part)
                await writer.drain()
                self.taken += len(part)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @property
    def sent(self) -> dict[str, str]:
        """The headers of the last request."""
        lines = [line.split(": ", 1) for line in self.heads[-1].split("\r\n")[1:] if line]
        return {name.lower(): value for name, value in lines}


async def left(server: asyncio.Server) -> None:
    """Wait until the last connection of a closed server is gone, those too that never came through their handshake."""
    for _ in range(500):
        if not vars(server)["_active_count"]:
            return
        await asyncio.sleep(0.01)


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """Write an answer."""
    lines = [f"HTTP/1.1 {status} Said", *headers, f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
