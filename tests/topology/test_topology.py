"""This repository's topology: it has no fault, and one request does what it should all the way to the targets."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from schemas import HouseholdV1, ProductV1
from topology import bus, households, products, storefront
from trunkline import Permanent, Table
from trunkline.avro.files import released
from trunkline.avro.types import module
from trunkline.flow.check import faults
from trunkline.flow.walk import EXAMPLES, walk
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.webhooks import WebhookRequest

ROOT = Path(__file__).parents[2]


def product(sku: str, department: str, category: str) -> ProductV1:
    return {"sku": sku, "department": department, "brand": "National", "category": category, "size": None}


def household(number: str, *campaigns: tuple[str, date, date]) -> HouseholdV1:
    return {
        "household_id": number,
        "age": None,
        "income": None,
        "campaigns": [
            {"campaign_id": campaign, "kind": "Type A", "starts": starts, "ends": ends}
            for campaign, starts, ends in campaigns
        ],
    }


PRODUCTS = {
    "1003770": product("1003770", "COUPON", "COUPON/MISC ITEMS"),
    "1095275": product("1095275", "GROCERY", "FLUID MILK PRODUCTS"),
}
HOUSEHOLDS = {
    "762": household("762", ("26", date(2016, 12, 28), date(2017, 1, 3)), ("27", date(2017, 2, 8), date(2017, 3, 26)))
}
TABLES: dict[Table, Mapping[str, Mapping[str, Any]]] = {products: PRODUCTS, households: HOUSEHOLDS}


def test_the_topology_has_no_fault() -> None:
    assert faults(bus) == []


def test_the_types_are_what_the_schema_files_say() -> None:
    folder = ROOT / "schemas"
    assert (folder / "__init__.py").read_text() == module(released(folder))


def test_only_physical_lines_move_stock() -> None:
    journey = walk(bus, storefront, "milk_and_coupon.json", tables=TABLES)
    [movement] = journey.events["shop.stock-movements"]
    [request] = journey.requests["warehouse"]
    assert movement.data == {"sku": "1095275", "delta": -2, "basket_id": "31242385044", "store_id": "31862"}
    assert movement.key == "1095275"
    assert request == Request("PUT", f"/stock/1095275/movements/{movement.id}", {"delta": -2})
    assert not journey.dead


def test_a_campaign_of_the_household_gets_one_signal() -> None:
    journey = walk(bus, storefront, "milk_and_coupon.json", tables=TABLES)
    [signal] = journey.events["shop.campaign-signals"]
    [request] = journey.requests["marketing"]
    assert signal.data == {
        "household_id": "762",
        "campaign_id": "26",
        "basket_id": "31242385044",
        "spent": Decimal("1.50"),
    }
    assert request.json == {"household": "762", "campaign": "26", "basket": "31242385044", "spent": "1.50"}


def test_a_product_nobody_knows_was_still_taken_off_a_shelf() -> None:
    journey = walk(bus, storefront, "milk_and_coupon.json")
    assert [(event.key, event.data["delta"]) for event in journey.events["shop.stock-movements"]] == [
        ("1003770", -1),
        ("1095275", -2),
    ]
    assert "shop.campaign-signals" not in journey.events


def test_a_basket_without_any_quantity_is_filtered() -> None:
    body = (EXAMPLES / "storefront" / "milk_and_coupon.json").read_bytes()
    void = body.replace(b'"quantity": 1', b'"quantity": 0').replace(b'"quantity": 2', b'"quantity": 0')
    journey = walk(bus, storefront, WebhookRequest({}, void), tables=TABLES)
    assert dict(journey.filtered) == {"shop.sales.with_products": ["void"]}
    assert list(journey.events) == ["shop.sales"]


def test_a_refusal_is_a_dead_letter_of_the_warehouse_alone() -> None:
    journey = walk(bus, storefront, "milk_and_coupon.json", tables=TABLES, answers={"warehouse": Response(422)})
    assert list(journey.dead) == ["warehouse"]
    [dead] = journey.dead["warehouse"]
    assert isinstance(dead, Permanent)
    assert len(journey.verdicts["marketing"]) == 1


def test_the_same_request_gives_the_same_ids() -> None:
    once, again = (walk(bus, storefront, "milk_and_coupon.json", tables=TABLES) for _ in range(2))
    assert once.events == again.events
    assert once.requests == again.requests
