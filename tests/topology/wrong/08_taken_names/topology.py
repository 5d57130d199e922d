from consumers.sinks.warehouse import Warehouse
from consumers.steps.pricing import with_products
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Deliver, Enrich, Process, Publish, Secret, Table, Target, Topic, env
from trunkline.sources import StandardWebhooks

products = Table("trunkline.products", ProductV1, key="sku")
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.movements", StockMovementV1, key="sku")
dead = Topic("shop.movements.warehouse.dlq", StockMovementV1, key="sku")
again = Topic("pricing.replay", StockMovementV1, key="sku")
alike = Topic("shop_movements", StockMovementV1, key="sku")
steps = [Enrich(with_products, products)]
routes = {movements: stock_movements, dead: stock_movements, again: stock_movements, alike: stock_movements}
stock = Target("stock", env("STOCK_URL"))

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, steps, to=routes, name="pricing"),
        Deliver(movements, to=Warehouse(stock)),
    ],
)
