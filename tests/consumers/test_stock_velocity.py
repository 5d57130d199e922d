"""A body is tested with a list of moments; no broker, no clock."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from consumers.agents.stock_velocity import FAST, stock_velocity
from schemas import StockMovementV1
from trunkline import Event, Moment, minutes

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2017, 1, 1, tzinfo=UTC)


def sold(after: float, pieces: int, sku: str = "milk") -> Moment[StockMovementV1]:
    """Give a sale that was published so many minutes after noon, of a basket of years ago."""
    data: StockMovementV1 = {"sku": sku, "delta": -pieces, "basket_id": "b", "store_id": "s"}
    return Moment(NOON + minutes(after), Event(id=f"{sku}-{after}", time=LONG_AGO, data=data))


def shortages(*moments: Moment[StockMovementV1]) -> list[tuple[str, int]]:
    async def stream() -> AsyncIterator[Moment[StockMovementV1]]:
        for moment in moments:
            yield moment

    async def run() -> list[tuple[str, int]]:
        return [(made.id, made.data["pieces"]) async for made in stock_velocity(stream(), minutes(10))]

    return asyncio.run(run())


def test_a_product_is_short_once_when_it_sells_fast() -> None:
    assert shortages(sold(0, FAST - 1), sold(1, 3), sold(2, 5), sold(3, FAST)) == [("milk-1", FAST + 2)]


def test_what_sold_before_the_window_does_not_count_however_old_the_baskets_are() -> None:
    assert shortages(sold(0, FAST - 1), sold(10, 1)) == []
    assert shortages(sold(0, FAST - 1), sold(9.9, 1)) == [("milk-9.9", FAST)]


def test_it_is_short_again_after_it_was_slow() -> None:
    assert [name for name, _ in shortages(sold(0, FAST), sold(5, 1), sold(30, FAST))] == ["milk-0", "milk-30"]


def test_products_do_not_count_for_each_other() -> None:
    assert shortages(sold(0, FAST - 1), sold(1, FAST - 1, "bread")) == []


def test_what_has_not_sold_is_forgotten() -> None:
    assert shortages(sold(0, FAST - 1), Moment(NOON + minutes(10), None), sold(10, 1)) == []
