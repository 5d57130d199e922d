from consumers.sinks.warehouse import Warehouse
from producers.storefront import Storefront
from schemas import SaleRecordedV1, StockMovementV1
from trunkline import Bus, Deliver, Process, Publish, Secret, Target, Topic, env
from trunkline.sources import StandardWebhooks


class Tills(Storefront):
    name = "The Tills"


class Shelves(Warehouse):
    name = "shelves/all"


def Moved(sale):
    return []


sales = Topic("shop.Sales", SaleRecordedV1, key="basket_id")
movements = Topic("..", StockMovementV1, key="sku")
long = Topic("shop." + "x" * 250, StockMovementV1, key="sku")
stock = Target("Stock API", env("STOCK_URL"))

bus = Bus(
    "The Shop",
    [
        Publish(Tills(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, [], to={movements: Moved}),
        Process(sales, [], to={long: lambda sale: []}),
        Deliver(movements, to=Shelves(stock), name="to the shelves"),
        Deliver(long, to=Warehouse(stock), name="l" + "o" * 200 + "ng"),
        Deliver(long, to=Warehouse(stock)),
    ],
)
