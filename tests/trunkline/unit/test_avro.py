import ast
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from trunkline import Permanent, Poison
from trunkline.avro import types
from trunkline.avro.codec import HEAD, Codec, split
from trunkline.avro.files import canonical, fingerprint, read, released, schema_of
from trunkline.errors import UsageError

EVERYTHING: dict[str, Any] = {
    "type": "record",
    "name": "Everything",
    "namespace": "tests",
    "doc": 'Every kind of field, "quoted" and \\ escaped.',
    "fields": [
        {"name": "flag", "type": "boolean"},
        {"name": "small", "type": "int"},
        {"name": "large", "type": "long"},
        {"name": "real", "type": "double"},
        {"name": "raw", "type": "bytes"},
        {"name": "text", "type": "string"},
        {"name": "maybe", "type": ["null", "string"], "default": None},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
        {"name": "color", "type": {"type": "enum", "name": "Color", "symbols": ["RED", "BLUE"]}},
        {"name": "other_color", "type": "tests.Color"},
        {"name": "code", "type": {"type": "fixed", "name": "Code", "size": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "seen", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": None},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "hour", "type": {"type": "long", "logicalType": "time-micros"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "number", "type": {"type": "string", "logicalType": "uuid"}},
        {
            "name": "parts",
            "type": {
                "type": "array",
                "items": {"type": "record", "name": "Part", "fields": [{"name": "weight", "type": "long"}]},
            },
        },
        {"name": "spare", "type": ["null", "Part"], "default": None},
    ],
}
CODEC = Codec(canonical(EVERYTHING))

longs = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
parts = st.fixed_dictionaries({"weight": longs})
times = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - in UTC
records = st.fixed_dictionaries(
    {
        "flag": st.booleans(),
        "small": st.integers(-(2**31), 2**31 - 1),
        "large": longs,
        "real": st.floats(allow_nan=False),
        "raw": st.binary(),
        "text": texts,
        "maybe": st.none() | texts,
        "tags": st.lists(texts, max_size=3),
        "counts": st.dictionaries(texts, longs, max_size=3),
        "color": st.sampled_from(["RED", "BLUE"]),
        "other_color": st.sampled_from(["RED", "BLUE"]),
        "code": st.binary(min_size=2, max_size=2),
        "at": times,
        "seen": st.none() | times.map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)),
        "day": st.dates(),
        "hour": st.times(),
        "price": st.decimals(Decimal("-9999999999.99"), Decimal("9999999999.99"), places=2),
        "number": st.uuids(),
        "parts": st.lists(parts, max_size=3),
        "spare": st.none() | parts,
    }
)
ONE: dict[str, Any] = {
    "flag": True,
    "small": 1,
    "large": 2,
    "real": 0.5,
    "raw": b"\x00",
    "text": "x",
    "maybe": None,
    "tags": [],
    "counts": {},
    "color": "RED",
    "other_color": "BLUE",
    "code": b"ab",
    "at": datetime(2026, 7, 1, 12, tzinfo=UTC),
    "seen": None,
    "day": date(2026, 7, 1),
    "hour": time(12, 30),
    "price": Decimal("1.50"),
    "number": UUID(int=7),
    "parts": [{"weight": 3}],
    "spare": None,
}


@given(records, st.integers(0, 2**31 - 1))
def test_a_record_comes_back_as_it_went(record: dict[str, Any], schema_id: int) -> None:
    value = CODEC.encode(record, schema_id)
    number, body = split(value)
    assert number == schema_id
    assert CODEC.decode(body) == record


