from collections.abc import Iterator

from producers.storefront import Storefront
from schemas import SaleRecordedV1
from trunkline import Bus, Event, Process, Publish, Secret, Topic
from trunkline.sources import StandardWebhooks

sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
again = Topic("shop.again", SaleRecordedV1, key="basket_id")
last = Topic("shop.last", SaleRecordedV1, key="basket_id")


def same(sale: Event[SaleRecordedV1]) -> Iterator[SaleRecordedV1]:
    yield sale.data


bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, [], to={again: same, last: same}),
        Process(again, [], to={sales: same}),
        Process(last, [], to={last: same}),
    ],
)
