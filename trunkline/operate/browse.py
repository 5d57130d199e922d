"""Dead letters as operators see them: one entry per event and flow, its newest letter in front."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from trunkline.deadletter import REFERENCE, Kind, Letter, stray
from trunkline.deadletter import read as read_letter
from trunkline.errors import Poison, Unavailable, UsageError, meant
from trunkline.event import Event, from_headers
from trunkline.flow.declare import Bus, Deliver, Reading, dead_letters_of, identity_of, sink_identity, targets_of
from trunkline.kafka.control import Control, Record
from trunkline.kafka.topics import reading
from trunkline.ledger import deliveries
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import FINAL, Place, State

AT_ONCE = 500
"""Rows that are looked up in one query."""
OPENED = 2_000
"""Letters that are read whole together."""
AT_HAND = 4096
"""Bytes of a value that is kept while letters are open: each may have 1 MiB."""
REASONS = 1_000
"""Different reasons that are told apart: a target may give each event one of its own."""
OTHER = "many other reasons"
"""The reason of those that are too many to be told apart."""

STANDING: dict[State | None, str] = {
    None: "open",
    State.DEAD: "open",
    State.INTENT: "being called",
    State.AMBIGUOUS: "ambiguous",
    State.PARKED: "parked",
    State.DONE: "delivered",
    State.SUPERSEDED: "superseded",
    State.DISCARDED: "discarded",
}
"""What a ledger's state means for a dead letter, in a word."""


class Gone(Unavailable):
    """A letter, or its value, is not where it was; those of another event may be."""


class Why(NamedTuple):
    """Why events are dead, as letters are counted by it."""

    kind: Kind
    status: int | None
    reason: str


