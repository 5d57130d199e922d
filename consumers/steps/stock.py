"""What a sale does to the stock."""

from collections.abc import Iterator

from consumers.steps.pricing import PricedSale
from schemas import StockMovementV1
from trunkline import Event


def stock_movements(sale: Event[PricedSale]) -> Iterator[StockMovementV1]:
    """One movement per physical line; coupons, fuel and services move nothing, nor does a line of quantity zero."""
    for line in sale.data["lines"]:
        if line["physical"] and line["quantity"]:
            yield {
                "sku": line["sku"],
                "delta": -line["quantity"],
                "basket_id": sale.data["basket_id"],
                "store_id": sale.data["store_id"],
            }
