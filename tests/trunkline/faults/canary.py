"""Secrets that can be recognised wherever they turn up, in whatever form."""

import base64
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from random import Random
from urllib.parse import quote, quote_plus

GZIP = b"\x1f\x8b\x08"
DEEP = 2
"""How many layers of gzip are looked into."""


def plant(random: Random) -> str:
    """Make a secret; it has characters that URLs and HTML write in another way."""
    return f"canary/{random.randbytes(8).hex()}+&={random.randbytes(4).hex()}"


def signing(random: Random) -> str:
    """Make a signing secret in the form of Standard Webhooks."""
    return f"whsec_{base64.b64encode(b'canary' + random.randbytes(26)).decode()}"


def forms(secret: str) -> set[bytes]:
    """Give every way in which a secret may be written, gzip apart."""
    raws = {secret.encode()}
    if secret.startswith("whsec_"):
        raws |= {secret[6:].encode(), base64.b64decode(secret[6:])}
    written = set(raws)
    for raw in raws:
        written |= {quote(raw, safe="").encode(), quote_plus(raw).encode(), raw.hex().encode()}
        for shift in range(3):
            # What stands around it changes the first and the last characters of its base64.
            encoded = base64.b64encode(bytes(shift) + raw).rstrip(b"=")[4 if shift else 0 : -1]
            written |= {encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))}
    return written


def search(places: Mapping[str, bytes], secrets: Mapping[str, str]) -> list[str]:
    """Say where which secret stands."""
    wanted = {name: forms(secret) for name, secret in secrets.items()}
    return [
        f"{name} in {place}"
        for place, content in places.items()
        for layer in layers(content)
        for name, written in wanted.items()
        if any(form in layer for form in written)
    ]


def layers(content: bytes, depth: int = DEEP) -> Iterator[bytes]:
    """Give a content and what is in it compressed."""
    yield content
    at = content.find(GZIP) if depth else -1
    while at >= 0:
        try:
            inner = zlib.decompressobj(wbits=31).decompress(content[at:], 16 * 1024 * 1024)
        except zlib.error:
            inner = b""
        if inner:
            yield from layers(inner, depth - 1)
        at = content.find(GZIP, at + 1)


def prove(secrets: Mapping[str, str]) -> None:
    """Fail unless each secret would be found in every form."""
    for name, secret in secrets.items():
        for around in (b"", b"x", b"xx"):
            raw = around + secret.encode() + b"tail"
            for hidden in (raw, base64.b64encode(raw), quote(raw, safe="").encode(), gzip.compress(raw)):
                assert search({"here": b"log: " + hidden}, {name: secret}), f"{name} would not be found as {hidden!r}"
    assert not search({"here": hashlib.sha256(b"nothing").hexdigest().encode()}, secrets)
