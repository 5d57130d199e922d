"""What must never leave the process in words: secrets, and what a schema marks as sensitive.

Everything that is logged, stored as a reason or shown goes through here. Nothing of it is called for a delivery that
succeeds.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache, cached_property
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

SECRET = "[secret]"  # noqa: S105 - stands in a secret's place
SENSITIVE = "[sensitive]"
SHORT = 6
"""Characters below which a value is only found where it stands alone: it may well be a part of a word."""
NAMES = re.compile("authorization|cookie|token|secret|password|api[-_]?key", re.IGNORECASE)
"""Names, as of headers, whose values are secrets wherever they come from."""
USERINFO = re.compile(r"(?<=://)(?:[^/\s@:]*:[^/\s]+|[^/?#\s@:]+)(?=@)")
"""The user and password of an address (RFC 3986 §3.2.1), also one with an @ that nobody has encoded.

A user alone is often a token.
"""

CUT = "…"
"""Stands where somebody has cut a text."""
CODE = re.compile(r"%[0-9A-F]{2}|\\\\u[0-9a-f]{4}")
"""A character as a URL or JSON writes it, in an expression."""
ESCAPED = tuple({ord(one): f"\\u{ord(one):04x}" for one in more} for more in ("", "&<>", "&'+<>`"))
"""What encoders of JSON write as codes although they need not: nothing; Go's; .NET's. PHP's writes a slash as `\\/`."""

_secrets: set[str] = set()


def keep_secret(value: str) -> None:
    """Replace this value from now on wherever `redact` meets it."""
    if value.strip() and value not in _secrets:
        _secrets.add(value)
        _finder.cache_clear()


def keep_password(url: str) -> None:
    """Replace the password in an address from now on, as it stands there and decoded."""
    if password := urlsplit(url).password:
        keep_secret(password)
        keep_secret(unquote(password))


def forget_secret(value: str) -> None:
    """Look for a value no more: it has been worth nothing for a while, and there is always a next one."""
    _secrets.discard(value)
    _finder.cache_clear()


def redact(text: str, also: Iterable[str] = ()) -> str:
    """Give a text without secrets; `also` are values that are sensitive in it, found in any case.

    What begins at the very end of the text, or before a `CUT`, is found too: somebody has cut it there.
    """
    found = USERINFO.sub(SECRET, text)
    if _secrets:
        found = _finder().replace(found, SECRET)
    if values := [value for value in also if value.strip()]:
        found = Finder(values, re.IGNORECASE).replace(found, SENSITIVE)
    return found


def redact_data(value: Any, name: str = "") -> Any:
    """Give data without secrets: in texts at any depth, and whatever stands under a name like a secret header's."""
    match value:
        case str() | bytes() if NAMES.search(name):
            return SECRET
        case str():
            return redact(value)
        case Mapping():
            return {key: redact_data(inner, str(key)) for key, inner in value.items()}
        case list() | tuple():
            return [redact_data(inner, name) for inner in value]
        case _:
            return value


def mask(schema: Any, value: Any) -> Any:
    """Give a decoded value with every field hidden that its Avro schema marks with `"sensitive": true`.

    A field that has no value stays as it is: that it is missing may be what somebody looks for.
    """
    return _walk(schema, value, {}, None)


def marked(schema: Any, value: Any) -> list[str]:
    """Give the texts of the fields that `mask` would hide: what `redact` is to look for in what others say of them."""
    found: list[str] = []
    _walk(schema, value, {}, found)
    return found


def has_marks(schema: Any) -> bool:
    """Say whether a schema marks any field, so that there is something for `mask` and `marked` to do."""
    match schema:
        case dict():
            return schema.get("sensitive") is True or any(map(has_marks, schema.values()))
        case list():
            return any(map(has_marks, schema))
        case _:
            return False


def hashed(key: bytes | None) -> str:
    """Name a key without giving it away; "" for none."""
    return "" if key is None else hashlib.blake2b(key, digest_size=6).hexdigest()


class Finder:
    """Finds values in every form they take, the longest first."""

    def __init__(self, values: Iterable[str], flags: int = 0) -> None:
        found = {form for value in values for form in forms(value)}
        self._forms = sorted(found, key=lambda form: (-len(form), form))
        self._folded = [form.casefold() for form in self._forms]
        self._flags = flags
        self._cased = str.lower if flags & re.IGNORECASE else str

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(expression, self._forms)), self._flags)

    def replace(self, text: str, mark: str) -> str:
        """Put a mark in place of what is found."""
        if any(map(text.casefold().__contains__, self._folded)):  # a pattern of so many is slow, and seldom needed
            text = self._pattern.sub(mark, text)
        return CUT.join(self._ended(part, mark) for part in text.split(CUT))

    def _ended(self, text: str, mark: str) -> str:
        """Put a mark in place of what begins at the end of a text."""
        cased = self._cased(text)
        for form in map(self._cased, self._forms):
            begin = cased.rfind(form[:SHORT], max(0, len(cased) - len(form))) if len(form) > SHORT else -1
            if begin >= 0 and form.startswith(cased[begin:]):
                return text[: begin - len(cased)] + mark
        return text


