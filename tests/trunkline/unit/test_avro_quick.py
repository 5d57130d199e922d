"""Values written quickly have the bytes that fastavro gives them, and what does not fit is refused in its words."""

import json
from collections import UserDict
from datetime import UTC, date, datetime, time
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trunkline.unit.test_avro import EVERYTHING, ONE, longs, records, texts
from trunkline import Permanent
from trunkline.avro.codec import Codec
from trunkline.avro.quick import NOT_TAKEN, varint

QUICK, SLOW = Codec(json.dumps(EVERYTHING)), Codec(json.dumps(EVERYTHING))
SLOW._quick = {}.__getitem__  # it takes nothing: fastavro writes everything
MISFITS = st.one_of(
    *(st.none(), st.booleans(), longs, st.integers(2**63), st.floats(), texts, st.binary(max_size=3), st.dates()),
    *(st.datetimes(), st.times(), st.decimals(), st.uuids(), st.just("\ud800"), st.just(bytearray(b"ab"))),
    *(st.lists(longs | texts, max_size=2), st.tuples(texts), st.dictionaries(texts, longs | texts, max_size=2)),
)

EDGES: list[Any] = [
    *(None, True, 0, -1, 63, 64, 1023, 1024, 8191, 8192, 0.5, float("nan"), float("inf"), -0.0, 1e300, 10**400),
    *(sign * 2**bits + more for bits in (31, 53, 63, 64) for sign in (1, -1) for more in (-1, 0, 1)),
    *("", "RED", "GREEN", "é" * 600, "\ud800", b"", b"ab", b"abc", b"\0" * 1024, bytearray(b"ab"), memoryview(b"ab")),
    *(date(2026, 7, 1), datetime(2026, 7, 1), datetime(2026, 7, 1, 0, 0, 0, 1, UTC), datetime(1, 1, 1, tzinfo=UTC)),  # noqa: DTZ001
    *(time(1), time(1, tzinfo=UTC), Decimal("1.5"), Decimal("1.555"), Decimal("NaN"), Decimal(10**12), UUID(int=1)),
    *(
        [],
        ["x"],
        [None],
        ("x",),
        {},
        {"x": 1},
        {"x": "y"},
        {1: 1},
        [{"weight": 1}],
        {"weight": 1},
        {"weight": 1, "x": 1},
    ),
    *({"weight": 2**63}, MappingProxyType({"weight": 1}), object(), UserDict(weight=1), {"-type": "Part", "weight": 1}),
]


def said(codec: Codec, value: Any) -> bytes | str:
    try:
        return codec.encode(value, 7)
    except Permanent as refused:
        return str(refused)


@settings(max_examples=200, deadline=None)
@given(record=records)
def test_what_fits_is_written_quickly_and_as_fastavro_does(record: dict[str, Any]) -> None:
    assert b"\0\0\0\0\7" + QUICK._quick(record) == SLOW.encode(record, 7)


@pytest.mark.parametrize("name", [*ONE, "unknown"])
def test_at_every_edge_a_field_is_written_or_refused_as_fastavro_does(name: str) -> None:
    for value in EDGES:
        record = {**ONE, name: value}
        assert said(QUICK, record) == said(SLOW, record), value


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from([*ONE, "unknown"]), value=MISFITS)
def test_whatever_a_field_is_given_is_written_or_refused_as_fastavro_does(name: str, value: Any) -> None:
    record = {**ONE, name: value}
    assert said(QUICK, record) == said(SLOW, record)


@given(name=st.sampled_from([*ONE]))
def test_a_field_that_is_not_there_has_its_default_or_is_refused(name: str) -> None:
    record = {field: value for field, value in ONE.items() if field != name}
    assert said(QUICK, record) == said(SLOW, record)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"]},
        {"type": ["null", {"type": "array", "items": ["null", "long"]}]},
        {"type": {"type": "map", "values": {"type": "array", "items": "double"}}},
        {"type": ["null", "string", "long"]},
        {"type": {"type": "record", "name": "Inner", "fields": [{"name": "of", "type": "float"}]}},
        {"type": {"type": "fixed", "name": "Price", "size": 8, "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"type": {"type": "string", "logicalType": "of another system"}},
        {"type": {"type": "long", "logicalType": "local-timestamp-micros"}},
    ],
)
@settings(max_examples=60, deadline=None)
@given(value=MISFITS | st.lists(st.none() | longs) | st.dictionaries(texts, st.lists(st.floats())))
def test_fields_of_other_shapes_are_written_as_fastavro_does(schema: Any, value: Any) -> None:
    definition = {"type": "record", "name": "R", "fields": [{"name": "f", **schema}]}
    quick, slow = (Codec(json.dumps(definition)) for _ in range(2))
    slow._quick = {}.__getitem__
    for record in ({"f": value}, {"f": {"of": value}}):
        assert said(quick, record) == said(slow, record)


def test_what_only_fastavro_can_write_is_left_to_it() -> None:
    union = {"name": "f", "type": ["null", "string", "long"]}
    codec = Codec(json.dumps({"type": "record", "name": "R", "fields": [union]}))
    with pytest.raises(NOT_TAKEN):
        codec._quick({"f": 1})
    assert codec.encode({"f": 1}, 0) == b"\0\0\0\0\0\4\2"


@given(longs)
def test_a_whole_number_is_as_long_as_it_has_to_be(number: int) -> None:
    assert 1 <= len(varint(number)) <= 10
    assert len(varint(number)) == max(1, -(-(number << 1 ^ number >> 63).bit_length() // 7))
