"""The warehouse's stock API."""

from schemas import StockMovementV1
from trunkline import Event
from trunkline.sinks import HttpSink, Request


class Warehouse(HttpSink):
    """Stock movements in the warehouse system; one PUT per movement, so a repeat changes nothing."""

    name = "warehouse"

    def request(self, event: Event[StockMovementV1]) -> Request:
        return Request.put(
            "/stock/{sku}/movements/{id}",
            path={"sku": event.data["sku"], "id": event.id},
            json={"delta": event.data["delta"]},
        )
