"""How requests are read: by llhttp, as Node.js does, within bounds of what is no body, of time, and of connections."""

import asyncio
import math
import re
from typing import ClassVar

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from trunkline.gateway.problems import problem

LARGEST_HEAD = 16 * 1024
"""Bytes in one piece of a request that are no body: its line and headers, what stands between chunks, its trailer."""
HEAD_SECONDS = 5.0
"""In which the line and headers of a request must have come."""
BODY_SECONDS = 20.0
"""In which its body must have come: longer than the app waits for one, so that who dawdles is told."""
READ_SECONDS = 20.0
"""In which its sender must have read some more of the answers."""
MOST = 1_024
"""Connections at once: a process needs others for its broker and its targets."""
TOLD_SECONDS = 60.0
"""Between two words about connections that are refused."""
WHOLE = "trunkline.whole"
"""The extension (of ASGI's scope) with which a request comes whose body is there."""
OFFER = re.compile(rb"(?i)\r\nupgrade:")


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol, which by itself keeps a head however long it grows and takes a trailer for more of it.

    It also waits without end for the rest of a request, for a body that nobody reads any more, and until its answers
    are read.

    Who offers to speak another protocol (Java's own client does, HTTP/2) is answered in this one (RFC 9110 §7.8).
    llhttp reads no body behind such an offer, so it reads the head a second time without it.
    """

    _beside = 0
    _coming = False
    """Whether some of a request has come and not all of it."""
    _heading = False
    _offers = False
    _reading = False
    _patience: float | None = None
    """Seconds that what comes next may take."""
    _due: asyncio.TimerHandle | None = None
    _told: ClassVar[float] = -math.inf
    """When connections were said to be refused last."""
    _head = b""
    """What has come of a connection since it was at rest, as long as that is one head."""
    _before: object = None
    """The request before that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin with a connection; one on which nothing comes is closed as an idle one is."""
        super().connection_made(transport)
        self._await(self.timeout_keep_alive)
        if len(self.connections) > MOST:
            if (now := self.loop.time()) - Bounded._told > TOLD_SECONDS:
                Bounded._told = now
                structlog.get_logger("trunkline").warning(
                    "gateway", why=f"there are {MOST} connections already, and others are refused: see who holds them"
                )
            why = f"This process has {MOST} connections already. Nothing was published; close those that are not used."
            self._refuse(503, "Too many connections", why)

    def connection_lost(self, exc: Exception | None) -> None:
        """End with a connection."""
        self._await(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what has come; only what is still waited for then takes a timer, and most requests come at once."""
        self._reading = True
        self._read(data)
        self._reading = False
        if self._due is None:
            self._await(self._patience)

    def _read(self, data: bytes) -> None:
        """Read what has come, and refuse a request with too much beside its body."""
        self._begin()
        for at in range(0, len(data), LARGEST_HEAD):
            piece = data[at : at + LARGEST_HEAD]
            self._beside += len(piece)
            if self._heading:
                self._head += piece
            else:
                self._head, self._before = (piece, self.cycle) if self._at_rest else (b"", self)
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._offers:
                if self.cycle is self._before and self._passes_over():
                    self._read(self._head + data[at + LARGEST_HEAD :])
                else:
                    why = "It asks for a tunnel, or for another protocol before the last answer came."
                    self._refuse(400, "This is not read", f"{why} Nothing was published.")
                return
            if self._beside > LARGEST_HEAD:
                why = f"More than {LARGEST_HEAD} bytes of it are no body. Nothing was published; send fewer headers."
                self._refuse(431, "The head is too large", why)
                return

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn's always closes
        """Answer a request that has come whole before its sender closes its side, as `nc -N` does; then close ours."""
        return self._ends_with_its_answer()

    @property
    def _at_rest(self) -> bool:
        """Whether every request has come and has its answer."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def on_message_begin(self) -> None:
        """Begin with a request."""
        self._begin()
        self._heading = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a field of a trailer is none (RFC 9110 §6.5.1)."""
        if self._heading:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin with a body."""
        self._beside, self._heading = 0, False
        if self.parser.should_upgrade():
            self._offers = True
        else:
            self._await(BODY_SECONDS)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take some of a body."""
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._beside = 0
        if not self._offers:
            self._coming = False
            self._await(None)
            self.scope["extensions"] = {WHOLE: {}}
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, "This is no HTTP request", f"{msg} Nothing was published.")

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: it is passed over."""

    def _passes_over(self) -> bool:
        """Begin again with a head without its offer; say whether it had one (a CONNECT is another kind)."""
        head, end, rest = self._head.partition(b"\r\n\r\n")
        plain = OFFER.sub(b"\r\noffered:", head)
        self._head, self._beside, self._offers = plain + end + rest, 0, False
        self.parser = httptools.HttpRequestParser(self)
        return plain != head

    def pause_writing(self) -> None:
        """Hear that answers are not read."""
        super().pause_writing()
        self._await(READ_SECONDS)

    def resume_writing(self) -> None:
        """Hear that some have been."""
        super().resume_writing()
        self._await(BODY_SECONDS if self._coming else None)

    def _begin(self) -> None:
        """Begin to wait for a request, when some of it has come."""
        if not self._coming:
            self._coming = True
            self._await(HEAD_SECONDS)

    def _await(self, seconds: float | None) -> None:
        """Wait so long for what comes next, and no more for what came before."""
        self._patience = seconds
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if seconds is not None and not self._reading:
            self._due = self.loop.call_later(seconds, self._is_late)

    def _is_late(self) -> None:
        """Close a connection on which nothing comes, or not the rest of a request."""
        if self.flow.write_paused:
            self.transport.abort()  # closing would wait for a reader too
        elif self.pipeline:  # it is not read before the request ahead of it has its answer
            self._await(BODY_SECONDS)
        elif self._heading and self._at_rest:
            why = f"Its headers were not whole after {HEAD_SECONDS:g} seconds; nothing was published."
            self._refuse(408, "The head takes too long", why)
        else:
            self.transport.close()

    def _ends_with_its_answer(self) -> bool:
        """Close the connection after the answer to the last whole request; say whether that is still to come."""
        cycle = self.cycle
        waited_for = cycle is not None and not cycle.more_body and not cycle.response_complete
        if waited_for:
            cycle.keep_alive = False
        return waited_for

    def _refuse(self, status: int, title: str, detail: str) -> None:
        if self._ends_with_its_answer():  # which this would be taken for
            return
        answer = problem(status, title, detail)
        head = [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[status], *head, b"connection: close\r\n\r\n", answer.body]))
        self.transport.close()
