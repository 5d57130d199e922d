"""Discarding: a person gives dead letters of a sink up, so that nothing waits for them any more (D12).

What is open is read from the audit trail and the ledger, not from the letters: those may have expired, and what they
hold back would never be free again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from trunkline.errors import UsageError
from trunkline.flow.declare import Bus, Deliver, identity_of, sink_identity
from trunkline.kafka import audit
from trunkline.kafka.audit import Entry
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.topics import outcomes_of
from trunkline.ledger import deliveries
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import REOPENED, Place, State
from trunkline.ledger.parks import holding
from trunkline.operate.rebuild import outcome_of

AT_ONCE = 500
"""Rows that are written together."""


class Known(NamedTuple):
    """An event that was dead, parked or ambiguous: what the audit trail said last of it, and the ledger says now."""

    entry: Entry
    place: Place
    state: State | None
    """None where the ledger has forgotten it."""

    @property
    def origin(self) -> tuple[str, int, int]:
        """Where the event first stood."""
        first = self.entry.origin
        return (first.topic, first.partition, first.offset)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is discarded of the selected events, in the order of their origin."""

    give_up: tuple[Known, ...]
    rest: tuple[Known, ...]
    """Those that wait for nobody: being called; or named and finished, or forgotten."""
    freed: int = 0
    """How many keys nothing holds back any more afterwards."""
    held: int = 0
    """How many keys of these events are held back by others all the same."""


def survey(
    bus: Bus, flow: Deliver, control: Control, db: Connection, events: Collection[str], keys: Mapping[bytes, str]
) -> Plan:
    """Find the events with these ids, and those of these keys: digests, each with its name.

    Raises:
        UsageError: there is none of an id, or none of a key.
        Unavailable: broker or ledger do not answer.
    """
    number = deliveries.number_of(db, sink_identity(flow.to))
    last = {(one.source, one.event): one for one in entries(bus, flow, control, events, keys)}
    places = {who: outcome_of(entry, flow, number).place for who, entry in last.items()}
    rows = deliveries.look_up(db, places.values())
    found = [
        Known(entry, places[who], rows[places[who]].state if places[who] in rows else None)
        for who, entry in last.items()
    ]
    found.sort(key=lambda known: known.origin)
    missing = [f"event {event}" for event in events if all(one.entry.event != event for one in found)]
    seen = {one.entry.key for one in found}
    missing += [f"key {name}" for key, name in keys.items() if key.hex() not in seen]
    if missing:
        raise UsageError(f"nothing of {', '.join(missing)} was ever dead, parked or ambiguous at {flow.to.name}.")
    give_up = tuple(one for one in found if one.state in REOPENED)
    held: dict[str, set[Place]] = {
        key: {Place(*row) for row in holding(db, number, bytes.fromhex(key))}
        for key in {one.entry.key for one in give_up if one.entry.key is not None}
    }
    left = {key: rows - {one.place for one in give_up} for key, rows in held.items() if rows}
    return Plan(
        give_up,
        tuple(
            one
            for one in found
            if one.state is State.INTENT or (one.state not in REOPENED and one.entry.event in events)
        ),
        freed=sum(not rows for rows in left.values()),
        held=sum(bool(rows) for rows in left.values()),
    )


def entries(
    bus: Bus, flow: Deliver, control: Control, events: Collection[str], keys: Collection[bytes]
) -> Iterator[Entry]:
    """Read what the audit trail says of events with these ids or keys, in its order."""
    ids, digests = {event.encode() for event in events}, {key.hex().encode() for key in keys}
    for record in control.read(outcomes_of(bus)):
        # Looked for in the bytes first: the trail is kept for ever, and most of it is of others.
        if record.key not in ids and not any(digest in (record.value or b"") for digest in digests):
            continue
        entry = audit.entry_of(record.value)
        if entry is None or (entry.flow, entry.sink) != (identity_of(flow), sink_identity(flow.to)):
            continue
        if entry.state in State.__members__ and (entry.event in events or (entry.key or "").encode() in digests):
            yield entry


def discard(
    planned: Plan, bus: Bus, flow: Deliver, sender: Sender, db: Connection, *, who: str, why: str, now: datetime
) -> list[Known]:
    """Write it to the audit trail, then to the ledger; give those that have come to another end meanwhile.

    Raises:
        Unavailable, Permanent: the broker did not take an entry; the ledger has not changed.
    """
    number = deliveries.number_of(db, sink_identity(flow.to))
    given = [
        replace(known.entry, at=now, state=State.DISCARDED.name, run="", kind="", attempts=0, who=who, why=why)
        for known in planned.give_up
    ]
    for future in [sender.send(*audit.record_of(outcomes_of(bus), entry)) for entry in given]:
        future.result()
    against: set[Place] = set()
    for some in parts(given):
        with db.transaction():
            against |= deliveries.record(db, [outcome_of(entry, flow, number) for entry in some]).against.keys()
    return [known for known in planned.give_up if known.place in against]


def parts(given: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Give entries in groups that one transaction takes."""
    for begin in range(0, len(given), AT_ONCE):
        yield given[begin : begin + AT_ONCE]
