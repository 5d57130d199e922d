"""A tree of texts, as `formats.xml` reads it, made what JSON of a declared shape would hold.

    class Line(TypedDict):       <line unit="kg">           {"code": "a",
        code: str                  <code>a</code>     ──▶    "pieces": 2,
        pieces: int                <pieces>2</pieces>        "note": None,
        note: str | None         </line>                     "tags": []}
        tags: list[str]

The shape says what text cannot: which element is a number, and which may come several times. So a single element is a
list of one and none an empty list; a value that may be None is None when it is missing or xsi:nil. Attributes and
elements that the shape does not name are left out, in whatever order they come.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict

INTEGER = re.compile(r"[+-]?[0-9]{1,4300}")
DECIMAL = re.compile(r"(?=.{1,4300}$)[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
DOUBLE = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""The lexical forms of XML Schema (XSD 1.1 part 2 §3.3); NaN and the infinities are no numbers here, as in JSON."""
BOOLEAN = {"true": True, "1": True, "false": False, "0": False}
SPACE = " \t\r\n"
"""What XML Schema takes off every value that is no string (XSD 1.1 part 2 §4.3.6)."""


def typed(value: Any, shape: Any, nil: str) -> Any:
    """Give a value of a tree as JSON of this shape has it; what does not fit stays for the shape's validator to refuse.

    `nil` is what the tree calls the attribute xsi:nil.

    Raises:
        TypeError: the shape lets a value be of several types, which text does not tell apart.
    """
    members = get_args(shape) if get_origin(shape) in (Union, UnionType) else (shape,)
    kinds = [member for member in members if member is not NoneType]
    if len(kinds) > 1:
        raise TypeError(f"XML does not tell {' and '.join(map(str, kinds))} apart: a shape has one of them")
    kind: Any = kinds[0] if kinds else NoneType
    if len(kinds) < len(members) and is_none(value, kind, nil):
        return None
    if is_typeddict(kind):
        return record(value, kind, nil)
    if is_many(kind):
        many = value if isinstance(value, list) else [value]
        return [typed(each, inner_of(kind, 0), nil) for each in many]
    if isinstance(origin := get_origin(kind), type) and issubclass(origin, Mapping):
        return {name: typed(each, inner_of(kind, 1), nil) for name, each in named(value).items() if name[0] not in "@#"}
    if kind is Any:
        return value
    return value if (text := text_of(value)) is None else plain(text, kind)


def record(value: Any, kind: Any, nil: str) -> Any:
    """Give the fields of a record that an element has."""
    if isinstance(value, list):
        return value
    hints, needed = fields_of(kind)
    inner = named(value) if "#content" not in hints else value
    found: dict[str, Any] = {}
    for name, hint in hints.items():
        if name in inner:
            found[name] = typed(inner[name], hint, nil)
        elif name in needed and is_many(hint):
            found[name] = []
        elif name in needed and NoneType in get_args(hint):
            found[name] = None
    return found


@functools.cache
def fields_of(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Give the fields of a record and the names of those that it must have."""
    return get_type_hints(kind), kind.__required_keys__


def named(value: Any) -> Mapping[str, Any]:
    """Give what is in an element by its name, also where names alternate or text stands between them."""
    if isinstance(value, str):
        return {"#text": value} if value.strip(SPACE) else {}
    if not isinstance(value, Mapping):
        return {}
    if "#content" not in value:
        return value
    found: dict[str, Any] = {name: each for name, each in value.items() if name != "#content"}
    texts = [one for one in value["#content"] if isinstance(one, str)]
    for one in value["#content"]:
        for name, each in one.items() if isinstance(one, Mapping) else ():
            found.setdefault(name, []).append(each)
    many = {name: each[0] if isinstance(each, list) and len(each) == 1 else each for name, each in found.items()}
    return many | {"#text": "".join(texts)}


def text_of(value: Any) -> str | None:
    """Give the text of an element, whatever attributes it has; None when it has elements, or is several."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and all(name == "#text" or name.startswith("@") for name in value):
        return str(value.get("#text", ""))
    return None


def is_none(value: Any, kind: Any, nil: str) -> bool:
    """Say whether an element stands for None: it says so, or it is empty and its type has no empty text."""
    if isinstance(value, Mapping) and value.get(nil, "").strip(SPACE) in ("true", "1"):
        return True
    return kind is not str and not is_typeddict(kind) and not is_many(kind) and text_of(value) == ""


@functools.cache
def is_many(hint: Any) -> bool:
    """Say whether a type holds several values in order, or in none."""
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Sequence | set | frozenset) and origin not in (str, bytes)


def inner_of(kind: Any, at: int) -> Any:
    """Give the type of what a list or mapping holds, Any when it does not say."""
    inner = get_args(kind)
    return inner[at] if at < len(inner) else Any


def plain(text: str, kind: Any) -> Any:
    """Read a text as a type of JSON; as it is when that has no such text, or when JSON has a text for it too."""
    told = text.strip(SPACE)
    if kind is str:
        return text
    if kind is bool:
        return BOOLEAN.get(told, text)
    if kind is int:
        return int(told) if INTEGER.fullmatch(told) else text
    if kind is float:
        return float(told) if DOUBLE.fullmatch(told) and math.isfinite(float(told)) else text
    if kind is Decimal:
        return told if DECIMAL.fullmatch(told) else ""
    if kind is bytes:
        return "".join(text.split())
    for one in values_of(kind):
        if told == one or (type(one) is int and INTEGER.fullmatch(told) and int(told) == one):
            return one
    return told


def values_of(kind: Any) -> Sequence[Any]:
    """Give the values of which a type is one; none when it is not such a type."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return [each.value for each in kind] if isinstance(kind, type) and issubclass(kind, Enum) else ()
