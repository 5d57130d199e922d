"""Forms: named texts, of which any may come several times (application/x-www-form-urlencoded, WHATWG URL §5)."""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlencode

from trunkline.errors import Permanent
from trunkline.formats.plain import MOST, decoded, encoding_of, text_of

Fields = Mapping[str, object]

ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
BYTES = [bytes([number]) for number in range(256)]


def dumps(fields: Fields) -> bytes:
    """Write fields in their order, in UTF-8; a list is a field repeated, None is left out.

    Raises:
        Permanent: a field is no plain value; the message names it.
    """
    try:
        return urlencode(list(pairs(fields))).encode()
    except UnicodeEncodeError:
        raise Permanent("the form cannot be written: it holds half a surrogate pair") from None


def pairs(fields: Fields) -> Iterator[tuple[str, str]]:
    """Give names and texts, one by one."""
    for name, value in fields.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not None:
                try:
                    yield name, text_of(each)
                except Permanent as error:
                    raise Permanent(f"the form cannot be written: {name} {error}") from None


def loads(body: bytes, charset: str = "utf-8") -> dict[str, list[str]]:
    """Read a form: the texts of each name, in their order.

    Raises:
        ValueError: it is no form of that charset, is longer than 1 MiB, or has more than 20,000 fields.
    """
    found: dict[str, list[str]] = {}
    text, encoding = decoded(body, "us-ascii").encode(), encoding_of(charset)
    fields = text.split(b"&", MOST) if text else []
    if len(fields) > MOST:
        raise ValueError(f"more than {MOST:,} fields")
    for field in fields:
        name, equals, value = field.partition(b"=")
        if not equals:
            raise ValueError("a field without =")
        found.setdefault(unescaped(name, encoding), []).append(unescaped(value, encoding))
    return found


def unescaped(text: bytes, encoding: str) -> str:
    """Read a name or a text; Python's own reader takes eighty times the memory of what is all escapes."""
    text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text.decode()
    return ESCAPE.sub(lambda found: BYTES[int(found[1], 16)], text).decode(encoding)