class Dead(NamedTuple):
    """An event in the dead letters of a flow: where its newest letter is, and what a plan needs to know of it.

    There may be a million of them, so what else the letter says stays on the topic: `opened` gives it.
    """

    source: str
    id: str
    day: int
    """The UTC day on which it happened, as the ledger counts them."""
    raw_key: bytes | None
    why: Why
    replays: int
    at: float
    """When it failed last, in epoch seconds."""
    partition: int
    offset: int
    origin_topic: str
    origin_partition: int
    origin_offset: int
    letters: int = 1

    @property
    def who(self) -> tuple[str, str]:
        """The event's identity."""
        return (self.source, self.id)

    @property
    def key(self) -> bytes | None:
        """The digest of its key, as the ledger keeps it; None without a key."""
        return None if self.raw_key is None else deliveries.key_of(self.raw_key)

    @property
    def origin(self) -> tuple[str, int, int]:
        """Where the event first stood: what letters are ordered by, so that each key keeps its order."""
        return (self.origin_topic, self.origin_partition, self.origin_offset)

    @property
    def age(self) -> tuple[float, int, int, int]:
        """What letters are ordered by when the newest failure is wanted."""
        return (self.at, self.replays, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class Opened:
    """A dead letter with all that it says."""

    record: Record
    letter: Letter
    event: Event[Any]
    left: bool = False
    """Its value was left on the topic: `value_of` gives it."""

    @property
    def origin(self) -> tuple[str, int, int]:
        """Where the event first stood."""
        first = self.letter.origin
        return (first.topic, first.partition, first.offset)


@dataclass(frozen=True, slots=True)
class Letters:
    """What lies in a dead-letter topic: events, newest failure first, and the number of records that are no letters."""

    dead: tuple[Dead, ...]
    foreign: int


def flow_of(bus: Bus, name: str) -> str:
    """Find the flow that is meant by its own name or by its sink's.

    Raises:
        UsageError: no reading flow or several have this name.
    """
    if name in reading(bus):
        return name
    found = [flow for flow, deliver in bus.delivering.items() if deliver.to.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{name} is the sink of several flows: name one of {', '.join(found)}.")
    former = {identity_of(flow): new for new, flow in reading(bus).items()}
    former |= {sink_identity(sink): sink.name for sink in bus.sinks}
    known = sorted({*(deliver.to.name for deliver in bus.delivering.values()), *reading(bus)})
    hint = meant(name, known) or f"There are: {', '.join(known)}."
    if callers := [sink.name for sink in bus.sinks if name in (target.name for target in targets_of(sink))]:
        hint = f"It is a target (`trunkline target show {name}`), called by {' and '.join(callers)}."
    if name in former:
        hint = f"It is called {former[name]} now."
    raise UsageError(f"there is no sink or reading flow {name}. {hint}")


def sink_of(bus: Bus, flow: str) -> str | None:
    """Name the sink of a flow; None when it has none."""
    return bus.delivering[flow].to.name if flow in bus.delivering else None


def look(control: Control, flow: Reading) -> Letters:
    """Read all dead letters of a flow.

    Raises:
        UsageError: the flow's dead-letter topic is missing.
    """
    return gather(control.read(dead_letters_of(identity_of(flow))))


def gather(records: Iterable[Record]) -> Letters:
    """Group the records of a dead-letter topic by event; the same event may have failed in several replays."""
    newest: dict[tuple[str, str], Dead] = {}
    foreign = 0
    shared: dict[Any, Any] = {}
    for record in records:
        if (one := open_letter(record)) is None:
            foreign += 1
            continue
        dead = noted(one, shared)
        if (other := newest.get(dead.who)) is not None:
            dead = max(other, dead, key=attrgetter("age"))._replace(letters=other.letters + 1)
        newest[dead.who] = dead
    return Letters(tuple(sorted(newest.values(), key=attrgetter("age"), reverse=True)), foreign)


def open_letter(record: Record) -> Opened | None:
    """Read a record of a dead-letter topic; None where it is no letter of ours."""
    try:
        letter = read_letter(record.headers)
        poison = letter.failure.kind == "poison"
        event = stray(letter.origin) if poison else from_headers(record.headers, record.key)
    except (KeyError, ValueError, Poison):
        return None
    left = record.value is not None and len(record.value) > AT_HAND
    return Opened(replace(record, value=None) if left else record, letter, event, left)


def noted(one: Opened, shared: dict[Any, Any]) -> Dead:
    """Keep of a letter what a plan needs; what many letters have alike is kept once, in `shared`."""
    event, failure, origin = one.event, one.letter.failure, one.letter.origin
    why = Why(failure.kind, failure.status, failure.message)
    if why not in shared and len(shared) >= REASONS:
        why = Why(failure.kind, failure.status, OTHER)
    day = deliveries.day_of(event)
    return Dead(
        shared.setdefault(event.source, event.source),
        event.id,
        shared.setdefault(day, day),
        one.record.key,
        shared.setdefault(why, why),
        one.letter.replays,
        failure.at.timestamp(),
        one.record.partition,
        one.record.offset,
        shared.setdefault(origin.topic, origin.topic),
        origin.partition,
        origin.offset,
    )


def opened(control: Control, topic: str, wanted: Iterable[Dead]) -> Iterator[tuple[Dead, Opened]]:
    """Read the newest letters of events as `newest` does, without those that the topic has deleted meanwhile."""
    return ((dead, one) for dead, one in newest(control, topic, wanted) if one is not None)


def newest(control: Control, topic: str, wanted: Iterable[Dead]) -> Iterator[tuple[Dead, Opened | None]]:
    """Read the newest letters of events, many at a time, in the order in which they are wanted.

    What the topic has deleted meanwhile is None.
    """
    rest = iter(wanted)
    while some := list(islice(rest, OPENED)):
        found = ahead(control, topic, some)
        yield from ((dead, found.get((dead.partition, dead.offset))) for dead in some)


def ahead(control: Control, topic: str, wanted: Iterable[Dead]) -> dict[tuple[int, int], Opened]:
    """Read the newest letters of events, by partition and offset; what is not there any more is left out."""
    records = control.pick(topic, {(dead.partition, dead.offset) for dead in wanted})
    return {(one.partition, one.offset): letter for one in records if (letter := open_letter(one)) is not None}


class Ahead:
    """Reads the letters that are to be sent, many at a time."""

    def __init__(self, control: Control, topic: str) -> None:
        """Read from a flow's dead-letter topic."""
        self._control = control
        self._topic = topic
        self._found: dict[tuple[int, int], Opened] = {}

    def open(self, dead: Dead, following: Iterable[Dead] = ()) -> Opened:
        """Give an event's letter; `following` are those that will be asked for next.

        Raises:
            Gone: the topic has deleted it.
        """
        if (dead.partition, dead.offset) not in self._found:
            self._found = ahead(self._control, self._topic, [dead, *islice(following, OPENED)])
        if (one := self._found.pop((dead.partition, dead.offset), None)) is None:
            raise Gone(f"the dead letter of event {dead.id} has gone: its topic has deleted it.")
        return one


def places(flow: Deliver, dead: Iterable[Dead]) -> list[Place]:
    """Give where the ledger keeps these events for a flow's sink."""
    sink = sink_identity(flow.to)
    return [Place(one.day, deliveries.id_of(sink, one.source, one.id)) for one in dead]


def states(db: Connection | None, flow: Deliver, dead: Sequence[Dead]) -> list[State | None]:
    """Give what the ledger says of each event now; None where it says nothing."""
    if db is None:
        return [None] * len(dead)
    known: list[State | None] = []
    for begin in range(0, len(dead), AT_ONCE):
        wanted = places(flow, dead[begin : begin + AT_ONCE])
        found = deliveries.look_up(db, wanted)
        known += [found[place].state if place in found else None for place in wanted]
    return known


def behind(dead: Iterable[Dead], known: Iterable[State | None]) -> dict[tuple[str, str], Dead]:
    """Say behind which event each parked one waits: behind the first of its key that is not finished."""
    heads: dict[tuple[int, bytes], Dead] = {}
    found = {}
    for one, state in sorted(zip(dead, known, strict=True), key=lambda pair: pair[0].origin):
        if one.key is None or state in FINAL:
            continue
        head = heads.setdefault((one.origin_partition, one.key), one)
        if one is not head and (state is State.PARKED or (state is None and one.why.kind == "parked")):
            found[one.who] = head
    return found


def value_of(control: Control, dead: Opened) -> bytes | None:
    """Give the value that failed; of a letter that was too large to hold it, from where it first stood (D5).

    Raises:
        Gone: it is not there any more.
    """
    record, origin = dead.record, dead.letter.origin
    digest = dict(record.headers).get(REFERENCE)
    if digest is None and not dead.left:
        return record.value
    if digest is None:
        there = at(control, record.topic, record.partition, record.offset)
        if there is None or there.offset != record.offset:
            raise Gone(f"the dead letter of event {dead.event.id} has gone: its topic has deleted it.")
        return there.value
    first = at(control, origin.topic, origin.partition, origin.offset)
    if first is None or hashlib.sha256(first.value or b"").hexdigest().encode() != digest:
        raise Gone(
            f"the value of event {dead.event.id} was too large for its dead letter and is gone from "
            f"{origin.topic} partition {origin.partition} offset {origin.offset}."
        )
    return first.value


def at(control: Control, topic: str, partition: int, offset: int) -> Record | None:
    """Read the first record that is there from an offset on; None when there is none."""
    with closing(control.read(topic, partition=partition, start={partition: offset})) as records:
        return next(records, None)
