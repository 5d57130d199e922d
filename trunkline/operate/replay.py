"""Replay: dead letters of one sink, sent again to that sink alone.

It is planned before it runs, and an event is done when the ledger says so. Letters of a key go in the order of their
origin. Of a key that is held back (parked, or blocked), a run takes with it what is parked while it runs, until the
ledger holds the key back no more; where one of the key dies again, nothing after it is sent (D12).
"""

import math
import secrets
import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from trunkline.deadletter import replayed
from trunkline.errors import Permanent, Unavailable, UsageError
from trunkline.flow.declare import Deliver, dead_letters_of, identity_of, replay_of, sink_identity
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender, Slot
from trunkline.ledger import deliveries, runs
from trunkline.ledger.database import Connection, Failure
from trunkline.ledger.deliveries import FINAL, Place, State
from trunkline.ledger.intents import Intent, delivered_latest
from trunkline.ledger.parks import parked_keys
from trunkline.operate import browse
from trunkline.operate.browse import Dead
from trunkline.redact import hashed

MOST_REPLAYS = 3
"""After so many replays without success, only who names an event or its key replays it: it would go round for ever."""

PACE = 0.1
"""Seconds between two looks at the ledger."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of dead letters when a replay of them is planned."""

    dead: tuple[Dead, ...]
    states: Mapping[tuple[str, str], State]
    """What the ledger says of each event, by its identity; absent where it says nothing."""
    held: Collection[bytes] = ()
    """The keys that are held back, as digests."""
    overtaken: Collection[tuple[str, str]] = ()
    """Events of which a later one of the same key is delivered, where the target keeps the last state of a key."""
    under_way: Collection[tuple[str, str]] = ()
    """Events that a replay has sent to a flow of steps, or to an agent, and that are not taken yet."""
    ends: Mapping[Slot, int] = field(default_factory=dict)
    """Before which offsets of the dead-letter topic all letters are known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay will do with the selected events; those to send are in the order of their origin."""

    known: Known
    send: tuple[Dead, ...]
    finished: tuple[Dead, ...]
    """Delivered since, superseded or discarded: no replay opens them again."""
    refused: tuple[Dead, ...]
    under_way: tuple[Dead, ...] = ()
    """Sent by a replay before, and not taken yet."""
    keys: frozenset[bytes] = frozenset()
    """The keys, as digests, that are held back and of which everything is replayed."""
    overwrite: bool = False

    @property
    def selected(self) -> int:
        """How many events were selected."""
        return len(self.send) + len(self.finished) + len(self.refused) + len(self.under_way)

    @property
    def superseded(self) -> list[Dead]:
        """Those to send that will not be: a later event of their key is delivered."""
        return [] if self.overwrite else [dead for dead in self.send if dead.who in self.known.overtaken]

    def counts(self) -> Counter[State | None]:
        """Count the events to send by what the ledger says of them."""
        return Counter(self.known.states.get(dead.who) for dead in self.send)


def key_of(dead: Dead) -> str | None:
    """Give a record's key as text."""
    return None if dead.raw_key is None else dead.raw_key.decode(errors="backslashreplace")


def has_key(dead: Dead, keys: Collection[str]) -> bool:
    """Say whether an event's key is among these; a sensitive key may be named as it is shown."""
    return key_of(dead) in keys or (dead.raw_key is not None and f"#{hashed(dead.raw_key)}" in keys)


def select(dead: Sequence[Dead], events: Collection[str], keys: Collection[str]) -> list[Dead]:
    """Choose events by id or key; all of them when neither is given.

    Raises:
        UsageError: an id or key is not among the dead letters.
    """
    if not events and not keys:
        return list(dead)
    chosen = [one for one in dead if one.id in events or has_key(one, keys)]
    absent = [f"event {event}" for event in events if all(one.id != event for one in chosen)]
    absent += [f"key {key}" for key in keys if not any(has_key(one, [key]) for one in chosen)]
    if absent:
        there = f"`trunkline dlq ls` of the same name lists all {len(dead)}" if dead else "there is none at all"
        raise UsageError(f"no dead letter has {', '.join(absent)}; {there}.")
    return chosen


