"""JSON to Avro to JSON and to XML: what a record holds comes back as it was, digit for digit."""

import importlib
import json as plain_json
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from tests.trunkline.unit.test_avro import EVERYTHING, longs, parts, texts, times
from trunkline.avro.codec import HEAD, Codec
from trunkline.avro.files import released
from trunkline.avro.types import module
from trunkline.formats import json, xml
from trunkline.formats.plain import text_of
from trunkline.webhooks import WebhookRequest

DEFINITION = {**EVERYTHING, "fields": [one for one in EVERYTHING["fields"] if one["name"] not in ("raw", "code")]}
"""Bytes have no form in JSON or XML that every reader would take for bytes: a sink says which it wants."""
CODEC = Codec(plain_json.dumps(DEFINITION))
MONEY = st.decimals(Decimal("-9999999999.99"), Decimal("9999999999.99"), places=2)
records = st.fixed_dictionaries(
    {
        "flag": st.booleans(),
        "small": st.integers(-(2**31), 2**31 - 1),
        "large": longs,
        "real": st.floats(allow_nan=False, allow_infinity=False),
        "text": texts,
        "maybe": st.none() | texts,
        "tags": st.lists(texts, max_size=3),
        "counts": st.dictionaries(texts, longs, max_size=3),
        "color": st.sampled_from(["RED", "BLUE"]),
        "other_color": st.sampled_from(["RED", "BLUE"]),
        "at": times,
        "seen": st.none() | times.map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)),
        "day": st.dates(),
        "hour": st.times(),
        "price": MONEY,
        "number": st.uuids(),
        "parts": st.lists(parts, max_size=3),
        "spare": st.none() | parts,
    }
)


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give the generated type of the records."""
    folder = tmp_path_factory.mktemp("mapping")
    (folder / "mapped").mkdir()
    (folder / "mapped/everything.v1.avsc").write_text(plain_json.dumps(DEFINITION))
    (folder / "mapped/__init__.py").write_text(module(released(folder / "mapped")))
    sys.path.insert(0, str(folder))
    yield importlib.import_module("mapped").EverythingV1
    sys.path.remove(str(folder))
    del sys.modules["mapped"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(record=records)
def test_a_record_goes_to_json_and_back(shape: Any, record: dict[str, Any]) -> None:
    read = CODEC.decode(CODEC.encode(record, 1)[HEAD:])
    posted = WebhookRequest({}, json.dumps(read)).json(shape)
    assert posted == record
    assert CODEC.encode(posted, 1) == CODEC.encode(record, 1)


SAFE = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)


@settings(max_examples=200, deadline=None)
@given(record=records, text=SAFE)
def test_a_record_goes_to_xml_with_namespaces_and_attributes_and_back(record: dict[str, Any], text: str) -> None:
    read = CODEC.decode(CODEC.encode({**record, "text": text}, 1)[HEAD:])
    plain = {name: value for name, value in read.items() if name not in ("tags", "counts", "maybe", "parts", "spare")}
    inner = {f"o:{name}": value for name, value in plain.items()}
    tree = {"o:order": {"@xmlns:o": "urn:o", "@id": read["large"], "@at": read["at"], **inner}}
    back = xml.loads(xml.dumps(tree), names={"o": "urn:o"})
    expected = {f"o:{name}": text_of(value) for name, value in plain.items() if value is not None}
    assert back == {"o:order": {"@id": str(read["large"]), "@at": text_of(read["at"]), **expected}}
    assert Decimal(back["o:order"]["o:price"]) == record["price"]


class Posted(TypedDict):
    price: Decimal
    note: str


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_a_posted_number_keeps_its_digits(number: Decimal) -> None:
    """Left to a float, 12345678901234567890.123456789 would be 12345678901234567000."""
    body = b'{"price": ' + format(number, "f").encode() + b', "note": "12345678901234567890.5"}'
    read = WebhookRequest({}, body).json(Posted)
    assert read["price"] == number
    assert read["note"] == "12345678901234567890.5"


def test_a_long_float_is_still_a_float() -> None:
    assert WebhookRequest({}, b'{"x": 0.30000000000000004}').json(dict[str, float]) == {"x": 0.1 + 0.2}
