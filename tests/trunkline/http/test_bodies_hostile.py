"""What a hostile target answers is refused before it costs anything: 250 ms of CPU and 64 MiB, counted by the system.

Bodies are larger here than a transport keeps of any: the bounds are the readers' own.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline.spent import costs
from trunkline.errors import Unknown
from trunkline.responses import Response

MIB = 1024 * 1024
LAUGHS = b"<!DOCTYPE l [<!ENTITY l0 'lol'>" + b"".join(
    b"<!ENTITY l%d '%s'>" % (level, b"&l%d;" % (level - 1) * 10) for level in range(1, 20)
)
SECRET = Path(__file__).resolve().as_uri().encode()
"""A file that may not be read."""


def full(begin: bytes, middle: bytes, end: bytes = b"") -> bytes:
    """Give a body of the most bytes that are read, filled up with its middle."""
    return begin + middle * ((MIB - len(begin) - len(end)) // len(middle)) + end


XML: dict[str, bytes] = {
    "a billion laughs": LAUGHS + b"]><a>&l19;</a>",
    "a billion laughs in an attribute": LAUGHS + b"]><a b='&l19;'/>",
    "a billion laughs in UTF-16": (LAUGHS + b"]><a>&l19;</a>").decode().encode("utf-16"),
    "a DTD in UTF-7": b"<?xml version='1.0' encoding='UTF-7'?>+ADwAIQ-DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
    "quadratic laughs": full(b"<!DOCTYPE a [<!ENTITY x '" + b"x" * 50_000 + b"'>]><a>", b"&x;", b"</a>"),
    "a file": b"<!DOCTYPE a [<!ENTITY x SYSTEM '" + SECRET + b"'>]><a>&x;</a>",
    "a DTD of a network": b"<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x.dtd'><a/>",
    "a parameter entity": b"<!DOCTYPE a [<!ENTITY % x SYSTEM 'http://127.0.0.1:9/x'>%x;]><a/>",
    "an endless DTD": full(b"<!DOCTYPE a [", b"<!ENTITY x 'y'>"),
    "an entity that nobody declared": b"<a>&x;</a>",
    "depth": b"<a>" * 1_000_000,
    "depth within the size": full(b"", b"<a>"),
    "65 levels": b"<a>" * 65 + b"</a>" * 65,
    "width": full(b"<a>", b"<b/>", b"</a>"),
    "attributes": b"<a " + b" ".join(b'b%d=""' % number for number in range(90_000)) + b"/>",
    "namespaces": b"<a " + b" ".join(b'xmlns:b%d="x"' % number for number in range(60_000)) + b"/>",
    "a long name": full(b"<", b"a", b"/>"),
    "processing instructions that never end": full(b"<?x ", b"y"),
    "unclosed comments": full(b"<a>", b"<!--"),
    "nothing": b"",
    "half a document": b"<a><b></b>",
    "no characters": b"<a>\x00\x01</a>",
    "numbers of no characters": b"<a>&#0;&#xFFFF;</a>",
    "two roots": b"<a/><b/>",
    "invalid UTF-8": b"<a>\xff\xfe</a>",
    "more than is read": b"<a>" + b"x" * 2 * MIB + b"</a>",
}
JSON: dict[str, bytes] = {
    "depth": b"[" * 1_000_000,
    "depth of objects": full(b"", b'{"a":'),
    "unclosed strings": full(b"", b'"\\'),
    "quotes": full(b"", b'\\"'),
    "a long number": full(b"", b"9"),
    "a long fraction": full(b"0.", b"9"),
    "a large exponent": b"1e999999999",
    "a long exponent": full(b"1e", b"9"),
    "names twice": b'{"a":1,"a":2}',
    "an infinity": b"[1, Infinity]",
    "invalid UTF-8": b'"\xc0\x80"',
    "UTF-32": json.dumps({"a": 1}).encode("utf-32"),
    "nothing": b"",
    "more than is read": b"[" + b"1," * MIB + b"1]",
    "spaces": full(b"", b" "),
    "brackets": full(b"", b"[]"),
}
FORM: dict[str, bytes] = {
    "fields": full(b"a=1", b"&a=1"),
    "escapes": full(b"a=", b"%FF"),
    "a field without a value": full(b"", b"a&"),
    "more than is read": b"a=" + b"x" * 2 * MIB,
}
READERS: dict[str, Callable[[Response], Any]] = {"xml": Response.xml, "json": Response.json, "form": Response.form}
BODIES = {"xml": XML, "json": JSON, "form": FORM}
CASES = [(kind, name) for kind, bodies in BODIES.items() for name in bodies]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_hostile_body_is_refused(kind: str, name: str) -> None:
    with pytest.raises(Unknown, match=r"^answered 200, and its body cannot be read: ") as error:
        READERS[kind](Response(200, body=BODIES[kind][name]))
    assert len(str(error.value)) < 300
    assert "test_bodies" not in str(error.value), "nothing of a file is in it"


DEAREST = [
    ("xml", "a billion laughs"),
    ("xml", "quadratic laughs"),
    ("xml", "an endless DTD"),
    ("xml", "depth"),
    ("xml", "width"),
    ("xml", "attributes"),
    ("xml", "namespaces"),
    ("xml", "unclosed comments"),
    ("json", "depth"),
    ("json", "unclosed strings"),
    ("json", "a long number"),
    ("json", "brackets"),
    ("form", "escapes"),
    ("form", "fields"),
]


def works() -> dict[str, Callable[[], None]]:
    """Give what reads each of the dearest, after what is only done once."""
    for kind, body in {"xml": b"<a/>", "json": b"{}", "form": b"a=1"}.items():
        READERS[kind](Response(200, body=body))
    return {f"{kind}: {name}": partial(read, kind, name) for kind, name in DEAREST}


def read(kind: str, name: str) -> None:
    with suppress(Unknown):
        READERS[kind](Response(200, body=BODIES[kind][name]))
        raise AssertionError("it was read")


def test_what_hostile_bodies_cost() -> None:
    found = costs(__name__)
    assert len(found) == len(DEAREST)
    assert {name: cost for name, cost in found.items() if not (cost[0] < 0.25 and cost[1] < 64 * MIB)} == {}
