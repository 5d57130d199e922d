"""Plain values, as formats write them that know nothing but text; and the bounds of what a stranger may send."""

import base64
import math
import re
from datetime import date, datetime, time
from decimal import Decimal
from uuid import UUID

from trunkline.errors import Permanent

LARGEST = 1024 * 1024
"""Bytes of a body that are read."""
DEEPEST = 64
"""Levels of nesting that are read."""
MOST = 20_000
"""Elements and attributes, fields or parts that are read."""
EXPONENT = 6144
"""The largest exponent of a decimal number, as in IEEE 754's decimal128: beyond it, digits could fill the memory."""

ENCODINGS = {
    "ascii": "ascii",
    "us-ascii": "ascii",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "iso-8859-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "iso-8859-15": "iso-8859-15",
    "windows-1252": "windows-1252",
}
"""The charsets that are read, as targets and as Python name them; the other codecs of Python are no charsets."""
CHARSET = re.compile(r"""(?i);\s*charset\s*=\s*["']?([\w.:-]+)""")
"""Where a content type names one."""


def media_of(content_type: str) -> str:
    """Give a content type without its parameters (RFC 9110 §8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def text_of(value: object) -> str:
    """Write a plain value in the lexical form of its XML Schema type (XSD 1.1 part 2 §3.3), a decimal without exponent.

    Bytes are xs:base64Binary.

    Raises:
        Permanent: it is no plain value, or not a finite number.
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return digits_of(value)
        case Decimal():
            return format(bounded(value), "f")
        case float() if math.isfinite(value):
            return repr(value)
        case datetime() | date() | time():
            return value.isoformat()
        case UUID():
            return str(value)
        case bytes():
            return base64_of(value)
        case float():
            raise Permanent(f"is {value}, which is no number")
        case _:
            raise Permanent(f"is of type {type(value).__name__}, which is no plain value")


def base64_of(value: bytes) -> str:
    """Write bytes as text (RFC 4648 §4, with padding): as JSON of Protocol Buffers 3 and XML Schema have them."""
    return base64.b64encode(value).decode()


def digits_of(number: int) -> str:
    """Write a whole number.

    Raises:
        Permanent: it is longer than Python writes (4,300 digits).
    """
    try:
        return str(number)
    except ValueError:
        raise Permanent("is a number of too many digits") from None


def bounded(number: Decimal) -> Decimal:
    """Give a decimal number back.

    Raises:
        Permanent: it is no number, or its exponent is beyond decimal128's.
    """
    if -EXPONENT <= number.adjusted() <= EXPONENT and number.is_finite():
        return number
    raise Permanent("is a number beyond 10^6144" if number.is_finite() else f"is {number}, which is no number")


def decoded(body: bytes, charset: str) -> str:
    """Read a body's bytes as text.

    Raises:
        ValueError: it is longer than 1 MiB, of an unknown charset, or not of that charset.
    """
    sized(body)
    return body.decode(encoding_of(charset)).removeprefix("\ufeff")


def encoding_of(charset: str) -> str:
    """Give Python's name of a charset.

    Raises:
        ValueError: it is none that is read.
    """
    encoding = ENCODINGS.get(charset.lower())
    if encoding is None:
        raise ValueError(f"its charset {charset[:40]!r} is not read")
    return encoding


def sized(body: bytes) -> None:
    """Pass a body of at most 1 MiB.

    Raises:
        ValueError: it is longer.
    """
    if len(body) > LARGEST:
        raise ValueError(f"it is longer than {LARGEST:,} bytes")
