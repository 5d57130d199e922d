"""How every flow stands: who works on it, how far behind it is, what it could not deliver."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Flow,
    Process,
    Publish,
    Reading,
    group_of,
    identity_of,
    inputs_of,
    sink_identity,
    tables_of,
    targets_of,
)
from trunkline.kafka.control import Control
from trunkline.kafka.events import Slot, time_in
from trunkline.kafka.orders import Announcement, Full, Orders, running
from trunkline.kafka.retention import ALARMING, kept_for, remembered, unread
from trunkline.kafka.topics import reading as reading_flows
from trunkline.kafka.topics import used
from trunkline.ledger import deliveries, progress
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import State
from trunkline.operate import reprocess, targets

Kind = Literal["publish", "process", "agent", "deliver"]


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
    expired: int = 0
    """Offsets that its topic deleted before they were read, ever."""
    gone: int = 0
    """Those of them about which nobody has decided yet: it stands still until it is told where to go on."""
    unread: float = 0.0
    """Age of the oldest record that it has not finished, as a share of the time for which its topic keeps records."""
    delivered: int | None = None
    dead: int | None = None
    parked: int | None = None
    ambiguous: int | None = None
    superseded: int | None = None
    discarded: int | None = None
    """Events of its sink in the ledger, by what became of them; None where there is no ledger or no sink.

    Of steps and agents only the dead are counted, by their letters.
    """
    crowded: bool = False
    """Whether its dead letters are too many to be counted at a glance."""
    paused: str = ""
    """Who has paused its sink."""
    paused_why: str = ""
    """The reason, as far as one was given."""
    halted: tuple[str, ...] = ()
    """Why it stands still, where a worker has halted it."""
    waits: tuple[str, ...] = ()
    """What keeps it from going on, by itself or a table of its: a worker tries again and again."""
    notices: tuple[str, ...] = ()
    """What the targets that it calls announce of their APIs."""
    targets: tuple[str, ...] = ()
    """How the targets stand that it calls and that are not simply called: who has paused one, or that it is down."""
    unused: tuple[str, ...] = ()
    """What it leaves of the limits of targets, where another flow has used its share up (D13)."""
    held_up: tuple[Full, ...] = ()
    """Its partitions that are not fetched from now, each with the key that fills it."""


def standings(bus: Bus, control: Control, db: Connection | None, held: Orders, now: datetime) -> list[Standing]:
    """Ask how every flow stands, the worst first; `held` is what the control topic says."""
    known = control.topics({topic for _, flow in bus.named() for topic in used(flow)})
    reads = {name: flow for name, flow in reading_flows(bus).items() if all(topic in known for topic in used(flow))}
    seen = see(bus, reads, control)
    called = targets.standings(bus, held, now)
    unused, troubled = targets.unused(called), targets.troubled(called)
    found: list[Standing] = []
    for name, flow in bus.named():
        if missing := tuple(topic for topic in used(flow) if topic not in known):
            found.append(Standing(name, kind_of(flow), topic_of(flow), missing=missing))
            continue
        match flow:
            case Publish():
                newest = control.last_times([flow.to.name]).get(flow.to.name)
                waits = waiting_for([name], running(held, [name], now))
                found.append(Standing(name, "publish", flow.to.name, progress=newest, waits=waits))
            case Process() | Agent():
                dead = reprocess.waiting(control, bus, flow)
                standing = reading(name, flow, seen, held, now, {})
                found.append(replace(standing, dead=dead, crowded=dead is None))
            case Deliver():
                reached = {} if db is None else progress.read(db, sink_identity(flow.to))
                standing = reading(name, flow, seen, held, now, reached)
                standing = replace(standing, notices=announced(flow, running(held, [name], now)))
                found.append(delivering(standing, sink_identity(flow.to), db, held))
    found = [replace(one, unused=unused.get(one.flow, ()), targets=troubled.get(one.flow, ())) for one in found]
    return sorted(found, key=badness, reverse=True)


def hindrances(bus: Bus, held: Orders, now: datetime) -> dict[str, tuple[str, ...]]:
    """Say of every flow that reads what keeps it from going on; nothing of one that goes on."""
    troubled = targets.troubled(targets.standings(bus, held, now))
    found: dict[str, tuple[str, ...]] = {}
    for name, flow in bus.named():
        if isinstance(flow, Publish):
            continue
        workers = running(held, [name], now)
        paused = held.paused.get(sink_identity(flow.to)) if isinstance(flow, Deliver) else None
        found[name] = (
            *([f"its sink is paused by {paused.by}"] if paused else []),
            *([] if workers else [f"nobody runs it: trunkline run {name}"]),
            *(f"halted: {why}" for why in dict.fromkeys(said.halted[name] for said in workers if name in said.halted)),
            *(f"waits, and tries again: {why}" for why in waiting_for(parts(name, flow), workers)),
            *(f"the target {told}" for told in troubled.get(name, ())),
        )
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What was asked of the broker for all reading flows together: there may be hundreds."""

    committed: Mapping[str, Mapping[Slot, tuple[int, str]]]
    """By flow."""
    workers: Mapping[str, int]
    """How many live members the group of each flow has."""
    low: Mapping[Slot, int]
    high: Mapping[Slot, int]
    at: Mapping[str, Mapping[Slot, int]]
    """Where each flow is."""
    written: Mapping[str, Mapping[Slot, datetime]]
    """When the next record of each flow was written, where one waits."""
    kept: Mapping[str, timedelta | None]
    """For how long topics keep records."""


