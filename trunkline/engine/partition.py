"""One partition of an agent's flow: how far its topics are, and what the bus remembers for its body."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from trunkline.engine.eventtime import LATE, Note, Reach
from trunkline.engine.trail import Again
from trunkline.event import Event, Moment
from trunkline.kafka.agents import Actor
from trunkline.kafka.events import Record, Slot

D = TypeVar("D", bound=Mapping[str, Any])
E = TypeVar("E", bound=Mapping[str, Any])


@dataclass(frozen=True)
class Taken(Event[D]):
    """An event that a body was given; what is made of it says where it stood."""

    partition: int = 0
    offset: int = 0

    def having(self, data: E) -> "Taken[E]":
        """Return the same event with other data, and where it stood."""
        return replace(self, data=data)  # type: ignore[arg-type, return-value]


LAST = round(datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000)
"""The last time that a body is told, in epoch milliseconds."""
Stood = tuple[str, int]
"""Topic and offset of a record of a partition."""
Try = tuple[str, int, int]
"""Topic and offset of where an event first stood, and how many replays it has been through."""


@dataclass(slots=True)
class Partition:
    """A partition, with the body that works on it."""

    number: int
    reaches: dict[str, Reach]
    """By topic."""
    actor: Actor
    spoken: int | None
    """Up to when the body had spoken before: what it says of earlier times is there already."""
    dead: set[Try]
    """What has a dead letter, and is given to no body again, whatever a new one could do with it."""
    quiet: bool = True
    """While the body is given again what it was given before."""
    told: int | None = None
    """How late the body knows it is."""
    pending: list[Record] = field(default_factory=list)
    """Fetched, and not given yet."""
    ids: dict[tuple[str, str], tuple[Stood, int]] = field(default_factory=dict)
    """The events that the body was given, with the places and times of their records."""
    ordinals: dict[tuple[str, str, str | None], tuple[int, int]] = field(default_factory=dict)
    """How many records of one key were made of an event, and when the last one was."""

    def begin_again(self, actor: Actor) -> dict[Slot, int]:
        """Let a new body take what the last one remembered; give from where to read."""
        self.actor, self.told = actor, None
        self.pending.clear()
        self.ids.clear()
        self.ordinals.clear()
        for reach in self.reaches.values():
            reach.again(resume=reach.resume if self.quiet else reach.at)
        self.quiet = True
        return {Slot(topic, self.number): reach.at for topic, reach in self.reaches.items()}

    def offsets(self) -> dict[Slot, int]:
        """Give what may be committed."""
        return {
            Slot(topic, self.number): reach.resume if self.quiet else reach.at for topic, reach in self.reaches.items()
        }

    def notes(self, window: int) -> dict[Slot, Note]:
        """Say from where a body that begins anew has to read, and up to when this one has spoken.

        `window` is in milliseconds. What is older is forgotten.
        """
        self.spoken = self.told if self.spoken is None else max(self.spoken, self.told or 0)
        limit = (self.spoken or 0) - window - LATE
        forget(self.ids, limit)
        forget(self.ordinals, limit)
        return {
            Slot(topic, self.number): Note(reach.since(limit), self.spoken) for topic, reach in self.reaches.items()
        }

    def knows(self, event: Event[Any], record: Record) -> bool:
        """Say whether an event has come before, as another record; then it is no event of its own."""
        here = record.slot.topic, record.offset
        first, _ = self.ids.setdefault((event.source, event.id), (here, record.timestamp))
        return first != here

    def ordinal(self, made: Event[Any], key: str | None, at: datetime) -> int:
        """Count how many records of a key were made of an event before, and this one with them."""
        count, _ = self.ordinals.pop((made.source, made.id, key), (0, 0))  # it goes behind all others: see `forget`
        self.ordinals[made.source, made.id, key] = count + 1, millis_of(at)
        return count

    def finish(self, one: "Given") -> str:
        """Note that the body has finished a moment, and that what it made of it is written; say what it was."""
        if one.record is None:
            self.told = millis_of(one.moment.at)
            return "told"
        self.pass_by(one.record)
        return "replayed" if one.sent is not None else "repeat" if one.passed else "taken"

    def pass_by(self, record: Record) -> None:
        """Note that a record is behind us."""
        self.reaches[record.slot.topic].read(record.offset, record.timestamp)

    def has_repeated(self) -> bool:
        """Say whether everything has been given again that was given before; what is pending comes after that.

        The last offsets before that place may be marks of transactions, which never come.
        """
        beyond = {record.slot.topic for record in self.pending}
        return all(reach.at >= reach.resume or topic in beyond for topic, reach in self.reaches.items())

    def meet_ends(self, ended: Collection[Slot], met: Mapping[Slot, int], now: int) -> None:
        """Note which topics are read to their ends; the marks of transactions there are no records."""
        waiting = {record.slot.topic for record in self.pending}
        for topic, reach in self.reaches.items():
            if topic not in waiting and (slot := Slot(topic, self.number)) in ended:
                reach.ended(met[slot], now)


@dataclass(frozen=True, slots=True)
class Given:
    """One moment for a body, and the record that it is of; None when only time has passed."""

    moment: Moment[Any]
    record: Record | None
    passed: bool = False
    """Whether the body is not to see it: the event has come before, or the body had raised at it."""
    sent: Again | None = None
    """Where the event stood first, if a replay has sent it."""


def forget(known: dict[Any, tuple[Any, int]], limit: int) -> None:
    """Take out what is older, from the front: what is known is nearly in the order of time."""
    while known and known[first := next(iter(known))][1] <= limit:
        del known[first]


def tick(at: int) -> Given:
    """Give the moment in which only time has passed."""
    return Given(Moment(moment_of(at), None), None)


def moment_of(millis: int) -> datetime:
    """Give a time in epoch milliseconds as a time; one before 1970 or beyond any calendar as the nearest within."""
    return datetime.fromtimestamp(min(max(millis, 0), LAST) / 1000, UTC)


def millis_of(at: datetime) -> int:
    """Give a time in epoch milliseconds."""
    return round(at.timestamp() * 1000)
