"""Certificates of a target's declaration, read and found usable before anything is called."""

import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import BuilderError

from trunkline.errors import UsageError
from trunkline.flow.declare import Tls

VERSION, UTC_TIME = 0xA0, 0x17
"""Tags of a certificate's parts: the version that the first ones do not have, and a year of two digits."""
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Whose signature counts besides those that the system trusts, and who we are; PEM (RFC 7468)."""

    authorities: tuple[bytes, ...] = ()
    identity: bytes | None = field(default=None, repr=False)


def read(tls: Tls | None) -> Certificates:
    """Read what was declared.

    Raises:
        UsageError: a setting is missing or holds something else; it is named, its value never shown.
    """
    if tls is None:
        return Certificates()
    authorities: list[str] = []
    if tls.ca is not None:
        authorities = CERTIFICATE.findall(tls.ca.read())
        if not authorities or not all(map(is_certificate, authorities)):
            told = f"{tls.ca.name} holds no certificate"
            raise UsageError(f"{told}. Set it to those of the authority, as PEM.")
    identity = None
    if tls.certificate is not None and tls.key is not None:
        identity = f"{tls.certificate.read()}\n{tls.key.read()}\n".encode()
        try:
            ClientBuilder().identity_pem(identity).build()
        except (BuilderError, ValueError):
            told = f"{tls.certificate.name} and {tls.key.name} are no certificate with its key"
            raise UsageError(f"{told}. Set both, as PEM.") from None
    return Certificates(tuple(one.encode() for one in authorities), identity)


def ends(pem: str) -> list[datetime]:
    """Give when each certificate of a text ends, as far as that can be read: nothing is refused for it."""
    found = []
    for one in CERTIFICATE.findall(pem):
        with suppress(ValueError, IndexError, StopIteration):
            found.append(end_of(ssl.PEM_cert_to_DER_cert(one)))
    return found


def end_of(der: bytes) -> datetime:
    """Read when a certificate ends (RFC 5280 §4.1); Python's own reader asks for a file."""
    [(_, certificate)] = parts(der)
    _, body = next(parts(certificate))
    _serial, _algorithm, _issuer, (_, validity), *_ = (part for part in parts(body) if part[0] != VERSION)
    _, (tag, written) = parts(validity)
    text = written.decode()
    if tag == UTC_TIME:
        text = f"{'19' if text >= '50' else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Take a structure of DER apart: the tag and the content of each of its parts (X.690 §8.1)."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size])
            at += size
        yield tag, der[at : at + length]
        at += length


def is_certificate(pem: str) -> bool:
    """Say whether a text that begins and ends as a certificate is one."""
    try:
        ssl.create_default_context(cadata=pem)
    except ssl.SSLError:
        return False
    return True
