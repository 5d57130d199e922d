"""The reference scenario, short: only the rows that its first baskets need, so that the tables are small."""

from collections.abc import Iterator, Mapping
from typing import Any

from producers.examples.complete_journey import CompleteJourney, Recall, households, products

BASKETS = 60
AFTER = 100


class ShortJourney(CompleteJourney):
    incident = Recall(events=AFTER)

    def rows(self) -> Mapping[str, Iterator[dict[str, Any]]]:
        sold = {line["sku"] for body in self.requests(0, BASKETS + AFTER) for line in body["lines"]}
        wanted = (row for row in products() if row["sku"] in sold)
        return {"shop.products": wanted, "shop.households": households()}


scenario = ShortJourney()
