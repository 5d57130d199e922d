"""Making a lost or outdated ledger again, from what the broker holds (L3, L4).

What stands below a group's committed offset was finished: delivered, unless the outcomes topic says otherwise. What
stands above may have been delivered too. It is sent again, under the same idempotency keys; for a target that knows no
keys a person decides.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Literal, TypeVar

from trunkline import deadletter
from trunkline.avro.codec import HEAD
from trunkline.deadletter import Failure, Origin, stray
from trunkline.engine.dispatch import Caps
from trunkline.errors import Halt, Permanent, Poison, UsageError
from trunkline.event import from_headers
from trunkline.flow.declare import Bus, Deliver, dead_letters_of, group_of, identity_of, replay_of, sink_identity
from trunkline.kafka import audit, orders
from trunkline.kafka.audit import Entry
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control, Record
from trunkline.kafka.events import Sender, Slot
from trunkline.kafka.orders import Orders, Passed, Trusted
from trunkline.kafka.topics import control_of, outcomes_of, reading
from trunkline.ledger import deliveries, identity, progress
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import REOPENED, Outcome, Place, State
from trunkline.ledger.identity import Identity
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.trust import Create, Fine, distrust, state_of_ledger, trust, worked

T = TypeVar("T")

AT_ONCE = 500
"""Rows that are written together."""

Choice = Literal["resend", "ambiguous"]
"""What becomes of an event that a target without keys may have: it is sent again, or is for a person."""

DOUBT = "the ledger was lost while this may have been on its way"


@dataclass(frozen=True, slots=True)
class Part:
    """One flow, and where its group stands on its topic and on its replay topic."""

    flow: Deliver
    low: dict[Slot, int]
    high: dict[Slot, int]
    committed: dict[Slot, int]
    passed: list[Passed]
    """What it never reads of its topic, where it stands below the committed offset."""

    @property
    def name(self) -> str:
        """What the flow is known by."""
        return identity_of(self.flow)

    @property
    def sink(self) -> str:
        """What its sink is known by."""
        return sink_identity(self.flow.to)

    @property
    def open(self) -> dict[Slot, tuple[int, int]]:
        """From where to where events may have been on their way when the ledger was lost."""
        span = Caps().span
        found = {slot: (max(offset, self.low[slot]), self.high[slot]) for slot, offset in self.committed.items()}
        return {slot: (begin, min(end, begin + span)) for slot, (begin, end) in found.items() if begin < end}

    @property
    def doubtful(self) -> int:
        """How many events, at most, its target may have without anybody being able to tell."""
        return 0 if self.flow.to.idempotency is not None else sum(end - begin for begin, end in self.open.values())


@dataclass(slots=True)
class Restored:
    """What a rebuild has written for one flow."""

    flow: str
    sink: str
    outcomes: int = 0
    """Entries of the outcomes topic that were read."""
    delivered: int = 0
    """Events below the committed offset of which nothing else was known."""
    doubtful: int = 0
    """Events above it that a target without keys may have: sent again, or recorded as ambiguous."""
    foreign: int = 0
    """Records that are no events and have no dead letter on record."""
    parked: int = 0
    """Keys that are parked."""
    states: Counter[State] = field(default_factory=Counter)
    """Events that the ledger knows now of the sink, by state."""


def survey(bus: Bus, control: Control, held: Orders) -> list[Part]:
    """Ask where every flow that delivers stands."""
    found = []
    for flow in bus.delivering.values():
        topics = [flow.topic.name, replay_of(identity_of(flow))]
        low, high = control.beginnings(topics), control.ends(topics)
        committed = {
            slot: at for slot, (at, _) in control.committed(group_of(bus, identity_of(flow))).items() if slot in low
        }
        found.append(Part(flow, low, high, committed, held.never_read(identity_of(flow))))
    return found


def check_idle(bus: Bus, control: Control, held: Orders, now: datetime) -> None:
    """Make sure that nobody works.

    Raises:
        UsageError: a worker is alive.
    """
    busy = [name for name, flow in reading(bus).items() if control.members(group_of(bus, identity_of(flow)))]
    alive = [f"{said.worker.host} (pid {said.worker.pid})" for said in orders.live(held, now)]
    if busy or alive:
        who = f"workers run {', '.join(busy)}" if busy else f"there are workers at {', '.join(alive)}"
        raise UsageError(f"{who}. Stop them first; one that has ended without a word is forgotten after 15 s.")


def trusted(bus: Bus, control: Control, db: Connection, known: Trusted | None) -> list[Fine | Create | Halt]:
    """Say of every flow that delivers whether it may go on with a ledger, as its worker would."""
    here = identity.read(db)
    found = []
    for flow in bus.delivering.values():
        committed = worked(control.committed(group_of(bus, identity_of(flow))))
        found.append(state_of_ledger(here, known, progress.read(db, sink_identity(flow.to)), committed))
    return found


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Everything that a rebuild needs; `tell` hears what is done next."""

    bus: Bus
    cluster: Cluster
    control: Control
    sender: Sender
    db: Connection
    tell: Callable[[str], None]

    def run(self, choice: Choice | None) -> tuple[Identity, list[Restored]]:
        """Make the ledger again and let it be the bus's own; give its identity and what it knows.

        It may be repeated: what is known stays, and until the end no worker uses the ledger.

        Raises:
            UsageError: workers are alive, the ledger is another's, or `choice` is needed and not given; nothing was
                changed.
        """
        now = datetime.now(UTC)
        held = orders.current(self.cluster, control_of(self.bus))
        check_idle(self.bus, self.control, held, now)
        here = identity.read(self.db)
        if here is not None and held.ledger is not None and here != Identity(*held.ledger):
            raise UsageError(str(state_of_ledger(here, held.ledger, {}, {})))
        parts = survey(self.bus, self.control, held)
        if choice is None and (doubtful := {part.sink: part.doubtful for part in parts if part.doubtful}):
            told = ", ".join(f"{sink} (up to {count} events)" for sink, count in doubtful.items())
            raise UsageError(
                f"nobody can tell what reached {told}: the target knows no idempotency keys. Say --resend to send "
                "these events again, or --ambiguous to keep them as dead letters for a person."
            )
        with self.db.transaction():
            distrust(self.db, now)
        found = {part.name: Restored(part.name, part.sink) for part in parts}
        self._take_outcomes(parts, found)
        for part in parts:
            self._take_delivered(part, found[part.name], now)
            if part.flow.to.idempotency is None and choice == "ambiguous":
                self._doubt(part, found[part.name], now)
            elif part.flow.to.idempotency is None:
                found[part.name].doubtful = part.doubtful
            with self.db.transaction():
                progress.advance(self.db, part.sink, part.committed)
        epoch = max(0 if known is None else known.epoch for known in (here, held.ledger)) + 1
        made = Identity(secrets.token_hex(16), epoch)
        # Named first: who stops here leaves a ledger without identity, which nobody uses.
        orders.send(self.sender, control_of(self.bus), orders.trusting(Trusted(made.id, made.epoch)))
        trust(self.db, made)
        for one in found.values():
            one.states = deliveries.count(self.db, one.sink)
            one.parked = len(parked_keys(self.db, deliveries.number_of(self.db, one.sink)))
        return made, list(found.values())

    def _take_outcomes(self, parts: Sequence[Part], found: dict[str, Restored]) -> None:
        """Write what the outcomes topic says, in its order, so that the last entry of an event holds."""
        topic = outcomes_of(self.bus)
        self.tell(f"reading {topic}")
        flows = {part.name: part for part in parts}
        numbers = {part.sink: deliveries.number_of(self.db, part.sink) for part in parts}
        for records in chunks(self.control.read(topic)):
            entries = [entry for record in records if (entry := audit.entry_of(record.value)) and ours(entry, flows)]
            with self.db.transaction():
                rows = [outcome_of(entry, flows[entry.flow].flow, numbers[entry.sink]) for entry in entries]
                deliveries.record(self.db, rows)
            for entry in entries:
                found[entry.flow].outcomes += 1

    def _take_delivered(self, part: Part, found: Restored, now: datetime) -> None:
        """Write DONE for what is below the committed offset and of which nothing else is known."""
        number = deliveries.number_of(self.db, part.sink)
        for slot, end in part.committed.items():
            if slot.topic != part.flow.topic.name or end <= part.low[slot]:
                continue
            self.tell(f"reading {slot.topic} partition {slot.partition} up to {end}")
            gaps = [gap for gap in part.passed if gap.partition == slot.partition]
            read = (
                record
                for record in self._between(slot, part.low[slot], end)
                if not any(gap.has(record.offset) for gap in gaps)
            )
            for records in chunks(read):
                events = [one for record in records if (one := known_as(part, record))]
                found.foreign += len(records) - len(events)
                rows = deliveries.look_up(self.db, (place for one in events for place in one.places))
                new = [one for one in events if not any(place in rows for place in one.places)]
                with self.db.transaction():
                    outcomes = [one.outcome(part.flow, number, State.DONE, now) for one in new]
                    deliveries.record(self.db, outcomes)
                found.delivered += len({one.places[0] for one in new})

    def _doubt(self, part: Part, found: Restored, now: datetime) -> None:
        """Make dead letters of what the target may have, and record it as ambiguous."""
        number = deliveries.number_of(self.db, part.sink)
        for slot, (begin, end) in part.open.items():
            for records in chunks(self._between(slot, begin, end)):
                events = [one for record in records if (one := known_as(part, record))]
                rows = deliveries.look_up(self.db, (place for one in events for place in one.places))
                doubted: dict[Place, Known] = {}
                for one in events:
                    row = next((rows[place] for place in one.places if place in rows), None)
                    again = slot.topic != part.flow.topic.name
                    if row is None if not again else row is not None and row.state in (State.DEAD, State.PARKED):
                        doubted.setdefault(one.places[0], one)
                outcomes = [one.outcome(part.flow, number, State.AMBIGUOUS, now) for one in doubted.values()]
                self._write_letters(part, doubted.values(), now)
                entries = [one.entry(part, outcome) for one, outcome in zip(doubted.values(), outcomes, strict=True)]
                topic = outcomes_of(self.bus)
                for future in [self.sender.send(*audit.record_of(topic, entry)) for entry in entries]:
                    future.result()
                with self.db.transaction():
                    deliveries.record(self.db, outcomes)
                found.doubtful += len(doubted)

    def _write_letters(self, part: Part, doubted: Collection["Known"], now: datetime) -> None:
        """Write dead letters, by reference when one is too large (D5)."""
        topic = dead_letters_of(part.name)
        failure = Failure(part.name, "unknown", "deliver", "Unknown", DOUBT, 0, None, now)
        letters = [(one.record, deadletter.write(one.record.headers, one.origin, failure)) for one in doubted]
        sent = [
            self.sender.send(topic, record.key, record.value, headers, partition=record.partition)
            for record, headers in letters
        ]
        for future, (record, headers) in zip(sent, letters, strict=True):
            try:
                future.result()
            except Permanent:
                shorter = deadletter.by_reference(headers, record.value)
                self.sender.send(topic, record.key, None, shorter, partition=record.partition).result()

    def _between(self, slot: Slot, begin: int, end: int) -> Iterator[Record]:
        with closing(self.control.read(slot.topic, partition=slot.partition, start={slot.partition: begin})) as records:
            for record in records:
                if record.offset >= end:
                    return
                yield record


