from typing import Any

from consumers.steps.pricing import with_household, with_products
from consumers.steps.stock import stock_movements
from producers.storefront import Storefront
from schemas import HouseholdV1, ProductV1, SaleRecordedV1, StockMovementV1
from trunkline import Bus, Enrich, Process, Publish, Secret, Table, Topic, wait
from trunkline.sources import StandardWebhooks

never: Any = "never"
half_an_hour: Any = "1800"

sales = Topic("shop.sales", SaleRecordedV1, key="basket_id")
movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
products = Table("shop.products", ProductV1, key="sku", missing=never)
households = Table("shop.households", HouseholdV1, key="household_id", missing=wait(0))
late = Table("shop.late", HouseholdV1, key="household_id", missing=30)  # type: ignore[arg-type]
later = Table("shop.later", HouseholdV1, key="household_id", missing=wait(half_an_hour))

bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=sales),
        Process(
            sales,
            [
                Enrich(with_products, products),
                Enrich(with_household, households),
                Enrich(with_household, late),
                Enrich(with_household, later),
            ],
            to={movements: stock_movements},
        ),
    ],
)
