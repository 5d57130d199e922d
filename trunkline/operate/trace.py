"""What happened to one event: every hop and attempt, and where it stands now.

The ledger knows an event of any sink's topic at once, by its id; its row says where the record stood, and a derived
record says in a header of which one it was made. So upwards every step is one fetch. Downwards the output topics are
read from the time at which the event was published, or sent again by a replay, LOOKED_AT records at most; what that did
not settle is said. An event that no sink reads is looked for among the newest of its topic.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from trunkline.avro.codec import HEAD
from trunkline.deadletter import Origin, stray
from trunkline.errors import Poison, UsageError
from trunkline.event import Event, from_headers, parent_of
from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Process,
    Reading,
    dead_letters_of,
    flow_name,
    group_of,
    identity_of,
    inputs_of,
    sink_identity,
    source_of,
)
from trunkline.kafka import audit
from trunkline.kafka.audit import Entry
from trunkline.kafka.control import Control, Record
from trunkline.kafka.events import Slot
from trunkline.kafka.topics import outcomes_of, reading, replayed_of
from trunkline.ledger import claims, deliveries, history, runs
from trunkline.ledger.attempts import Attempt, attempts_of
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import Place, State
from trunkline.ledger.history import Claim
from trunkline.operate.browse import Opened, gather, open_letter

LOOKED_AT = 10_000
"""Records of a topic that are read at most to find one."""
SKEW = timedelta(seconds=5)
"""By how much the clocks of those who write records may differ."""

Stands = Literal[
    "delivered",
    "dead",
    "being called",
    "ambiguous",
    "parked",
    "superseded",
    "discarded",
    "being retried",
    "waiting",
    "forgotten",
    "unknown",
]
"""How a delivery stands: by the ledger's row, or without one. "forgotten": it was finished, long ago."""

