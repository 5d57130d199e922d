"""What one record of a process flow becomes: decoded, taken through steps and routes, encoded; or a dead letter.

Nothing is written here. Whatever is wrong with one record is found before a transaction begins (P5), except what only
the broker can tell. A record that a replay has sent is the event that first stood elsewhere: what is made of it has the
ids that it would have had, and what became of it goes onto the audit trail in the same transaction (L4).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from trunkline import deadletter
from trunkline.engine import spans
from trunkline.engine.elsewhere import leave_newer
from trunkline.engine.trail import Again, again, ended, failure_of, origin_of
from trunkline.errors import Absent, Halt, Permanent, Poison, Unavailable, UnknownSchema
from trunkline.event import Drop, Event, Header, Headers, from_headers, headed, kind_of, to_parent, written
from trunkline.flow.declare import (
    Bus,
    Process,
    Route,
    Topic,
    dead_letters_of,
    flow_name,
    identity_of,
    replay_of,
    source_of,
)
from trunkline.flow.rows import Given
from trunkline.flow.transform import Made, Steps, records_of
from trunkline.kafka import audit
from trunkline.kafka.events import Record
from trunkline.kafka.registry import Format
from trunkline.kafka.topics import RECORD_BYTES, replayed_of, size_of, too_large
from trunkline.kafka.transactions import Write
from trunkline.redact import marked, redact
from trunkline.verdict import Guard, of_exception

Outcome = Literal["routed", "filtered", "unrouted", "dead", "stray"]
"""Strays are records on the replay topic that no replay sent: they are passed over."""
Through = Event[Any] | Drop | Exception
"""What the steps gave or raised."""


class Entry(NamedTuple):
    """What one record became."""

    record: Record
    outcome: Outcome
    writes: Sequence[Write] = ()
    dead: tuple[str, str, str] = ("", "", "")
    """Of one that goes dead the event's id, why, and the class of the letter."""
    trail: Write | None = None
    """Of one that a replay sent, what the audit trail is to say."""


class Read(NamedTuple):
    """A record as an event, with the span of processing it, if there is one."""

    event: Event[Any]
    span: spans.Span | None


class Way(NamedTuple):
    """Where a route leads, and what all its records have in common."""

    topic: Topic
    route: Route
    form: Format
    kind: tuple[Header, Header]


