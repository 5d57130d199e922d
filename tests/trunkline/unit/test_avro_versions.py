"""What an older version wrote is read as the newest: by resolution, and by functions where that is not enough."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline import schemas
from tests.trunkline.schemas import BoxMovedV1, BoxMovedV2, BoxMovedV3, box_moved
from trunkline import Permanent, Topic
from trunkline.avro.codec import HEAD, Codec
from trunkline.avro.files import released, schema_of
from trunkline.avro.types import module
from trunkline.avro.versions import Leg, Past, legs
from trunkline.errors import UnknownSchema, UsageError
from trunkline.flow.records import record_faults


def codec(record: type) -> Codec:
    return Codec(schema_of(record).text)


def past(record: type) -> Past:
    return Past(schema_of(record), codec(record))


def body(record: type, value: Any) -> bytes:
    return codec(record).encode(value, 1)[HEAD:]


V1 = {"box": "a", "number": 1, "weight": "12 kg"}


def test_the_way_goes_through_every_function() -> None:
    some: Callable[[Any], Any] = lambda old: old  # noqa: E731 - any function
    assert list(legs(1, 4, {})) == [Leg(1, 4)]
    assert list(legs(1, 4, {2: some})) == [Leg(1, 2), Leg(2, 3, some), Leg(3, 4)]
    assert list(legs(1, 3, {1: some, 2: some, 3: some})) == [Leg(1, 2, some), Leg(2, 3, some)]
    assert list(legs(3, 3, {})) == []


def test_an_old_event_is_read_by_a_function_and_then_by_resolution() -> None:
    reader = past(BoxMovedV3)
    assert reader.read(codec(BoxMovedV1), body(BoxMovedV1, V1)) == {
        "box": "a",
        "number": 1,
        "text": "weighs 12 kg",
        "by": "nobody",
    }
    second = {"box": "a", "number": 1, "text": "x"}
    assert reader.read(codec(BoxMovedV2), body(BoxMovedV2, second)) == second | {"by": "nobody"}
    assert all(reader.knows(codec(record)) for record in (BoxMovedV1, BoxMovedV2, BoxMovedV3))


def test_a_newer_version_is_not_known_and_read_as_far_as_it_resolves() -> None:
    reader = past(BoxMovedV2)
    assert not reader.knows(codec(BoxMovedV3))
    third = {"box": "a", "number": 1, "text": "x", "by": "me"}
    assert reader.read(codec(BoxMovedV3), body(BoxMovedV3, third)) == {"box": "a", "number": 1, "text": "x"}
    with pytest.raises(UnknownSchema):
        past(BoxMovedV1).read(codec(BoxMovedV3), body(BoxMovedV3, third))


def test_a_function_that_raises_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = body(BoxMovedV1, V1 | {"weight": "heavy"})
    with pytest.raises(Permanent, match=r"bug in v1_to_v2 \(schemas/box_moved.py\): ValueError"):
        past(BoxMovedV3).read(codec(BoxMovedV1), odd)
    monkeypatch.setattr(box_moved, "v1_to_v2", lambda _: sys.exit("heavy"))
    with pytest.raises(Permanent, match=r"bug in v1_to_v2 \(schemas/box_moved.py\): SystemExit: heavy"):
        past(BoxMovedV3).read(codec(BoxMovedV1), odd)


# A folder of schemas of a test's own.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "shapes"
    path.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shapes"]:
        del sys.modules[name]


def make(folder: Path, functions: str, *versions: dict[str, Any]) -> Any:
    """Write the versions of a schema `price` and its functions; give the type of the newest one."""
    for number, fields in enumerate(versions, 1):
        made = [{"name": name} | kind for name, kind in fields.items()]
        definition = {"type": "record", "name": "Price", "fields": made}
        (folder / f"price.v{number}.avsc").write_text(json.dumps(definition))
    if functions:
        (folder / "price.py").write_text(functions)
    (folder / "__init__.py").write_text(module(released(folder)))
    return getattr(importlib.import_module("shapes"), f"PriceV{len(versions)}")


TEXT, LONG = {"type": "string"}, {"type": "long"}


@pytest.mark.parametrize(
    ("functions", "told"),
    [
        ("def v1_to_v2(old): return {'sku': 1}", "gave what is no price v2"),
        ("def v1_to_v2(old): return None", "gave a NoneType, no record"),
        ("def v1_to_v2(old): return {**old, 'more': 1}", "gave what is no price v2"),
    ],
)
def test_what_a_function_gives_must_be_the_next_version(folder: Path, functions: str, told: str) -> None:
    newest = make(folder, functions, {"sku": TEXT}, {"sku": TEXT, "n": LONG})
    older = Codec((folder / "price.v1.avsc").read_text())
    with pytest.raises(Permanent, match=told):
        past(newest).read(older, older.encode({"sku": "a"}, 1)[HEAD:])


def test_a_function_is_given_a_whole_record_though_the_one_before_it_left_to_defaults(folder: Path) -> None:
    unit = TEXT | {"default": "kg"}
    functions = """
