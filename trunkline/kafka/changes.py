"""What happens to the rows of a table: its topic from where one left off, or from the beginning where that is no good.

A compacted topic forgets: after a while also that a row was deleted. Who was away for longer begins anew.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # it is meant to be used

from trunkline.errors import Unavailable
from trunkline.kafka.cluster import COMMON, READING, Cluster
from trunkline.kafka.events import DENIED, words

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds for one question to the broker."""
MOST = 5_000
"""Records of one fetch."""
FORGETS = "delete.retention.ms"
GONE = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError.INCONSISTENT_TOPIC_ID,
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
)
"""Errors after which the topic is no more what it was."""


class Identity(NamedTuple):
    """Which topic it is: one of the same name in another cluster, or made again, is another."""

    cluster: str
    topic: str
    partitions: int


class Change(NamedTuple):
    """The last that was said of a row: its value, or None when it was deleted."""

    key: bytes
    value: bytes | None


class Changes:
    """The changes of one table, without a group. One thread calls everything."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        """Find the topic.

        Raises:
            Unavailable: the broker does not answer, or the topic is not there or has no leader.
        """
        self._topic = topic
        brokers: dict[str, Any] = cluster.librdkafka()
        self._admin = AdminClient({**COMMON, **brokers})
        self.identity = self._identify()
        self.remembers = self._remembers()
        """Seconds for which the topic tells that a row was deleted."""
        self._consumer = Consumer({**READING, **brokers, "auto.offset.reset": "error", "fetch.wait.max.ms": 100})
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        """By partition where the topic ended when it was found."""
        try:
            for number in range(self.identity.partitions):
                place = TopicPartition(topic, number)
                self.starts[number], self.ends[number] = self._consumer.get_watermark_offsets(place, timeout=PATIENCE)
        except KafkaException as error:
            self._consumer.close()
            raise self._unavailable(error) from None
        self.position: dict[int, int] = {}
        """By partition the offset that comes next."""
        self._behind = set(self.ends)

    def suits(self, position: Mapping[int, int]) -> bool:
        """Say whether one can go on there: nothing before it was cut off, and nothing after it was lost."""
        return position.keys() == self.ends.keys() and all(
            self.starts[number] <= offset <= self.ends[number] for number, offset in position.items()
        )

    def begin(self, position: Mapping[int, int]) -> None:
        """Fetch from these offsets on; without any, from the beginning."""
        self.position = {number: position.get(number, start) for number, start in self.starts.items()}
        self._behind = {number for number, end in self.ends.items() if self.position[number] < end}
        self._consumer.assign([TopicPartition(self._topic, *place) for place in self.position.items()])

    @property
    def caught_up(self) -> bool:
        """Whether every partition was read to the end that it had when the topic was found (P4)."""
        return not self._behind

    @property
    def lag(self) -> int:
        """The records that are not read yet, as far as the broker has told."""
        return sum(
            max(0, self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), cached=True)[1] - offset)
            for number, offset in self.position.items()
        )

    def fetch(self, seconds: float) -> list[Change]:
        """Return what has arrived, waiting at most `seconds`; `position` has moved behind it.

        Raises:
            Unavailable: the topic is not what it was; find it again.
        """
        found = []
        try:
            first = self._consumer.poll(seconds)
            for message in () if first is None else (first, *self._consumer.consume(MOST, 0)):
                number: Any = message.partition()
                offset: Any = message.offset()
                if (error := message.error()) is None:
                    offset += 1
                    key: Any = message.key()
                    value: Any = message.value()
                    if key is not None:
                        found.append(Change(key, value))
                elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    if error.code() in (*GONE, *DENIED) or error.fatal():
                        raise KafkaException(error)  # noqa: TRY301 - told as all broker errors are
                    continue
                self.position[number] = offset
                if offset >= self.ends[number] or message.error() is not None:
                    self._behind.discard(number)
        except KafkaException as error:
            raise self._unavailable(error) from None
        return found

    def verify(self) -> None:
        """Return when the topic is there and the one that it was.

        Raises:
            Unavailable: it is not.
        """
        if self._identify() != self.identity:
            raise Unavailable(f"{self._topic} was made again")

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _identify(self) -> Identity:
        found = self._ask(self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=PATIENCE))
        if any(part.leader is None or part.leader.id < 0 for part in found.partitions):
            raise Unavailable(f"{self._topic} cannot be read: a partition has no leader")
        try:
            cluster = self._admin.list_topics(self._topic, timeout=PATIENCE).cluster_id
        except KafkaException as error:
            raise self._unavailable(error) from None
        return Identity(str(cluster), str(found.topic_id), len(found.partitions))

    def _remembers(self) -> float:
        resource = ConfigResource(ConfigResource.Type.TOPIC, self._topic)
        found = self._ask(self._admin.describe_configs([resource], request_timeout=PATIENCE), "DescribeConfigs")
        return int(found[FORGETS].value) / 1000

    def _ask(self, asked: Mapping[Any, "Future[T]"], right: str = "Describe") -> T:
        try:
            return next(iter(asked.values())).result(PATIENCE + 1)
        except KafkaException as error:
            raise self._unavailable(error, right) from None
        except TimeoutError:
            raise Unavailable(f"{self._topic} cannot be read: no answer") from None

    def _unavailable(self, error: KafkaException, right: str = "Read") -> Unavailable:
        return Unavailable(f"{self._topic} cannot be read: {words(error.args[0], right, self._topic)}")
