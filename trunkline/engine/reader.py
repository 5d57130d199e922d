"""Makes deliveries of the records of one flow."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from trunkline import deadletter
from trunkline.avro.codec import HEAD
from trunkline.deadletter import Origin
from trunkline.engine.delivery import Delivery
from trunkline.engine.dispatch import Dispatcher
from trunkline.errors import Permanent, Poison, Undeliverable, UnknownSchema
from trunkline.event import Event, Header, from_headers
from trunkline.kafka import events
from trunkline.kafka.registry import Format
from trunkline.ledger import deliveries

OVERHEAD = 6_144
"""Bytes that an event costs in memory besides its value."""
REPEATED = frozenset({"ce_specversion", "ce_source", "ce_type", "content-type"})
"""Headers that most events of a topic have alike."""


class Reader:
    """Reads what a flow fetches; used from the thread that fetches."""

    def __init__(
        self,
        core: Dispatcher,
        form: Format,
        *,
        sink: str,
        replay: str,
        call_key: Callable[[str, str], str] | None,
        deletes: bool,
        newer: Callable[[], None],
    ) -> None:
        """Prepare.

        `sink` is what the ledger knows it by, `replay` the topic of the flow's replays. `call_key` gives the
        idempotency key of an event's call by its source and id, None where the sink sends none: made for a batch in a
        row, keys cost a fifth of what they do between calls. `deletes` says that a record without a value is an event,
        `newer` is called when a record may be of a version that only others know.
        """
        self._core = core
        self._form = form
        self._sink = sink
        self._replay = replay
        self._call_key = call_key
        self._deletes = deletes
        self._newer = newer
        self._met: dict[bytes, float] = {}
        """When a schema that is no version of ours was first met, by the head of its values."""

    def read(self, record: events.Record) -> Delivery:
        """Make a delivery of a record; one that is no event becomes a poisoned delivery with an identity of its own.

        Not with the one that its headers may name: what is wrong with it must not befall that event.
        """
        record = slim(record)
        origin, run = Origin(*record.slot, record.offset), ""
        if record.slot.topic == self._replay:
            origin, run = deadletter.sent_again(record.headers, origin)
        poison: Undeliverable | None = None
        try:
            gone = record.value is None and self._deletes
            data, poison = ({}, None) if gone else self._decode(record)
            event: Event[Any] = from_headers(record.headers, record.key, data)
        except Poison as error:
            event, poison = deadletter.stray(origin), error
        newer = poison is None and record.value is not None and self._is_newer(record)
        if newer or isinstance(poison, UnknownSchema):
            self._newer()
        key = None if record.key is None else deliveries.key_of(record.key)
        return Delivery(
            record=record,
            event=event,
            origin=origin,
            place=deliveries.place_of(self._sink, event),
            payload=deliveries.payload_of((record.value or b"")[HEAD:]),
            lane=(record.slot, record.offset) if key is None else key,
            key=key,
            size=OVERHEAD + len(record.value or b""),
            call_key="" if self._call_key is None else self._call_key(event.source, event.id),
            poison=poison,
            newer=newer,
            fetched=events.clock() if newer or poison is not None else 0.0,
            run=run,
            alone=gone,  # what it becomes is no part of a batch
        )

    def _decode(self, record: events.Record) -> tuple[dict[str, Any], Permanent | None]:
        """Decode a record's value; what a function from one version to the next makes impossible is the event's end."""
        try:
            return self._form.decode(record.value), None
        except Permanent as error:
            return {}, error

    def _is_newer(self, record: events.Record) -> bool:
        """Say whether another topology may have the version of a record's schema that ours has not (L5)."""
        if self._form.knows(record.value):
            return False
        since = self._met.setdefault((record.value or b"")[:HEAD], events.clock())
        if self._core.uniform > since:
            self._form.accept(record.value)
            return False
        return True


def slim(record: events.Record) -> events.Record:
    """Give a record that shares with others the headers that they have alike: a fifth of what it costs in memory."""
    headers = tuple([once(header) if header[0] in REPEATED else header for header in record.headers])
    return events.Record(record.slot, record.offset, record.key, record.value, headers, record.timestamp)


@lru_cache(maxsize=256)
def once(header: Header) -> Header:
    """Give the one header that stands for all that are alike."""
    return header
