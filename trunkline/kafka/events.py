"""Events over librdkafka: acknowledged sending, and one member of a flow's consumer group.

Every producer partitions with murmur2, as Java and kafka-python do; librdkafka's own default does not (I3).
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from operator import methodcaller
from types import MappingProxyType
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from trunkline.errors import Halt, Permanent, Unavailable
from trunkline.event import UNREADABLE, Headers
from trunkline.flow.declare import Topic
from trunkline.kafka.cluster import COMMON, READER, READING, Cluster, lacking
from trunkline.kafka.continuity import LOST, Ids, continuity

LARGEST = 8 * 1024 * 1024
"""Bytes a client lets through; the topics set the real limits."""

BY_KEY = -1
"""The partition that murmur2 of the key gives, or any when there is no key."""

AT_START, AT_END, NOWHERE = OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID
"""Where a member begins to read a topic of which its group has no offset; nowhere is a Halt (I1)."""

PRODUCER = {
    **COMMON,
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "linger.ms": 2,
    "message.max.bytes": LARGEST,
    "queue.buffering.max.messages": 200_000,
    "queue.buffering.max.kbytes": 262_144,
}
DENIED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)
"""Errors that say that a right is missing."""
MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001
"""Errors that say there is no such topic."""
DROPPED = (KafkaError._FATAL, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)  # noqa: SLF001
"""Errors of what a client has not sent, for a reason that it says elsewhere."""
AGAIN = 1.0
"""Seconds until a producer that has failed for good is followed by another."""
SESSION_SECONDS = 10
"""How long a group waits for a member that has gone without a word; its partitions stand still meanwhile."""
HEARTBEATS = 6
"""Commits in one session at least, whether anything has moved or not: each one proves that we are still a member."""


UNTOLD = -1
"""The term of a leader that nobody has told."""
AT, OF = "at=", ";of="
"""What stands beside an offset begins with when it was committed, and the id of the topic that it is of."""
START = "trunkline run --start earliest|latest|TIME"
CHOOSE = f"Start its workers again with `{START}`, which says where to go on."


CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


clock: Callable[[], float] = partial(time.clock_gettime, CLOCK)
"""Seconds that also pass while the machine is suspended, where there is such a clock."""


class Slot(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


Epochs = Mapping[Slot, int]
"""The terms of leaders (KIP-320): of each partition the one in which the latest record that was fetched was written.

A broker that is told the term beside an offset says whether it has lost records before it, and written others."""


class Record(NamedTuple):
    """A record as it was fetched."""

    slot: Slot
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    """Epoch milliseconds of publishing."""


SLOTS: dict[tuple[str | None, int | None], Slot] = {}
"""Slots by topic and partition: each record has one, and they are few."""


headers_of: Callable[[Message], Any] = methodcaller("headers")
"""Not called in place: Python would not see the client's error there, but somewhere behind."""


def record_of(message: Message) -> Record:
    """Take a fetched message apart."""
    try:
        headers: Any = headers_of(message)
    except SystemError as error:  # to ask once more would end the process: the client has kept what it could not name
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise
        headers = (UNREADABLE,)
    key: Any = message.key()
    value: Any = message.value()
    place = message.topic(), message.partition()
    if (slot := SLOTS.get(place)) is None:
        slot = SLOTS[place] = Slot(place[0] or "", place[1] or 0)
    return Record(slot, message.offset() or 0, key, value, tuple(headers) if headers else (), message.timestamp()[1])


class Written(NamedTuple):
    """Where the broker put a record."""

    partition: int
    offset: int


def words(error: KafkaError, right: str, topic: str, *, group: str = READER, transactional_id: str = "") -> str:
    """Give the client's words, or name the right that is missing: `right` on the topic, or what the others need."""
    match error.code():
        case KafkaError.TOPIC_AUTHORIZATION_FAILED | KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            return lacking(right, f"topic {topic}")  # the cluster's: a producer may write nowhere
        case KafkaError.GROUP_AUTHORIZATION_FAILED:
            return lacking("Describe" if group == READER else "Read", f"group {group}")
        case KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            return lacking("Write", f"transactional id {transactional_id}")
        case _:
            return error.str()


