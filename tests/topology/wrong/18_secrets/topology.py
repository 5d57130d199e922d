"""Nothing of what is written out here may be printed."""

from consumers.sinks.warehouse import Warehouse
from producers.storefront import Storefront
from schemas import SaleRecordedV1, StockMovementV1
from trunkline import ApiKey, Bus, Deliver, Process, Publish, Secret, Target, Topic, env
from trunkline.sources import StandardWebhooks

storefront = Storefront(verify=StandardWebhooks("whsec_aHVzaC1odXNo"))
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
stock = Target("stock", "https://user:hush-hush@stock.example", auth=ApiKey("hush-hush"))
public = Target("public", env("PUBLIC_URL"), auth=ApiKey(env("PUBLIC_KEY")))
bare = Target("bare", Secret("BARE_URL"), auth="hush-hush")


def nothing(sale):
    return []


bus = Bus(
    "shop",
    [
        Publish(storefront, to=sales),
        Process(sales, [], to={movements: nothing}),
        Deliver(movements, to=Warehouse(stock)),
        Deliver(movements, to=Warehouse(public), name="public"),
        Deliver(movements, to=Warehouse(bare), name="bare"),
    ],
)
