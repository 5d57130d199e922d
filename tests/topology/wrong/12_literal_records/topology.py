from producers.storefront import Storefront
from schemas import CampaignSignalV1, ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Process, Publish, Secret, Topic
from trunkline.sources import StandardWebhooks


def listed(sale):
    return [
        {"sku": "1", "delta": 1, "basket_id": sale.id},
        {"sku": "2", "delta": 2, "basket_id": sale.id, "store_id": "3"},
    ]


def spread(sale):
    yield {**sale.data, "basket": sale.id}


def gathered(sale):
    def note():
        yield {"not": "a record"}

    yield from ({"sku": line["sku"], "size": None, "departmant": "x"} for line in note())


def empty(sale):
    if sale.data:
        yield {}
    yield sale.data


sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
signals = Topic("shop.campaign-signals", CampaignSignalV1, key="household_id")
goods = Topic("shop.goods", ProductV1, key="sku")
more = Topic("shop.more", ProductV1, key="sku")
last = Topic("shop.last", ProductV1, key="sku")

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(sales, [], to={movements: listed, signals: spread, goods: gathered, more: empty}),
        Process(sales, [], to={last: lambda sale: [{"sku": "1", "brand": "x", "departments": "y"}]}, name="last"),
    ],
)