def test_the_form_is_confluents() -> None:
    codec = Codec(json.dumps({"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}))
    assert codec.encode({"n": -2}, 258) == b"\x00\x00\x00\x01\x02\x03"


@pytest.mark.parametrize("value", [None, b"", b"\x00", b"\x00\x00\x00\x01", b"\x01\x00\x00\x00\x01\x03", b'{"n": 1}'])
def test_another_form_is_poison(value: bytes | None) -> None:
    with pytest.raises(Poison):
        split(value)


def test_bytes_left_over_are_poison() -> None:
    body = CODEC.encode(ONE, 1)[HEAD:]
    with pytest.raises(Poison, match="1 bytes are left over"):
        CODEC.decode(body + b"\x00")


def test_a_body_cut_short_is_poison() -> None:
    body = CODEC.encode(ONE, 1)[HEAD:]
    for length in range(len(body)):
        with pytest.raises(Poison):
            CODEC.decode(body[:length])


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(body: bytes) -> None:
    try:
        CODEC.decode(body)
    except Poison as error:
        assert str(error)  # noqa: PT017 - either a record or this


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"large": 2**63},
        {"large": "2"},
        {"large": None},
        {"text": 7},
        {"text": "\ud800"},
        {"color": "GREEN"},
        {"code": b"abc"},
        {"price": Decimal("1.501")},
        {"price": Decimal("99999999999.99")},
        {"price": Decimal("NaN")},
        {"price": 1.5},
        {"price": "1.50"},
        {"price": Decimal("1E+11")},
        {"large": 2.5},
        {"large": Decimal("1.25")},
        {"large": True},
        {"small": 2**31},
        {"flag": "no"},
        {"flag": 1},
        {"real": Decimal("1.5")},
        {"real": 2**53 + 1},
        {"tags": "abc"},
        {"at": datetime(2026, 7, 1, 12)},  # noqa: DTZ001 - refused for having no offset
        {"seen": datetime(2026, 7, 1, 12, 0, 0, 1, tzinfo=UTC)},
        {"day": datetime(2026, 7, 1, tzinfo=UTC)},
        {"hour": time(12, tzinfo=UTC)},
        {"number": "no UUID"},
        {"at": "2026-07-01"},
        {"tags": [None]},
        {"counts": {1: 2}},
        {"parts": [{}]},
        {"parts": [{"weight": 3, "unknown": 4}]},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    [field] = change
    with pytest.raises(
        Permanent, match=rf"does not fit its schema: {field}(\[0\])?(\.\w+)?: (a|an|no|missing|3 bytes)\b"
    ):
        CODEC.encode({**ONE, **change}, 1)


CARD = "4111-1111"
PAIR = {"type": "record", "name": "Pair", "fields": [{"name": "left", "type": "int"}]}


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (["null", "long"], CARD, "card: a str is no null or long"),
        (["null", PAIR], {"left": CARD}, "card.left: a str is no integer"),
        (["null", PAIR], {CARD: 1}, "card.left: missing, and it has no default"),
        ({"type": "enum", "name": "State", "symbols": ["NEW", "OLD"]}, CARD, "card: a str that is none of NEW, OLD"),
        ({"type": "array", "items": {"type": "array", "items": PAIR}}, [[], [{"left": CARD}]],
         "card[1][0].left: a str is no integer"),
        ({"type": "map", "values": PAIR}, {CARD: {"left": "x"}}, "card[…].left: a str is no integer"),
        ({"type": "fixed", "name": "Two", "size": 2}, CARD.encode(), "card: 9 bytes where there are 2"),
        ("long", 4111_1111 << 64, "card: an integer of more than 64 bits"),
        ("string", f"{CARD}\ud800", "card: a text with half of a surrogate pair"),
        (PAIR, CARD, "card: a str is no record"),
        ({"type": "fixed", "name": "Id", "size": 16, "logicalType": "uuid"}, CARD, "card: a str is no bytes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_by_its_path_and_without_its_value(kind: Any, value: Any, told: str) -> None:
    codec = Codec(json.dumps({"type": "record", "name": "R", "fields": [{"name": "card", "type": kind}]}))
    with pytest.raises(Permanent) as refused:
        codec.encode({"card": value}, 1)
    assert str(refused.value) == f"the record does not fit its schema: {told}"


def test_a_field_without_default_must_be_there_and_one_with_default_need_not() -> None:
    with pytest.raises(Permanent):
        CODEC.encode({name: value for name, value in ONE.items() if name != "text"}, 1)
    value = CODEC.encode({name: value for name, value in ONE.items() if name != "maybe"}, 1)
    assert CODEC.decode(value[HEAD:])["maybe"] is None


def test_an_older_record_is_read_as_the_newer_schema() -> None:
    older = Codec('{"type": "record", "name": "R", "fields": [{"name": "n", "type": "int"}]}')
    fields = [{"name": "n", "type": "long"}, {"name": "unit", "type": "string", "default": "kg"}]
    newer = Codec(json.dumps({"type": "record", "name": "R", "fields": fields}))
    assert older.decode(older.encode({"n": 3}, 1)[HEAD:], newer) == {"n": 3, "unit": "kg"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "7",
        '{"type": "record"}',
        '{"type": "record", "name": "R", "fields": 7}',
        '{"type": "record", "name": "R", "fields": [{"name": "n"}]}',
        '{"type": "record", "name": "R", "fields": [{"name": "n", "type": "texts"}]}',
        '{"type": "record", "name": "R", "fields": [7]}',
    ],
)
def test_what_is_no_schema_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="not an Avro schema"):
        Codec(text)


# Files.


def write(folder: Path, name: str, definition: object) -> Path:
    path = folder / name
    path.write_text(definition if isinstance(definition, str) else json.dumps(definition))
    return path


def test_a_file_says_its_names(tmp_path: Path) -> None:
    schema = read(write(tmp_path, "order_placed.v2.avsc", {**EVERYTHING, "name": "OrderPlaced"}))
    assert (schema.name, schema.version) == ("order_placed", 2)
    assert schema.type_name == "OrderPlacedV2"
    assert schema.event_type == "tests.OrderPlaced.v2"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("order.avsc", {}, "named <name>.v<N>.avsc"),
        ("Order.v1.avsc", {}, "named <name>.v<N>.avsc"),
        ("order.v0.avsc", {}, "named <name>.v<N>.avsc"),
        ("order.v1.avsc", "{", "no JSON"),
        ("order.v1.avsc", [], '"type": "record"'),
        ("order.v1.avsc", {"type": "enum", "name": "E"}, '"type": "record"'),
        ("order.v1.avsc", {"type": "record"}, '"type": "record"'),
    ],
)
def test_a_wrong_file_is_told_by_its_name(tmp_path: Path, name: str, content: object, told: str) -> None:
    with pytest.raises(UsageError, match=told) as error:
        read(write(tmp_path, name, content))
    assert f"{tmp_path.name}/{name}" in str(error.value)


