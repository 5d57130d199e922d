"""Whatever is given where, it is a fault and never a traceback."""

from consumers.sinks.warehouse import Warehouse
from producers.storefront import Storefront
from schemas import SaleRecordedV1, StockMovementV1
from trunkline import ApiKey, Bus, Deliver, Enrich, Limit, Process, Publish, Retry, Secret, Table, Target, Topic, env
from trunkline.sources import StandardWebhooks

storefront = Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET")))
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
numbered = Topic(7, "SaleRecordedV1", key=SaleRecordedV1, partitions="12", keep=7)
unkeyed = Table("shop.rows", StockMovementV1, key=None, partitions=True)
stock = Target(None, 8080, auth=Secret("STOCK_KEY"), limit=100)
other = Target("other", env("OTHER_URL"), auth=ApiKey(None, header=1), limit=Limit("many", per=None))

bus = Bus(
    5,
    [
        Publish(storefront, to=sales, name=1),
        Publish(None, to=None),
        Process(sales, None, to=movements),
        Process(sales, Enrich(print, unkeyed), to=[movements], name=b"x"),
        Process(sales, [Enrich(None, None, unkeyed), None], to={None: None, movements: 1, numbered: 2}),
        Process(numbered, [], to={movements: print}),
        Deliver(numbered, to=None, retry=None),
        Deliver("shop.sales", to=Warehouse(stock), retry=Retry("15", 1, None), name=["x"]),
        Deliver(sales, to=Warehouse(other), name=None),
        sales,
        None,
        [Publish(storefront, to=sales)],
        Bus("inner", []),
    ],
)
