"""The first words with a broker: that it is there and takes us as the settings say, or at once why it does not.

A client tries again for seconds, whatever the reason is, and then says that nobody has answered.
"""

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator

from trunkline.errors import Unavailable, UsageError
from trunkline.kafka.cluster import Cluster, setting

CONNECTING = 2.0
ANSWERING = 5.0
"""Seconds for one answer."""
CLIENT = b"trunkline"
METADATA, HANDSHAKE, AUTHENTICATE = 3, 17, 36
"""Requests by their keys in Kafka's protocol, each in version 1."""
UNSUPPORTED, NO_LOGIN = 33, 34
ALERT = b"\x15\x03"
"""How TLS begins to say that it has understood nothing."""
ANOTHER_NAME = (62, 64)
"""What OpenSSL calls a certificate for another host or address."""


def greet(cluster: Cluster) -> None:
    """Return when one of the brokers has answered, and has let us in where it asks for a login.

    Raises:
        Unavailable: none has; the message says why, and which setting is wrong.
        UsageError: an address is no host:port.
    """
    failure: Unavailable | None = None
    for address in cluster.bootstrap.split(","):
        host, port = place_of(address)
        try:
            plain = socket.create_connection((host, port), CONNECTING)
        except OSError:
            continue
        try:
            with plain:
                Greeting(cluster, plain, host, f"the broker at {host}:{port}").speak()
        except Unavailable as error:
            failure = failure or error
        else:
            return
    told = f"no broker answers at {cluster.bootstrap}. Start it, or set {setting('bootstrap')}."
    raise failure or Unavailable(told)


def place_of(address: str) -> tuple[str, int]:
    """Take host:port apart.

    Raises:
        UsageError: it is none.
    """
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"the broker's address {address!r} is no host:port. Set {setting('bootstrap')}.")
    return host.strip("[]"), int(port)


class Greeting:
    """What is said over one connection."""

    def __init__(self, cluster: Cluster, plain: socket.socket, host: str, broker: str) -> None:
        self._cluster = cluster
        self._wire = plain
        self._host = host
        self._broker = broker
        plain.settimeout(ANSWERING)

    def speak(self) -> None:
        """Say it.

        Raises:
            Unavailable: the broker does not understand, or does not take us.
        """
        with self._told():
            if (context := self._cluster.context) is not None:
                with self._told(f"speaks no TLS there. Set {setting('tls')}=false, or name its port for TLS."):
                    self._wire = context.wrap_socket(self._wire, server_hostname=self._host)
            with self._wire:
                if self._cluster.sasl:
                    self._log_in()
                else:
                    login = f"asks for a login. Set {setting('username')} and {setting('password')}."
                    with self._told(login):
                        self._ask(METADATA, struct.pack(">i", 0))

    def _log_in(self) -> None:
        from kafka.net.sasl import get_sasl_mechanism  # noqa: PLC0415 - who logs in nowhere need not load it

        sasl = self._cluster.sasl
        answer = self._ask(HANDSHAKE, text(sasl.encode()))
        [code] = struct.unpack_from(">h", answer)
        if code == NO_LOGIN:
            raise self._unavailable(f"asks for no login there. Leave {setting('username')} out, or name another port.")
        if code == UNSUPPORTED:
            names = ", ".join(sorted(texts(answer[2:])))
            raise self._unavailable(f"takes no login by {sasl}, but by {names}. Set {setting('mechanism')}.")
        mechanism = get_sasl_mechanism(sasl)(**self._cluster.kafka_python())
        while not mechanism.is_done():
            token = mechanism.auth_bytes()
            answer = self._ask(AUTHENTICATE, struct.pack(">i", len(token)) + token)
            code, length = struct.unpack_from(">hh", answer)
            why, rest = answer[4 : 4 + max(length, 0)].decode(errors="replace"), answer[4 + max(length, 0) :]
            if code:
                wrong = f"{setting('username')}, {setting('password')} or {setting('mechanism')} is wrong"
                raise self._unavailable(f"refuses the login of {self._cluster.username}: {wrong} ({why.rstrip('.')}).")
            try:
                mechanism.receive(rest[4 : 4 + struct.unpack_from(">i", rest)[0]])
            except ValueError:
                raise self._unavailable("does not know the password itself: it may be somebody else.") from None

    def _ask(self, request: int, body: bytes) -> bytes:
        """Send a request and give the body of its answer; EOFError when the connection is closed instead."""
        asked = struct.pack(">hhi", request, 1, 1) + text(CLIENT) + body
        self._wire.sendall(struct.pack(">i", len(asked)) + asked)
        with self._wire.makefile("rb") as answer:
            head = answer.read(4)
            if head.startswith(ALERT) and not self._cluster.tls:
                raise self._unavailable(f"speaks TLS. Set {setting('tls')}=true.")
            if len(head) < 4:
                raise EOFError
            [length] = struct.unpack(">i", head)
            return answer.read(min(length, 1024 * 1024))[4:]

    @contextlib.contextmanager
    def _told(self, otherwise: str = "closes the connection.") -> Iterator[None]:
        """Say in one line what is wrong; `otherwise` is what it means that the connection is closed."""
        certificate = setting("certificate")
        try:
            yield
        except TimeoutError:
            raise self._unavailable(f"takes connections, and has not answered for {ANSWERING:.0f} s.") from None
        except ssl.SSLCertVerificationError as error:
            mend = f"Set {setting('ca')}_FILE to the certificate of the authority that has signed it."
            if error.verify_code in ANOTHER_NAME:
                mend = f"Name the broker in {setting('bootstrap')} as its certificate does."
            why = error.verify_message.rstrip(".")
            raise self._unavailable(f"has a certificate that is not trusted: {why}. {mend}") from None
        except ssl.SSLError as error:
            reason = (error.reason or "").lower().replace("_", " ")
            if "alert" not in reason:
                raise self._unavailable(otherwise) from None
            if self._cluster.certificate:
                raise self._unavailable(f"refuses our certificate ({reason}). Set {certificate}.") from None
            if "certificate" in reason:
                mend = f"Set {certificate} and {setting('key')}."
                raise self._unavailable(f"asks for a certificate of ours ({reason}). {mend}") from None
            raise self._unavailable(f"ends the TLS connection ({reason}).") from None
        except (OSError, EOFError, struct.error):
            raise self._unavailable(otherwise) from None

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(f"{self._broker} {what}")


def text(value: bytes) -> bytes:
    """Write a string as Kafka does."""
    return struct.pack(">h", len(value)) + value


def texts(raw: bytes) -> Iterator[str]:
    """Read an array of strings."""
    [count] = struct.unpack_from(">i", raw)
    at = 4
    for _ in range(count):
        [length] = struct.unpack_from(">h", raw, at)
        yield raw[at + 2 : at + 2 + length].decode(errors="replace")
        at += 2 + length
