"""What a sale means to marketing."""

from collections.abc import Iterator
from decimal import Decimal

from consumers.steps.pricing import PricedSale
from schemas import CampaignSignalV1
from trunkline import Event


def campaign_signals(sale: Event[PricedSale]) -> Iterator[CampaignSignalV1]:
    """One signal per campaign that ran for the household."""
    spent = sum((line["amount"] for line in sale.data["lines"]), Decimal("0.00"))
    for campaign in sale.data["campaigns"]:
        yield {
            "household_id": sale.data["household_id"],
            "campaign_id": campaign,
            "basket_id": sale.data["basket_id"],
            "spent": spent,
        }
