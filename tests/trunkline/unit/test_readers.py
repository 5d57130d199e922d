"""Who reads a field that is gone, where no type says so: copies tell as the record does."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from topology import bus, movements, products
from trunkline.flow.exercise import Told, exercised
from trunkline.flow.proposals import Gone, Proposal, gone_of
from trunkline.flow.readers import Reading, is_same
from trunkline.webhooks import WebhookRequest

MOVED = {"sku": "1", "delta": -2, "basket_id": "b", "store_id": "s"}


@pytest.fixture
def gone() -> list[Gone]:
    """Give what is gone when stock_movement v2 counts pieces."""
    old = movements.schema
    fields = [{**field, "name": "pieces"} if field["name"] == "delta" else field for field in old.definition["fields"]]
    return gone_of(Proposal(old, replace(old, version=2, definition={**old.definition, "fields": fields})))


def loop(data: Mapping[str, Any]) -> Any:
    for name in ("sku", "delta"):
        found = data[name]
    return found


def destructured(data: Mapping[str, Any]) -> Any:
    match {**data}:
        case {"delta": delta}:
            return delta
    return None


READS: list[Callable[[Any], Any]] = [
    lambda data: data["delta"],
    lambda data: data.get("delta"),
    lambda data: dict(data)["delta"],
    lambda data: {**data}["delta"],
    lambda data: (data | {"sku": "2"})["delta"],
    lambda data: ({"sku": "2"} | data).get("delta"),
    lambda data: data.copy().pop("delta"),
    lambda data: {name: value for name, value in data.items() if name == "delta"},
    lambda data: {name: value for name, value in data.items() if name in {"delta", "x"}},
    lambda data: "delta" in {**data},
    lambda data: "delta" in list(data),
    lambda data: "{delta}".format(**data),
    lambda data: f"{dict(data)['delta']}",
    lambda data: itemgetter("sku", "delta")(dict(data)),
    loop,
    destructured,
]
NO_READS: list[Callable[[Any], Any]] = [
    lambda data: data["sku"],
    lambda data: {**data, "sku": "2", "new": 1},
    lambda data: dict(data.items()),
    lambda data: [*data.values(), len(data), list(data)],
    lambda data: "sku" in data,
    lambda data: data.get("delt"),
]


@pytest.mark.parametrize("number", range(len(READS)))
def test_a_read_is_told_of_in_copies_too(gone: list[Gone], number: int) -> None:
    told = Told()
    READS[number](told.watch(movements, MOVED, gone))
    assert {(one.path, one.gone and one.gone.field) for one in told.found.values()} == {
        (str(Path(__file__).relative_to(Path.cwd())), "delta")
    }


@pytest.mark.parametrize("number", range(len(NO_READS)))
def test_what_passes_a_field_on_does_not_read_it(gone: list[Gone], number: int) -> None:
    told = Told()
    seen = told.watch(movements, MOVED, gone)
    NO_READS[number](seen)
    assert told.found == {}
    assert [str(name) for name in seen] == list(MOVED)


def test_agents_are_given_the_examples(gone: list[Gone]) -> None:
    example = Path("producers/examples/storefront/milk_and_coupon.json").read_bytes()
    inputs = {"storefront": [WebhookRequest({"content-type": "application/json"}, example)]}
    found = exercised(bus, inputs, {products: {}}, gone)
    assert {one.path for one in found} == {"consumers/agents/stock_velocity.py", "consumers/sinks/warehouse.py"}


def test_two_readings_are_one_in_one_statement_alone(gone: list[Gone], tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text("a = 1\nb = f(\n    x,\n\n\n\n    y,\n)\nc = 2\n")

    def at(line: int) -> Reading:
        return Reading(str(path), line, gone[0], "reads")

    assert is_same(at(2), at(7))
    assert not is_same(at(1), at(2))
    assert not is_same(at(7), at(9))