STANDS: Mapping[State, Stands] = {
    State.DONE: "delivered",
    State.DEAD: "dead",
    State.INTENT: "being called",
    State.AMBIGUOUS: "ambiguous",
    State.PARKED: "parked",
    State.SUPERSEDED: "superseded",
    State.DISCARDED: "discarded",
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the event at one sink."""

    flow: str
    sink: str
    stands: Stands
    since: datetime | None = None
    """When that was recorded."""
    attempts: int = 0
    failed: tuple[Attempt, ...] = ()
    letters: tuple[Opened, ...] = ()
    outcomes: tuple[Entry, ...] = ()
    """What the audit trail has of it: dead letters, and what replays came to."""
    before: int = 0
    """Records that are finished first, when it waits."""
    behind: str = ""
    """The event that holds its key back."""
    replaying: bool = False
    """A replay of the sink is under way."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a flow of steps, or an agent, made of the event."""

    flow: str
    kind: Literal["process", "agent"]
    stands: Literal["done", "waiting", "unknown"]
    before: int = 0
    """Records that the flow takes first, when it waits."""
    made: tuple["Node", ...] = ()
    letters: tuple[Opened, ...] = ()
    outcomes: tuple[Entry, ...] = ()
    """Of one that went dead, what replays came to."""
    settled: bool = True
    """Whether every record that the flow may have made of it was looked at."""


@dataclass(frozen=True, slots=True)
class Node:
    """One event: where it stands on its topic, and what became of it from there."""

    source: str
    id: str
    topic: str
    event: Event[Any] | None = None
    """None when its record is not there any more, or not found."""
    record: Record | None = None
    payload: str = ""
    """The digest of its content, in hex."""
    claim: Claim | None = None
    """Of an event of a source: what the source's claim says."""
    steps: tuple[Step, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """An event with all that came of it, and those that it came of, the first of them in front."""

    above: tuple[Node, ...]
    node: Node


@dataclass(slots=True)
class Search:
    """What a look through records has found, and whether it came to an end before its bound."""

    records: list[Record] = field(default_factory=list)
    settled: bool = True


class Tracer:
    """Follows events over one bus."""

    def __init__(self, bus: Bus, control: Control, db: Connection) -> None:
        self._bus = bus
        self._control = control
        self._db = db
        self._publishing = {source_of(bus, flow): flow for flow in bus.publishing.values()}
        self._making: dict[str, Process | Agent] = {
            source_of(bus, flow): flow for flow in bus.flows if isinstance(flow, Process | Agent)
        }
        """The flows that make events of events, by the source of what they make."""

    def trace(self, event_id: str) -> list[Trace]:
        """Give everything that is known of the events with an id: of one, unless two sources gave the same.

        Raises:
            Unavailable: broker or ledger do not answer.
        """
        found = list(self._recorded(event_id)) or list(self._under_way(event_id))
        found = found or list(self._failed(event_id)) or list(self._unread(event_id))
        return [Trace(tuple(self._above(node)), self._below(node)) for node in found]

    # Finding it.

    def _recorded(self, event_id: str) -> Iterator[Node]:
        """Find the event by the ledger: its deliveries, their attempts, or the claim of its source."""
        wanted = {
            deliveries.id_of(sink_identity(flow.to), source, event_id): (source, flow.topic.name)
            for flow in self._bus.delivering.values()
            for source in self._sources(flow.topic.name)
        }
        places = self._places(wanted)
        found: dict[tuple[str, str], Node] = {}
        for place, fate in history.fates(self._db, places).items():
            source, topic = wanted[place.id]
            if (source, topic) not in found:
                found[source, topic] = self._node(source, event_id, Slot(topic, fate.partition), fate.offset)
        for source, topic in {wanted[tried.place.id] for tried in attempts_of(self._db, places)}:
            if (source, topic) not in found and (record := self._lagging(topic, named(event_id, source))) is not None:
                found[source, topic] = self._of(record, source)
        posted = {claims.id_of(source, event_id): source for source in self._publishing}
        for id_, claim in history.claimed(self._db, posted).items():
            source = posted[id_]
            topic = self._publishing[source].to.name
            if (source, topic) not in found:
                found[source, topic] = self._posted(source, event_id, topic, claim)
        yield from found.values()

    def _sources(self, topic: str) -> Iterator[str]:
        """Give whose events a topic may hold; what is no event has the topic itself for a source."""
        yield f"kafka:{topic}"
        yield from (source for source, flow in self._publishing.items() if flow.to.name == topic)
        yield from (source for source, flow in self._making.items() if topic in made_by(flow))

    def _places(self, ids: Collection[bytes]) -> list[Place]:
        """Give where deliveries may be whose event's time is not known."""
        return [Place(day, id_) for day in history.days(self._db, int(time.time() // 86_400)) for id_ in ids]

    def _node(self, source: str, event_id: str, slot: Slot, offset: int) -> Node:
        """Give an event by where it stood; without its record, if that is not there any more."""
        try:
            records = self._control.read(slot.topic, partition=slot.partition, start={slot.partition: offset})
        except UsageError:  # the topic has gone, or is another one now
            return Node(source, event_id, slot.topic, claim=self._claim(source, event_id))
        with closing(records):
            record = next(records, None)
        if record is not None and record.offset == offset:
            node = self._of(record, source)
            if (node.source, node.id) == (source, event_id):
                return node
        return Node(source, event_id, slot.topic, claim=self._claim(source, event_id))

    def _of(self, record: Record, source: str = "") -> Node:
        """Give the event that a record holds; `source` says when the bus takes it for none."""
        event = None if source == f"kafka:{record.topic}" else event_of(record)
        if event is None:
            event = stray(Origin(record.topic, record.partition, record.offset))
        payload = deliveries.payload_of((record.value or b"")[HEAD:]).hex()
        claim = self._claim(event.source, event.id)
        return Node(event.source, event.id, record.topic, event, record, payload, claim)

    def _claim(self, source: str, event_id: str) -> Claim | None:
        if source not in self._publishing:
            return None
        id_ = claims.id_of(source, event_id)
        return history.claimed(self._db, [id_]).get(id_)

    def _posted(self, source: str, event_id: str, topic: str, claim: Claim) -> Node:
        """Find the record of a claim, which was written right after the claim was taken, by the same clock.

        It is there before the claim says "published", and stays where a worker was killed between the two.
        """
        start = claim.until - timedelta(seconds=claims.PATIENCE + 0.1)
        for record in self._search(topic, start, named(event_id, source), first=True).records:
            return self._of(record)
        return Node(source, event_id, topic, claim=claim)

    def _under_way(self, event_id: str) -> Iterator[Node]:
        """Find the event where its outcome is not known yet."""
        for topic in dict.fromkeys(topic.name for flow in reading(self._bus).values() for topic in inputs_of(flow)):
            if (record := self._lagging(topic, named(event_id))) is not None:
                yield self._of(record)

    def _lagging(self, topic: str, wanted: Callable[[Record], bool]) -> Record | None:
        """Find an event among those that a flow which reads a topic has not finished."""
        for flow in reading(self._bus).values():
            if any(topic == read.name for read in inputs_of(flow)):
                start = {slot.partition: at for slot, at in self._committed(flow).items() if slot.topic == topic}
                for record in self._search(topic, start, wanted, first=True).records:
                    return record
        return None

    def _failed(self, event_id: str) -> Iterator[Node]:
        """Find the event among the newest dead letters of steps and agents, of which the ledger knows nothing."""
        for flow in self._making.values():
            for dead in gather(self._newest(dead_letters_of(identity_of(flow)), lambda _: True)).dead:
                if dead.id == event_id:
                    slot = Slot(dead.origin_topic, dead.origin_partition)
                    yield self._node(dead.source, event_id, slot, dead.origin_offset)

    def _unread(self, event_id: str) -> Iterator[Node]:
        """Find the event among the newest of the topics that no sink reads."""
        delivered = {flow.topic.name for flow in self._bus.delivering.values()}
        for topic in self._bus.topics:
            if topic.name not in delivered:
                yield from (self._of(record) for record in self._newest(topic.name, named(event_id))[:1])

    # From there.

    def _above(self, node: Node) -> list[Node]:
        """Give the events that it was made of, the first in front."""
        found: list[Node] = []
        while node.record is not None and (flow := self._making.get(node.source)) is not None:
            if (parent := parent_of(node.record.headers)) is None:
                break
            places = (Slot(topic.name, parent.partition) for topic in inputs_of(flow))
            nodes = [self._node(parent.source, parent.id, place, parent.offset) for place in places]
            node = next((node for node in nodes if node.record is not None), nodes[0])
            found.insert(0, node)
        return found

    def _below(self, node: Node) -> Node:
        """Add what became of an event from its topic on."""
        flows = [
            flow for flow in reading(self._bus).values() if any(topic.name == node.topic for topic in inputs_of(flow))
        ]
        return replace(
            node,
            steps=tuple(self._step(node, flow) for flow in flows if isinstance(flow, Process | Agent)),
            deliveries=tuple(self._delivery(node, flow) for flow in flows if isinstance(flow, Deliver)),
        )

    def _step(self, node: Node, flow: Process | Agent) -> Step:
        name, parent = flow_name(flow), node.record
        kind: Literal["process", "agent"] = "process" if isinstance(flow, Process) else "agent"
        if parent is None:
            return Step(name, kind, "unknown")
        if (before := self._before(flow, parent)) >= 0:
            return Step(name, kind, "waiting", before)
        made, settled = self._made(node, flow, parent.timestamp - SKEW, straight=isinstance(flow, Process))
        letters = self._letters(flow, node)
        outcomes = self._outcomes("", node, identity_of(flow)) if letters else ()
        if done := [entry for entry in outcomes if entry.state == State.DONE.name]:
            made, settled = self._made(node, flow, done[-1].at - SKEW, straight=False)
        return Step(name, kind, "done", 0, tuple(map(self._below, made)), letters, outcomes, settled)

    def _made(self, node: Node, flow: Process | Agent, start: datetime, *, straight: bool) -> tuple[list[Node], bool]:
        """Find what a flow made of an event since; say whether everything was looked at.

        `straight` says that it makes events in the order of those that they are made of: no replay, and no agent, which
        may keep an event for its window.
        """
        source, parent = source_of(self._bus, flow).encode(), node.record
        assert parent is not None

        def is_of(child: Record) -> bool:
            made_of = parent_of(child.headers)
            wanted = (parent.partition, parent.offset, node.source, node.id)
            return made_of == wanted and dict(child.headers).get("ce_source") == source

        def is_later(child: Record) -> bool:
            made_of = parent_of(child.headers)
            if not straight or made_of is None or made_of.partition != parent.partition:
                return False
            return made_of.offset > parent.offset and dict(child.headers).get("ce_source") == source

        made, settled = [], True
        for topic in made_by(flow):
            found = self._search(topic, start, is_of, past=is_later)
            made += [self._of(child) for child in found.records]
            settled = settled and found.settled
        return made, settled

    def _delivery(self, node: Node, flow: Deliver) -> Delivery:
        sink, name = sink_identity(flow.to), flow_name(flow)
        places = (
            self._places([deliveries.id_of(sink, node.source, node.id)])
            if node.event is None
            else [deliveries.place_of(sink, node.event)]
        )
        failed = tuple(attempts_of(self._db, places))
        fate = next(iter(history.fates(self._db, places).values()), None)
        if fate is None:
            before = 0 if node.record is None else self._before(flow, node.record)
            stands: Stands = "unknown" if node.record is None else "waiting" if before >= 0 else "forgotten"
            key = None if node.record is None or node.record.key is None else deliveries.key_of(node.record.key)
            blocked = stands == "waiting" and not failed and flow.after_dead == "block"
            return Delivery(
                flow=name,
                sink=flow.to.name,
                stands="being retried" if failed else stands,
                attempts=len(failed),
                failed=failed,
                before=max(0, before),
                behind=self._behind(flow, key) if blocked else "",
            )
        outcomes = self._outcomes(sink, node)
        return Delivery(
            flow=name,
            sink=flow.to.name,
            stands=STANDS[fate.row.state],
            since=fate.at,
            attempts=fate.row.attempts,
            failed=failed,
            letters=self._letters(flow, node) if outcomes else (),
            outcomes=outcomes,
            behind=self._behind(flow, fate.key) if fate.row.state is State.PARKED else "",
            replaying=fate.row.state in deliveries.REOPENED and bool(runs.live(self._db, sink)),
        )

    def _behind(self, flow: Deliver, key: bytes | None) -> str:
        """Name the event that holds a key back."""
        number = deliveries.number_of(self._db, sink_identity(flow.to))
        if key is None or (stood := history.holding(self._db, number, key)) is None:
            return ""
        first = self._control.first({Slot(flow.topic.name, stood[0]): stood[1]})
        return next((self._of(record).id for record in first.values() if record.offset == stood[1]), "")

    def _letters(self, flow: Reading, node: Node) -> tuple[Opened, ...]:
        """Find the event's letters, which were written after it was published."""
        if node.record is None:
            return ()
        record = node.record
        topic, start = dead_letters_of(identity_of(flow)), record.timestamp - SKEW
        found = self._search(topic, start, lambda _: True, partition=record.partition).records
        stood = (record.topic, record.partition, record.offset)
        return tuple(letter for one in found if (letter := open_letter(one)) is not None and letter.origin == stood)

    def _outcomes(self, sink: str, node: Node, flow: str = "") -> tuple[Entry, ...]:
        """Find what the audit trail says of the event since it was published; `flow` is one without a sink."""
        if node.record is None:
            return ()
        key, start = node.id.encode(), node.record.timestamp - SKEW
        topic = replayed_of(self._bus) if flow else outcomes_of(self._bus)
        found = self._search(topic, start, lambda record: record.key == key).records
        entries = (audit.read(record.value) for record in found)
        ours = (entry for entry in entries if (entry.sink, entry.source) == (sink, node.source))
        return tuple(entry for entry in ours if not flow or entry.flow == flow)

    # Reading.

    def _committed(self, flow: Reading) -> dict[Slot, int]:
        """Give how far a flow is on its topics."""
        found, read = self._control.committed(group_of(self._bus, identity_of(flow))), inputs_of(flow)
        return {slot: offset for slot, (offset, _) in found.items() if any(slot.topic == topic.name for topic in read)}

    def _before(self, flow: Reading, record: Record) -> int:
        """Count the offsets from where a flow is to a record; below 0 when the flow has passed it."""
        return record.offset - self._committed(flow).get(Slot(record.topic, record.partition), 0)

    def _newest(self, topic: str, wanted: Callable[[Record], bool]) -> list[Record]:
        """Look for records among the newest of a topic."""
        try:
            ends, low = self._control.ends([topic]), self._control.beginnings([topic])
        except UsageError:
            return []
        start = {slot.partition: max(low[slot], end - LOOKED_AT // len(ends)) for slot, end in ends.items()}
        return self._search(topic, start, wanted).records

    def _search(
        self,
        topic: str,
        start: datetime | Mapping[int, int],
        wanted: Callable[[Record], bool],
        *,
        past: Callable[[Record], bool] = lambda _: False,
        first: bool = False,
        partition: int | None = None,
    ) -> Search:
        """Read at most LOOKED_AT records; `past` says that nothing more comes in a partition, `first` that one will do.

        A topic that does not exist has no records.
        """
        found, over = Search(), set[int]()
        try:
            partitions = {slot.partition for slot in self._control.ends([topic])}
            records = self._control.read(topic, partition=partition, start=start)
        except UsageError:
            return found
        with closing(records):
            for number, record in enumerate(records):
                if number == LOOKED_AT:
                    found.settled = False
                    break
                if wanted(record):
                    found.records.append(record)
                    if first:
                        break
                elif past(record):
                    over.add(record.partition)
                    if over == partitions:
                        break
        return found


def made_by(flow: Process | Agent) -> list[str]:
    """Name the topics that a flow writes what it makes to."""
    return [topic.name for topic in flow.to] if isinstance(flow, Process) else [flow.to.name]


def event_of(record: Record) -> Event[Any] | None:
    """Read an event's identity; None of a record that is none."""
    try:
        return from_headers(record.headers, record.key)
    except Poison:
        return None


def named(event_id: str, source: str = "") -> Callable[[Record], bool]:
    """Give the question whether a record is an event of this id, and of this source if one is named."""

    def asked(record: Record) -> bool:
        headers = dict(record.headers)
        return headers.get("ce_id") == event_id.encode() and (not source or headers.get("ce_source") == source.encode())

    return asked
