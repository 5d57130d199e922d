"""The marketing system's signal API."""

from schemas import CampaignSignalV1
from trunkline import Event
from trunkline.sinks import HttpSink, Request


class Marketing(HttpSink):
    """Campaign signals in the marketing system; its idempotency keys make a repeat harmless."""

    name = "marketing"

    def request(self, event: Event[CampaignSignalV1]) -> Request:
        return Request.post(
            "/signals",
            json={
                "household": event.data["household_id"],
                "campaign": event.data["campaign_id"],
                "basket": event.data["basket_id"],
                "spent": str(event.data["spent"]),
            },
        )