def test_schemas_are_listed_by_name_and_version(tmp_path: Path) -> None:
    for name in ("b.v10.avsc", "b.v9.avsc", "a.v1.avsc"):
        write(tmp_path, name, {"type": "record", "name": "R", "fields": []})
    assert [schema.path.name for schema in released(tmp_path)] == ["a.v1.avsc", "b.v9.avsc", "b.v10.avsc"]


def test_equal_definitions_have_one_fingerprint() -> None:
    some, other = {"type": "record", "name": "R"}, {"name": "R", "type": "record"}
    assert fingerprint(canonical(some)) == fingerprint(canonical(other))
    assert len(fingerprint("{}")) == 32


@pytest.mark.parametrize("record", [dict, int, Permanent, Mapping])
def test_a_type_nobody_generated_has_no_schema(record: type) -> None:
    with pytest.raises(UsageError, match="no generated record type"):
        schema_of(record)


# Types.


@pytest.fixture
def generated(tmp_path: Path) -> Iterator[ModuleType]:
    write(tmp_path, "everything.v1.avsc", EVERYTHING)
    path = write(tmp_path, "__init__.py", types.module(released(tmp_path)))
    spec = importlib.util.spec_from_file_location("generated_everything", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_generated_types_are_what_the_codec_reads(generated: ModuleType) -> None:
    record = CODEC.decode(CODEC.encode(ONE, 1)[HEAD:])
    assert TypeAdapter(generated.EverythingV1).validate_python(record, strict=True) == ONE


def test_a_generated_type_finds_its_schema(generated: ModuleType) -> None:
    assert schema_of(generated.EverythingV1).definition == EVERYTHING
    with pytest.raises(UsageError, match=r"PartV1: there is no part\.v1\.avsc"):
        schema_of(generated.PartV1)


def test_generated_types_are_exported_and_documented(generated: ModuleType) -> None:
    assert generated.__all__ == ["EverythingV1", "PartV1"]
    assert generated.EverythingV1.__doc__ == "Every kind of field, 'quoted' and \\ escaped."
    assert list(generated.EverythingV1.__annotations__) == [field["name"] for field in EVERYTHING["fields"]]


def test_the_same_schemas_give_the_same_text(tmp_path: Path) -> None:
    write(tmp_path, "everything.v1.avsc", EVERYTHING)
    text = types.module(released(tmp_path))
    assert text == types.module(released(tmp_path))
    ast.parse(text)


def field(name: str, kind: object) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": kind}]}


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        (field("from", "string"), "from is a word of Python"),
        (field("n", "Nothing"), "no type that Trunkline knows"),
        (field("a b", "string"), '"a b" is no name of a field'),
        (field("größe", "string"), '"größe" is no name of a field'),
        (field("__own", "string"), '"__own" is no name of a field'),
        (field("n", "long") | {"fields": [{"name": "n", "type": "long"}] * 2}, "R has 2 fields n; keep 1"),
        (field("n", ["null", ["null", "long"]]), "union inside a union is no Avro"),
        (field("n", ["string", {"type": "string", "logicalType": "uuid"}]), "string twice in a union is no Avro"),
    ],
)
def test_what_cannot_be_a_type_is_told(tmp_path: Path, definition: object, told: str) -> None:
    write(tmp_path, "r.v1.avsc", definition)
    with pytest.raises(UsageError, match=told):
        types.module(released(tmp_path))


