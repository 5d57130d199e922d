from functools import partial

from consumers.steps.pricing import PricedSale
from producers.storefront import Storefront
from schemas import SaleRecordedV1, StockMovementV1
from trunkline import Bus, Drop, Event, Process, Publish, Secret, Topic
from trunkline.sources import StandardWebhooks

sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
others = Topic("shop.others", StockMovementV1, key="sku")
alarms = Topic("shop.alarms", StockMovementV1, key="sku")


async def later(sale: Event[SaleRecordedV1]) -> Event[SaleRecordedV1]:
    return sale


async def many(sale):
    yield sale


def yielding(sale: Event[SaleRecordedV1]):
    yield sale


def perhaps(sale: Event[SaleRecordedV1]) -> Event[SaleRecordedV1] | None:
    return sale


def bare(sale: Event[SaleRecordedV1]) -> PricedSale:
    return sale.data


def never(sale: Event[SaleRecordedV1]) -> Drop:
    return Drop("never")


def of_two(sale, other):
    return []


bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, [later], to={}),
        Process(sales, [yielding, perhaps, bare, never, "later", PricedSale, partial(bare)], to={movements: many}),
        Process(sales, [], to={movements: None, others: of_two, alarms: PricedSale}, name="other"),
    ],
)
