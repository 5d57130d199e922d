"""What one schema wrote and another reads: our judgement, and fastavro's reading as its witness."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trunkline.avro.codec import HEAD, Codec
from trunkline.avro.compat import clashes


def record(*fields: tuple[str, Any] | dict[str, Any], name: str = "R") -> dict[str, Any]:
    made = [field if isinstance(field, dict) else {"name": field[0], "type": field[1]} for field in fields]
    return {"type": "record", "name": name, "fields": made}


def codec(definition: Any) -> Codec:
    return Codec(json.dumps(definition))


MOMENT = {"type": "long", "logicalType": "timestamp-micros"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
CENTS = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
MILLS = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}
RED = {"type": "enum", "name": "Color", "symbols": ["RED", "BLUE"]}
BLUE = {"type": "enum", "name": "Color", "symbols": ["BLUE"]}
LINE = record(("sku", "string"), name="Line")
LONG_LINE = record(("sku", "string"), ("unit", "string"), name="Line")


PAIRS: list[tuple[Any, Any, list[str]]] = [
    (record(("a", "long")), record(("a", "int")), []),
    (record(("a", "int")), record(("a", "long")), ["a is int, and was long"]),
    (record(("a", "string")), record(("b", "string")), ["a is new and has no default"]),
    (record({"name": "a", "type": "string", "aliases": ["b"]}), record(("b", "string")), []),
    (record({"name": "a", "type": "string", "default": ""}), record(("b", "string")), []),
    (record(), record(("a", "string")), []),
    (record(("a", ["null", "string"])), record(("a", "string")), []),
    (record(("a", "string")), record(("a", ["null", "string"])), ["a is string, and was null"]),
    (record(("a", ["null", "long"])), record(("a", "string")), ["a is null or long, and was string"]),
    (
        record(("a", ["null", "bytes", "string"])),
        record(("a", ["null", "string"])),
        ["a would be read as bytes where it was string"],
    ),
    (
        record(("a", ["null", "string", CENTS])),
        record(("a", CENTS)),
        ["a would be read as string where it was bytes (decimal of scale 2)"],
    ),
    (record(("a", ["null", "string", "bytes"])), record(("a", ["null", "string"])), []),
    (record(("a", ["double", "long"])), record(("a", "long")), ["a would be read as double where it was long"]),
    (record(("a", ["long", "double"])), record(("a", ["double", "long"])), []),
    (record(("a", MOMENT)), record(("a", "long")), ["a is long (timestamp-micros), and was long"]),
    (
        record(("a", MOMENT)),
        record(("a", MILLIS)),
        ["a is long (timestamp-micros), and was long (timestamp-millis)"],
    ),
    (
        record(("a", MILLS)),
        record(("a", CENTS)),
        ["a is bytes (decimal of scale 3), and was bytes (decimal of scale 2)"],
    ),
    (record(("a", CENTS | {"precision": 20})), record(("a", CENTS)), []),
    (record(("a", BLUE)), record(("a", RED)), ["a has no RED any more, and no default for it"]),
    (record(("a", RED)), record(("a", BLUE)), []),
    (record(("a", BLUE | {"default": "BLUE"})), record(("a", RED)), []),
    (
        record(("a", {"type": "array", "items": LONG_LINE})),
        record(("a", {"type": "array", "items": LINE})),
        ["unit is new and has no default"],
    ),
    (
        record(("a", {"type": "map", "values": "int"})),
        record(("a", {"type": "map", "values": "string"})),
        ["a is int, and was string"],
    ),
    (
        record(("a", {"type": "fixed", "name": "F", "size": 3})),
        record(("a", {"type": "fixed", "name": "F", "size": 2})),
        ["a has 3 bytes, and had 2"],
    ),
    (record(("a", "bytes")), record(("a", "string")), []),
    (record(("a", "string")), record(("a", "bytes")), ["a is string, and was bytes"]),
    (record(name="S"), record(), ["the record is record S, and was record R"]),
    (record(name="S") | {"aliases": ["R"]}, record(), []),
    (record(name="x.R"), record(name="y.R"), []),
]


@pytest.mark.parametrize(("newer", "older", "told"), PAIRS)
def test_every_reason_is_named_with_its_field(newer: Any, older: Any, told: list[str]) -> None:
    assert [str(clash) for clash in clashes(codec(newer), codec(older))] == told


PLAIN = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**53), 2**53),
    "double": st.floats(allow_nan=False),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "bytes": st.binary(max_size=5),
    "boolean": st.booleans(),
    "null": st.none(),
}


def types(depth: int = 2) -> st.SearchStrategy[Any]:
    plain = st.sampled_from(sorted(PLAIN.keys() - {"null"}))
    if depth == 0:
        return plain
    inner = types(depth - 1)
    return st.one_of(
        plain,
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda values: {"type": "map", "values": values}, inner),
        st.lists(st.sampled_from(["null", "int", "string", "double"]), min_size=1, max_size=3, unique=True),
        st.builds(
            lambda kinds: record(*enumerate_names(kinds), name=f"Inner{depth}"), st.lists(inner, min_size=1, max_size=2)
        ),
    )


def enumerate_names(kinds: list[Any]) -> list[tuple[str, Any]]:
    return [(f"f{at}", kind) for at, kind in enumerate(kinds)]


def values(schema: Any) -> st.SearchStrategy[Any]:
    match schema:
        case list():
            return st.one_of(*map(values, schema))
        case {"type": "array", "items": items}:
            return st.lists(values(items), max_size=2)
        case {"type": "map", "values": inner}:
            return st.dictionaries(PLAIN["string"], values(inner), max_size=2)
        case {"type": "record", "fields": fields}:
            return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in fields})
    return PLAIN[schema]


def unnamed(kinds: Any, level: int = 0) -> Any:
    """Give every inner record a name of its own."""
    made = copy.deepcopy(kinds)
    count = 0

    def name(schema: Any) -> None:
        nonlocal count
        match schema:
            case {"type": "record", "fields": fields}:
                count += 1
                schema["name"] = f"N{level}_{count}" if schema["name"] != "R" else "R"
                for field in fields:
                    name(field["type"])
            case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
                name(inner)

    name(made)
    return made


def evolved(schema: Any, data: st.DataObject) -> Any:
    """Change a schema as people do: widen, allow null, drop a field, add one."""
    match schema:
        case {"type": "array", "items": items}:
            return {"type": "array", "items": evolved(items, data)}
        case {"type": "map", "values": inner}:
            return {"type": "map", "values": evolved(inner, data)}
        case {"type": "record", "name": name, "fields": fields}:
            kept = [field | {"type": evolved(field["type"], data)} for field in fields if data.draw(st.booleans())]
            added = {"name": "more", "type": "string"} | data.draw(st.sampled_from([{}, {"default": "x"}]))
            return {"type": "record", "name": name, "fields": [*kept, added]}
        case list():
            return data.draw(
                st.sampled_from([schema, [*schema, "boolean"], next((one for one in schema if one != "null"), schema)])
            )
    return data.draw(st.sampled_from([schema, ["null", schema], *{"int": ["long", "double"]}.get(schema, ["string"])]))


@settings(max_examples=400, deadline=None)
@given(st.lists(types(), min_size=1, max_size=3), st.data())
def test_what_does_not_clash_is_read_by_fastavro(kinds: list[Any], data: st.DataObject) -> None:
    older = codec(unnamed(record(*enumerate_names(kinds))))
    definition = json.loads(json.dumps(older.schema))
    newer = codec({name: value for name, value in evolved(definition, data).items() if not name.startswith("__")})
    value = data.draw(values(older.schema))
    body = older.encode(value, 1)[HEAD:]
    if clashes(newer, older):
        return
    read = older.decode(body, newer)
    assert newer.decode(newer.encode(read, 1)[HEAD:]) == read
