"""Sinks that are in the topology no more although something is left for them: none goes unseen (L5)."""

from collections.abc import Mapping
from dataclasses import dataclass

from trunkline.flow.declare import Bus, identity_of, replay_of, sink_identity
from trunkline.kafka.control import Control
from trunkline.kafka.events import Slot
from trunkline.ledger import deliveries, progress
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import REOPENED
from trunkline.ledger.parks import parked_keys


@dataclass(frozen=True, slots=True)
class Left:
    """What is left for a sink that no flow of the topology delivers to any more, or not from these topics."""

    sink: str
    """What it is known by."""
    unread: Mapping[str, int]
    """Offsets that it has not come to, by topic."""
    letters: int = 0
    """Its dead letters that are neither replayed nor discarded."""
    parked: int = 0
    """Its keys that are parked."""

    def __str__(self) -> str:
        parts = [
            *(f"unread records of {topic}: {many}" for topic, many in self.unread.items()),
            *([f"dead letters: {self.letters}"] if self.letters else []),
            *([f"parked keys: {self.parked}"] if self.parked else []),
        ]
        return (
            f"the sink {self.sink} has left the topology; {', '.join(parts)}. If it, or its flow, has another name "
            "now, say the old one with `was`. Else put it back until `trunkline status` shows no lag and `trunkline "
            "dlq replay FLOW` or `discard` has ended its letters, or give that up: "
            f'Bus(…, retired=["{self.sink}"]).'
        )


def left(bus: Bus, control: Control, db: Connection) -> list[Left]:
    """Ask what is left for sinks that have gone; nothing of those that the bus has retired.

    Raises:
        Unavailable: broker or ledger do not answer.
    """
    reads: dict[str, set[str]] = {}
    for flow in bus.delivering.values():
        reads.setdefault(sink_identity(flow.to), set()).update((flow.topic.name, replay_of(identity_of(flow))))
    sinks = sorted(progress.sinks(db) - set(bus.retired))
    reached = {sink: {Slot(*slot): offset for slot, offset in progress.read(db, sink).items()} for sink in sinks}
    existing = control.topics({slot.topic for slots in reached.values() for slot in slots})
    found = []
    for sink in sinks:
        ours = reads.get(sink, set())
        gone = {topic for topic in existing.keys() - ours if flow_of(topic, sink) not in bus.retired}
        at = {slot: offset for slot, offset in reached[sink].items() if slot.topic in gone}
        letters, parked = (0, 0) if sink in reads else waiting(db, sink)
        one = Left(sink, unread(control, at), letters, parked)
        if one.unread or one.letters or one.parked:
            found.append(one)
    return found


def flow_of(topic: str, sink: str) -> str:
    """Give what the flow to a sink is known by that reads a topic, unless it was declared with another name."""
    flow = topic.removesuffix(".replay")
    return f"{topic}.{sink}" if flow == topic else flow


def waiting(db: Connection, sink: str) -> tuple[int, int]:
    """Count the dead letters of a sink and the keys that it has parked."""
    counts = deliveries.count(db, sink)
    letters = sum(counts[state] for state in REOPENED)
    return letters, len(parked_keys(db, deliveries.number_of(db, sink)))


def unread(control: Control, at: Mapping[Slot, int]) -> dict[str, int]:
    """Count the offsets from there to the end, of partitions where a record comes."""
    ends = control.ends({slot.topic for slot in at}) if at else {}
    behind = {slot: offset for slot, offset in at.items() if offset < ends.get(slot, 0)}
    found: dict[str, int] = {}
    for slot in control.first_times(behind):
        found[slot.topic] = found.get(slot.topic, 0) + ends[slot] - behind[slot]
    return found
