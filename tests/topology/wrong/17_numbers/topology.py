from datetime import timedelta

from consumers.sinks.warehouse import Warehouse
from consumers.steps.pricing import with_products
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import (
    Bus,
    Deliver,
    Enrich,
    Limit,
    Process,
    Publish,
    Retry,
    Secret,
    Table,
    Target,
    Topic,
    days,
    env,
    minutes,
)
from trunkline.sources import StandardWebhooks

slow = Target("slow", env("SLOW_URL"), limit=Limit(-1, per="minute"))
endless = Target("endless", env("ENDLESS_URL"), limit=Limit(float("inf"), per="hour"))
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id", partitions=0)
movements = Topic("shop.stock-movements", StockMovementV1, key="sku", keep=days(0))
products = Table("shop.products", ProductV1, key="sku", partitions=-2)

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, [Enrich(with_products, products)], to={movements: stock_movements}),
        Deliver(movements, to=Warehouse(slow), retry=Retry(give_up_after=minutes(1), longest=minutes(2))),
        Deliver(movements, to=Warehouse(endless), retry=Retry(minutes(0), minutes(-1), timedelta()), name="endless"),
    ],
)
