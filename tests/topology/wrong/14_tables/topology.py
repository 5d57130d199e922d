from collections.abc import Mapping

from consumers.steps.pricing import with_household, with_products
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import HouseholdV1, ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Enrich, Event, Process, Publish, Secret, Table, Topic
from trunkline.sources import StandardWebhooks

sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
products = Table("shop.products", ProductV1, key="sku")
households = Table("shop.households", HouseholdV1, key="household_id")


def nothing() -> Event[SaleRecordedV1]:
    raise NotImplementedError


def both(
    sale: Event[SaleRecordedV1], products: Mapping[str, ProductV1], households: Mapping[str, HouseholdV1]
) -> Event[SaleRecordedV1]:
    return sale


bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(
            sales,
            [
                nothing,
                Enrich(both, products),
                Enrich(both, households, products),
                Enrich(with_products),
                Enrich(with_household, households, products),
                with_household,
                Enrich(with_household, "shop.households"),
            ],
            to={movements: stock_movements},
        ),
    ],
)