@cache
def _finder() -> Finder:
    """Find every secret there is."""
    return Finder(tuple(_secrets))


def expression(form: str) -> str:
    """Give the expression for one form; the digits of an encoded character may be in any case (RFC 3986 §2.1)."""
    plain = CODE.sub(lambda code: f"(?i:{code[0]})", re.escape(form))
    return plain if len(form) >= SHORT else rf"(?<!\w){plain}(?!\w)"


def forms(value: str) -> Iterator[str]:
    """Give the forms in which a value may stand in a text: as it is, escaped, URL-encoded, in base64, in part."""
    yield value
    yield " ".join(value.split())
    yield from (part for part in value.split() if len(part) >= 2 * SHORT)  # the scheme before it may be missing
    escaped, marked_up = json.dumps(value)[1:-1], html.escape(value)
    yield escaped.replace("/", r"\/")
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield from (escaped.translate(more) for more in ESCAPED)
    yield escaped.replace(r"\"", r"\u0022").translate(ESCAPED[-1])
    yield from (marked_up, html.escape(value, quote=False), marked_up.replace("&#x27;", "&#39;"))
    yield from (quote(value), quote(value, safe=""), quote_plus(value))
    if len(value) >= SHORT:
        raw = value.encode()
        yield from (raw.hex(), raw.hex().upper())
        for text in alignments(raw):
            yield text
            yield text.replace("+", "-").replace("/", "_")


def alignments(raw: bytes) -> Iterator[str]:
    """Give bytes in base64 as they look alone, and inside other bytes, at each of the three places they may begin."""
    alone = base64.b64encode(raw).decode()
    yield from (alone, alone.rstrip("="))
    for before in range(3):
        text = base64.b64encode(bytes(before) + raw).decode()
        first = (0, 2, 3)[before]
        whole = (before + len(raw)) // 3 * 4  # of the last characters some bits are the following bytes'
        rest = (0, 1, 2)[(before + len(raw)) % 3]
        yield text[first : whole + rest]


def _walk(schema: Any, value: Any, named: dict[str, Any], found: list[str] | None) -> Any:
    """Copy a value along its schema with marked fields hidden; with `found`, their texts are put there."""
    match schema:
        case {"type": "record" | "error", "fields": fields}:
            named[short(schema["name"])] = schema
            if not isinstance(value, Mapping):
                return value
            copy = dict(value)
            for field in fields:
                name = field["name"]
                if name not in copy:
                    _learn(field["type"], named)
                elif field.get("sensitive") is True:
                    _learn(field["type"], named)
                    if found is not None and copy[name] != SENSITIVE:
                        found += texts(copy[name])
                    copy[name] = None if copy[name] is None else SENSITIVE
                else:
                    copy[name] = _walk(field["type"], copy[name], named, found)
            return copy
        case {"type": "array", "items": items} if isinstance(value, list):
            return [_walk(items, one, named, found) for one in value]
        case {"type": "map", "values": values} if isinstance(value, Mapping):
            return {key: _walk(values, one, named, found) for key, one in value.items()}
        case list():
            for kind in schema:  # of several records one has marked fields, or none: what all hide is hidden
                value = _walk(kind, value, named, found)
            return value
        case str() if short(schema) in named:
            return _walk(named[short(schema)], value, named, found)
        case {"type": dict() | list() as inner}:
            return _walk(inner, value, named, found)
        case _:
            _learn(schema, named)
            return value


def _learn(schema: Any, named: dict[str, Any]) -> None:
    """Remember the records that a schema defines, for those who name them later."""
    match schema:
        case {"type": "record" | "error", "fields": fields}:
            named[short(schema["name"])] = schema
            for field in fields:
                _learn(field["type"], named)
        case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
            _learn(inner, named)
        case {"type": dict() | list() as inner}:
            _learn(inner, named)
        case list():
            for kind in schema:
                _learn(kind, named)


def short(name: str) -> str:
    """Give a record's name without its namespace, which a definition may inherit and a reference leave out."""
    return name.rpartition(".")[2]


def texts(value: Any) -> Iterator[str]:
    """Give what a sensitive value may look like in somebody's words."""
    match value:
        case None | bool():
            pass
        case Mapping():
            for inner in value.values():
                yield from texts(inner)
        case list() | tuple():
            for inner in value:
                yield from texts(inner)
        case bytes():
            yield value.hex()
            yield value.decode(errors="replace")
        case datetime() | date() | time():
            yield from (value.isoformat(), str(value))
        case Decimal() | int() | float() | str():
            yield str(value)
        case _:
            yield str(value)