MONEY = {"type": "fixed", "name": "Money", "size": 8, "logicalType": "decimal", "precision": 10, "scale": 2}


@pytest.mark.parametrize(
    ("kinds", "values"),
    [
        ([{"type": "long", "logicalType": "local-timestamp-millis"}], [datetime(2026, 7, 1, 12)]),  # noqa: DTZ001
        ([{"type": "long", "logicalType": "local-timestamp-micros"}], [datetime(2026, 7, 1, 12)]),  # noqa: DTZ001
        ([MONEY, "Money"], [Decimal("1.20"), Decimal("-3.40")]),
        ([{"type": "int", "logicalType": "timestamp-millis"}], [7]),
        ([{"type": "string", "logicalType": "decimal"}], ["7"]),
        ([{"type": "fixed", "name": "Id", "size": 2, "logicalType": "uuid"}, "Id"], [b"ab", b"cd"]),
        ([{"type": "long", "logicalType": "timestamp-nanos"}], [7]),
    ],
)
def test_types_say_what_values_are(tmp_path: Path, kinds: list[Any], values: list[Any]) -> None:
    fields = [{"name": f"f{number}", "type": kind} for number, kind in enumerate(kinds)]
    write(tmp_path, "r.v1.avsc", {"type": "record", "name": "R", "fields": fields})
    codec, given = Codec((tmp_path / "r.v1.avsc").read_text()), {f"f{n}": value for n, value in enumerate(values)}
    read = codec.decode(codec.encode(given, 1)[HEAD:])
    assert read == given
    made: dict[str, Any] = {}
    exec(types.module(released(tmp_path)), made)  # noqa: S102 - what is written there is what is tested
    assert TypeAdapter(made["RV1"]).validate_python(read, strict=True) == given


def test_one_name_for_two_inner_records_is_told(tmp_path: Path) -> None:
    for name, kind in (("some", "string"), ("other", "long")):
        inner = {"type": "record", "name": "Line", "fields": [{"name": "n", "type": kind}]}
        write(tmp_path, f"{name}.v1.avsc", {**field("line", inner), "name": name})
    with pytest.raises(UsageError, match="LineV1 is defined differently"):
        types.module(released(tmp_path))


def test_fastavro_agrees() -> None:
    value = CODEC.encode(ONE, 1)
    parsed = fastavro.parse_schema(json.loads(json.dumps(EVERYTHING)))
    assert CODEC.schema == parsed
    assert len(value) > HEAD
    assert CODEC.decode(value[HEAD:])["at"] - ONE["at"] == timedelta(0)
