"""The examples of docs/processing.md about enrichment run, and do what the page says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline.support import WHEN
from trunkline import Drop, Event, Lookup, minutes
from trunkline.engine.lookups import read, request_of
from trunkline.errors import Absent
from trunkline.flow.rows import asked, keys_of
from trunkline.responses import Response

PAGE = Path("docs/processing.md")
EXAMPLE = re.compile(r"<!-- example: (?P<name>\w+) -->\n```python\n(?P<body>.*?)```\n", re.DOTALL)


def example(name: str) -> dict[str, Any]:
    """Run an example of the page and give what it defines."""
    [body] = [match["body"] for match in EXAMPLE.finditer(PAGE.read_text()) if match["name"] == name]
    defined: dict[str, Any] = {}
    exec(body, defined)  # noqa: S102 - the page is ours
    return defined


def test_a_table_is_a_dict_to_a_test_and_a_missing_row_is_what_was_declared() -> None:
    defined = example("table")
    sale = Event("1", WHEN, {"basket_id": "b", "household_id": "7", "store_id": "s", "lines": []})
    rows: dict[str, Any] = {"7": {"household_id": "7", "age": "35-44", "income": None, "campaigns": []}}
    assert defined["with_age"](sale, rows).data["store_id"] == "s/35-44"
    with pytest.raises(Absent) as absent:
        defined["with_age"](sale, asked(defined["households"], {}))
    assert absent.value.patience == 30
    assert absent.value.args == ('shop.households has no row "7"',)


def test_a_look_up_is_a_dict_to_a_test() -> None:
    defined = example("lookup")
    sale = Event("1", WHEN, {"basket_id": "b", "household_id": "7", "store_id": "s", "lines": []})
    step = defined["known_to_be_good"]
    assert step(sale, {}) is step(sale, {"7": {"score": 1}}) is sale
    assert step(sale, {"7": {"score": 0}}) == Drop("bad rating")
    assert keys_of(defined["ratings"], sale) == ["7"]
    assert request_of(defined["ratings"], ["7"]).path == "/households/7/rating"


def test_an_answer_for_several_keys_is_split() -> None:
    prices = example("together")["prices"]
    sale = Event("1", WHEN, {"lines": [{"sku": "1"}, {"sku": "2"}]})
    keys = keys_of(prices, sale)
    assert request_of(prices, keys).path == "/products?sku=1,2"
    item = {"sku": "1", "department": "GROCERY", "brand": "Private", "category": None, "size": None}
    answer = Response(200, body=json.dumps({"items": [item]}).encode())
    assert read(prices, keys, answer) == {"1": item}


def test_what_the_page_promises_by_default_is_the_default() -> None:
    ratings = Lookup("ratings", example("lookup")["crm"], "/{key}", dict, "id")
    assert (ratings.ttl, ratings.absent, ratings.stale) == (minutes(5), minutes(1), minutes(0))
