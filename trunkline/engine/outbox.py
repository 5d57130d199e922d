"""What an agent writes: records that its body makes, dead letters, what became of replays. Each is acknowledged.

A dead letter that cannot be written ends the process: nothing is committed, and the event comes again.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NoReturn

import structlog

from trunkline import deadletter
from trunkline.engine.partition import Partition, Taken
from trunkline.engine.trail import Again, ended, failure_of, origin_of
from trunkline.engine.watchdog import Heart
from trunkline.errors import EXIT, Halt, Permanent, TrunklineError, Unavailable
from trunkline.event import Event, Headers, Moment, derived_id, from_headers, to_headers, to_parent
from trunkline.flow.declare import Agent, Bus, dead_letters_of, flow_name, identity_of, source_of
from trunkline.flow.transform import key_of
from trunkline.kafka import audit
from trunkline.kafka.events import Record, Sender, Written
from trunkline.kafka.registry import Format
from trunkline.kafka.topics import RECORD_BYTES, replayed_of, size_of, too_large
from trunkline.observe import Observed, Observer, What
from trunkline.redact import redact

ACKNOWLEDGED = 15.0
"""Seconds in which the broker must have acknowledged what was written; a little more than a sender's patience."""

Write = tuple[bytes | None, bytes, Headers]


class Outbox:
    """Writes for one flow, in its thread."""

    def __init__(
        self, bus: Bus, flow: Agent, *, forms: Mapping[str, Format], sender: Sender, heart: Heart, observe: Observer
    ) -> None:
        """Prepare; `forms` holds the format of every topic by name."""
        self._name = flow_name(flow)
        self._identity = identity_of(flow)
        self._source = source_of(bus, flow)
        self._topic = flow.to
        self._form = forms[flow.to.name]
        self._letters = dead_letters_of(self._identity)
        self._trail = replayed_of(bus)
        self._sender = sender
        self._heart = heart
        self._observe = observe

    def make(self, part: Partition, made: Any, moment: Moment[Any]) -> Write:
        """Give the record that a body has made, to be written.

        Raises:
            Permanent: it is made of no event, does not fit its topic, or is too large.
        """
        if not isinstance(made, Taken):
            raise Permanent(f"it yields a {type(made).__name__}; yield event.having(record) of an event of its stream")
        topic = self._topic
        key = key_of(topic, made.data)
        event = Event(
            id=derived_id(made, topic.name, key, part.ordinal(made, key, moment.at)),
            source=self._source,
            type=topic.schema.event_type,
            time=made.time,
            key=key,
            data=made.data,
            traceparent=made.traceparent,
        )
        raw = None if key is None else key.encode()
        value = self._form.encode(event.data)
        headers = (*to_headers(event), to_parent(made, made.partition, made.offset))
        if (size := size_of(raw, value, headers)) > RECORD_BYTES:
            raise too_large(topic.name, size)
        return raw, value, headers

    def emit(self, writes: Sequence[Write]) -> None:
        """Write records and wait for the acknowledgement of each.

        Raises:
            Unavailable: one was not acknowledged: all of it comes again, under the same ids.
            Halt: the broker refuses one for good.
        """
        if not writes:
            return
        name = self._topic.name
        sent = [self._sender.send(name, key, value, headers) for key, value, headers in writes]
        self._see("produced", count=len(sent))
        for future in sent:
            self._acknowledged(future)
        self._see("emitted", topic=name, count=len(sent))

    def _acknowledged(self, future: "Future[Written]") -> None:
        self._heart.beat()
        try:
            with self._heart.within(ACKNOWLEDGED):
                future.result(ACKNOWLEDGED)
        except TimeoutError:
            raise Unavailable("the broker did not acknowledge a record: no answer") from None
        except Permanent as error:
            raise Halt(f"the broker refuses what the agent has made: {error}") from None

    def tell_ended(self, record: Record, sent: Again, event: Event[Any], how: str) -> None:
        """Write onto the audit trail what became of what a replay has sent, acknowledged.

        Raises:
            Unavailable: it was not acknowledged: the event comes again.
        """
        entry = ended(self._identity, record, sent, event, how)
        self._acknowledged(self._sender.send(*audit.record_of(self._trail, entry)))

    def bury(self, record: Record, sent: Again | None, error: TrunklineError, message: str) -> tuple[str, str]:
        """Write the dead letter of an event and give its id and class; when it cannot be written, the process ends.

        Raises:
            Unavailable: what became of a replay was not acknowledged: the event comes again.
        """
        origin, failure = origin_of(record, sent), failure_of(self._name, error, message)
        headers = deadletter.write(record.headers, origin, failure)
        try:
            try:
                self._bury_as(record, record.value, headers)
            except Permanent:
                self._bury_as(record, None, deadletter.by_reference(headers, record.value))
        except (TrunklineError, TimeoutError) as unwritten:
            end_process(f"{self._name}: the dead letter of offset {record.offset} cannot be written: {unwritten}")
        self._see("buried")
        poison = failure.kind == "poison"
        event = deadletter.stray(origin) if poison else from_headers(record.headers, record.key)
        if sent is not None:
            self.tell_ended(record, sent, event, failure.kind)
        return event.id, failure.kind

    def _bury_as(self, record: Record, value: bytes | None, headers: Headers) -> None:
        with self._heart.within(ACKNOWLEDGED):
            sent = self._sender.send(self._letters, record.key, value, headers, partition=record.slot.partition)
            sent.result(ACKNOWLEDGED)

    def _see(self, what: What, **more: Any) -> None:
        self._observe(Observed(what, self._name, **more))


def end_process(why: str) -> NoReturn:
    """End the process at once: what is not committed comes again."""
    structlog.get_logger("trunkline").critical("agent", why=redact(why), exit_code=EXIT)
    os._exit(EXIT)