def see(bus: Bus, flows: Mapping[str, Reading], control: Control) -> Seen:
    """Ask what is known of the topics and groups of flows."""
    # Before the ends: progress between the two must not look like an offset beyond them.
    groups = {name: group_of(bus, identity_of(flow)) for name, flow in flows.items()}
    by_group, members = control.committed_by(groups.values()), control.members_of(groups.values())
    committed = {name: by_group[group] for name, group in groups.items()}
    read = sorted({topic.name for flow in flows.values() for topic in inputs_of(flow)})
    low, high = control.beginnings(read), control.ends(read)
    slots: dict[str, list[Slot]] = {}
    for slot in low:
        slots.setdefault(slot.topic, []).append(slot)
    at = {
        name: {slot: max(known[slot][0], low[slot]) if slot in known else low[slot] for slot in places}
        for name, known in committed.items()
        for places in [[slot for topic in inputs_of(flows[name]) for slot in slots[topic.name]]]
    }
    waiting = {
        name: {slot: offset for slot, offset in places.items() if offset < high[slot]} for name, places in at.items()
    }
    kept = {topic: kept_for(told.config) for topic, told in control.existing(read).items()}
    workers = {name: len(members[group]) for name, group in groups.items()}
    return Seen(committed, workers, low, high, at, next_records(control, waiting), kept)


def next_records(control: Control, waiting: Mapping[str, Mapping[Slot, int]]) -> dict[str, dict[Slot, datetime]]:
    """Find out when the record was written that each flow reads next: several may stand at other places of a partition.

    A partition that ends with the mark of a transaction is never read to its very end: only a record is lag.
    """
    found: dict[str, dict[Slot, datetime]] = {name: {} for name in waiting}
    left: dict[Slot, list[tuple[str, int]]] = {}
    for name, places in waiting.items():
        for slot, offset in places.items():
            left.setdefault(slot, []).append((name, offset))
    while left:
        asked = {slot: places.pop() for slot, places in left.items()}
        for slot, written in control.first_times({slot: offset for slot, (_, offset) in asked.items()}).items():
            found[asked[slot][0]][slot] = written
        left = {slot: places for slot, places in left.items() if places}
    return found


