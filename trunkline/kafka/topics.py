"""The topics that a bus needs, and what is missing of them. Pure: `control` asks the broker and creates.

Nothing is ever deleted, and no setting of a topic that exists is changed: what differs is only told.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from trunkline.errors import Fault, Permanent
from trunkline.event import Headers
from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Flow,
    Process,
    Publish,
    Reading,
    Table,
    Topic,
    dead_letters_of,
    identity_of,
    inputs_of,
    replay_of,
    schemas_of,
    tables_of,
)
from trunkline.settings import Kafka

RECORD_BYTES = 1024 * 1024 + 64 * 1024
"""What a record of a topic may have: 1 MiB of event, 64 KiB of headers."""
LETTER_BYTES = RECORD_BYTES + 64 * 1024
"""What a dead letter and its replay may have: the whole record and our headers (D5)."""
LETTERS_KEPT = timedelta(days=14)
LETTERS_CLOSED = timedelta(days=1)
"""After so long Kafka begins another file of letters: all of one are kept until the youngest of them may go."""
LETTERS_GONE = LETTERS_KEPT + 2 * LETTERS_CLOSED
"""After so long no letter is there any more, however late Kafka cleans up: until then it must be known what became of
it, or one that was replayed would look open, and the next replay deliver it again."""


@dataclass(frozen=True, slots=True)
class Existing:
    """A topic as it is; `config` holds at least the settings that a plan compares."""

    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Create:
    """Make a topic that is missing."""

    topic: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    why: str


@dataclass(frozen=True, slots=True)
class Grow:
    """Give a topic more partitions; no order depends on their number."""

    topic: str
    partitions: int
    why: str


@dataclass(frozen=True, slots=True)
class Differ:
    """A topic is not as declared; it is left as it is."""

    topic: str
    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """A declared change that would break a promise; as long as there is one, nothing is applied."""

    topic: str
    fault: Fault

    @property
    def why(self) -> str:
        """The reason, without the line that declared it."""
        return self.fault.message


Change = Create | Grow | Differ | Refuse

COMMON = {"compression.type": "producer", "message.timestamp.type": "CreateTime"}
COMPACT = {"cleanup.policy": "compact", "max.message.bytes": str(RECORD_BYTES)}
ENDLESS = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(RECORD_BYTES),
}
ORDERS = {
    **COMPACT,
    # One clock says who has spoken lately, whatever the workers' own clocks say.
    "message.timestamp.type": "LogAppendTime",
    # Workers speak often, who starts reads all of it first, and only what is closed is compacted.
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.1",
}
COMPARED = (
    *("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes", "min.insync.replicas"),
    *("segment.ms", "min.cleanable.dirty.ratio", *COMMON),
)


def plan(bus: Bus, existing: Mapping[str, Existing], kafka: Kafka) -> list[Change]:
    """Say what is missing or differs, in the order of the topology; empty when everything is as declared."""
    return list(Planner(bus, existing, kafka).changes())


class Planner:
    """Compares what a bus needs with what exists."""

    def __init__(self, bus: Bus, existing: Mapping[str, Existing], kafka: Kafka) -> None:
        self._bus = bus
        self._existing = existing
        self._kafka = kafka

    def changes(self) -> Iterator[Change]:
        """Yield them: topics, tables, then what flows need, then what the bus needs."""
        for topic in self._bus.topics:
            yield from self._declared(topic.name, topic.partitions, kept(topic.keep), "events", of=topic)
        for table in self._bus.tables:
            yield from self._declared(table.name, table.partitions, COMPACT, "table", of=table)
        for name, flow in reading(self._bus).items():
            source = self._partitions(flow.topic)
            letters = kept(LETTERS_KEPT, LETTER_BYTES) | {"segment.ms": milliseconds(LETTERS_CLOSED)}
            own = identity_of(flow)
            yield from self._following(dead_letters_of(own), source, letters, f"dead letters of {name}")
            yield from self._following(replay_of(own), source, letters, f"replays of {name}", exactly=True)
        endless = (schemas_of(self._bus), outcomes_of(self._bus), replayed_of(self._bus))
        ours = {**dict.fromkeys(endless, ENDLESS), control_of(self._bus): ORDERS}
        for name, config in ours.items():
            yield from self._following(name, 1, config, f"{name.rpartition('.')[2]} of {self._bus.name}", exactly=True)

    def _partitions(self, topic: Topic) -> int:
        """How many partitions a topic will have after the plan; only one without a key may grow."""
        found = self._existing.get(topic.name)
        if found is None:
            return topic.partitions
        return found.partitions if topic.key is not None else max(found.partitions, topic.partitions)

    def _declared(
        self, name: str, partitions: int, config: Mapping[str, str], why: str, *, of: Topic | Table
    ) -> Iterator[Change]:
        found = self._existing.get(name)
        if found is None:
            yield self._create(name, partitions, config, why)
            return
        if partitions > found.partitions and of.key is not None:
            message = (
                f"{name} has {found.partitions} partitions and {partitions} are declared: keys would move to other "
                f"partitions and lose their order. Declare partitions={found.partitions}, or a topic of another name."
            )
            yield Refuse(name, Fault(of.where, message))
        elif partitions > found.partitions:
            yield Grow(name, partitions, f"{found.partitions} partitions, {partitions} are declared")
        elif partitions < found.partitions:
            yield Differ(name, f"{found.partitions} partitions, {partitions} are declared; Kafka never takes any away")
        yield from self._differences(name, found, config)

    def _following(
        self, name: str, partitions: int, config: Mapping[str, str], why: str, *, exactly: bool = False
    ) -> Iterator[Change]:
        found = self._existing.get(name)
        if found is None:
            yield self._create(name, partitions, config, why)
            return
        if found.partitions < partitions:
            yield Grow(name, partitions, f"{found.partitions} partitions, its source has {partitions}")
        elif exactly and found.partitions > partitions:
            yield Differ(name, f"{found.partitions} partitions, only {partitions} are used")
        yield from self._differences(name, found, config)

    def _create(self, name: str, partitions: int, config: Mapping[str, str], why: str) -> Create:
        return Create(name, partitions, self._kafka.replication, self._complete(config), why)

    def _complete(self, config: Mapping[str, str]) -> dict[str, str]:
        return {**COMMON, **config, "min.insync.replicas": str(self._kafka.min_insync)}

    def _differences(self, name: str, found: Existing, config: Mapping[str, str]) -> Iterator[Differ]:
        if found.replication != self._kafka.replication:
            yield Differ(name, f"replication is {found.replication}, {self._kafka.replication} is set")
        for setting, value in self._complete(config).items():
            if (actual := found.config.get(setting)) != value:
                yield Differ(name, f"{setting} is {actual}, {value} is declared")


def size_of(key: bytes | None, value: bytes, headers: Headers) -> int:
    """Give the bytes that a record counts with against RECORD_BYTES, rather too many than too few."""
    fields = [key or b"", value, *(part for name, content in headers for part in (name.encode(), content or b""))]
    return sum(map(len, fields)) + 5 * len(fields) + 100


def too_large(topic: str, size: int) -> Permanent:
    """Say that a record which was made for a topic has more bytes than RECORD_BYTES."""
    return Permanent(f"the record for {topic} has {size} bytes with key and headers; {RECORD_BYTES} are allowed")


def kept(keep: timedelta, most: int = RECORD_BYTES) -> dict[str, str]:
    """Give the settings of a topic whose records go after a while."""
    return {"cleanup.policy": "delete", "retention.ms": milliseconds(keep), "max.message.bytes": str(most)}


def milliseconds(time: timedelta) -> str:
    """Give a time as a topic's setting."""
    return str(time // timedelta(milliseconds=1))


def reading(bus: Bus) -> dict[str, Reading]:
    """Give the flows that read a topic, by name."""
    return {**bus.processing, **bus.watching, **bus.delivering}


def outcomes_of(bus: Bus) -> str:
    """Give the topic of what became of deliveries: the audit trail, and what a ledger is rebuilt from (L4)."""
    return f"trunkline.{bus.identity}.outcomes"


def replayed_of(bus: Bus) -> str:
    """Give the topic of what became of events that replays have sent to steps and agents: their part of the trail.

    It is a topic of its own because whoever wants to know which of their letters are open reads all of it that is
    younger than the oldest one, and deliveries may have filled the other meanwhile.
    """
    return f"trunkline.{bus.identity}.replayed"


def control_of(bus: Bus) -> str:
    """Give the topic of what every worker obeys, and of what each says of itself (L5)."""
    return f"trunkline.{bus.identity}.control"


def names(bus: Bus) -> set[str]:
    """Name every topic that a bus needs."""
    return {change.topic for change in plan(bus, {}, Kafka())}


def needed(bus: Bus, flows: Collection[str]) -> list[str]:
    """Name the topics without which these flows cannot run, those of the bus first."""
    names = [schemas_of(bus), outcomes_of(bus), replayed_of(bus), control_of(bus)]
    for name, flow in bus.named():
        if name in flows:
            names += used(flow)
    return list(dict.fromkeys(names))


def used(flow: Flow) -> Sequence[str]:
    """Name the topics that one flow reads or writes."""
    match flow:
        case Publish():
            return [flow.to.name]
        case Process():
            tables = [table.name for step in flow.steps for table in tables_of(step)]
            touched = [flow.topic.name, *(topic.name for topic in flow.to), *tables]
        case Agent():
            touched = [*(topic.name for topic in inputs_of(flow)), flow.to.name]
        case Deliver():
            touched = [flow.topic.name]
        case _:
            assert_never(flow)
    return [*touched, dead_letters_of(identity_of(flow)), replay_of(identity_of(flow))]
