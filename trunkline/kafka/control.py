"""The control plane, on kafka-python: topics, groups and their offsets, and records read without a group."""

import contextlib
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from textwrap import shorten
from typing import Any, Literal, Self, TypeVar, assert_never
from uuid import UUID

from confluent_kafka import TopicPartition as Place
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec
from kafka.errors import (
    AuthorizationError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from kafka.structs import OffsetAndMetadata

from trunkline.errors import TopologyError, Unavailable, UsageError, meant
from trunkline.event import Headers
from trunkline.flow.declare import Bus, group_of, identity_of, inputs_of
from trunkline.kafka.cluster import Cluster, lacking
from trunkline.kafka.continuity import continuity, written
from trunkline.kafka.events import UNTOLD, Slot, is_added, is_of_another
from trunkline.kafka.greeting import greet
from trunkline.kafka.orders import Passed
from trunkline.kafka.retention import remembered
from trunkline.kafka.topics import COMPARED, Change, Create, Differ, Existing, Grow, Refuse, needed, reading

T = TypeVar("T")

Start = Literal["earliest", "latest"] | datetime

PATIENCE = 10.0
"""Seconds for which one question may stay without an answer."""
SAID = 300
"""Characters that are told of what a client says."""
CREATING = 60.0
"""Seconds that new partitions may take to be there: on a small machine two hundred of them take long."""
AT_ONCE = 500
"""New partitions that are asked for together: a controller refuses what makes more than 10,000 records of its log."""
LITTLE, PLENTY = 65_536, 1_048_576
"""Bytes of a partition that are fetched at once, or one batch where that is larger."""
TRANSACTIONS = 30.0
"""Seconds after which no transaction can be open any more (P1)."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it stands in its topic; a header may have no value."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class Member:
    """One live member of a group and what it reads."""

    client: str
    host: str
    slots: tuple[Slot, ...]


class Control:
    """A connection to the broker for operators; a context manager. Every method raises Unavailable without one."""

    def __init__(self, cluster: Cluster) -> None:
        """Connect.

        Raises:
            Unavailable: no broker answers within seconds, or none takes us as the settings say.
            UsageError: an address is no host:port.
        """
        self._cluster = cluster
        # Asked first, because the client keeps trying for seconds, and never closes the sockets that it tried with.
        greet(cluster)
        try:
            self._admin = KafkaAdminClient(
                **cluster.kafka_python(), bootstrap_timeout_ms=5_000, request_timeout_ms=int(PATIENCE * 1000)
            )
        except (KafkaError, OSError) as error:
            raise Unavailable(f"no broker answers at {cluster.bootstrap}: {said(error)}.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the broker."""
        self._admin.close()

    def topics(self, names: Collection[str] | None = None) -> dict[str, int]:
        """Give every topic with its number of partitions, or those of these names that there are."""
        return {found["name"]: len(found["partitions"]) for found in self._described(names)}

    def existing(self, names: Collection[str]) -> dict[str, Existing]:
        """Describe those of these topics that exist, with the settings that a plan compares."""
        found = {topic["name"]: topic for topic in self._described(names)}
        if not found:
            return {}
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name, configs=list(COMPARED)) for name in found]
        configs = self._ask(lambda: self._admin.describe_configs(wanted, config_filter="all"))["topic"]
        if untold := {name for name in found if not configs[name]}:
            if hidden := self.topics(untold):
                raise Unavailable(f"{lacking('DescribeConfigs', f'topic {next(iter(hidden))}')}.")
            found = {name: topic for name, topic in found.items() if name not in untold}  # deleted meanwhile
        return {
            name: Existing(
                len(topic["partitions"]),
                min(len(partition["replica_nodes"]) for partition in topic["partitions"]),
                {setting: entry["value"] for setting, entry in configs[name].items()},
            )
            for name, topic in found.items()
        }

    def apply(self, changes: Iterable[Change]) -> list[Create | Grow]:
        """Create and grow topics and wait until every partition answers; give what was done: nothing, the next time.

        Raises:
            TopologyError: a change is refused; nothing was done.
        """
        faults = []
        created: dict[str, Create] = {}
        grown: dict[str, Grow] = {}
        for change in changes:
            match change:
                case Refuse():
                    faults.append(change.fault)
                case Create():
                    created[change.topic] = change
                case Grow():
                    grown[change.topic] = change
                case Differ():
                    pass
                case _:
                    assert_never(change)
        if faults:
            raise TopologyError(faults)
        for some in portions(created):
            self._create(some)
            self._await(some)
        if grown:
            self._ask(
                lambda: self._admin.create_partitions({n: grow.partitions for n, grow in grown.items()}),
                missing=lacking("Alter", f"topic {', '.join(grown)}"),
            )
            self._await(grown)
        return [*created.values(), *grown.values()]

    def _await(self, topics: Collection[str]) -> None:
        """Return when every partition of these answers."""
        self._ask(lambda: self._admin.wait_for_topics([*topics]), CREATING)
        # A leader may be known a moment before it is one.
        self._offsets(self._slots(topics), OffsetSpec.LATEST, patience=CREATING)

    def _create(self, created: Mapping[str, Create]) -> None:
        wanted = {
            name: {
                "num_partitions": create.partitions,
                "replication_factor": create.replication,
                "configs": dict(create.config),
            }
            for name, create in created.items()
        }
        answer = self._ask(lambda: self._admin.create_topics(wanted, raise_errors=False))
        for topic in answer["topics"]:
            code = topic["error_code"]
            if code and for_code(code) is TopicAuthorizationFailedError:
                raise Unavailable(f"{topic['name']} cannot be created: {lacking('Create', 'topic ' + topic['name'])}.")
            if code and for_code(code) is not TopicAlreadyExistsError:
                raise Unavailable(
                    f"{topic['name']} cannot be created: {topic['error_message'] or for_code(code).__name__}"
                )

    def beginnings(self, topics: Collection[str]) -> dict[Slot, int]:
        """Give the first offset of every partition."""
        return self._offsets(self._slots(topics), OffsetSpec.EARLIEST)

    def ends(self, topics: Collection[str]) -> dict[Slot, int]:
        """Give the offset after the last one that may be read: records of open transactions are not counted."""
        return self._offsets(self._slots(topics), OffsetSpec.LATEST)

    def settle(self, topic: str) -> None:
        """Wait until every transaction is over that had begun to write to a topic by now.

        Raises:
            Unavailable: one is not, for longer than the broker lets any be.
        """
        until = time.monotonic() + TRANSACTIONS
        written = self._offsets(self._slots([topic]), OffsetSpec.LATEST, isolation="read_uncommitted")
        while any(offset < written[slot] for slot, offset in self.ends([topic]).items()):
            if time.monotonic() > until:
                raise Unavailable(f"a transaction that writes to {topic} does not come to its end.")
            time.sleep(0.05)

    def ends_of(self, slots: Collection[Slot]) -> dict[Slot, int]:
        """Give what `ends` gives, of these partitions: one question, however many topics there are."""
        return self._offsets(slots, OffsetSpec.LATEST)

    def last_times(self, topics: Collection[str]) -> dict[str, datetime]:
        """Give the newest record time of each topic that has records."""
        slots = self._slots(topics)
        answer = self._ask(lambda: self._admin.list_partition_offsets(dict.fromkeys(slots, OffsetSpec.MAX_TIMESTAMP)))
        newest: dict[str, int] = {}
        for place, found in answer.items():
            if found.timestamp >= 0:
                newest[place.topic] = max(newest.get(place.topic, 0), found.timestamp)
        return {topic: moment(timestamp) for topic, timestamp in newest.items()}

    def committed(self, group: str) -> dict[Slot, tuple[int, str]]:
        """Give the offsets that a group has committed, with what stands beside each.

        Those are left out that a worker has committed of a topic that was deleted and made anew since.
        """
        return self.committed_by([group])[group]

    def committed_by(self, groups: Collection[str]) -> dict[str, dict[Slot, tuple[int, str]]]:
        """Give what `committed` gives of each group: two questions, however many there are."""
        return {
            group: {slot: (at.offset, beside_of(at)) for slot, at in found.items()}
            for group, found in self._committed(groups).items()
        }

    def _committed(self, groups: Collection[str]) -> dict[str, dict[Slot, OffsetAndMetadata]]:
        if not groups:
            return {}
        missing = lacking("Describe", f"group {shorten(', '.join(groups), SAID, placeholder=' …')}")
        answer = self._ask(lambda: self._admin.list_group_offsets(dict.fromkeys(groups)), missing=missing)
        found = {group: {Slot(*place): at for place, at in answer[group].items() if at.offset >= 0} for group in groups}
        topics = self._described({slot.topic for slots in found.values() for slot in slots})
        ids = {topic["name"]: written(UUID(topic["topic_id"])) for topic in topics}
        return {
            group: {slot: at for slot, at in slots.items() if not is_of_another(beside_of(at), ids.get(slot.topic, ""))}
            for group, slots in found.items()
        }

    def commit(self, group: str, offsets: Mapping[Slot, int]) -> None:
        """Commit offsets for a group that has no members.

        Raises:
            Unavailable: the group has members, or the broker refused for another reason.
        """
        wanted = {TopicPartition(*slot): OffsetAndMetadata(offset, "", -1) for slot, offset in offsets.items()}

        def answered() -> dict[TopicPartition, Any]:
            answer: dict[TopicPartition, Any] = self._admin.alter_group_offsets(group, wanted)
            for error in answer.values():
                if error.retriable:  # a broker on which no group has been yet has no coordinator at once
                    raise error
            return answer

        missing = lacking("Read", f"group {group}")
        for place, error in self._ask(answered, missing=missing).items():
            if error is GroupAuthorizationFailedError:
                raise Unavailable(f"{missing}.")
            if error is TopicAuthorizationFailedError:
                raise Unavailable(f"{lacking('Read', f'topic {place.topic}')}.")
            if error.errno:
                raise Unavailable(
                    f"the offset of {place.topic} partition {place.partition} cannot be set for {group}: "
                    f"{error.__name__}. A group that has members keeps its offsets: stop its workers first."
                )

    def members(self, group: str) -> list[Member]:
        """Give the live members of a group: none when it does not exist."""
        return self.members_of([group])[group]

    def members_of(self, groups: Collection[str]) -> dict[str, list[Member]]:
        """Give what `members` gives of each group: one question, however many there are."""
        if not groups:
            return {}
        missing = lacking("Describe", f"group {shorten(', '.join(groups), SAID, placeholder=' …')}")
        answer = self._ask(lambda: self._admin.describe_groups([*groups]), missing=missing)
        return {
            group: [
                Member(one["client_id"], one["client_host"].lstrip("/"), assigned(one))
                for one in answer[group]["members"]
            ]
            for group in groups
        }

    def start_offsets(
        self,
        bus: Bus,
        flows: Collection[str],
        start: Start | None,
        note: Callable[[Sequence[Passed]], None] = lambda _: None,
        reached: Callable[[str], Mapping[tuple[str, int], int]] = lambda _: {},
    ) -> None:
        """Commit where reading flows begin, for every partition that has no committed offset, or one that is gone (I1).

        A partition with nothing to read begins at its end. On any other the person who starts the flow decides with
        `start`: a rename, a new flow on an old topic, or expired records never deliver or skip anything silently.
        `note` is told what flows will never read (L6), before anything is committed. `reached` gives what the ledger
        knows of where a flow was (`remembered`).

        Raises:
            UsageError: a topic is missing, or `start` is needed and not given; nothing was committed.
        """
        wanted = set(needed(bus, flows))
        if missing := sorted(wanted - self.topics(wanted).keys()):
            raise UsageError(
                f"{'these topics do' if len(missing) > 1 else 'this topic does'} not exist: {', '.join(missing)}. "
                "Run `trunkline topics apply`."
            )
        commits: dict[str, dict[Slot, int]] = {}
        gaps: list[Passed] = []
        undecided: list[str] = []
        for name, flow in reading(bus).items():
            if name not in flows:
                continue
            group = group_of(bus, identity_of(flow))
            # Asked before the ends: another worker's progress between the two must not look like an offset beyond them.
            committed = self._committed([group])[group]
            known = {slot: at.offset for slot, at in committed.items()}
            read = [topic.name for topic in inputs_of(flow)]
            low, high = self.beginnings(read), self.ends(read)
            if flow.topic.key is None:  # members begin by themselves where it was given more, also beside running ones
                numbers = {slot.partition for slot in known if slot.topic == flow.topic.name}
                low = {slot: at for slot, at in low.items() if not is_added(slot.partition, numbers)}
            known = remembered(known, reached(name), low)
            begin, open_, cut = beginning(low, high, known)
            if start is not None:
                here = {slot: at for slot, at in committed.items() if slot in low and slot not in cut}
                begin |= self._chosen([*open_, *cut, *self._cut_off(here)], start)
                gaps += passed(identity_of(flow), low, begin, known)
            elif open_:
                records = sum(high[slot] - low[slot] for slot in open_)
                unread = " and ".join(sorted({slot.topic for slot in open_}))
                undecided.append(f"{name} has not read {unread} yet, where up to {records} records wait")
            elif lost := [slot for slot in cut if known[slot] < low[slot]]:
                records = sum(low[slot] - known[slot] for slot in lost)
                undecided.append(f"{records} records of {places(lost)} were deleted before {name} had read them")
            elif cut:
                undecided.append(f"what {name} was to read next is not in {places(cut)}: records of it are lost")
            if begin:
                commits[group] = begin
        if undecided:
            raise UsageError(f"{'; '.join(undecided)}. Say where to begin: --start earliest|latest|TIME.")
        if gaps:
            note(gaps)
        for group, begin in commits.items():
            try:
                self.commit(group, begin)
            except Unavailable:
                # Another worker of the flow may have been a moment faster, and be a member by now.
                if begin.keys() - self.committed(group).keys():
                    raise

    def _cut_off(self, committed: Mapping[Slot, OffsetAndMetadata]) -> list[Slot]:
        """Name the partitions that have lost records which were read; a worker halts there at once."""
        places = [
            Place(*slot, at.offset, "", UNTOLD if at.leader_epoch is None else at.leader_epoch)
            for slot, at in committed.items()
        ]
        return [Slot(*where) for where in continuity(self._cluster).cut_off(places)]

    def read(
        self,
        topic: str,
        *,
        partition: int | None = None,
        start: Start | Mapping[int, int] = "earliest",
        follow: bool = False,
    ) -> Generator[Record, None, None]:
        """Yield committed records up to the end as it is now, or for ever with `follow`; in order per partition.

        `start` is where to begin: an offset for each partition, if no word or time.

        Raises:
            UsageError: there is no such topic or partition.
        """
        slots = self._slots([topic])
        if partition is not None:
            slots = [slot for slot in slots if slot.partition == partition]
            if not slots:
                raise UsageError(f"{topic} has no partition {partition}.")
        if isinstance(start, Mapping):
            begin = {slot: start[slot.partition] for slot in slots if slot.partition in start}
        else:
            begin = self._chosen(slots, start)
        ends = None if follow else self._offsets(list(begin), OffsetSpec.LATEST)
        return self._read(begin, ends)

    def first(self, begin: Mapping[Slot, int]) -> dict[Slot, Record]:
        """Give the first record at or after each offset, where there is one."""
        return {Slot(record.topic, record.partition): record for record in self._firsts(begin)}

    def first_times(self, begin: Mapping[Slot, int]) -> dict[Slot, datetime]:
        """Give when the first record at or after each offset was written, where there is one."""
        return {Slot(record.topic, record.partition): record.timestamp for record in self._firsts(begin)}

    def _firsts(self, begin: Mapping[Slot, int]) -> Iterator[Record]:
        ends = self._offsets(list(begin), OffsetSpec.LATEST)
        with contextlib.closing(self._read(begin, ends, once=True)) as records:
            yield from records

    def pick(self, topic: str, places: Collection[tuple[int, int]]) -> Generator[Record, None, None]:
        """Yield those records at these partitions and offsets that are there; between close ones it reads on."""
        spans: dict[Slot, list[list[int]]] = {}
        for partition, offset in sorted(places):
            found = spans.setdefault(Slot(topic, partition), [])
            if found and offset - found[-1][1] < APART:
                found[-1][1] = offset
            else:
                found.append([offset, offset])
        while left := {slot: found.pop(0) for slot, found in spans.items() if found}:
            begin = {slot: span[0] for slot, span in left.items()}
            with contextlib.closing(self._read(begin, {slot: span[1] + 1 for slot, span in left.items()})) as records:
                yield from (record for record in records if (record.partition, record.offset) in places)

    def _read(
        self, begin: Mapping[Slot, int], ends: Mapping[Slot, int] | None, *, once: bool = False
    ) -> Generator[Record, None, None]:
        """Yield the records between, without a group; `once`: of each partition the first alone."""
        left = {slot for slot, offset in begin.items() if ends is None or offset < ends[slot]}
        if not left:
            return
        try:
            with contextlib.closing(self._consumer(LITTLE if once else PLENTY)) as consumer:
                consumer.assign([TopicPartition(*slot) for slot in left])
                for slot in left:
                    consumer.seek(TopicPartition(*slot), begin[slot])
                until = time.monotonic() + PATIENCE
                while left:
                    # Short: the first poll learns where the partitions are, and returns nothing after all of its time.
                    batches = consumer.poll(timeout_ms=20 if ends is not None else 200)
                    for slot, records in batches.items():
                        wanted = (record_of(raw) for raw in records if ends is None or raw.offset < ends[slot])
                        if not once:
                            yield from wanted
                        elif (record := next(wanted, None)) is not None:
                            left.discard(Slot(*slot))
                            consumer.pause(slot)
                            yield record
                    if ends is None:
                        continue
                    if not (once and batches):  # else what was found is gone from it, and more may be on its way
                        left = {slot for slot in left if consumer.position(TopicPartition(*slot)) < ends[slot]}
                    if batches:
                        until = time.monotonic() + PATIENCE
                    elif left and time.monotonic() > until:
                        names = ", ".join(sorted({slot.topic for slot in left}))
                        raise Unavailable(f"the broker at {self._cluster.bootstrap} gives no more records of {names}.")
        except TopicAuthorizationFailedError:
            raise Unavailable(f"{lacking('Read', f'topic {next(iter(begin)).topic}')}.") from None
        except KafkaError as error:
            raise Unavailable(f"the broker at {self._cluster.bootstrap} cannot be read from: {said(error)}.") from None

    def _consumer(self, most: int) -> Any:
        return KafkaConsumer(
            **self._cluster.kafka_python(),
            max_partition_fetch_bytes=most,
            isolation_level="read_committed",
            enable_auto_commit=False,
            # What expires between the look at the offsets and the reading is skipped.
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
        )

    def _chosen(self, slots: Collection[Slot], start: Start) -> dict[Slot, int]:
        """Give the offsets that a start stands for; a time after the last record stands for the end."""
        if start == "earliest":
            return self._offsets(slots, OffsetSpec.EARLIEST)
        ends = self._offsets(slots, OffsetSpec.LATEST)
        if not isinstance(start, datetime):
            return ends
        found = self._offsets(slots, (start - EPOCH) // timedelta(milliseconds=1))
        return {slot: ends[slot] if offset < 0 else min(offset, ends[slot]) for slot, offset in found.items()}

    def _slots(self, topics: Collection[str]) -> list[Slot]:
        known = self.topics(topics)
        for topic in topics:
            if topic not in known:
                raise UsageError(f"there is no topic {topic}. {meant(topic, self.topics())}".rstrip())
        return [Slot(topic, partition) for topic in topics for partition in range(known[topic])]

    def _described(self, names: Collection[str] | None) -> list[Any]:
        """Describe topics, and of a cluster that has thousands only those that are asked about."""
        found = self._ask(lambda: self._admin.describe_topics(None if names is None else list(names)))
        for topic in found:
            if for_code(topic["error_code"]) is TopicAuthorizationFailedError:
                raise Unavailable(f"{lacking('Describe', 'topic ' + topic['name'])}.")
        return [topic for topic in found if topic["partitions"]]

    def _offsets(
        self, slots: Collection[Slot], spec: Any, *, isolation: str = "read_committed", patience: float = PATIENCE
    ) -> dict[Slot, int]:
        if not slots:
            return {}
        wanted = {TopicPartition(*slot): spec for slot in slots}
        answer = self._ask(lambda: self._admin.list_partition_offsets(wanted, isolation_level=isolation), patience)
        return {Slot(*place): found.offset for place, found in answer.items()}

    def _ask(self, question: Callable[[], T], patience: float = PATIENCE, *, missing: str = "") -> T:
        """Ask again while the answer is that it is too early, as long as patience lasts.

        `missing` says which right there is not, when the broker says that we have none.
        """
        until = time.monotonic() + patience
        while True:
            try:
                return question()
            except AuthorizationError as error:
                raise Unavailable(f"{missing or said(error)}.") from None
            except (KafkaError, OSError) as error:
                if not getattr(error, "retriable", False) or time.monotonic() > until:
                    raise Unavailable(
                        f"the broker at {self._cluster.bootstrap} does not answer: {said(error)}."
                    ) from None
            time.sleep(0.1)


APART = 1_000
"""Records that are read through rather than to begin again behind them."""
EPOCH = datetime.fromtimestamp(0, UTC)


def portions(created: Mapping[str, Create]) -> Iterator[dict[str, Create]]:
    """Divide new topics, in their order, into what one request may make; a topic that is larger has its own."""
    found: dict[str, Create] = {}
    left = AT_ONCE
    for name, create in created.items():
        if found and create.partitions > left:
            yield found
            found, left = {}, AT_ONCE
        found[name] = create
        left -= create.partitions
    if found:
        yield found


def beside_of(at: OffsetAndMetadata) -> str:
    """Give what stands beside a committed offset; librdkafka commits the zero byte that ends it in C."""
    return (at.metadata or "").rstrip("\0")


def moment(timestamp: int) -> datetime:
    """Give a Kafka timestamp as a time; one that is absent (-1) or beyond any calendar as the nearest that is one."""
    try:
        return EPOCH + timedelta(milliseconds=max(timestamp, 0))
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def record_of(raw: Any) -> Record:
    """Take a fetched record apart."""
    return Record(raw.topic, raw.partition, raw.offset, raw.key, raw.value, tuple(raw.headers), moment(raw.timestamp))


def assigned(member: Mapping[str, Any]) -> tuple[Slot, ...]:
    """Give the partitions of a group's member as the broker describes it."""
    assignment = member["member_assignment"]
    if not isinstance(assignment, Mapping):
        return ()
    return tuple(Slot(of["topic"], number) for of in assignment["assigned_partitions"] for number in of["partitions"])


def beginning(
    low: Mapping[Slot, int], high: Mapping[Slot, int], committed: Mapping[Slot, int]
) -> tuple[dict[Slot, int], list[Slot], list[Slot]]:
    """Say where partitions begin that have nothing to read, which others need a decision, and which were cut off.

    Cut off: the committed offset is not there any more, as records were deleted unread or the topic was made anew.
    """
    new = [slot for slot in low if slot not in committed]
    cut = [slot for slot in low if slot in committed and not low[slot] <= committed[slot] <= high[slot]]
    return {slot: low[slot] for slot in new if low[slot] == high[slot]}, [s for s in new if low[s] < high[s]], cut


def places(slots: Iterable[Slot]) -> str:
    """Name partitions."""
    return ", ".join(f"{slot.topic} partition {slot.partition}" for slot in slots)


def passed(
    flow: str, low: Mapping[Slot, int], begin: Mapping[Slot, int], committed: Mapping[Slot, int]
) -> Iterator[Passed]:
    """Say what a flow never reads that begins there: what was deleted before it came so far, and what it leaves out."""
    for slot, offset in begin.items():
        was = committed.get(slot, low[slot])
        if was < low[slot]:
            yield Passed(flow, slot.partition, was, low[slot], expired=True)
        if low[slot] < offset:
            yield Passed(flow, slot.partition, low[slot], offset, expired=False)


def said(error: Exception) -> str:
    """Give what a client's error says, on one line; of the partitions that it may list, not hundreds."""
    return shorten(" ".join(str(error).split()).rstrip("."), SAID, placeholder=" …") or type(error).__name__