@dataclass(frozen=True, slots=True)
class Known:
    """A record of an event, where that first stood, and where the ledger may have it: as itself, or as no event."""

    record: Record
    origin: Origin
    source: str
    event: str
    time: datetime
    places: tuple[Place, Place]

    def outcome(self, flow: Deliver, number: int, state: State, now: datetime) -> Outcome:
        """Give the row that says how it ended."""
        key = self.record.key
        return Outcome(
            place=self.places[0],
            sink=number,
            state=state,
            key=None if key is None else deliveries.key_of(key),
            partition=self.origin.partition,
            offset=self.origin.offset,
            payload=deliveries.payload_of((self.record.value or b"")[HEAD:]),
            attempts=0,
            at=now,
            park=parks(flow, state),
            latest=flow.to.writes == "latest",
            topic=self.origin.topic,
        )

    def entry(self, part: Part, outcome: Outcome) -> Entry:
        """Give the same for the outcomes topic."""
        return Entry(
            at=outcome.at,
            flow=part.name,
            sink=part.sink,
            source=self.source,
            event=self.event,
            time=self.time,
            origin=self.origin,
            key=None if outcome.key is None else outcome.key.hex(),
            payload=outcome.payload.hex(),
            state=outcome.state.name,
            attempts=0,
            kind="unknown",
            why=DOUBT,
        )