def plan(
    known: Known,
    events: Collection[str] = (),
    keys: Collection[str] = (),
    *,
    overwrite: bool = False,
    name: Callable[[Dead], str | None] = key_of,
) -> Plan:
    """Decide what becomes of each selected event; `name` gives its key as a person may read it.

    Raises:
        UsageError: an id or key is not among the dead letters, or single events of a key that is held back were chosen
            and an earlier one was not: they would overtake it.
    """
    lost = [key for key in keys if deliveries.key_of(key.encode()) in known.held]
    if lost and (lost := [key for key in lost if not any(has_key(dead, [key]) for dead in known.dead)]):
        raise UsageError(
            f"key {lost[0]} is held back by events whose letters are gone, and nothing can be sent: `trunkline dlq "
            "discard` with --key gives them up, and the key is free."
        )
    chosen = sorted(select(known.dead, events, keys), key=lambda dead: dead.origin)
    left = [dead for dead in chosen if known.states.get(dead.who) not in FINAL]
    open_ = [dead for dead in left if dead.who not in known.under_way]
    picked = {dead.who for dead in open_}
    refused: list[Dead] = []
    stuck: set[bytes | None] = set()
    for dead in open_:
        again = dead.replays >= MOST_REPLAYS and dead.why.kind != "parked"
        if (again and not (events or keys)) or (dead.key in stuck and dead.key in known.held):
            refused.append(dead)
            stuck.add(dead.key)
    for dead in sorted(known.dead, key=lambda dead: dead.origin):
        if dead.key not in known.held or dead.who in picked or known.states.get(dead.who) in FINAL:
            continue
        if later := [one for one in open_ if one.key == dead.key and one.origin > dead.origin]:
            count = sum(one.key == dead.key and known.states.get(one.who) not in FINAL for one in known.dead)
            raise UsageError(
                f"event {later[0].id} would overtake event {dead.id}, the earliest of its key, which is "
                f"held back. --key {shlex.quote(name(dead) or '')} replays all {count} of them in order."
            )
    kept = {dead.who for dead in refused}
    send = tuple(dead for dead in open_ if dead.who not in kept)
    whole = {dead.key for dead in send if dead.key in known.held and (has_key(dead, keys) or not events)}
    return Plan(
        known=known,
        send=send,
        finished=tuple(dead for dead in chosen if known.states.get(dead.who) in FINAL),
        refused=tuple(refused),
        under_way=tuple(dead for dead in left if dead.who in known.under_way),
        keys=frozenset(key for key in whole if key is not None and key not in stuck),
        overwrite=overwrite,
    )


@dataclass(slots=True)
class Progress:
    """How far a run is: every event of it is in exactly one of these."""

    run: str
    unsent: list[Dead]
    open: list[Dead] = field(default_factory=list)
    delivered: list[Dead] = field(default_factory=list)
    superseded: list[Dead] = field(default_factory=list)
    """Not sent to the target: a later event of the key is delivered."""
    discarded: list[Dead] = field(default_factory=list)
    """Given up by a person meanwhile."""
    dead: list[Dead] = field(default_factory=list)
    """Dead again, each with its new letter."""
    parked: list[Dead] = field(default_factory=list)
    """Still parked: an earlier event of the key is dead again."""
    gone: list[Dead] = field(default_factory=list)
    """Not to be sent by anybody: the letter, or the value that was too large for it, has been deleted."""
    trouble: str = ""
    """Why it ended early."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left for a person to do."""
        return not (self.unsent or self.open or self.dead or self.parked or self.gone or self.trouble)

    @property
    def ended(self) -> int:
        """How many events have come to an end."""
        return sum(map(len, (self.delivered, self.superseded, self.discarded, self.dead, self.parked, self.gone)))


