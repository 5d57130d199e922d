"""What the warehouse is asked to do for a real basket: two bagels, one coupon, one line that was taken back."""

from topology import bus, products, storefront
from trunkline.testing import Response, walk

TABLES = {products: {"1003770": {"department": "COUPON", "category": "COUPON"}}}


def test_only_physical_lines_move_stock() -> None:
    journey = walk(bus, storefront, "milk_and_coupon.json", tables=TABLES)
    [request] = journey.requests["warehouse"]
    assert request.path.startswith("/stock/1095275/movements/")
    assert request.json == {"delta": -2}


def test_a_refusal_is_a_dead_letter_of_the_warehouse_alone() -> None:
    journey = walk(bus, storefront, "milk_and_coupon.json", tables=TABLES, answers={"warehouse": Response(422)})
    assert list(journey.dead) == ["warehouse"]
