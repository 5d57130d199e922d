"""What a sale means, once products and household are known."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from zoneinfo import ZoneInfo

from typing_extensions import TypedDict

from schemas import HouseholdV1, ProductV1, SaleLineV1, SaleRecordedV1
from trunkline import Drop, Event

SHOP_ZONE = ZoneInfo("America/New_York")
"""Campaigns begin and end at midnight where the shops are."""


class PricedLine(TypedDict):
    """A line, and whether it takes something off a shelf."""

    sku: str
    quantity: int
    amount: Decimal
    physical: bool


class PricedSale(TypedDict):
    """A sale with what its lines are, and the campaigns that ran for its household."""

    basket_id: str
    household_id: str
    store_id: str
    lines: list[PricedLine]
    campaigns: list[str]


NOT_STOCKED = {
    "CHARITABLE CONT",
    "CNTRL/STORE SUP",
    "COUPON",
    "FUEL",
    "GM MERCH EXP",
    "MISCELLANEOUS",
    "POSTAL CENTER",
    "PROD-WHS SALES",
    "RESTAURANT",
    "TRAVEL & LEISURE",
}
"""Departments whose lines take nothing off a shelf: services, coupons, fuel and bookkeeping."""


def with_products(sale: Event[SaleRecordedV1], products: Mapping[str, ProductV1]) -> Event[PricedSale] | Drop:
    """Mark the lines that move stock; a basket without any quantity was voided at the till."""
    if not any(line["quantity"] for line in sale.data["lines"]):
        return Drop("void")
    data: PricedSale = {
        "basket_id": sale.data["basket_id"],
        "household_id": sale.data["household_id"],
        "store_id": sale.data["store_id"],
        "lines": [priced(line, products.get(line["sku"])) for line in sale.data["lines"]],
        "campaigns": [],
    }
    return sale.having(data)


def priced(line: SaleLineV1, product: ProductV1 | None) -> PricedLine:
    """Look at one line; a product we do not know was still taken off a shelf."""
    physical = product is None or (
        product["department"] not in NOT_STOCKED and product["category"] != "COUPON/MISC ITEMS"
    )
    return {"sku": line["sku"], "quantity": line["quantity"], "amount": line["amount"], "physical": physical}


def with_household(sale: Event[PricedSale], households: Mapping[str, HouseholdV1]) -> Event[PricedSale]:
    """Add the campaigns that ran for the household on the day of the sale; an unknown household has none."""
    household = households.get(sale.data["household_id"])
    if household is None:
        return sale
    day = sale.time.astimezone(SHOP_ZONE).date()
    running = [c["campaign_id"] for c in household["campaigns"] if runs(c["starts"], c["ends"], day)]
    return sale.having({**sale.data, "campaigns": running})


def runs(starts: date, ends: date, day: date) -> bool:
    """Say whether a campaign runs on a day; its last day counts."""
    return starts <= day <= ends
