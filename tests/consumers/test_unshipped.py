"""What is sold and does not leave the house, by the times of publishing alone."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from consumers.agents.unshipped import unshipped
from schemas import ParcelMovedV1, SaleRecordedV1
from trunkline import Event, Moment, minutes

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2017, 1, 1, tzinfo=UTC)


def sold(after: float, basket: str = "b", quantity: int = 1) -> Moment[Any]:
    data: SaleRecordedV1 = {
        "basket_id": basket,
        "household_id": "h",
        "store_id": "s",
        "sold_at": LONG_AGO,
        "lines": [{"sku": "milk", "quantity": quantity, "amount": 1, "discount": 0}],  # type: ignore[typeddict-item]
    }
    return Moment(NOON + minutes(after), Event(basket, LONG_AGO, data, type="shop.SaleRecorded.v1"))


def moved(after: float, basket: str = "b", status: str = "Shipment picked up by driver") -> Moment[Any]:
    data: ParcelMovedV1 = {
        "basket_id": basket,
        "parcel_id": "1",
        "tracking_number": "",
        "status_id": 22,
        "status": status,
        "moved_at": LONG_AGO,
    }
    return Moment(NOON + minutes(after), Event(f"{basket}-{after}", LONG_AGO, data, type="shop.ParcelMoved.v1"))


def late(after: float) -> Moment[Any]:
    return Moment(NOON + minutes(after), None)


def overdue(*moments: Moment[Any]) -> list[str]:
    async def stream() -> AsyncIterator[Moment[Any]]:
        for moment in moments:
            yield moment

    async def run() -> list[str]:
        return [made.id async for made in unshipped(stream(), minutes(30))]

    return asyncio.run(run())


def test_a_basket_without_a_parcel_is_overdue_once_when_its_time_has_passed() -> None:
    assert overdue(sold(0), late(29)) == []
    assert overdue(sold(0), late(30), late(31)) == ["b"]


def test_a_basket_with_a_parcel_is_not_in_whatever_order_they_are_read() -> None:
    assert overdue(sold(0), moved(29), late(60)) == []
    assert overdue(moved(29), sold(0), late(60)) == []


def test_a_parcel_that_comes_too_late_or_has_not_left_helps_nobody() -> None:
    assert overdue(sold(0), moved(31), late(31)) == ["b"]
    assert overdue(sold(0), moved(1, status="Ready to send"), late(30)) == ["b"]


def test_baskets_are_told_apart_and_voided_ones_have_nothing_to_ship() -> None:
    assert overdue(sold(0, "a"), sold(1, "b"), sold(2, "c", quantity=0), moved(3, "a"), late(60)) == ["b"]