def v1_to_v2(old): return {"n": old["n"] * 1000}
def v2_to_v3(old): return {"told": f"{old['n']} {old['unit']}"}
"""
    newest = make(folder, functions, {"n": LONG}, {"n": LONG, "unit": unit}, {"told": TEXT})
    older = Codec((folder / "price.v1.avsc").read_text())
    assert past(newest).read(older, older.encode({"n": 2}, 1)[HEAD:]) == {"told": "2000 kg"}


@pytest.mark.parametrize("kind", ["array", "map", "record"])
def test_what_a_step_does_to_a_default_befalls_no_other_event(folder: Path, kind: str) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "array": {"type": {"type": "array", "items": "string"}, "default": []},
        "map": {"type": {"type": "map", "values": "string"}, "default": {}},
        "record": {
            "type": {"type": "record", "name": "Box", "fields": [{"name": "n", "type": "long"}]},
            "default": {"n": 1},
        },
    }
    inner = kinds[kind]
    newest = make(folder, "", {"n": LONG}, {"n": LONG, "more": inner})
    older = Codec((folder / "price.v1.avsc").read_text())
    reader, body = past(newest), older.encode({"n": 1}, 1)[HEAD:]
    first = reader.read(older, body)
    if kind == "array":
        first["more"].append("x")
    else:
        first["more"]["x"] = "x"
    assert reader.read(older, body) == {"n": 1, "more": inner["default"]}


@pytest.mark.parametrize(
    ("functions", "versions", "told"),
    [
        ("", [{"sku": TEXT}, {"sku": TEXT, "n": LONG}],
         "read as v2: n is new and has no default. Mend the schema, or write v1_to_v2 in shapes/price.py."),
        ("", [{"n": LONG}, {"n": TEXT}, {"n": TEXT}], "v1 cannot be read as v3: n is string, and was long"),
        ("def v2_to_v3(old): return old", [{"n": LONG}, {"n": TEXT}, {"n": TEXT}],
         "v1 cannot be read as v3: n is string, and was long. Mend the schema, or write v1_to_v2 in shapes/price.py."),
        ("def v1_to_v3(old): return old", [{"n": LONG}] * 3, "v1_to_v3 leads past a version. Write v1_to_v2."),
        ("def v1_to_v2(): return {}", [{"n": LONG}] * 2, "v1_to_v2 (shapes/price.py) cannot be called"),
        ("1/0", [{"n": LONG}] * 2, "shapes/price.py cannot be loaded: ZeroDivisionError"),
        ("from shapes import *\ndef v1_to_v2(old: PriceV2) -> PriceV2: return old", [{"n": LONG}] * 2,
         "v1_to_v2 (shapes/price.py) takes PriceV2; it must be PriceV1."),
        ("def v1_to_v2(old): return {'n': str(old['n'])}", [{"n": LONG}, {"n": TEXT}], ""),
        ("def v5_to_v6(old): return old", [{"n": LONG}], ""),
    ],
)  # fmt: skip
def test_check_names_versions_that_cannot_be_read(
    folder: Path, functions: str, versions: list[dict[str, Any]], told: str
) -> None:
    topic = Topic("shop.prices", make(folder, functions, *versions))
    found = [str(fault) for fault in record_faults([topic])]
    assert [told in fault for fault in found] == ([True] if told else []), found


def test_a_missing_version_in_between_is_no_hindrance(folder: Path) -> None:
    newest = make(folder, "", {"n": LONG}, {"n": LONG}, {"n": LONG, "m": LONG | {"default": 3}})
    (folder / "price.v2.avsc").unlink()
    older = Codec((folder / "price.v1.avsc").read_text())
    assert past(newest).read(older, older.encode({"n": 1}, 1)[HEAD:]) == {"n": 1, "m": 3}


def test_defaults_are_values_of_their_type(folder: Path) -> None:
    """Left to fastavro, a missing field is the JSON of its default: a number for a moment, a text for a decimal."""
    added: dict[str, Any] = {
        "at": {"type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 0},
        "price": {
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
            "default": "\u0001\u0000",
        },
        "raw": {"type": "bytes", "default": "\u00ff"},
        "maybe": {"type": ["null", "long"], "default": None},
        "real": {"type": "double", "default": 1},
        "tags": {"type": {"type": "array", "items": "string"}, "default": ["a"]},
    }
    newest = make(folder, "", {"n": LONG}, {"n": LONG} | added)
    older = Codec((folder / "price.v1.avsc").read_text())
    expected = {
        "n": 1,
        "at": datetime(1970, 1, 1, tzinfo=UTC),
        "price": Decimal("2.56"),
        "raw": b"\xff",
        "maybe": None,
        "real": 1.0,
        "tags": ["a"],
    }
    read = past(newest).read(older, older.encode({"n": 1}, 1)[HEAD:])
    assert read == expected
    assert type(read["price"]) is Decimal
    reader = codec(newest)
    assert reader.decode(reader.encode({"n": 1}, 1)[HEAD:]) == expected


def test_a_wrong_default_is_no_schema() -> None:
    text = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "long", "default": "x"}]}'
    with pytest.raises(UsageError, match="not an Avro schema"):
        Codec(text)


def test_the_tests_own_types_are_what_their_files_say() -> None:
    path = Path(str(schemas.__file__))
    assert path.read_text() == module(released(path.parent))
