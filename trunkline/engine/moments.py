"""What comes for the body of an agent: records read as moments, up to the first that is no event."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from trunkline import deadletter
from trunkline.engine.elsewhere import Elsewhere, leave_newer
from trunkline.engine.partition import Given, Partition, Taken, Try, moment_of
from trunkline.engine.trail import Again, again
from trunkline.errors import Permanent, Poison, Unavailable, UnknownSchema
from trunkline.event import Moment
from trunkline.flow.declare import Agent, Topic, identity_of, inputs_of, replay_of
from trunkline.kafka.events import Record
from trunkline.kafka.registry import Format
from trunkline.redact import marked, redact


class Moments:
    """Reads the records of one flow."""

    def __init__(self, flow: Agent, forms: Mapping[str, Format], elsewhere: Elsewhere) -> None:
        """Prepare; `forms` holds the format of every topic by name."""
        self._first = flow.topic
        self._topics = {topic.name: topic for topic in inputs_of(flow)}
        self._replay = replay_of(identity_of(flow))
        self._forms = forms
        self._elsewhere = elsewhere

    def take(self, part: Partition, fetched: float) -> tuple[list[Given], tuple[Record, Permanent | Poison] | None]:
        """Take from what is pending up to the first record that is no event; give that one with the reason."""
        given: list[Given] = []
        while part.pending:
            record = part.pending.pop(0)
            at = moment_of(record.timestamp)
            sent = self.sent(record)
            stray = sent is None and record.slot.topic == self._replay  # no replay has sent it
            if stray or self.tried(record) in part.dead:
                given.append(Given(Moment(at, None), record, passed=True))
                continue
            try:
                event = self._event(record, sent)
                form = self._forms[self._topic_of(record).name]
                leave_newer(form, record.value, fetched, self._elsewhere.may_know)
                passed = part.knows(event, record)
                given.append(Given(Moment(at, event), record, passed=passed, sent=sent))
            except UnknownSchema as error:
                if self._elsewhere.may_know(fetched):
                    raise
                return given, (record, error)
            except (Permanent, Poison) as error:
                return given, (record, error)
        return given, None

    def sent(self, record: Record) -> Again | None:
        """Say where an event that a replay has sent stood first; None when none has."""
        return again(record) if record.slot.topic == self._replay else None

    def tried(self, record: Record) -> Try:
        """Say which try of an event a record is."""
        sent = self.sent(record)
        origin = (record.slot.topic, record.offset) if sent is None else (sent.origin.topic, sent.origin.offset)
        return (*origin, 0 if sent is None else sent.replays)

    def _topic_of(self, record: Record) -> Topic:
        """Give the topic that a record is of: of one that a replay has sent, where it stood first."""
        sent = self.sent(record)
        return self._topics.get(record.slot.topic if sent is None else sent.origin.topic, self._first)

    def _event(self, record: Record, sent: Again | None) -> Taken[Any]:
        event = self._forms[self._topic_of(record).name].event_of(record)
        partition, offset = (record.slot.partition, record.offset) if sent is None else sent.stood
        return Taken(
            event.id,
            event.time,
            event.data,
            event.source,
            event.type,
            event.key,
            event.traceparent,
            partition,
            offset,
        )

    def buried(self, letters: Iterable[Record]) -> dict[int, set[Try]]:
        """Say by partition what has a dead letter."""
        found: dict[int, set[Try]] = {}
        for record in letters:
            with suppress(KeyError, ValueError):  # it is no letter of ours
                letter = deadletter.read(record.headers)
                tried = (letter.origin.topic, letter.origin.offset, letter.replays)
                found.setdefault(letter.origin.partition, set()).add(tried)
        return found

    def told(self, record: Record | None, error: BaseException) -> str:
        """Give an error's words without secrets, and without what the schema marks as sensitive."""
        try:
            topic = self._first if record is None else self._topic_of(record)
            data = {} if record is None else self._forms[topic.name].decode(record.value)
        except (Permanent, Poison, Unavailable):
            data = {}
        return redact(str(error), marked(topic.schema.definition, data))