class Maker:
    """Makes entries of the records of one flow, in their order; one thread at a time."""

    def __init__(
        self,
        bus: Bus,
        flow: Process,
        *,
        forms: Mapping[str, Format],
        tables: Given,
        elsewhere: Callable[[float], bool],
    ) -> None:
        """Take what the flow needs; `elsewhere` says of a record fetched then whether others may know more of it."""
        self._schema = flow.topic.schema
        self._steps = Steps(flow, tables)
        self._name = flow_name(flow)
        source = source_of(bus, flow)
        self._identity = identity_of(flow)
        self._letters = dead_letters_of(self._identity)
        self._replay = replay_of(self._identity)
        self._trail = replayed_of(bus)
        self._form = forms[flow.topic.name]
        self._ways = [
            Way(topic, route, forms[topic.name], kind_of(source, topic.schema.event_type))
            for topic, route in flow.to.items()
        ]
        self._elsewhere = elsewhere
        self._guard = Guard()
        self._refusals = Guard()

    def read(self, record: Record) -> Read:
        """Give a record as an event.

        Raises:
            Poison: it is none.
            Permanent: a function from an earlier version of its schema to the next failed.
            Unavailable: its schema is unknown here and cannot be asked for.
        """
        event = self._form.event_of(record)
        if spans.Exporting.recorder is None:
            return Read(event, None)
        return Read(*spans.carried("process", self._name, event, {"trunkline.event": event.id}))

    async def through(self, event: Event[Any]) -> Event[Any] | Drop:
        """Take an event through the steps.

        Raises:
            Permanent, TrunklineError, OSError: as `Steps.take`.
        """
        return await self._steps.take_waiting(event)

    def make(
        self,
        record: Record,
        fetched: float,
        read: Read | Exception | None,
        through: Through | None,
        patient: Callable[[Record, float], bool],
    ) -> Entry:
        """Make the entry of a record that had been fetched by then; `through` is what the steps gave, if they ran.

        `patient` says whether a record may wait on for a row, for so many seconds in all.

        Raises:
            Absent: a row is missing, and the record may wait for it; nothing has been made.
            Retryable, OSError, TimeoutError, Unavailable: not now; nothing has been made.
            UnknownSchema: other workers may know what to do with it (L5).
            Halt: too many in a row were refused alike.
        """
        span = None
        sent = None
        if record.slot.topic == self._replay and (sent := again(record)) is None:
            return Entry(record, "stray")
        try:
            if read is None:
                read = self.read(record)
            elif isinstance(read, Exception):
                raise read
            event, span = read
            leave_newer(self._form, record.value, fetched, self._elsewhere)
            if through is None:
                through = self._steps.take(event)
            elif isinstance(through, Exception):
                raise through
            entry = self._route(record, event, through, fetched, sent)
            if self._guard.count:
                self._guard = Guard()
        except UnknownSchema as error:
            if self._elsewhere(fetched):
                raise
            return self._bury(record, error, self._guard, sent)
        except (Permanent, Poison) as error:
            if isinstance(error, Absent) and patient(record, error.patience):
                raise
            return self._bury(record, error, self._guard, sent)
        finally:
            if span is not None:
                span.end()
        return entry if sent is None else entry._replace(trail=self._ended(record, sent, event, entry.outcome))

    def refuse(self, entry: Entry, why: str) -> Entry:
        """Give the entry in place of one of whose writes the broker has refused one: a letter, at last without value.

        Raises:
            Unavailable: the broker refuses such a letter too.
            Halt: too many in a row were refused alike.
        """
        record = entry.record
        if entry.outcome != "dead":
            sent = None if entry.trail is None else again(record)
            return self._bury(record, Permanent(f"the broker refused a record made of it: {why}"), self._refusals, sent)
        [letter] = entry.writes
        if letter.value is None:
            raise Unavailable(f"{record.slot.topic} waits at offset {record.offset}: its dead letter is refused: {why}")
        headers = deadletter.by_reference(tuple(letter.headers), record.value)
        return entry._replace(writes=[letter._replace(value=None, headers=[*headers])])

    def accepted(self) -> None:
        """Take note that the broker has had everything."""
        self._refusals = Guard()

    def told(self, record: Record, error: Exception) -> str:
        """Give an error's words without secrets, and without what the schema marks as sensitive."""
        try:
            data = self._form.decode(record.value)
        except (Permanent, Poison, Unavailable):
            data = {}
        return redact(str(error), marked(self._schema.definition, data))

    def _route(
        self, record: Record, event: Event[Any], through: Event[Any] | Drop, fetched: float, sent: Again | None
    ) -> Entry:
        if isinstance(through, Drop):
            return Entry(record, "filtered")
        partition, offset = (record.slot.partition, record.offset) if sent is None else sent.stood
        parent = to_parent(event, partition, offset)
        time = time_of(record.headers) or written(event.time)
        writes = [
            self._write(way, made, time, through.traceparent, parent)
            for way in self._ways
            for made in records_of(way.route, way.topic, through)
        ]
        if writes:
            return Entry(record, "routed", writes)
        # No other topology may have a route for what ours has none for.
        if not self._form.is_own(record.value) and self._elsewhere(fetched):
            raise UnknownSchema("no route here takes an event with another schema than ours")
        return Entry(record, "unrouted")

    def _write(self, way: Way, made: Made, time: bytes, trace: str | None, parent: Header) -> Write:
        topic, event_id, text, data = made
        key = None if text is None else text.encode()
        value, headers = way.form.encode(data), headed(event_id, way.kind, time, key, trace)
        headers.append(parent)
        roughly = len(value) + 2 * len(key or b"") + len(parent[1] or b"") + len(trace or "")
        if roughly > RECORD_BYTES // 2 and (size := size_of(key, value, tuple(headers))) > RECORD_BYTES:
            raise too_large(topic.name, size)
        return Write(topic.name, key, value, headers)

    def _bury(self, record: Record, error: Permanent | Poison, guard: Guard, sent: Again | None) -> Entry:
        verdict = guard.consider(of_exception(error), record.key)
        if isinstance(verdict, Halt):
            raise verdict
        origin, failure = origin_of(record, sent), failure_of(self._name, error, self.told(record, error))
        headers = [*deadletter.write(record.headers, origin, failure)]
        letter = Write(self._letters, record.key, record.value, headers, record.slot.partition)
        poison = failure.kind == "poison"
        event = deadletter.stray(origin) if poison else from_headers(record.headers, record.key)
        trail = None if sent is None else self._ended(record, sent, event, failure.kind)
        return Entry(record, "dead", [letter], (event.id, failure.message, failure.kind), trail)

    def _ended(self, record: Record, sent: Again, event: Event[Any], how: str) -> Write:
        """Give what the audit trail is to say of a record that a replay sent."""
        entry = ended(self._identity, record, sent, event, how)
        topic, key, value, headers = audit.record_of(self._trail, entry)
        return Write(topic, key, value, [*headers])


def time_of(headers: Headers) -> bytes | None:
    """Give the time of an event that stands where we write it, in UTC; a derived event has the same."""
    if len(headers) > 4 and headers[4][0] == "ce_time" and (time := headers[4][1] or b"").endswith(b"Z"):
        return time
    return None
