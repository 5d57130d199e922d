"""Tells Kafka what became of events: dead letters and the audit trail, acknowledged before the ledger hears of it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from trunkline import deadletter
from trunkline.deadletter import Failure
from trunkline.engine.delivery import Delivery
from trunkline.errors import Permanent, Unavailable, Undeliverable
from trunkline.flow.declare import Bus, Deliver, dead_letters_of, flow_name, identity_of, sink_identity
from trunkline.kafka import audit
from trunkline.kafka.events import Sender
from trunkline.kafka.orders import Orders
from trunkline.kafka.topics import outcomes_of
from trunkline.ledger.deliveries import State

AGAIN = 1.0
"""Seconds until what the broker did not take is offered again."""


class Letters:
    """Writes for one flow."""

    def __init__(
        self,
        bus: Bus,
        flow: Deliver,
        *,
        sender: Sender,
        owns: Callable[[Delivery], bool],
        told: Callable[[Delivery, str], str],
        see: Callable[..., None],
    ) -> None:
        """Prepare.

        `owns` says whether a delivery's partition is still ours, `told` takes out of words what nobody may read, `see`
        says what is seen.
        """
        self._flow = flow_name(flow)
        self._identity = identity_of(flow)
        self._sink = sink_identity(flow.to)
        self._trail = outcomes_of(bus)
        self._sender = sender
        self._owns = owns
        self._told = told
        self._see = see
        self.orders: Orders | None = None
        """Those that hold: they name who has asked for a skip."""

    async def bury(self, delivery: Delivery, verdict: Undeliverable, state: State) -> bool:
        """Write the dead letter and its entry in the audit trail; say whether both are acknowledged (D5, L4).

        What the broker does not take is offered again for as long as the delivery is ours: until then its key waits.
        """
        if delivery.kind is None:
            raise ValueError("a dead letter without a class")
        at = datetime.now(UTC)
        record = delivery.record
        failure = Failure(
            flow=self._flow,
            kind=delivery.kind,
            stage="decode" if delivery.kind == "poison" else "deliver",
            error=type(verdict).__name__,
            message=self._told(delivery, str(verdict)),
            attempts=delivery.attempts,
            status=verdict.status,
            at=at,
        )
        headers = deadletter.write(record.headers, delivery.origin, failure)
        value: Any = record.value
        written = False
        while self._owns(delivery):
            try:
                if not written:
                    letter = self._sender.send(
                        dead_letters_of(self._identity), record.key, value, headers, partition=record.slot.partition
                    )
                    await asyncio.wrap_future(letter)
                    written = True
                await self._append(delivery, state, at)
            except Permanent as error:
                if value is not None and not written:
                    value, headers = None, deadletter.by_reference(headers, record.value)
                    continue
                await self._wait(delivery, error)
            except Unavailable as error:
                await self._wait(delivery, error)
            else:
                if state is not State.PARKED:
                    self._see("dead", delivery, detail=failure.message, outcome=failure.kind)
                self._see("buried", delivery)
                return True
        return False

    async def tell(self, delivery: Delivery, state: State) -> None:
        """Append to the audit trail how a delivery ended, acknowledged."""
        while True:
            try:
                return await self._append(delivery, state, datetime.now(UTC))
            except (Unavailable, Permanent) as error:
                await self._wait(delivery, error)

    async def _append(self, delivery: Delivery, state: State, at: datetime) -> None:
        order = None
        if delivery.skipped and self.orders is not None:
            order = self.orders.skipped.get((self._sink, delivery.skipped))
        entry = audit.Entry(
            at=at,
            flow=self._identity,
            sink=self._sink,
            source=delivery.event.source,
            event=delivery.event.id,
            time=delivery.event.time,
            origin=delivery.origin,
            key=None if delivery.key is None else delivery.key.hex(),
            payload=delivery.payload.hex(),
            state=state.name,
            attempts=delivery.attempts,
            run=delivery.run if delivery.live else "",
            kind=delivery.kind or "",
            who="" if order is None else order.who,
            why="" if order is None else order.why,
        )
        await asyncio.wrap_future(self._sender.send(*audit.record_of(self._trail, entry)))

    async def _wait(self, delivery: Delivery, error: Exception) -> None:
        self._see("stuck", delivery, detail=f"what became of it cannot be written, so its key waits: {error}")
        await asyncio.sleep(AGAIN)
