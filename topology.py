"""What flows where. Read it top to bottom: a topic is written above the line that reads it."""

from consumers.agents.stock_velocity import stock_velocity
from consumers.agents.unshipped import unshipped
from consumers.sinks.marketing import Marketing
from consumers.sinks.warehouse import Warehouse
from consumers.steps.campaigns import campaign_signals
from consumers.steps.pricing import with_household, with_products
from consumers.steps.stock import stock_movements
from producers.carrier import Carrier
from producers.storefront import Storefront
from schemas import (
    CampaignSignalV1,
    HouseholdV1,
    ParcelMovedV1,
    ParcelOverdueV1,
    ProductV1,
    SaleRecordedV1,
    ShortageV1,
    StockMovementV1,
)
from trunkline import (
    Agent,
    ApiKey,
    Bus,
    Deliver,
    Enrich,
    Limit,
    Process,
    Publish,
    Retry,
    Secret,
    Table,
    Target,
    Topic,
    env,
    minutes,
)
from trunkline.sources import SignedBody, StandardWebhooks

# Systems: who they are, how we prove who we are, what they allow.
storefront = Storefront(verify=StandardWebhooks(Secret("STOREFRONT_SIGNING_SECRET")))
carrier = Carrier(verify=SignedBody(Secret("CARRIER_SECRET"), header="Sendcloud-Signature"))
stock = Target("stock", env("STOCK_URL"), auth=ApiKey(Secret("STOCK_KEY")), limit=Limit(2_000, per="second"))
mailing = Target("mailing", env("MAILING_URL"), auth=ApiKey(Secret("MAILING_KEY"), header="X-Api-Key"))

# Topics: a name, the record on it, the field whose order is kept.
sales = Topic("shop.sales", SaleRecordedV1, key="basket_id", partitions=12)
movements = Topic("shop.stock-movements", StockMovementV1, key="sku", partitions=12)
parcels = Topic("shop.parcels", ParcelMovedV1, key="basket_id", partitions=12)
shortages = Topic("shop.shortages", ShortageV1, key="sku")
overdue = Topic("shop.overdue-parcels", ParcelOverdueV1, key="basket_id")
signals = Topic("shop.campaign-signals", CampaignSignalV1, key="household_id")
products = Table("shop.products", ProductV1, key="sku")
households = Table("shop.households", HouseholdV1, key="household_id")

PATIENT = Retry(give_up_after=minutes(15), longest=minutes(1))

bus = Bus(
    "shop",
    [
        Publish(storefront, to=sales),
        Publish(carrier, to=parcels),
        Process(
            sales,
            [Enrich(with_products, products), Enrich(with_household, households)],
            to={movements: stock_movements, signals: campaign_signals},
        ),
        Agent(movements, stock_velocity, to=shortages, window=minutes(10)),
        Agent(sales, unshipped, join=parcels, to=overdue, window=env("SHIP_WITHIN")),
        Deliver(movements, to=Warehouse(stock), retry=PATIENT),
        Deliver(signals, to=Marketing(mailing), retry=PATIENT, after_dead="park_key"),
    ],
)
