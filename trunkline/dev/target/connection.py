"""The TCP connection below a request, which a misbehaving API resets."""

import asyncio
import socket
import struct

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """uvicorn's protocol; each request finds its connection's transport in scope["state"]."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Keep the transport within reach of the application."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


async def cut(scope: Scope, receive: Receive) -> None:
    """Close the request's TCP connection with a RST, unless the client closed it first."""
    transport: asyncio.Transport = scope["state"]["transport"]
    if not transport.is_closing():
        # With no time to linger the system sends RST; an orderly FIN would look like a server that went home politely.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
