"""Schemas and bodies that end, freeze or swamp whoever reads them with fastavro alone (faults 43 and 44)."""

import json
import subprocess
import sys
import time
from typing import Any

import fastavro
import pytest

from trunkline import Poison
from trunkline.avro.codec import HEAD, Codec
from trunkline.avro.limits import LARGEST
from trunkline.errors import UsageError


def record(kind: object, name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": "a", "type": kind}]}


def number(value: int) -> bytes:
    """Write a whole number as Avro does."""
    rest, raw = (value << 1) ^ (value >> 63), b""
    while rest & ~0x7F:
        raw += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return raw + bytes([rest])


def nested(levels: int) -> Any:
    kind: Any = "long"
    for _ in range(levels):
        kind = {"type": "array", "items": kind}
    return record(kind)


def doubling(levels: int) -> Any:
    """Define a record of two records of two records …: 2^levels values, and a body of no byte."""
    kind: Any = record("null", "L0")
    for level in range(1, levels + 1):
        inner = [{"name": "a", "type": kind}, {"name": "b", "type": kind["name"]}]
        kind = {"type": "record", "name": f"L{level}", "fields": inner}
    return kind


def chain(levels: int) -> Any:
    """Define records in one another around a single byte."""
    kind: Any = "boolean"
    for level in range(levels):
        kind = record(kind, f"C{level}")
    return record({"type": "array", "items": kind})


def text_of_nested(levels: int) -> str:
    """Write what json.dumps is not deep enough for."""
    opened, closed = '{"type":"array","items":', "}"
    return (
        '{"type":"record","name":"R","fields":[{"name":"a","type":'
        + opened * levels
        + '"long"'
        + closed * levels
        + "}]}"
    )


RECURSIVE = record({"type": "array", "items": "R"})
MUTUAL = record(["null", record(["null", "R"], "S")])


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        (RECURSIVE, "recursive: R is inside itself"),
        (MUTUAL, "recursive: R is inside itself"),
        (record(["null", "R"]), "recursive"),
        (nested(33), "nested deeper than 32 levels"),
        (text_of_nested(5_000), "nested deeper"),
        (record({"type": "array", "items": "null"}), "items that take no byte"),
        (record({"type": "array", "items": record([], "E") | {"fields": []}}), "items that take no byte"),
        (record({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}), "items that take no byte"),
        (record({"type": "array", "items": record("null", "N")}), "items that take no byte"),
        (chain(20), "more than 8 values of a byte"),
        (doubling(20), "wider than 10,000 values"),
        (record("string") | {"doc": "x" * LARGEST}, "larger than 256 KiB"),
        (record("string") | {"__fastavro_parsed__": True}, "it has a __fastavro_parsed__"),
        ({"__fastavro_parsed__": True, "__named_schemas": {}, "type": "record"}, "it has a __fastavro_parsed__"),
        (record({"type": "bytes", "logicalType": "decimal", "precision": 10**6, "scale": 0}), "longer than 6144"),
        (record({"type": "int", "default": "x"}) | {"fields": [{"name": "a", "type": "bytes", "default": "ĳ"}]}, "not"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schema_that_is_dangerous_to_read_with_is_refused(definition: Any, told: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError, match=told):
        Codec(json.dumps(definition) if not isinstance(definition, str) else definition)
    assert time.process_time() - began < 5, "it was refused, but only after it had been worked with"


def test_what_is_as_deep_and_as_wide_as_allowed_is_read() -> None:
    codec = Codec(json.dumps(nested(31)))
    value: Any = 7
    for _ in range(31):
        value = [value]
    assert codec.decode(codec.encode({"a": value}, 1)[HEAD:]) == {"a": value}
    Codec(json.dumps(doubling(10)))
    Codec(json.dumps(record({"type": "map", "values": "null"})))


BODIES: dict[str, tuple[Any, bytes]] = {
    "seventy bytes left over": (record("long"), number(7) + b"\0" * 70),
    "cut short": (record("string"), number(7) + b"abc"),
    "a length below zero": (record("string"), number(-1) + b"abc"),
    "a length beyond everything": (record("bytes"), number(2**62) + b"abc"),
    "a count beyond everything": (record({"type": "array", "items": "long"}), number(2**62) + b"\2"),
    "a count below zero": (record({"type": "array", "items": "long"}), number(-(2**63)) + b"\2"),
    "no such member of the union": (record(["null", "string"]), number(5)),
    "no such symbol": (record({"type": "enum", "name": "E", "symbols": ["A"]}), number(9)),
    "no UTF-8": (record("string"), number(2) + b"\xff\xff"),
    "no end of a number": (record("long"), b"\xff" * 40),
    "a moment after the end of time": (record({"type": "long", "logicalType": "timestamp-micros"}), number(2**62)),
    "a time of no day": (record({"type": "long", "logicalType": "time-micros"}), number(86_400_000_000)),
    "no UUID": (record({"type": "string", "logicalType": "uuid"}), number(3) + b"abc"),
    "a decimal of 900 kB": (
        record({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}),
        number(900_000) + b"\x7f" * 900_000,
    ),
    "a decimal longer than its precision": (
        record({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 0}),
        number(1) + b"\x7f",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_poison_at_once(name: str) -> None:
    definition, body = BODIES[name]
    began = time.process_time()
    with pytest.raises(Poison):
        Codec(json.dumps(definition)).decode(body)
    assert time.process_time() - began < 5, "it kept its reader busy"


def test_fastavro_alone_does_not_survive_it() -> None:
    """Make sure that the danger is real: what we refuse ends a process that only has fastavro."""
    code = "import fastavro, io, sys; fastavro.schemaless_reader(io.BytesIO(b'\\2' * 50_000), {definition!r}, None)"
    command = [sys.executable, "-c", code.format(definition=RECURSIVE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode < 0, f"it raised instead of crashing: {done.stderr[-300:]}"


def test_fastavro_agrees_on_the_form_of_what_is_read() -> None:
    definition = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}
    assert Codec(json.dumps(definition)).schema == fastavro.parse_schema(definition)
