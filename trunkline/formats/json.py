"""JSON in which no number changes (RFC 8259): whole numbers of any size and decimals keep their digits, both ways."""

import itertools
import json
import math
import re
from collections import Counter
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import orjson

from trunkline.errors import Permanent
from trunkline.formats.plain import DEEPEST, EXPONENT, base64_of, bounded, decoded, digits_of

TEXT = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
"""A string, or what an unclosed one has left: either way the search goes on behind it, so it stays linear."""
STRING = re.compile(TEXT, re.DOTALL)
OPTION = orjson.OPT_PASSTHROUGH_DATETIME
"""orjson 3.13 writes ten milliseconds past midnight as 00:00:00.10000, which is a hundred."""
LEVELS = 254
"""Levels of nesting that orjson writes."""


class Number(Decimal):
    """A number whose digits a JSON body shows exactly: `{"price": Number(event.data["price"])}`.

    A plain Decimal is written as a string, which every reader takes apart without loss; a target that wants a number
    gets this. It equals the Decimal that it is made of.
    """

    __slots__ = ()


def dumps(value: Any) -> bytes:
    """Write a value as JSON; None is null, a Decimal a string, a Number a number of exactly its digits, bytes base64.

    Raises:
        Permanent: it holds something that JSON has not, such as NaN; the message says where.
    """
    try:
        body = orjson.dumps(value, default=exact, option=OPTION)
    except TypeError:  # seldom: what is too large for orjson, or a mistake whose place is to be named
        body = orjson.dumps(widened(value, "", LEVELS))
    if b"null" in body and not is_finite(value):  # orjson writes NaN so too
        refuse_nan(value, "")
    return body


def exact(value: object) -> orjson.Fragment | str:
    """Write what orjson does not know, if it is a decimal, a time or bytes."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        digits = str(bounded(value))
        return orjson.Fragment(digits) if isinstance(value, Number) else digits
    if isinstance(value, bytes):
        return base64_of(value)
    raise Permanent(f"is of type {type(value).__name__}, which JSON has not")


def widened(value: Any, path: str, levels: int) -> Any:
    """Copy a value so that orjson writes its large whole numbers.

    Raises:
        Permanent: it holds something that JSON has not.
    """
    if levels < 0:
        raise Permanent(f"the body is no JSON: it is nested deeper than {LEVELS} levels")
    match value:
        case dict():
            for name in value:
                if not isinstance(name, str):
                    raise Permanent(f"the body is no JSON: {path or 'it'} has a name of type {type(name).__name__}")
            return {name: widened(each, inside(path, name), levels - 1) for name, each in value.items()}
        case list() | tuple():
            return [widened(each, f"{path}[{at}]", levels - 1) for at, each in enumerate(value)]
        case _:
            try:
                return orjson.Fragment(
                    digits_of(value) if is_large(value) else orjson.dumps(value, default=exact, option=OPTION)
                )
            except (TypeError, Permanent) as error:
                known = error if isinstance(error, Permanent) else error.__cause__
                why = known if isinstance(known, Permanent) else f"cannot be written: {error}"
                raise Permanent(f"the body is no JSON: {path or 'it'} {why}") from None


def is_large(value: object) -> bool:
    """Say whether a value is a whole number beyond what orjson writes."""
    return isinstance(value, int) and not -(2**63) <= value < 2**64


def is_finite(value: Any) -> bool:
    """Say whether no number in a value is NaN or infinite."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    for each in value.values() if kind is dict else value if kind is list or kind is tuple else ():
        kind = type(each)
        if kind is float:
            if not math.isfinite(each):
                return False
        elif (kind is dict or kind is list or kind is tuple) and not is_finite(each):
            return False
    return True


def refuse_nan(value: Any, path: str) -> None:
    """Name the place of the first number that is NaN or infinite.

    Raises:
        Permanent: there it is.
    """
    match value:
        case dict():
            for name, each in value.items():
                refuse_nan(each, inside(path, name))
        case list() | tuple():
            for at, each in enumerate(value):
                refuse_nan(each, f"{path}[{at}]")
        case float() if not math.isfinite(value):
            raise Permanent(f"the body is no JSON: {path or 'it'} is {value}, which JSON has not")


def inside(path: str, name: object) -> str:
    """Name a place in a tree."""
    return f"{path}.{name}" if path else f"{name}"


def loads(body: bytes, charset: str = "utf-8", *, decimal: type[Decimal] = Decimal) -> Any:
    """Read JSON: a number with a point or an exponent is a Decimal, every other one an int of any size.

    Raises:
        ValueError: it is no JSON (NaN is none), is longer than 1 MiB, nested deeper than 64 levels, names something
            twice, or holds a number of more than 4,300 digits or beyond 10^6144.
    """
    text = decoded(body, charset)
    if depth(text) > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    return json.loads(
        text, parse_float=lambda digits: decimal(number(digits)), parse_constant=refuse, object_pairs_hook=unique
    )


def depth(text: str) -> int:
    """Count the levels of nesting."""
    brackets = re.sub(r"[^][{}]+", "", STRING.sub("", text))
    return max(itertools.accumulate(1 if one in "[{" else -1 for one in brackets), default=0)


def number(text: str) -> Decimal:
    """Read a number with a point or an exponent."""
    if len(text) > 4300 or abs(int(re.split("[eE]", text + "e0")[1])) > EXPONENT:
        raise ValueError(f"it holds a number that is too long: {text[:20]}…")
    return Decimal(text)


def refuse(constant: str) -> None:
    """Refuse what Python takes for JSON."""
    raise ValueError(f"it holds {constant}, which JSON has not")


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it names {twice[:40]!r} twice")
    return found


PLAIN = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=refuse, object_pairs_hook=unique)


def consider(body: bytes) -> None:
    """Pass what a more lenient reader took for JSON.

    Raises:
        ValueError: it names something twice, of which another reader may take the other, or holds NaN.
    """
    PLAIN.decode(body.decode())


FIGURES = bytes.maketrans(b"0123456789.E", b"00000000000e")
LARGE = re.compile(rb"[eE][+-]?[0-9]{3}")
"""In a number: it may be beyond what a float holds."""
TEXTS = re.compile(TEXT.encode(), re.DOTALL)
TOKEN = re.compile(TEXT.encode() + rb"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.DOTALL)


def has_long(body: bytes) -> bool:
    """Say whether a body may hold a number that a float does not: of sixteen digits, or an exponent of three."""
    seen = body.translate(FIGURES, b"+-")
    return b"0000000000000000" in seen or b"0e000" in seen


def exactly(body: bytes, mark: bytes) -> bytes:
    """Write a body's numbers with a point or exponent as texts, marked so, where a float would not hold them."""
    if not has_long(body) or not has_long(TEXTS.sub(b"", body)):  # most are in texts, such as ids
        return body

    def quoted(match: re.Match[bytes]) -> bytes:
        token = match[0]
        digits = len(token.lower().partition(b"e")[0].strip(b"-").replace(b".", b"").lstrip(b"0"))
        rounds = digits > 15 or LARGE.search(token) is not None
        wanted = rounds and token[:1] != b'"' and not token.lstrip(b"-").isdigit()
        return b'"' + mark + token + b'"' if wanted else token

    return TOKEN.sub(quoted, body)
