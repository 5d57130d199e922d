"""Five mistakes on five lines: each is named once, and none hides another."""

from collections.abc import Iterator

from consumers.sinks.marketing import Marketing
from consumers.sinks.warehouse import Warehouse
from producers.storefront import Storefront
from schemas import CampaignSignalV1, SaleRecordedV1, StockMovementV1
from trunkline import ApiKey, Bus, Deliver, Event, Limit, Process, Publish, Secret, Target, Topic, env
from trunkline.sources import StandardWebhooks


def stock_movements(sale: Event[SaleRecordedV1]) -> Iterator[StockMovementV1]:
    for line in sale.data["lines"]:
        yield {"sku": line["sku"], "delta": -line["quantity"], "basket": sale.id, "store_id": sale.data["store_id"]}


stock = Target("stock", env("STOCK_URL"), auth=ApiKey(Secret("STOCK_KEY")), limit=Limit(0))
mailing = Target("mailing", env("MAILING_URL"))

sales = Topic("shop.sales", SaleRecordedV1, key="basket")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku", partitions=0)
signals = Topic("shop.campaign-signals", CampaignSignalV1, key="household_id")

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, [], to={movements: stock_movements}),
        Deliver(movements, to=Warehouse(stock)),
        Deliver(signals, to=Marketing(mailing)),
    ],
)