def is_added(number: int, known: Collection[int]) -> bool:
    """Say whether a partition has come while a flow ran; `known` are those of the topic in which it has an offset.

    Whoever begins to run a flow commits one for each that there is, and a group that loses its offsets loses all.
    """
    return bool(known) and len(known) == max(known) + 1 <= number


def failure_of(error: KafkaError, topic: str) -> Exception:
    """Say what a failed delivery report means."""
    if error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE):
        return Permanent(f"the record is larger than its topic allows: {error.str()}")
    if error.code() == KafkaError._UNKNOWN_PARTITION:  # noqa: SLF001
        return Unavailable(
            f"{topic} has no such partition, or only since a minute ago: {error.str()}. Run `trunkline topics "
            "apply`; where that was done, it goes on by itself."
        )
    if error.code() in MISSING:
        return Unavailable(f"the topic is missing: {error.str()}. Run `trunkline topics apply`.")
    return Unavailable(f"the broker did not acknowledge the record: {words(error, 'Write', topic)}")


def fill(future: "Future[Written] | asyncio.Future[Written]", outcome: Written | Exception) -> None:
    """Tell whoever waits, and has not given up, what has become of a record."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class Sender:
    """Sends records and waits for each one's own acknowledgement by all in-sync replicas; used from any thread."""

    def __init__(self, cluster: Cluster, *, patience: float = 10.0) -> None:
        """Connect in the background; a record that is not acknowledged after `patience` seconds has failed."""
        self._patience = patience
        self._configuration = {
            **PRODUCER,
            **cluster.librdkafka(),
            "message.timeout.ms": int(patience * 1000),
            "linger.ms": 0,  # somebody waits; under load records gather while five requests are under way
        }
        self._producer = Producer(self._configuration)
        self._failed: KafkaError | None = None
        """Why a producer has failed for good, the last time."""
        self._silence: float | None = None
        """Since when no broker has acknowledged anything, by `clock`; None while they do."""
        self._open = True
        self._thread = threading.Thread(target=self._poll, name="sender", daemon=True)
        self._thread.start()

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        *,
        partition: int = BY_KEY,
    ) -> "Future[Written]":
        """Send one record. The future has its place, or raises Permanent (too large) or Unavailable."""
        future: Future[Written] = Future()
        future.set_running_or_notify_cancel()  # who waits may give up; the report still finds a future to fill
        self._produce(topic, key, value, headers, partition, partial(fill, future))
        return future

    def sending(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers
    ) -> "asyncio.Future[Written]":
        """Send one record as `send` does, for who waits in the loop that runs: a third of the work."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Written] = loop.create_future()

        def tell(outcome: Written | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(fill, future, outcome)

        self._produce(topic, key, value, headers, BY_KEY, tell)
        return future

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int,
        tell: Callable[[Written | Exception], None],
    ) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                if error.code() == KafkaError._MSG_TIMED_OUT and self._silence is None:  # noqa: SLF001
                    self._silence = clock() - self._patience
                tell(failure_of(self._cause(error), topic))
            else:
                self._silence = None
                tell(Written(message.partition() or 0, message.offset() or 0))

        try:
            self._producer.produce(
                topic, key=key, value=value, headers=list(headers), on_delivery=delivered, partition=partition
            )
        except BufferError:
            tell(Unavailable("too many records wait for the broker's acknowledgement"))
        except KafkaException as error:
            tell(failure_of(self._cause(error.args[0]), topic))

    @property
    def silence(self) -> float:
        """For how many seconds nothing that was sent has been acknowledged; 0 while something is."""
        return 0.0 if (since := self._silence) is None else clock() - since

    def close(self, seconds: float = 10.0) -> None:
        """Wait for what is under way, at most so long, then leave."""
        with contextlib.suppress(KafkaException):
            self._producer.flush(seconds)
        self._open = False
        self._thread.join()

    def _poll(self) -> None:
        while self._open:
            try:
                self._producer.poll(0.1)
            except KafkaException as error:
                self._begin_again(error.args[0])

    def _cause(self, error: KafkaError) -> KafkaError:
        return self._failed if self._failed is not None and error.code() in DROPPED else error

    def _begin_again(self, error: KafkaError) -> None:
        """Take another producer: this one has failed for good, as one does without a right to write anywhere."""
        self._failed = error
        with contextlib.suppress(KafkaException):
            self._producer.purge()
            self._producer.flush(1.0)
        time.sleep(AGAIN)  # what is sent meanwhile is refused at once
        self._producer = Producer(self._configuration)


class Membership(NamedTuple):
    """What a transaction needs to be fenced together with a member (KIP-447), and what stands beside its offsets."""

    group: Any
    ids: Ids
    epochs: Epochs


class Member:
    """One member of a flow's group. One thread owns it and calls everything, callbacks included (D1).

    `assigned` is called inside `fetch` before the first record of new partitions, with the offsets that a member has
    committed after work (not those that a person has chosen). `begin` is asked before that where to begin to read a
    partition: it gets the committed offset and what `note` had said of the partition then.

    `revoked` is called inside `fetch`, while the partitions are still ours: finish what is in flight there and return
    the offsets to commit. `lost` is called when they already are another member's. Partition n of each topic in
    `beside` is taken and given back together with partition n of the main topic (R1); with each stands where to begin
    when the group has no offset there. Partitions that a topic without keys is given meanwhile are read from their
    beginning; those of one with keys never by themselves, as order depends on their number.
    """

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        topic: Topic,
        *,
        beside: Mapping[str, int] = MappingProxyType({}),
        assigned: Callable[[list[Slot], Mapping[Slot, int]], None] = lambda _slots, _offsets: None,
        revoked: Callable[[list[Slot]], Mapping[Slot, int]] = lambda _: {},
        lost: Callable[[list[Slot]], None] = lambda _: None,
        accepted: Callable[[float], None] = lambda _: None,
        begin: Callable[[Slot, int, str], int] | None = None,
        note: Callable[[Slot], str] = lambda _: "",
    ) -> None:
        """Join the group.

        `accepted` takes the time by `clock` at which a commit was sent, once the coordinator has accepted it: we were
        a member then (D8).
        """
        self._beside = beside
        self._group = group
        self._topic = topic.name
        self._grows = topic.key is None
        self._assigned = assigned
        self._revoked = revoked
        self._lost = lost
        self._accepted = accepted
        self._begin = begin
        self._note = note
        self._continuity = continuity(cluster)
        self._read: Ids = {}
        """The ids of the topics that are read, as they were when partitions came last."""
        self._epochs: dict[Slot, int] = {}
        self._added: set[Slot] = set()
        """Partitions, of those that were assigned last, that the topic has been given while the flow ran."""
        self._ours: set[Slot] = set()
        self._given_back = 0
        """How often partitions have gone to others."""
        self.met: dict[Slot, int] = {}
        """Where partitions that we have began, or met their end last: past the mark of a transaction too."""
        self.ended: set[Slot] = set()
        """Partitions of which nothing has come since they met their end last."""
        self._paused: set[Slot] = set()
        self._at: dict[Slot, TopicPartition] = {}
        self._sent: deque[float] = deque()
        self._next_heartbeat = 0.0
        self._consumer = Consumer(
            {
                **COMMON,
                **cluster.librdkafka(),
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "session.timeout.ms": SESSION_SECONDS * 1000,
                "partition.assignment.strategy": "cooperative-sticky",
                "queued.max.messages.kbytes": 1024,  # of small records it takes several times that
                "fetch.wait.max.ms": 100,
                "fetch.message.max.bytes": 262_144,
                "fetch.max.bytes": 2_097_152,
                "fetch.queue.backoff.ms": 5,  # the queue is small: the default pauses for a second when it is full
                "enable.partition.eof": True,
                "on_commit": self._on_commit,
            }
        )
        self._consumer.subscribe(
            [topic.name],
            on_assign=raising(self._on_assign),
            on_revoke=raising(self._on_revoke),
            on_lost=raising(self._on_lost),
        )

    def fetch(self, most: int, seconds: float) -> list[Record]:
        """Return what has arrived, waiting at most `seconds` for the first record. Call it often: callbacks run in it.

        Raises:
            Halt: a committed offset does not exist any more (expired or truncated), or the topic is gone or another.
            Unavailable: the broker does not answer, or lets us read no more; go on with a new member.
        """
        for topic in self._continuity.changed(self._read):
            why = f"{topic} was deleted and made anew while it was read"
            if self._beside.get(topic, NOWHERE) != NOWHERE:
                raise Unavailable(why)  # a new member knows where to begin
            raise Halt(f"{why}. {CHOOSE}", run=START)
        given_back = self._given_back
        try:
            first = self._consumer.poll(seconds)
            if first is None:
                return []
            rest = self._consumer.consume(most - 1, 0) if most > 1 else []
        except KafkaException as failure:
            raise Unavailable(f"{self._topic} cannot be read: {self._words(failure.args[0])}") from None
        records = []
        for message in (first, *rest):
            if (error := message.error()) is None:
                records.append(record := record_of(message))
                if (epoch := message.leader_epoch()) is not None:
                    self._epochs[record.slot] = epoch
                if self.ended:
                    self.ended.discard(record.slot)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                slot = Slot(message.topic() or "", message.partition() or 0)
                self.met[slot] = message.offset() or 0
                self.ended.add(slot)
            else:
                self._consider(error, message)
        if self._given_back == given_back:
            return records
        # A rebalance between the two calls above has given back the partition of what the first of them brought.
        return [record for record in records if record.slot in self._ours]

    def commit(self, offsets: Mapping[Slot, int]) -> None:
        """Commit offsets in the background; one that fails means that some events come again, so it is only tolerated.

        From time to time all offsets are committed, moved or not: it proves that we are a member still, and the broker
        does not forget the offsets of a quiet replay topic.
        """
        moved = dated(
            {
                slot: offset
                for slot, offset in offsets.items()
                if slot in self._ours
                and (slot not in self._at or self._at[slot].offset != offset or self._differs(slot))
            },
            self._read,
            self._epochs,
            self._note,
        )
        self._at.update((Slot(place.topic, place.partition), place) for place in moved)
        now = clock()
        if now >= self._next_heartbeat and self._at:
            moved = list(self._at.values())
        if moved:
            self._next_heartbeat = now + SESSION_SECONDS / HEARTBEATS
            with contextlib.suppress(KafkaException):
                self._consumer.commit(offsets=moved)
                self._sent.append(now)

    def _differs(self, slot: Slot) -> bool:
        """Say whether there is something else to note beside an offset than the last time."""
        return (self._at[slot].metadata or "").partition(" ")[2] != self._note(slot)

    def rewind(self, offsets: Mapping[Slot, int]) -> None:
        """Go back in partitions that we have.

        Raises:
            Unavailable: it cannot be; go on with a new member.
        """
        for slot, offset in offsets.items():
            self.ended.discard(slot)
            try:
                self._consumer.seek(TopicPartition(slot.topic, slot.partition, offset))
            except KafkaException as failure:
                raise Unavailable(f"{slot.topic} cannot be read again: {failure.args[0].str()}") from None

    @property
    def slots(self) -> set[Slot]:
        """The partitions that we have now."""
        return self._ours

    def pause(self, wanted: Collection[Slot]) -> None:
        """Fetch from all partitions that we have but these."""
        stop = self._ours.intersection(wanted) - self._paused
        go = self._paused.difference(wanted)
        if stop:
            self._consumer.pause(partitions(stop))
        if go:
            self._consumer.resume(partitions(go))
        self._paused = (self._paused | stop) - go

    def membership(self) -> Membership:
        """Say in what a transaction takes part.

        As everything here it is for the one thread: from another it would wait for `fetch`, and perhaps for ever.
        """
        return Membership(self._consumer.consumer_group_metadata(), self._read, self._epochs)

    def close(self) -> None:
        """Leave the group; `revoked` is called first."""
        self._consumer.close()

    def _consider(self, error: KafkaError, message: Message) -> None:
        if error.code() in DENIED:
            topic = message.topic() or self._topic
            raise Unavailable(f"{topic} cannot be read: {self._words(error, topic)}")
        where = f"{message.topic()} partition {message.partition()}"
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001
            slot = Slot(message.topic() or "", message.partition() or 0)
            if not self._grows and slot in self._added:
                raise Halt(
                    f"{where} was added while the flow ran. Its keys are from other partitions, so events of one key "
                    "may pass each other. When the others are read to their end: `trunkline run --start earliest`.",
                    run="trunkline run --start earliest",
                )
            if self._beside.get(slot.topic, NOWHERE) != NOWHERE:  # made anew: nothing of it has been read
                self._at.pop(slot, None)
                self._consumer.incremental_unassign(partitions([slot]))  # it lets nobody seek now
                self._consumer.incremental_assign([TopicPartition(slot.topic, slot.partition, AT_START)])
                return
            if LOST in error.str():
                raise other_records(*slot, error.str())
            if gone := self._deleted(slot, message.offset()):
                raise Halt(f"{gone} records of {where} were deleted before they were read. {CHOOSE}", run=START)
            raise Halt(
                f"the next offset of {where} is not there any more: the topic was made anew, or the group's "
                f"offsets have expired. {CHOOSE}",
                run=START,
            )
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            run = "trunkline topics apply"
            told = f"Run `{run}`, then start its workers again: no order does, as its offsets were the old topic's."
            raise Halt(f"{where} cannot be read: {error.str()}. {told}", run=run)
        if error.fatal():
            raise Halt(f"{where} cannot be read: {error.str()}")

    def _deleted(self, slot: Slot, wanted: int | None) -> int:
        """Say how many offsets are missing between what was to be read and what there is."""
        with contextlib.suppress(KafkaException):
            low, _ = self._consumer.get_watermark_offsets(TopicPartition(*slot), timeout=10)
            return max(0, low - wanted) if wanted is not None and wanted >= 0 else 0
        return 0

    def _words(self, error: KafkaError, topic: str = "") -> str:
        return words(error, "Read", topic or self._topic, group=self._group)

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        wanted = [*places, *(TopicPartition(topic, one.partition) for topic in self._beside for one in places)]
        if wanted and (self._beside or self._begin is not None):
            wanted = self._begins(consumer, wanted)
        worked = {slot: place.offset for slot, place in self._at.items() if time_in(place.metadata or "")}
        self._assigned([slot_of(place) for place in wanted], worked)
        consumer.incremental_assign(wanted)
        consumer.resume(wanted)  # librdkafka keeps a partition paused that was so when it was taken away
        self._ours.update(map(slot_of, wanted))
        self.met.update((slot_of(place), place.offset) for place in wanted if place.offset >= 0)
        self._next_heartbeat = 0.0

    def _begins(self, consumer: Consumer, places: list[TopicPartition]) -> list[TopicPartition]:
        """Give each partition the offset where to begin; what is read from its end is so by all who come later too."""
        self._read = {**self._read, **self._continuity.ids({place.topic for place in places})}
        found = self._committed(consumer, places)
        lost = self._continuity.cut_off([place for place in found if place.offset >= 0])
        for where, why in lost.items():
            if self._beside.get(where[0], NOWHERE) == NOWHERE:
                raise other_records(*where, why)
        found = [nowhere(place) if (place.topic, place.partition) in lost else place for place in found]
        self._added = self._new(consumer, [slot_of(place) for place in found if place.offset < 0])
        ends = []
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
            if self._beside.get(place.topic) == AT_END:
                low, high = consumer.get_watermark_offsets(place, timeout=10)
                if place.offset < 0:
                    place.offset = high
                    ends.append(place)
                # What is gone was the mark of a transaction, or lay there for all of its time: its letters are as old.
                place.offset = max(place.offset, low)
            if self._grows and slot_of(place) in self._added:
                place.offset, _ = consumer.get_watermark_offsets(place, timeout=10)
            if place.offset >= 0:
                self._at[slot_of(place)] = place
                if place.leader_epoch is not None:
                    self._epochs[slot_of(place)] = place.leader_epoch
        if ends:
            with contextlib.suppress(KafkaException):  # the group may be changing again
                consumer.commit(offsets=ends, asynchronous=False)
        return [self._place(slot_of(place), self._chosen(consumer, place)) for place in found]

    def _place(self, slot: Slot, offset: int) -> TopicPartition:
        return TopicPartition(*slot, offset, "", self._epochs.get(slot, UNTOLD))

    def _committed(self, consumer: Consumer, places: list[TopicPartition]) -> list[TopicPartition]:
        """Give the offsets that the group has committed in the topics that there are now."""
        return [
            nowhere(place) if is_of_another(place.metadata or "", self._read.get(place.topic, "")) else place
            for place in consumer.committed(places, timeout=10)
        ]

    def _new(self, consumer: Consumer, slots: Collection[Slot]) -> set[Slot]:
        """Find the partitions, of those without an offset, that the topic has been given while the flow ran."""
        own = [slot.partition for slot in slots if slot.topic == self._topic]
        if not own:
            return set()
        older = self._committed(consumer, [TopicPartition(self._topic, number) for number in range(max(own))])
        known = {place.partition for place in older if place.offset >= 0}
        return {Slot(self._topic, number) for number in own if is_added(number, known)}

    def _chosen(self, consumer: Consumer, place: TopicPartition) -> int:
        """Give where to begin: at the committed offset, or earlier as far as there are records, if `begin` says so."""
        if place.offset < 0:
            return self._beside.get(place.topic, NOWHERE)
        if self._begin is None:
            return place.offset
        wanted = self._begin(slot_of(place), place.offset, (place.metadata or "").partition(" ")[2])
        if wanted >= place.offset:
            return place.offset
        low, _ = consumer.get_watermark_offsets(place, timeout=10)
        return min(max(wanted, low), place.offset)

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        slots = self._with_beside(places)
        offsets = self._revoked(slots)
        if offsets:
            with contextlib.suppress(KafkaException):
                consumer.commit(offsets=dated(offsets, self._read, self._epochs, self._note), asynchronous=False)
        self._forget(consumer, slots)

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        slots = self._with_beside(places)
        self._lost(slots)
        self._forget(consumer, slots)

    def _forget(self, consumer: Consumer, slots: list[Slot]) -> None:
        self._given_back += 1
        self._ours.difference_update(slots)
        self.ended.difference_update(slots)
        self._paused.difference_update(slots)
        for slot in slots:
            self._at.pop(slot, None)
            self.met.pop(slot, None)
            self._epochs.pop(slot, None)
        consumer.incremental_unassign(partitions(slots))

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        sent = self._sent.popleft() if self._sent else 0.0
        if error is None and all(place.error is None for place in places):
            self._accepted(sent)

    def _with_beside(self, places: list[TopicPartition]) -> list[Slot]:
        numbers = [place.partition for place in places]
        return [
            slot
            for topic in (self._topic, *self._beside)
            for number in numbers
            if (slot := Slot(topic, number)) in self._ours
        ]


def raising(callback: Callable[[Consumer, list[TopicPartition]], None]) -> Callable[..., None]:
    """Let the client call this, and hand on what it raises.

    What C code has raised, as this client does itself, is an exception only once Python has caught it; before, the
    client makes another of it (confluent-kafka 2.16 on Python 3.11).
    """

    def called(consumer: Consumer, places: list[TopicPartition]) -> None:
        try:
            callback(consumer, places)
        except Exception:  # noqa: TRY203 - see above
            raise

    return called


def other_records(topic: str, partition: int, why: str) -> Halt:
    """Say that a partition does not hold what was read of it."""
    what = "has lost records that were read, and may hold others at their offsets"
    return Halt(f"{topic} partition {partition} {what}: {why}. {CHOOSE}", run=START)


def slot_of(place: TopicPartition) -> Slot:
    """Give the slot that librdkafka means."""
    return Slot(place.topic, place.partition)


def nowhere(place: TopicPartition) -> TopicPartition:
    """Give a place without the offset, and without what stands beside it: both are of something else."""
    return TopicPartition(place.topic, place.partition, NOWHERE)


def partitions(slots: Iterable[Slot]) -> list[TopicPartition]:
    """Give slots in librdkafka's form."""
    return [TopicPartition(slot.topic, slot.partition) for slot in slots]


