"""Certificates of a target's declaration, read and found usable before anything is called."""

import re
import ssl
from dataclasses import dataclass, field

from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import BuilderError

from trunkline.errors import UsageError
from trunkline.flow.declare import Tls

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


def is_certificate(pem: str) -> bool:
    """Say whether a text that begins and ends as a certificate is one."""
    try:
        ssl.create_default_context(cadata=pem)
    except ssl.SSLError:
        return False
    return True
