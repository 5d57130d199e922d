from consumers.sinks.warehouse import Warehouse
from consumers.steps.pricing import with_products
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Deliver, Enrich, Process, Publish, Secret, Table, Target, Topic, env
from trunkline.sources import StandardWebhooks

sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
other = Topic("shop.sale", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
products = Table("shop.products", ProductV1, key="sku")

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Deliver(movements, to=Warehouse(Target("stock", env("STOCK_URL")))),
        Process(other, [Enrich(with_products, products)], to={movements: stock_movements}),
    ],
)
