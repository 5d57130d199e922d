from collections.abc import Iterator

from producers.storefront import Storefront
from schemas import SaleRecordedV1, StockMovementV1
from trunkline import Bus, Event, Process, Publish, Secret, Topic
from trunkline.sources import StandardWebhooks


def stock_movements(sale: Event[SaleRecordedV1]) -> Iterator[StockMovementV1]:
    for line in sale.data["lines"]:
        yield {
            "sku": line["sku"],
            "qty": -line["quantity"],
            "basket_id": sale.data["basket_id"],
            "store_id": sale.data["store_id"],
        }


sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, [], to={movements: stock_movements}),
    ],
)
