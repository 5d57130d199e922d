from collections.abc import Sequence

from consumers.sinks.warehouse import Warehouse
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import SaleRecordedV1, StockMovementV1
from trunkline import ApiKey, Bus, Deliver, Enrich, Process, Publish, Secret, Table, Target, Topic, env
from trunkline.sinks import HttpSink, Idempotency, Item, Request
from trunkline.sources import StandardWebhooks

from consumers.steps.pricing import with_products
from schemas import ProductV1

stock = Target("stock", env("STOCK_URL"))
secretive = Target("secretive", env("STOCK_URL"), auth=ApiKey(Secret("STOCK_KEY"), header="X Api Key"))
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
keyless = Topic("shop.returns", StockMovementV1)
products = Table("shop.products", ProductV1, key="sku")


class Latest(Warehouse):
    name = "latest"
    writes = "latest"


class Newest(Warehouse):
    name = "newest"
    writes = "newest"


class Never(Warehouse):
    name = "never"
    writes = None
    idempotency = "Idempotency-Key"


class Typed(Warehouse):
    name = "typed"
    idempotency = Idempotency(7, longest="36")


class Spaced(Warehouse):
    name = "spaced"
    idempotency = Idempotency("Idempotency Key", longest=8)


class Keyless(Warehouse):
    name = "keyless"
    idempotency = None


class Wordless(HttpSink):
    name = "wordless"


class Bulky(Warehouse):
    name = "bulky"
    together = 50


class Idle(Warehouse):
    name = "idle"
    together = 0


class Bodily(Warehouse):
    name = "bodily"
    idempotency = Idempotency(None)


class Mixed(HttpSink):
    name = "mixed"
    together = 50

    def batch(self, items: Sequence[Item[SaleRecordedV1]]) -> Request:
        return Request.post("/")


class Silent:
    name = "silent"
    target = stock

    def request(self, event):
        return None

    def verdict(self, response):
        return None

    def batch(self, items):
        return None

    def verdicts(self, response, items):
        return []


bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, [Enrich(with_products, products)], to={movements: stock_movements, keyless: stock_movements}),
        Deliver(keyless, to=Warehouse(stock), after_dead="park_key"),
        Deliver(keyless, to=Keyless(stock), after_dead="block"),
        Deliver(movements, to=Warehouse(stock), after_dead="park"),
        Deliver(movements, to=Keyless(stock), after_dead=True),
        Deliver(keyless, to=Latest(stock)),
        Deliver(movements, to=Newest(stock)),
        Deliver(movements, to=Never(stock)),
        Deliver(movements, to=Typed(stock)),
        Deliver(movements, to=Spaced(stock)),
        Deliver(movements, to=Silent()),
        Deliver(movements, to=Wordless(stock)),
        Deliver(movements, to=Bulky(stock)),
        Deliver(movements, to=Idle(stock)),
        Deliver(movements, to=Bodily(stock)),
        Deliver(movements, to=Mixed(stock)),
        Deliver(movements, to=Warehouse(secretive), name="secretive"),
    ],
)
