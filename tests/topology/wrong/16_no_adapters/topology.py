from consumers.sinks.marketing import Marketing
from consumers.sinks.warehouse import Warehouse
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Deliver, Process, Publish, Secret, Table, Target, Topic, env
from trunkline.sinks import HttpSink, Request
from trunkline.sources import StandardWebhooks, Webhook

storefront = Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET")))
stock = Target("stock", env("STOCK_URL"))
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
products = Table("shop.products", ProductV1, key="sku")


class Nameless(HttpSink):
    def request(self, event):
        return Request.post("/")


class Unnamed(Webhook):
    def events(self, request):
        return []


class Slow(Marketing):
    async def request(self, event):
        return Request.post("/")


class Late(Storefront):
    name = "late"

    async def events(self, request):
        return []


bus = Bus(
    "shop",
    [
        Publish(Storefront, to=sales),
        Publish(Storefront(verify=None), to=sales),
        Publish(Unnamed(verify=storefront.verify), to=sales),
        Publish(stock, to=sales),
        Publish(Late(verify=storefront.verify), to=sales),
        Publish(storefront, to=products),
        Publish(storefront, to=stock_movements),
        Process(sales, [], to={products: stock_movements, "movements": stock_movements}),
        Process(products, [], to={movements: stock_movements}),
        Deliver(movements, to=Warehouse),
        Deliver(movements, to=stock),
        Deliver(movements, to=Nameless(stock)),
        Deliver(movements, to=storefront),
        Deliver(movements, to=Warehouse("https://stock.example")),
        Deliver(products, to=Warehouse(stock)),
        Deliver(movements, to=Slow(stock)),
    ],
)
