from consumers.sinks.warehouse import Warehouse
from consumers.steps.pricing import with_products
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Deliver, Enrich, Process, Publish, Secret, Table, Target, Topic, env
from trunkline.sources import StandardWebhooks

storefront = Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET")))
second = Storefront(verify=StandardWebhooks(Secret("SECOND_SECRET")))
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
products = Table("shop.products", ProductV1, key="sku")
east = Target("east", env("EAST_URL"))
west = Target("west", env("WEST_URL"))

bus = Bus(
    "shop",
    [
        Publish(storefront, to=sales),
        Publish(storefront, to=sales),
        Publish(second, to=sales, name="second"),
        Process(sales, [Enrich(with_products, products)], to={movements: stock_movements}),
        Process(sales, [Enrich(with_products, products)], to={movements: stock_movements}, name="second"),
        Process(sales, [Enrich(with_products, products)], to={movements: stock_movements}, name="second"),
        Deliver(movements, to=Warehouse(east)),
        Deliver(movements, to=Warehouse(west)),
    ],
)
