"""Forms: named texts, of which any may come several times (application/x-www-form-urlencoded, WHATWG URL §5)."""

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, urlencode

from trunkline.errors import Permanent
from trunkline.formats.plain import MOST, decoded, encoding_of, text_of

Fields = Mapping[str, object]


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
    text = decoded(body, "us-ascii")
    for name, value in parse_qsl(
        text,
        keep_blank_values=True,
        strict_parsing=bool(text),
        encoding=encoding_of(charset),
        errors="strict",
        max_num_fields=MOST,
    ):
        found.setdefault(name, []).append(value)
    return found
