"""What was sold and does not leave the house."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, TypeGuard

from schemas import ParcelMovedV1, ParcelOverdueV1, SaleRecordedV1
from trunkline import Event, Stream

STILL_HERE = {
    "address invalid",
    "announced",
    "announced: not collected",
    "announcement failed",
    "being announced",
    "cancellation requested",
    "cancelled",
    "no label",
    "ready to send",
}
"""What a carrier says of a parcel that it has not got."""


async def unshipped(
    stream: Stream[SaleRecordedV1 | ParcelMovedV1], window: timedelta
) -> AsyncIterator[Event[ParcelOverdueV1]]:
    """One overdue parcel for each basket that no carrier has within the window, by the times of publishing."""
    waiting: dict[str, tuple[datetime, Event[SaleRecordedV1]]] = {}
    gone: dict[str, datetime] = {}
    async for at, event in stream:
        if event is None:
            for basket, (since, sale) in list(waiting.items()):
                if since + window > at:
                    continue
                del waiting[basket]
                if basket not in gone or gone[basket] > since + window:
                    yield sale.having(
                        {
                            "basket_id": basket,
                            "household_id": sale.data["household_id"],
                            "sold_at": sale.data["sold_at"],
                            "published_at": since,
                        }
                    )
            gone = {basket: when for basket, when in gone.items() if when > at - window}
        elif is_parcel(event):
            if event.data["status"].lower() not in STILL_HERE:
                gone.setdefault(event.data["basket_id"], at)
        elif is_sale(event) and any(line["quantity"] for line in event.data["lines"]):
            waiting[event.data["basket_id"]] = at, event


def is_parcel(event: Event[Any]) -> TypeGuard[Event[ParcelMovedV1]]:
    """Tell what a carrier says from what a till says."""
    return event.type.startswith("shop.ParcelMoved.")


def is_sale(event: Event[Any]) -> TypeGuard[Event[SaleRecordedV1]]:
    """Tell what a till says from what a carrier says."""
    return event.type.startswith("shop.SaleRecorded.")
