"""How requests are read: by llhttp, as Node.js does, and never more beside a body than `LARGEST_HEAD`."""

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from trunkline.gateway.problems import problem

LARGEST_HEAD = 16 * 1024
"""Bytes in one piece of a request that are no body: its line and headers, what stands between chunks, its trailer."""


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol, which by itself keeps a head however long it grows and takes a trailer for more of it.

    Who offers to speak another protocol (Java's own client does, HTTP/2) is answered in this one (RFC 9110 §7.8), with
    a slower reader: httptools loses the body of such a request.
    """

    _beside = 0
    _heading = False
    _offers = False
    _head = b""
    """What has come of a connection since it was at rest, as long as that is one head."""
    _before: object = None
    """The request before that."""

    def data_received(self, data: bytes) -> None:
        """Read what has come, and refuse a request with too much beside its body."""
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
                if self.cycle is self._before:
                    self._hand_over(data[at + LARGEST_HEAD :])
                else:
                    why = "It offers another protocol, and came before the last answer."
                    self._refuse(400, "This is not read", f"{why} Nothing was published.")
                return
            if self._beside > LARGEST_HEAD:
                why = f"More than {LARGEST_HEAD} bytes of it are no body. Nothing was published; send fewer headers."
                self._refuse(431, "The head is too large", why)
                return

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn's always closes
        """Answer a request that has come whole before its sender closes its side, as `nc -N` does; then close ours."""
        cycle = self.cycle
        waited_for = cycle is not None and not cycle.more_body and not cycle.response_complete
        if waited_for:
            cycle.keep_alive = False
        return waited_for

    @property
    def _at_rest(self) -> bool:
        """Whether every request has come and has its answer."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def on_message_begin(self) -> None:
        """Begin with a request."""
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
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take some of a body."""
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._beside = 0
        if not self._offers:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, "This is no HTTP request", f"{msg} Nothing was published.")

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: it is passed over."""

    def _hand_over(self, rest: bytes) -> None:
        """Let the other reader read this connection from here."""
        self.connections.discard(self)
        other = H11Protocol(self.config, self.server_state, self.app_state, self.loop)
        other.connection_made(self.transport)
        self.transport.set_protocol(other)
        other.data_received(self._head + rest)

    def _refuse(self, status: int, title: str, detail: str) -> None:
        answer = problem(status, title, detail)
        head = [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[status], *head, b"connection: close\r\n\r\n", answer.body]))
        self.transport.close()
