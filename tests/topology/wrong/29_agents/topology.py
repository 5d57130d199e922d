"""Agents: a body that is none, one that reads and makes other records, topics that do not belong together, a window."""

from collections.abc import AsyncIterator
from datetime import timedelta

from producers.storefront import Storefront
from schemas import CampaignSignalV1, SaleRecordedV1, StockMovementV1
from trunkline import Agent, Bus, Event, Publish, Secret, Stream, Topic, days, minutes
from trunkline.sources import StandardWebhooks


async def silent(stream: Stream[SaleRecordedV1], window: timedelta) -> None:
    async for _ in stream:
        pass


async def other(stream: Stream[StockMovementV1], window: timedelta) -> AsyncIterator[Event[CampaignSignalV1]]:
    async for _, movement in stream:
        if movement is not None:
            yield movement.having({"household_id": "1", "campaign_id": "1", "basket_id": "1", "spent": "1"})


async def wrong(stream: Stream[SaleRecordedV1], window: timedelta) -> AsyncIterator[Event[StockMovementV1]]:
    async for _, sale in stream:
        if sale is not None:
            yield sale.having({"sku": "1", "delta": 1, "basket": "1", "store_id": "1"})


async def alone(stream: Stream[SaleRecordedV1]) -> AsyncIterator[Event[StockMovementV1]]:
    async for _, sale in stream:
        yield sale


sales = Topic("shop.sales", SaleRecordedV1, key="basket_id", partitions=12)
returns = Topic("shop.returns", SaleRecordedV1, key="basket_id", partitions=6)
keyless = Topic("shop.keyless", SaleRecordedV1, partitions=12)
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
more = Topic("shop.more-movements", StockMovementV1, key="sku")
signals = Topic("shop.campaign-signals", CampaignSignalV1, key="household_id")

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("STOREFRONT_SIGNING_SECRET"))), to=sales),
        Agent(sales, silent, to=movements, window=minutes(10)),
        Agent(sales, other, to=movements, window=minutes(10)),
        Agent(sales, wrong, to=movements, window=days(8)),
        Agent(sales, alone, to=movements, window=minutes(10), join=returns),
        Agent(sales, wrong, to=more, window="10 minutes", join=keyless),
        Agent(sales, wrong, to=sales, window=minutes(0), name="back", join=keyless),
    ],
)