def reading(
    name: str,
    flow: Reading,
    seen: Seen,
    held: Orders,
    now: datetime,
    reached: Mapping[tuple[str, int], int],
) -> Standing:
    """Say how one reading flow stands; `reached` is what the ledger knows of where it was."""
    topic = flow.topic.name
    committed, at, written, high = seen.committed[name], seen.at[name], seen.written[name], seen.high
    low = {slot: seen.low[slot] for slot in at}
    offsets = remembered({slot: offset for slot, (offset, _) in committed.items()}, reached, low)
    risk = unread(offsets, low, high, written, seen.kept.get(topic), now)  # none when it has been deleted meanwhile
    workers = running(held, [name], now)
    return Standing(
        name,
        kind_of(flow),
        topic,
        workers=seen.workers[name],
        started=all(slot in committed for slot in written),
        lag=sum(high[slot] - at[slot] for slot in written),
        behind=max(0.0, (now - min(written.values(), default=now)).total_seconds()),
        progress=last_progress(committed, topic),
        gone=risk.expired,
        expired=risk.expired + sum(gap.end - gap.begin for gap in held.never_read(identity_of(flow)) if gap.expired),
        unread=risk.share,
        waits=waiting_for(parts(name, flow), workers),
        halted=tuple(dict.fromkeys(said.halted[name] for said in workers if name in said.halted)),
        held_up=tuple(full for said in workers for full in said.full if full.flow == name),
    )


def waiting_for(names: Collection[str], workers: Iterable[Announcement]) -> tuple[str, ...]:
    """Give what workers say that keeps any of these from going on."""
    return tuple(dict.fromkeys(said.waits[one] for said in workers for one in names if one in said.waits))


def parts(name: str, flow: Reading) -> list[str]:
    """Name what can keep a flow from going on: itself, and the tables that its steps ask."""
    steps = flow.steps if isinstance(flow, Process) else ()
    return [name, *(table.name for step in steps for table in tables_of(step))]


def delivering(standing: Standing, sink: str, db: Connection | None, held: Orders) -> Standing:
    """Add what is known of the sink."""
    if (command := held.paused.get(sink)) is not None:
        standing = replace(standing, paused=command.who, paused_why=command.why)
    if db is None:
        return standing
    counts = deliveries.count(db, sink)
    return replace(
        standing,
        delivered=counts[State.DONE],
        dead=counts[State.DEAD],
        parked=counts[State.PARKED],
        ambiguous=counts[State.AMBIGUOUS],
        superseded=counts[State.SUPERSEDED],
        discarded=counts[State.DISCARDED],
    )


def announced(flow: Deliver, workers: Iterable[Announcement]) -> tuple[str, ...]:
    """Give what workers have heard from the targets that a flow calls."""
    names = [target.name for target in targets_of(flow.to)]
    speaks = f" ({flow.to.name} speaks {flow.to.speaks})" if flow.to.speaks else ""
    found = (f"{name}: {told}{speaks}" for said in workers for name in names for told in said.notices.get(name, ()))
    return tuple(dict.fromkeys(found))


def last_progress(committed: Mapping[Slot, tuple[int, str]], topic: str) -> datetime | None:
    """Read when a group last committed from the notes beside its offsets."""
    return max(times(note for slot, (_, note) in committed.items() if slot.topic == topic), default=None)


def times(notes: Iterable[str]) -> list[datetime]:
    """Read the times that stand beside offsets; what stands there else is passed over."""
    found = []
    for note in notes:
        try:
            at = datetime.fromisoformat(time_in(note))
        except ValueError:
            continue
        found.append(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    return found


def badness(standing: Standing) -> tuple[float, ...]:
    """Order by what needs a person first."""
    stuck = standing.lag > 0 and standing.workers == 0
    for_a_person = sum(count or 0 for count in (standing.dead, standing.parked, standing.ambiguous))
    return (
        *(bool(standing.missing), not standing.started, standing.gone, bool(standing.halted)),
        *(standing.unread > ALARMING, stuck, bool(standing.waits), standing.behind, standing.crowded),
        *(for_a_person, standing.lag),
    )


def kind_of(flow: Flow) -> Kind:
    """Name what a flow does."""
    match flow:
        case Publish():
            return "publish"
        case Process():
            return "process"
        case Agent():
            return "agent"
        case Deliver():
            return "deliver"


def topic_of(flow: Flow) -> str:
    """Name the topic that a flow reads, or writes if it publishes."""
    return flow.to.name if isinstance(flow, Publish) else flow.topic.name
