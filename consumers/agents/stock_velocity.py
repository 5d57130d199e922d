"""What sells so fast that a shelf will be empty."""

from collections import defaultdict, deque
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from schemas import ShortageV1, StockMovementV1
from trunkline import Event, Stream

FAST = 30
"""Pieces of one product within a window."""


async def stock_velocity(stream: Stream[StockMovementV1], window: timedelta) -> AsyncIterator[Event[ShortageV1]]:
    """One shortage when a movement takes a product's sales within the window to FAST pieces or more."""
    sales: defaultdict[str, deque[tuple[datetime, int]]] = defaultdict(deque)
    async for at, movement in stream:
        if movement is None:
            forget(sales, at - window)
            continue
        sku, pieces = movement.data["sku"], -movement.data["delta"]
        recent = sales[sku]
        while recent and recent[0][0] <= at - window:
            recent.popleft()
        before = sum(count for _, count in recent)
        recent.append((at, pieces))
        if before < FAST <= before + pieces:
            yield movement.having(
                {"sku": sku, "pieces": before + pieces, "window_seconds": round(window.total_seconds())}
            )


def forget(sales: dict[str, deque[tuple[datetime, int]]], until: datetime) -> None:
    """Take out the products that have not sold since."""
    for sku in [sku for sku, recent in sales.items() if recent[-1][0] <= until]:
        del sales[sku]
