from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypedDict

from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import HouseholdV1, ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Enrich, Event, Lookup, Process, Publish, Secret, Target, Topic, env
from trunkline.sources import StandardWebhooks


def rated(sale: Event[SaleRecordedV1], ratings: Mapping[str, HouseholdV1]) -> Event[SaleRecordedV1]:
    return sale if sale.data["household_id"] in ratings else sale.having(sale.data)


class Old(TypedDict):
    household_id: str


nobody: Any = None
crm = Target("crm", env("CRM_URL"))
unset = Lookup("unset", nobody, "/{key}", HouseholdV1, "household_id")
misspelt = Lookup("misspelt", crm, "/{key}", HouseholdV1, "houshold_id")
inside = Lookup("inside", crm, "/{key}", HouseholdV1, "lines.skew")
product = Lookup("product", crm, "/{key}", ProductV1, "lines.sku")
placeless = Lookup("placeless", crm, "ratings", HouseholdV1, "household_id", ttl=timedelta(-1))
old = Lookup("old", crm, "/{key}", Old, "household_id")
again = Lookup("inside", crm, "/{key}", HouseholdV1, "household_id")
unsplit = Lookup("unsplit", crm, "/?ids={keys}", HouseholdV1, "household_id", together=50)

sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(
            sales,
            [
                Enrich(rated, unset),
                Enrich(rated, misspelt),
                Enrich(rated, inside),
                Enrich(rated, product),
                Enrich(rated, old),
                Enrich(rated, placeless),
                Enrich(rated, unsplit),
                Enrich(rated, again),
                Enrich(rated, crm),  # type: ignore[arg-type]
            ],
            to={movements: stock_movements},
            weight=0,
        ),
    ],
)