def dated(
    offsets: Mapping[Slot, int], ids: Ids, epochs: Epochs, note: Callable[[Slot], str] = lambda _: ""
) -> list[TopicPartition]:
    """Give offsets in librdkafka's form, with the time beside each: what `trunkline status` calls last progress.

    The id of the topic stands there too, the leader's term, and what `note` says.
    """
    now = f"{AT}{datetime.now(UTC).isoformat(timespec='milliseconds')}"
    found = []
    for slot, offset in offsets.items():
        first = f"{now}{OF}{ids[slot.topic]}" if slot.topic in ids else now
        beside = f"{first} {said}" if (said := note(slot)) else first
        found.append(TopicPartition(*slot, offset, beside, epochs.get(slot, UNTOLD)))
    return found


def time_in(beside: str) -> str:
    """Give the time that stands beside an offset as it was written; "" for none, where a person has chosen it."""
    return beside.partition(" ")[0].partition(OF)[0].removeprefix(AT) if beside.startswith(AT) else ""


def is_of_another(beside: str, topic: str) -> bool:
    """Say whether what stands beside an offset names another topic than that of this id."""
    was = beside.partition(" ")[0].partition(OF)[2]
    return "" not in (was, topic) and was != topic


class Follower:
    """Reads topics from their beginnings for ever, without a group."""

    def __init__(self, cluster: Cluster, *topics: str) -> None:
        """Begin with the partitions that there are.

        Raises:
            Unavailable: the broker does not answer.
        """
        self._consumer = Consumer({**READING, **cluster.librdkafka()})
        try:
            found = {topic: self._consumer.list_topics(topic, timeout=10).topics[topic].partitions for topic in topics}
        except KafkaException as error:
            why = words(error.args[0], "Read", ", ".join(topics))
            raise Unavailable(f"{', '.join(topics)} cannot be read: {why}") from None
        self.slots = {Slot(topic, number) for topic, numbers in found.items() for number in numbers}
        self._behind = {*self.slots}
        self._consumer.assign([TopicPartition(*slot, OFFSET_BEGINNING) for slot in self.slots])

    @property
    def caught_up(self) -> bool:
        """Whether every partition has been read to its end once."""
        return not self._behind

    def fetch(self, seconds: float) -> list[Record]:
        """Return what has arrived, waiting at most `seconds`.

        Raises:
            Unavailable: the broker does not let us read.
        """
        first = self._consumer.poll(seconds)
        records = []
        for message in () if first is None else (first, *self._consumer.consume(5_000, 0)):
            if (error := message.error()) is None:
                records.append(record_of(message))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self._behind.discard(Slot(message.topic() or "", message.partition() or 0))
            elif error.code() in DENIED:
                topic = message.topic() or ""
                raise Unavailable(f"{topic or 'a topic'} cannot be read: {words(error, 'Read', topic)}")
        return records

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()
