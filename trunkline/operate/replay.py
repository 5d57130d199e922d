"""Replay: dead letters of one sink, sent again to that sink alone.

It is planned before it runs, and an event is done when the ledger says so.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from trunkline.deadletter import replayed
from trunkline.errors import Permanent, Unavailable, UsageError
from trunkline.flow.declare import dead_letters_of, replay_of
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender, Slot
from trunkline.ledger import runs, sqlite
from trunkline.ledger.deliveries import Place, Row, State
from trunkline.operate import browse
from trunkline.operate.browse import Dead

MOST_REPLAYS = 3
"""After so many replays without success another one is refused: it would go round for ever."""

PACE = 0.3
"""Seconds between two looks at the ledger."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay will do with the selected events; those to send are in the order of their origin."""

    send: tuple[Dead, ...]
    delivered: tuple[Dead, ...]
    refused: tuple[Dead, ...]

    @property
    def selected(self) -> int:
        """How many events were selected."""
        return len(self.send) + len(self.delivered) + len(self.refused)


def select(dead: Sequence[Dead], events: Collection[str], keys: Collection[str]) -> list[Dead]:
    """Choose events by id or key; all of them when neither is given.

    Raises:
        UsageError: an id or key is not among the dead letters.
    """
    if not events and not keys:
        return list(dead)
    chosen = [one for one in dead if one.event.id in events or key_of(one) in keys]
    absent = [f"event {event}" for event in events if all(one.event.id != event for one in chosen)]
    absent += [f"key {key}" for key in keys if all(key_of(one) != key for one in chosen)]
    if absent:
        raise UsageError(f"no dead letter has {', '.join(absent)}. `trunkline dlq ls SINK` lists them.")
    return chosen


def key_of(dead: Dead) -> str | None:
    """Give a record's key as text."""
    return None if dead.record.key is None else dead.record.key.decode(errors="backslashreplace")


def plan(letters: Sequence[Dead], places: Sequence[Place], rows: Mapping[Place, Row]) -> Plan:
    """Decide what becomes of each selected event; `places` are the events' in the ledger, in the same order."""
    send, delivered, refused = [], [], []
    for dead, place in zip(letters, places, strict=True):
        row = rows.get(place)
        if row is not None and row.state is State.DONE:
            delivered.append(dead)
        elif dead.letter.replays >= MOST_REPLAYS:
            refused.append(dead)
        else:
            send.append(dead)
    return Plan(tuple(sorted(send, key=origin_order)), tuple(delivered), tuple(refused))


def origin_order(dead: Dead) -> tuple[str, int, int]:
    """Order events as they first stood."""
    origin = dead.letter.origin
    return (origin.topic, origin.partition, origin.offset)


@dataclass(slots=True)
class Progress:
    """How far a run is: every event to send is in exactly one of these, in the order of the plan."""

    run: str
    unsent: list[Dead]
    open: list[Dead] = field(default_factory=list)
    delivered: list[Dead] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    """Dead again, each with its new letter."""
    trouble: str = ""
    """Why it ended early."""

    @property
    def complete(self) -> bool:
        """Whether everything was delivered."""
        return not (self.unsent or self.open or self.dead)


@dataclass(frozen=True, slots=True)
class Replay:
    """Everything that a run needs: the flow and its sink, how many records a second, and how long to wait."""

    flow: str
    sink: str
    control: Control
    sender: Sender
    db: sqlite.Connection
    rate: float
    wait: float

    def run(self, planned: Plan, tell: Callable[[Progress], None]) -> Progress:
        """Send the planned letters, wait until each is delivered or dead again, and end the run whatever happens.

        `tell` is called whenever something moved. A send that fails, time that runs out and Ctrl-C end the run early;
        what is open then is not delivered by this run any more.
        """
        began = datetime.now(UTC)
        progress = Progress(f"{began:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}", list(planned.send))
        ends: Mapping[Slot, int] = self.control.ends([dead_letters_of(self.flow)])
        runs.begin(self.db, progress.run, self.sink, len(planned.send), began)
        try:
            ends = self._send(progress, ends, tell)
            until = time.monotonic() + self.wait
            while progress.open and time.monotonic() < until:
                ends = self._settle(progress, ends)
                tell(progress)
                time.sleep(PACE if progress.open else 0)
            if progress.open:
                progress.trouble = f"after {self.wait:g} s"
        except KeyboardInterrupt:
            progress.trouble = "interrupted"
        except (Unavailable, Permanent, sqlite.Failure) as error:
            progress.trouble = str(error)
        finally:
            runs.finish(self.db, progress.run, datetime.now(UTC))
        return progress

    def _send(
        self, progress: Progress, ends: Mapping[Slot, int], tell: Callable[[Progress], None]
    ) -> Mapping[Slot, int]:
        """Send one after the other, each acknowledged before the next, so that none overtakes another."""
        topic = replay_of(self.flow)
        looked = due = time.monotonic()
        while progress.unsent:
            dead = progress.unsent[0]
            value = browse.value_of(self.control, dead)
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1 / self.rate, time.monotonic())
            headers = replayed(dead.record.headers, progress.run)
            self.sender.send(topic, dead.record.key, value, headers, partition=dead.letter.origin.partition).result()
            progress.open.append(progress.unsent.pop(0))
            if time.monotonic() > looked + PACE:
                ends, looked = self._settle(progress, ends), time.monotonic()
            tell(progress)
        return ends

    def _settle(self, progress: Progress, ends: Mapping[Slot, int]) -> Mapping[Slot, int]:
        """Move what is delivered, and what failed again: a newer letter lies beyond `ends`. Give the new ends."""
        places = browse.places(self.sink, progress.open)
        found = browse.rows(self.db, places)
        topic = dead_letters_of(self.flow)
        now = self.control.ends([topic])
        newer: dict[tuple[str, str], Dead] = {}
        if now != ends:
            start = {slot.partition: offset for slot, offset in ends.items()}
            newer = {who(dead): dead for dead in browse.gather(self.control.read(topic, start=start)).dead}
        still = []
        for dead, place in zip(progress.open, places, strict=True):
            if place in found and found[place].state is State.DONE:
                progress.delivered.append(dead)
            elif (again := newer.get(who(dead))) is not None:
                progress.dead.append(again)
            else:
                still.append(dead)
        progress.open = still
        return now


def who(dead: Dead) -> tuple[str, str]:
    """Give the identity of an event."""
    return (dead.event.source, dead.event.id)
