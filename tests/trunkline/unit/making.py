"""Deliveries for the tests of lanes and dispatcher: made of a key, an offset and little more."""

from datetime import UTC, datetime

from trunkline.deadletter import Origin
from trunkline.engine.delivery import Delivery
from trunkline.errors import Poison
from trunkline.event import Event
from trunkline.kafka.events import Record, Slot
from trunkline.ledger.deliveries import Place

MAIN = Slot("orders", 0)
OTHER = Slot("orders", 1)
REPLAY = Slot("orders.crm.replay", 0)
TIME = datetime(2024, 1, 1, tzinfo=UTC)


def delivery(
    key: str | None,
    offset: int,
    *,
    event: str = "",
    slot: Slot = MAIN,
    run: str = "",
    size: int = 1,
    payload: bytes = b"",
    poison: bool = False,
) -> Delivery:
    """Make the delivery of a record; its event is named after the offset unless it has another name."""
    name = event or f"e{offset}"
    raw = None if key is None else key.encode()
    return Delivery(
        record=Record(slot, offset, raw, b"", (), 0),
        event=Event(name, TIME, {}, source="shop"),
        origin=Origin(MAIN.topic, MAIN.partition, offset),
        place=Place(0, name.encode()),
        payload=payload or name.encode(),
        lane=(slot, offset) if raw is None else raw,
        key=raw,
        size=size,
        poison=Poison("no magic byte") if poison else None,
        run=run,
    )