def known_as(part: Part, record: Record) -> Known | None:
    """Read which event a record of a flow's topics is; None when it is none."""
    origin = Origin(record.topic, record.partition, record.offset)
    if record.topic != part.flow.topic.name:
        origin, _ = deadletter.sent_again(record.headers, origin)
    try:
        event = from_headers(record.headers, record.key)
    except Poison:
        return None
    places = (deliveries.place_of(part.sink, event), deliveries.place_of(part.sink, stray(origin)))
    return Known(record, origin, event.source, event.id, event.time, places)


def ours(entry: Entry, flows: Mapping[str, Part]) -> bool:
    """Say whether an entry is of a flow that the bus has, and says what we know."""
    return entry.flow in flows and flows[entry.flow].sink == entry.sink and entry.state in State.__members__


def outcome_of(entry: Entry, flow: Deliver, number: int) -> Outcome:
    """Give the row that an entry stands for."""
    state = State[entry.state]
    day = int(entry.time.timestamp() // 86_400)
    return Outcome(
        place=Place(day, deliveries.id_of(entry.sink, entry.source, entry.event)),
        sink=number,
        state=state,
        key=None if entry.key is None else bytes.fromhex(entry.key),
        partition=entry.origin.partition,
        offset=entry.origin.offset,
        payload=bytes.fromhex(entry.payload),
        attempts=entry.attempts,
        at=entry.at,
        park=parks(flow, state),
        latest=flow.to.writes == "latest",
        topic=entry.origin.topic,
    )


def parks(flow: Deliver, state: State) -> bool:
    """Say whether an event that ended so parks its key (D12)."""
    return flow.after_dead != "continue" and state in REOPENED


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Give items in lists."""
    rest = iter(items)
    while chunk := list(islice(rest, AT_ONCE)):
        yield chunk