def survey(flow: Deliver, control: Control, db: Connection) -> Known:
    """Read the dead letters of a flow and what the ledger knows of them.

    Raises:
        UsageError: the flow's dead-letter topic is missing.
        Unavailable: broker or ledger do not answer.
    """
    ends = control.ends([dead_letters_of(identity_of(flow))])
    dead = browse.look(control, flow).dead
    number = deliveries.number_of(db, sink_identity(flow.to))
    states = zip(dead, browse.states(db, flow, dead), strict=True)
    overtaken: set[tuple[str, str]] = set()
    for begin in range(0, len(dead) if flow.to.writes == "latest" else 0, browse.AT_ONCE):
        some = dead[begin : begin + browse.AT_ONCE]
        at = dict(zip(browse.places(flow, some), some, strict=True))
        later = delivered_latest(db, [asking(one, place, number) for place, one in at.items()])
        overtaken |= {at[place].who for place in later}
    return Known(
        dead=dead,
        states={one.who: state for one, state in states if state is not None},
        held=parked_keys(db, number) if flow.after_dead != "continue" else (),
        overtaken=overtaken,
        ends=ends,
    )


class Replay:
    """Runs replays of one flow's dead letters."""

    def __init__(
        self, flow: Deliver, control: Control, sender: Sender, db: Connection, *, rate: float, wait: float
    ) -> None:
        """Prepare; `rate` is records a second, `wait` how many seconds the last of them may take."""
        self._flow = flow
        self._sink = sink_identity(flow.to)
        self._letters = dead_letters_of(identity_of(flow))
        self._control = control
        self._sender = sender
        self._db = db
        self._rate = rate
        self._wait = wait
        self._ends: Mapping[Slot, int] = {}
        self._newer: dict[tuple[str, str], Dead] = {}
        self._ahead = browse.Ahead(control, self._letters)

    def run(self, planned: Plan, tell: Callable[[Progress], None]) -> Progress:
        """Send the planned letters, wait until each has come to an end, and end the run whatever happens.

        `tell` is called whenever something may have moved. A send that fails, time that runs out and Ctrl-C end the run
        early; what is open then is not delivered by this run any more.
        """
        began = datetime.now(UTC)
        progress = Progress(f"{began:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}", list(planned.send))
        self._ends, self._newer = planned.known.ends, {}
        runs.begin(self._db, progress.run, self._sink, len(planned.send), began, overwrite=planned.overwrite)
        try:
            self._drive(planned, progress, tell)
        except KeyboardInterrupt:
            progress.trouble = "interrupted"
        except (Unavailable, Permanent, Failure) as error:
            progress.trouble = str(error)
        finally:
            runs.finish(self._db, progress.run, datetime.now(UTC))
        return progress

    def _drive(self, planned: Plan, progress: Progress, tell: Callable[[Progress], None]) -> None:
        """Send one after the other, each acknowledged before the next, so that none overtakes another."""
        due = looked = sent = time.monotonic()
        while True:
            dead = next_of(progress, planned.keys)
            if dead is not None:
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due + 1 / self._rate, time.monotonic())
                if not self._send(progress, dead):
                    looked = -math.inf  # at once, before what follows it of its key is sent
                sent = time.monotonic()
            if dead is None or time.monotonic() > looked + PACE:
                self._settle(progress)
                looked = time.monotonic()
                held = self._take_along(planned, progress)
                if not (progress.unsent or progress.open or held):
                    tell(progress)
                    return
            tell(progress)
            if dead is None and time.monotonic() > sent + self._wait:
                progress.trouble = f"after {self._wait:g} s"
                if not (progress.unsent or progress.open):
                    progress.trouble += (
                        ": a key is still held back, by an event whose letter is not here; `trunkline dlq discard` "
                        "with --key gives that up"
                    )
                return
            time.sleep(PACE if dead is None else 0)

    def _send(self, progress: Progress, dead: Dead) -> bool:
        """Send a letter; say whether it can be sent at all."""
        try:
            letter = self._ahead.open(dead, progress.unsent)
            value = browse.value_of(self._control, letter)
        except browse.Gone:
            progress.unsent.remove(dead)
            progress.gone.append(dead)
            return False
        headers = replayed(letter.record.headers, progress.run)
        topic, partition = replay_of(identity_of(self._flow)), dead.origin_partition
        sending = self._sender.send(topic, dead.raw_key, value, headers, partition=partition)
        progress.unsent.remove(dead)  # whatever ends the wait for its acknowledgement: it may be on the topic
        progress.open.append(dead)
        sending.result()
        return True

    def _settle(self, progress: Progress) -> None:
        """Find out what has come of the events that are under way: the ledger says it, or a newer letter."""
        now = self._control.ends([self._letters])
        if now != self._ends:
            start = {slot.partition: offset for slot, offset in self._ends.items()}
            for letter in browse.gather(self._control.read(self._letters, start=start)).dead:
                self._newer[letter.who] = letter
            self._ends = now
        progress.dead, progress.parked = self._left(progress, progress.dead), self._left(progress, progress.parked)
        left, progress.open = self._left(progress, progress.open), []
        for dead in left:
            newer = self._newer.get(dead.who, dead)
            if not is_later(newer, dead):
                progress.open.append(dead)
            elif newer.why.kind == "parked":
                progress.parked.append(newer)
            else:
                progress.dead.append(newer)

    def _left(self, progress: Progress, group: Sequence[Dead]) -> list[Dead]:
        """Give what is not finished; another run may have delivered even what died again in this one."""
        ended = {
            State.DONE: progress.delivered,
            State.SUPERSEDED: progress.superseded,
            State.DISCARDED: progress.discarded,
        }
        left: list[Dead] = []
        for dead, state in zip(group, browse.states(self._db, self._flow, group), strict=True):
            (left if state is None else ended.get(state, left)).append(dead)
        return left

    def _take_along(self, planned: Plan, progress: Progress) -> bool:
        """Add what was parked meanwhile of the run's keys, give up keys that died again; say whether any is held."""
        if not planned.keys:
            return False
        stopped = {dead.key for dead in (*progress.dead, *progress.parked, *progress.gone)} & planned.keys
        progress.parked += [dead for dead in progress.unsent if dead.key in stopped]
        progress.unsent = [dead for dead in progress.unsent if dead.key not in stopped]
        keys = planned.keys - stopped
        known = {dead.who for dead in (*planned.send, *planned.finished, *planned.refused)}
        known |= {dead.who for dead in (*progress.unsent, *progress.open)}
        known |= {dead.who for dead in (*progress.delivered, *progress.superseded, *progress.discarded, *progress.gone)}
        new = [dead for dead in self._newer.values() if dead.key in keys and dead.who not in known]
        progress.unsent += sorted(new, key=lambda dead: dead.origin)
        if not keys or progress.unsent or progress.open:
            return bool(keys)
        return bool(keys & parked_keys(self._db, deliveries.number_of(self._db, self._sink)))


def is_later(newer: Dead, dead: Dead) -> bool:
    """Say whether a letter of an event was written after another one of it."""
    return (newer.partition, newer.offset) > (dead.partition, dead.offset)


def next_of(progress: Progress, keys: Collection[bytes]) -> Dead | None:
    """Give the letter to send next; of a key that is held back none follows a dead one before that one is delivered."""
    waiting = {dead.key for dead in progress.open if dead.why.kind != "parked" and dead.key in keys}
    for dead in progress.unsent:
        if dead.key not in waiting:
            return dead
    return None


def asking(dead: Dead, place: Place, number: int) -> Intent:
    """Say of a letter what the ledger needs to know to judge whether it is overtaken."""
    return Intent(
        place=place,
        sink=number,
        key=dead.key,
        partition=dead.origin_partition,
        offset=dead.origin_offset,
        payload=b"",
        owner="",
        deadline=0.0,
        now=0.0,
        latest=True,
        topic=dead.origin_topic,
    )
