from consumers.sinks.marketing import Marketing
from consumers.sinks.warehouse import Warehouse
from consumers.steps.campaigns import campaign_signals
from consumers.steps.pricing import with_products
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import CampaignSignalV1, ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Deliver, Enrich, Process, Publish, Secret, Table, Target, Topic, env
from trunkline.sources import StandardWebhooks

stock = Target("stock", env("STOCK_URL"))
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
products = Table("shop.products", ProductV1, key="sku")


class Depot(Warehouse):
    name = "depot"
    was = "warehouse"


class Store(Warehouse):
    name = "store"
    was = "Ware House"


class Barn(Warehouse):
    name = "barn"
    was = 7


bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales, was="shop.enriched"),
        Process(sales, [Enrich(with_products, products)], to={movements: stock_movements}, name="shop.enriched"),
        Deliver(movements, to=Warehouse(stock)),
        Deliver(movements, to=Depot(stock)),
        Deliver(movements, to=Depot(stock), name="shop.new", was="shop.old"),
        Deliver(movements, to=Warehouse(stock), name="shop.newer", was="shop.old"),
        Deliver(movements, to=Store(stock)),
        Deliver(movements, to=Barn(stock)),
        Deliver(movements, to=Warehouse(stock), name="shop.newest", was=None),
    ],
    was="Shop",
    retired=["shop.old", "depot", "gone", 7],
)
