"""Discarding: a person gives dead letters up, so that nothing waits for them any more (D12).

What is open at a sink is read from the audit trail and the ledger, not from the letters: those may have expired, and
what they hold back would never be free again. Steps and agents hold nothing back: there the letters say what is open.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from trunkline.errors import TrunklineError, UsageError
from trunkline.flow.declare import Agent, Bus, Deliver, Process, dead_letters_of, identity_of, sink_identity
from trunkline.kafka import audit
from trunkline.kafka.audit import Entry
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.topics import outcomes_of, replayed_of
from trunkline.kafka.transactions import Transactions, Write
from trunkline.ledger import deliveries
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import REOPENED, Place, State
from trunkline.ledger.parks import holding
from trunkline.operate import browse, reprocess
from trunkline.operate.rebuild import chunks, outcome_of
from trunkline.operate.replay import select


class Known(NamedTuple):
    """An event that was dead, parked or ambiguous: what the audit trail said last of it, and the ledger says now."""

    entry: Entry
    stands: str
    """How it stands now, in a word."""

    @property
    def who(self) -> tuple[str, str]:
        """The event's identity."""
        return (self.entry.source, self.entry.event)

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
    """Those that wait for nobody: being called or under way; or named and finished, or forgotten."""
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
    states = {who: rows[place].state for who, place in places.items() if place in rows}
    found = [
        Known(entry, browse.STANDING[states[who]] if who in states else "forgotten") for who, entry in last.items()
    ]
    found.sort(key=lambda known: known.origin)
    missing = [f"event {event}" for event in events if all(one.entry.event != event for one in found)]
    seen = {one.entry.key for one in found}
    missing += [f"key {name}" for key, name in keys.items() if key.hex() not in seen]
    if missing:
        raise UsageError(f"nothing of {', '.join(missing)} was ever dead, parked or ambiguous at {flow.to.name}.")
    give_up = tuple(one for one in found if states.get(one.who) in REOPENED)
    named = [one for one in found if states.get(one.who) is State.INTENT or one.entry.event in events]
    ours = {places[one.who] for one in give_up}
    keys_of = {one.entry.key for one in give_up if one.entry.key is not None}
    held = [{Place(*row) for row in holding(db, number, bytes.fromhex(key))} for key in keys_of]
    return Plan(
        give_up,
        tuple(one for one in named if states.get(one.who) not in REOPENED),
        freed=sum(bool(waiting) and waiting <= ours for waiting in held),
        held=sum(not waiting <= ours for waiting in held),
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
    given = [given_up(known.entry, who, why, now) for known in planned.give_up]
    for future in [sender.send(*audit.record_of(outcomes_of(bus), entry)) for entry in given]:
        future.result()
    outcomes = [outcome_of(entry, flow, number) for entry in given]
    against: set[Place] = set()
    for some in chunks(outcomes):
        with db.transaction():
            against |= deliveries.record(db, some).against.keys()
    return [known for known, outcome in zip(planned.give_up, outcomes, strict=True) if outcome.place in against]


def given_up(entry: Entry, who: str, why: str, now: datetime) -> Entry:
    """Say of an event that a person gives it up."""
    return replace(entry, at=now, state=State.DISCARDED.name, attempts=0, run="", kind="", who=who, why=why)


def survey_made(
    bus: Bus, flow: Process | Agent, control: Control, events: Collection[str], keys: Collection[str]
) -> Plan:
    """Find letters of steps or of an agent by event or key; of these the letters say all.

    Raises:
        UsageError: there is none of an id, or none of a key.
        Unavailable: the broker does not answer.
    """
    known = reprocess.survey(control, bus, flow)
    chosen = sorted(select(known.dead, events, keys), key=lambda dead: dead.origin)
    give_up: list[Known] = []
    rest: list[Known] = []
    for dead, letter in browse.opened(control, dead_letters_of(identity_of(flow)), chosen):
        state = known.states.get(dead.who)
        entry = Entry(
            at=letter.letter.failure.at,
            flow=identity_of(flow),
            sink="",
            source=dead.source,
            event=dead.id,
            time=letter.event.time,
            origin=letter.letter.origin,
            key=None if dead.key is None else dead.key.hex(),
            payload="",
            state=State.DEAD.name,
            attempts=0,
            kind=dead.why.kind,
        )
        if dead.who in known.under_way:
            rest.append(Known(entry, "under way"))
        elif state is None:
            give_up.append(Known(entry, "open"))
        else:
            rest.append(Known(entry, "processed" if state is State.DONE else browse.STANDING[state]))
    return Plan(tuple(give_up), tuple(rest))


def settle(planned: Plan, bus: Bus, transactions: Transactions, *, who: str, why: str, now: datetime) -> None:
    """Write to the audit trail what a person gives up of steps or an agent: all of it, or nothing.

    Raises:
        TrunklineError: it is not written.
    """
    records = [audit.record_of(replayed_of(bus), given_up(known.entry, who, why, now)) for known in planned.give_up]
    transactions.begin()
    try:
        transactions.write([Write(topic, key, value, [*headers]) for topic, key, value, headers in records])
        transactions.flush()
        transactions.commit()
    except TrunklineError:
        transactions.abort()
        raise
