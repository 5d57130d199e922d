"""The shipping company: one signed webhook whenever a parcel gets another status, as Sendcloud sends them.

https://sendcloud.dev/api/v2/webhooks: `Sendcloud-Signature` is the HMAC-SHA256 of the body, in hexadecimal.
"""

from datetime import UTC, datetime

from typing_extensions import TypedDict

from schemas import ParcelMovedV1
from trunkline import Event, Rejected
from trunkline.sources import Webhook, WebhookRequest


class Action(TypedDict):
    """What every request of the carrier says; `timestamp` is in epoch milliseconds."""

    action: str
    timestamp: int


class Status(TypedDict):
    """A status, by its number and its name."""

    id: int
    message: str


class Parcel(TypedDict):
    """As much of a parcel as the shop wants to know; the order's number is the basket's."""

    id: int
    order_number: str
    tracking_number: str
    status: Status


class ParcelStatusChanged(Action):
    """A parcel has another status."""

    parcel: Parcel


class Carrier(Webhook):
    """Parcels of the carrier. What it says of other things, such as the integration, is taken and means nothing.

    Its requests have no number. An event is known by parcel, status and time, so the carrier may repeat itself.
    """

    name = "carrier"

    def events(self, request: WebhookRequest) -> list[Event[ParcelMovedV1]]:
        if request.json(Action)["action"] != "parcel_status_changed":
            return []
        said = request.json(ParcelStatusChanged)
        parcel, status = said["parcel"], said["parcel"]["status"]
        try:
            moved_at = datetime.fromtimestamp(said["timestamp"] / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            field = ("timestamp", "milliseconds since 1970")
            raise Rejected(422, "The event is not valid", "timestamp is no time.", [field]) from None
        data: ParcelMovedV1 = {
            "basket_id": parcel["order_number"],
            "parcel_id": str(parcel["id"]),
            "tracking_number": parcel["tracking_number"],
            "status_id": status["id"],
            "status": status["message"],
            "moved_at": moved_at,
        }
        return [Event(id=f"{parcel['id']}:{status['id']}:{said['timestamp']}", time=moved_at, data=data)]
