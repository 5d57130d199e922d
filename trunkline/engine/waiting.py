"""The open dead letters of steps and agents, followed on Kafka: the ledger knows those of sinks alone.

An event is open from its first letter until a replay has brought it to an end, or until its last letter has expired.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import NamedTuple

from trunkline.deadletter import stray, who_of
from trunkline.event import digest
from trunkline.kafka import audit
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import Follower, Record, Slot
from trunkline.ledger.deliveries import ENDED

SLICE = 0.5
"""Seconds that are read at once at most: whoever looks has more to do."""


class Lying(NamedTuple):
    """Where the newest letter of an event lies, and since when, in epoch milliseconds."""

    slot: Slot
    offset: int
    since: int


@dataclass(frozen=True, slots=True)
class Letters:
    """The dead letters of a flow that wait for a person."""

    open: int
    oldest: datetime | None


@dataclass(slots=True)
class Pile:
    """The letters of one flow; an event is known by a digest, for there may be a million."""

    open: dict[bytes, Lying] = field(default_factory=dict)
    done: set[bytes] = field(default_factory=set)
    """What replays have brought to an end: it is never sent again."""

    def add(self, record: Record) -> None:
        """Take a record of the dead-letter topic."""
        try:
            who = mark(*who_of(record.headers))
        except (KeyError, ValueError):
            return  # no letter of ours
        if who not in self.done:
            self.open[who] = Lying(record.slot, record.offset, record.timestamp)

    def settle(self, entry: audit.Entry) -> None:
        """Take what a replay has brought to an end: an event that was none when its letter was written may be one."""
        before = stray(entry.origin)
        for who in (mark(entry.source, entry.event), mark(before.source, before.id)):
            self.done.add(who)
            self.open.pop(who, None)

    def expire(self, starts: Mapping[Slot, int]) -> None:
        """Forget the events whose letters have gone."""
        for who in [who for who, at in self.open.items() if at.offset < starts.get(at.slot, 0)]:
            del self.open[who]

    def letters(self) -> Letters:
        """Give what waits now."""
        oldest = min((at.since for at in self.open.values()), default=None)
        return Letters(len(self.open), None if oldest is None else datetime.fromtimestamp(oldest / 1000, UTC))


class Waiting:
    """Follows the dead-letter topics of flows, and the topic of what replays have brought to an end."""

    def __init__(self, cluster: Cluster, flows: Mapping[str, str], replayed: str) -> None:
        """Begin; `flows` has the identity of each flow by its dead-letter topic.

        Raises:
            Unavailable: the broker does not answer.
        """
        self._flows = flows
        self._replayed = replayed
        self._piles: defaultdict[str, Pile] = defaultdict(Pile)
        self._follower = Follower(cluster, *flows, replayed)

    def look(self) -> Mapping[str, Letters]:
        """Read on for a while and give what waits, by the flow's identity; nothing before all was read once.

        Raises:
            Unavailable: the broker does not answer.
        """
        until = monotonic() + SLICE
        while monotonic() < until:
            records = self._follower.fetch(0.1)
            self.take(records)
            if not records and self._follower.caught_up:
                break
        if not self._follower.caught_up:
            return {}
        return {flow: self._piles[flow].letters() for flow in self._flows.values()}

    def take(self, records: Collection[Record]) -> None:
        """Take what was read."""
        for record in records:
            if (flow := self._flows.get(record.slot.topic)) is not None:
                self._piles[flow].add(record)
            elif (entry := audit.entry_of(record.value)) is not None and entry.state in ENDED:
                self._piles[entry.flow].settle(entry)

    def expire(self, starts: Mapping[Slot, int]) -> None:
        """Forget what is gone from before these offsets."""
        for pile in self._piles.values():
            pile.expire(starts)

    def follows(self, slots: Collection[Slot]) -> bool:
        """Say whether all of these partitions are read: a topic may have come, or grown."""
        return self._follower.slots.issuperset(slots)

    def close(self) -> None:
        """Stop reading."""
        self._follower.close()


def mark(source: str, event_id: str) -> bytes:
    """Give what an event is known by."""
    return digest(source, event_id)[:16]
