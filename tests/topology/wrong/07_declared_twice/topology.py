from consumers.sinks.warehouse import Warehouse
from consumers.steps.pricing import with_products
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Deliver, Enrich, Process, Publish, Secret, Table, Target, Topic, env
from trunkline.sources import StandardWebhooks

products = Table("shop.sales", ProductV1, key="sku")
bus = Bus(
    "shop",
    [
        Publish(
            Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))),
            to=Topic("shop.sales", SaleRecordedV1, key="basket_id"),
        ),
        Process(
            Topic("shop.sales", SaleRecordedV1, key="basket_id"),
            [Enrich(with_products, products)],
            to={Topic("shop.stock-movements", StockMovementV1, key="sku"): stock_movements},
        ),
        Deliver(
            Topic("shop.stock-movements", StockMovementV1, key="sku"),
            to=Warehouse(Target("stock", env("STOCK_URL"))),
        ),
        Deliver(
            Topic("shop.stock-movements", StockMovementV1, key="sku"),
            to=Warehouse(Target("stock", env("STOCK_URL"))),
            name="again",
        ),
    ],
)
