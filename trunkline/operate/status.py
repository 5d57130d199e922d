"""How every flow stands: who works on it, how far behind it is, what it could not deliver."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from trunkline.flow.declare import Bus, Deliver, Process, Publish, group_of
from trunkline.kafka.control import Control
from trunkline.kafka.events import Slot
from trunkline.kafka.topics import used
from trunkline.ledger import deliveries, sqlite
from trunkline.ledger.deliveries import State

Kind = Literal["publish", "process", "deliver"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one flow stands."""

    flow: str
    kind: Kind
    topic: str
    """The topic that it reads, or writes if it publishes."""
    missing: tuple[str, ...] = ()
    """Its topics that do not exist."""
    workers: int | None = None
    """Live members of its group; None for a flow that has none."""
    started: bool = True
    """Whether it knows where to begin on every partition where records wait."""
    lag: int = 0
    """Offsets from where it is to the end; where transactions ended some of them are no records."""
    behind: float = 0.0
    """Age in seconds of the oldest record that it has not finished."""
    progress: datetime | None = None
    """When it last committed; for a flow that publishes, the time of the newest record on its topic."""
    delivered: int | None = None
    dead: int | None = None
    """Events in the ledger as delivered and as dead letters; None where there is no ledger or no sink."""


def standings(bus: Bus, control: Control, db: sqlite.Connection | None, now: datetime) -> list[Standing]:
    """Ask how every flow stands, the worst first."""
    known = control.topics()
    found = []
    for name, flow in bus.named():
        if missing := tuple(topic for topic in used(name, flow) if topic not in known):
            found.append(Standing(name, kind_of(flow), topic_of(flow), missing=missing))
            continue
        match flow:
            case Publish():
                newest = control.last_times([flow.to.name]).get(flow.to.name)
                found.append(Standing(name, "publish", flow.to.name, progress=newest))
            case Process() | Deliver():
                found.append(reading(bus, name, flow, control, db, now))
    return sorted(found, key=badness, reverse=True)


def reading(
    bus: Bus, name: str, flow: Process | Deliver, control: Control, db: sqlite.Connection | None, now: datetime
) -> Standing:
    """Ask how one reading flow stands."""
    topic, group = flow.topic.name, group_of(bus, name)
    committed = control.committed(group)
    low, high = control.beginnings([topic]), control.ends([topic])
    at = {slot: max(committed[slot][0], low[slot]) if slot in committed else low[slot] for slot in low}
    waiting = {slot: offset for slot, offset in at.items() if offset < high[slot]}
    # A partition that ends with the mark of a transaction is never read to its very end: only a record is lag.
    first = control.first(waiting)
    oldest = min((record.timestamp for record in first.values()), default=now)
    counts = None if db is None or not isinstance(flow, Deliver) else deliveries.count(db, flow.to.name)
    return Standing(
        name,
        kind_of(flow),
        topic,
        workers=len(control.members(group)),
        started=all(slot in committed for slot in first),
        lag=sum(high[slot] - at[slot] for slot in first),
        behind=max(0.0, (now - oldest).total_seconds()),
        progress=last_progress(committed, topic),
        delivered=None if counts is None else counts[State.DONE],
        dead=None if counts is None else counts[State.DEAD],
    )


def last_progress(committed: Mapping[Slot, tuple[int, str]], topic: str) -> datetime | None:
    """Read when a group last committed from the notes beside its offsets."""
    return max(times(note for slot, (_, note) in committed.items() if slot.topic == topic), default=None)


def times(notes: Iterable[str]) -> list[datetime]:
    """Read the times of notes of the form at=<ISO time>; others are passed over."""
    found = []
    for note in notes:
        try:
            at = datetime.fromisoformat(note.removeprefix("at="))
        except ValueError:
            continue
        found.append(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    return found


def badness(standing: Standing) -> tuple[bool, bool, bool, float, int, int]:
    """Order by what needs a person first."""
    stuck = standing.lag > 0 and standing.workers == 0
    return (
        bool(standing.missing), not standing.started, stuck, standing.behind, standing.dead or 0, standing.lag
    )  # fmt: skip


def kind_of(flow: Publish | Process | Deliver) -> Kind:
    """Name what a flow does."""
    match flow:
        case Publish():
            return "publish"
        case Process():
            return "process"
        case Deliver():
            return "deliver"


def topic_of(flow: Publish | Process | Deliver) -> str:
    """Name the topic that a flow reads, or writes if it publishes."""
    return flow.to.name if isinstance(flow, Publish) else flow.topic.name
