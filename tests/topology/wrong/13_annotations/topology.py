from collections.abc import Iterator
from typing import Any

from typing_extensions import TypedDict

from consumers.sinks.marketing import Marketing
from consumers.steps.campaigns import campaign_signals
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import CampaignSignalV1, ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Deliver, Drop, Event, Process, Publish, Secret, Target, Topic, env
from trunkline.sources import StandardWebhooks


class Numbered(TypedDict):
    basket_id: str


class Counted(TypedDict):
    basket_id: str
    count: int


def numbered(sale: Event[Numbered]) -> Event[Counted] | Drop:
    return sale.having({**sale.data, "count": 1})


def of_product(product: Event[ProductV1]) -> Event[ProductV1]:
    return product


def silent(sale):
    return sale


def anything(sale: Event[Any]) -> "Event[Unknown]":
    return sale


def one(sale: Event[SaleRecordedV1]) -> StockMovementV1:
    return {"sku": "1", "delta": 1, "basket_id": "2", "store_id": "3"}


def plain(sale: Event[Counted]) -> dict[str, Any]:
    return {}


def signals_of(sale: Event[Numbered]) -> Iterator[CampaignSignalV1]:
    yield from ()


sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
goods = Topic("shop.products", ProductV1, key="sku")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
signals = Topic("shop.campaign-signals", CampaignSignalV1, key="household_id")

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=goods, name="goods"),
        Process(sales, [numbered], to={movements: signals_of, signals: campaign_signals}),
        Process(sales, [of_product, silent, anything], to={movements: stock_movements, signals: stock_movements}),
        Process(sales, [], to={movements: one, signals: plain}),
        Deliver(movements, to=Marketing(Target("mailing", env("MAILING_URL")))),
    ],
)
