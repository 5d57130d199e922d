"""Dead letters as operators see them: one entry per event and flow, its newest letter in front."""

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from trunkline.deadletter import REFERENCE, Letter, stray
from trunkline.deadletter import read as read_letter
from trunkline.errors import Poison, Unavailable, UsageError
from trunkline.event import Event, from_headers
from trunkline.flow.declare import Bus, Deliver, Reading, dead_letters_of, identity_of, sink_identity, targets_of
from trunkline.kafka.control import Control, Record
from trunkline.kafka.topics import reading
from trunkline.ledger import deliveries
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import FINAL, Place, Row, State

AT_ONCE = 500
"""Rows that are looked up in one query."""
AT_HAND = 4096
"""Bytes of a value that is kept while letters are listed: there may be a million of them, and each may have 1 MiB."""

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
    """The value of a letter is not where it was; that of another one may be."""


@dataclass(frozen=True, slots=True)
class Dead:
    """An event in the dead letters of a flow: its newest letter, and how many there are."""

    record: Record
    letter: Letter
    event: Event[Any]
    letters: int = 1
    left: bool = False
    """Its value was left on the topic: `value_of` gives it."""

    @property
    def who(self) -> tuple[str, str]:
        """The event's identity."""
        return (self.event.source, self.event.id)

    @property
    def key(self) -> bytes | None:
        """The digest of its key, as the ledger keeps it; None without a key."""
        return None if self.record.key is None else deliveries.key_of(self.record.key)

    @property
    def origin(self) -> tuple[str, int, int]:
        """Where the event first stood: what letters are ordered by, so that each key keeps its order."""
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
    close = [one for one in known if one.endswith(f".{name}")] or difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(known)}."
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
    for record in records:
        try:
            letter = read_letter(record.headers)
            poison = letter.failure.kind == "poison"
            event = stray(letter.origin) if poison else from_headers(record.headers, record.key)
        except (KeyError, ValueError, Poison):
            foreign += 1
            continue
        left = record.value is not None and len(record.value) > AT_HAND
        dead = Dead(replace(record, value=None) if left else record, letter, event, left=left)
        if (other := newest.get(dead.who)) is not None:
            dead = replace(max(other, dead, key=age), letters=other.letters + 1)
        newest[dead.who] = dead
    return Letters(tuple(sorted(newest.values(), key=age, reverse=True)), foreign)


def age(dead: Dead) -> tuple[Any, ...]:
    """Order letters by when they failed."""
    return (dead.letter.failure.at, dead.letter.replays, dead.record.partition, dead.record.offset)


def places(flow: Deliver, dead: Iterable[Dead]) -> list[Place]:
    """Give where the ledger keeps these events for a flow's sink."""
    return [deliveries.place_of(sink_identity(flow.to), one.event) for one in dead]


def rows(db: Connection, wanted: Sequence[Place]) -> dict[Place, Row]:
    """Look many deliveries up."""
    found: dict[Place, Row] = {}
    for begin in range(0, len(wanted), AT_ONCE):
        found |= deliveries.look_up(db, wanted[begin : begin + AT_ONCE])
    return found


def states(db: Connection | None, flow: Deliver, dead: Sequence[Dead]) -> list[State | None]:
    """Give what the ledger says of each event now; None where it says nothing."""
    if db is None:
        return [None] * len(dead)
    wanted = places(flow, dead)
    found = rows(db, wanted)
    return [found[place].state if place in found else None for place in wanted]


def behind(dead: Iterable[Dead], known: Iterable[State | None]) -> dict[tuple[str, str], Dead]:
    """Say behind which event each parked one waits: behind the first of its key that is not finished."""
    heads: dict[tuple[int, bytes], Dead] = {}
    found = {}
    for one, state in sorted(zip(dead, known, strict=True), key=lambda pair: pair[0].origin):
        if one.key is None or state in FINAL:
            continue
        head = heads.setdefault((one.letter.origin.partition, one.key), one)
        if one is not head and (state is State.PARKED or (state is None and one.letter.failure.kind == "parked")):
            found[one.who] = head
    return found


def value_of(control: Control, dead: Dead) -> bytes | None:
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
