"""The shop's tills: one signed webhook per paid basket."""

from datetime import datetime
from decimal import Decimal

from typing_extensions import TypedDict

from schemas import SaleRecordedV1
from trunkline import Event, Rejected
from trunkline.sources import Webhook, WebhookRequest


class Line(TypedDict):
    """A line as the till sends it; money is a decimal in a string."""

    sku: str
    quantity: int
    amount: Decimal
    discount: Decimal


class Basket(TypedDict):
    """A basket as the till sends it; `sold_at` is local time with its offset."""

    basket_id: str
    household_id: str
    store_id: str
    sold_at: datetime
    lines: list[Line]


class Storefront(Webhook):
    """Baskets from the tills. The basket's number is the event's id, so a till may repeat itself."""

    name = "storefront"

    def events(self, request: WebhookRequest) -> list[Event[SaleRecordedV1]]:
        basket = request.json(Basket)
        sold_at = basket["sold_at"]
        if sold_at.tzinfo is None:
            field = ("sold_at", "a local time needs its offset, such as 2017-01-01T06:53:26-05:00")
            raise Rejected(422, "The event is not valid", "sold_at has no offset.", [field])
        return [Event(id=basket["basket_id"], time=sold_at, data={**basket})]
