"""Whether topics still are what a group has read of them: an offset alone does not say which records lie before it.

A topic that was deleted and made anew under its old name has another id (KIP-516). One that lost what had been
acknowledged, as after an unclean election, and was written on, has a leader of a later term (KIP-320). So id and term
stand beside each committed offset, and whoever goes on there asks what they are today.
"""

import base64
import contextlib
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from functools import cache
from typing import Any
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # both are meant to be used

from trunkline.errors import Unavailable
from trunkline.kafka.cluster import COMMON, READING, Cluster, lacking

PATIENCE = 10.0
"""Seconds for one question to the broker."""
EVERY = 5.0
"""Seconds between two questions whether topics are still those that they were."""
LITTLE = 1_024
"""Bytes of a partition that are fetched where nobody wants its records; a batch comes whole."""
LOST = "log truncation"
"""Words of the error that says that a broker has lost records before an offset."""

Ids = Mapping[str, str]
"""Ids by the names of topics."""


class Continuity:
    """Asks about topics, for all flows of a process over one connection; used from any thread."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._admin = AdminClient({**COMMON, **cluster.librdkafka()})
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._asked: Mapping[str, Future[Any]] = {}
        self._since = 0.0

    def ids(self, topics: Collection[str]) -> Ids:
        """Give the ids of those topics that there are.

        Raises:
            Unavailable: the broker does not answer, or does not let us see a topic.
        """
        found = {}
        for topic, asked in self._describe(topics).items():
            try:
                found[topic] = id_of(answered(asked, topic))
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        with self._lock:
            self._known |= found
            self._asked = {}  # it may have been answered before this
        return found

    def changed(self, since: Ids) -> Collection[str]:
        """Name the topics that have other ids now, as far as the broker has said: it is asked in the background."""
        with self._lock:
            if self._asked and all(asked.done() for asked in self._asked.values()):
                for topic, asked in self._asked.items():
                    with contextlib.suppress(KafkaException):
                        self._known[topic] = id_of(asked.result())
                self._asked = {}
            if self._known and not self._asked and (now := time.monotonic()) >= self._since + EVERY:
                self._since = now
                self._asked = self._describe(self._known)
            return [topic for topic, one in since.items() if self._known.get(topic, one) != one]

    def cut_off(self, places: Collection[TopicPartition]) -> Mapping[tuple[str, int], str]:
        """Name the partitions that have lost records before these offsets, with what the broker has; by leader's term.

        Raises:
            Unavailable: the broker does not answer, or does not let us see a topic.
        """
        told = {(place.topic, place.partition): place for place in places if place.leader_epoch is not None}
        if not told:
            return {}
        spec: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        latest = {TopicPartition(*place): spec for place in told}
        older = []
        for place, asked in self._admin.list_offsets(latest, request_timeout=PATIENCE).items():
            then = told[place.topic, place.partition]
            with contextlib.suppress(KafkaException):  # there is no such topic: others say so
                if answered(asked, place.topic).leader_epoch != then.leader_epoch:
                    older.append(then)
        return lost(self._cluster, older)

    def _describe(self, topics: Collection[str]) -> Mapping[str, "Future[Any]"]:
        answer: Mapping[str, Future[Any]] = self._admin.describe_topics(
            TopicCollection([*topics]), request_timeout=PATIENCE
        )
        return answer


@cache
def continuity(cluster: Cluster) -> Continuity:
    """Give the one that this process has for a cluster."""
    return Continuity(cluster)


def answered(asked: "Future[Any]", topic: str) -> Any:
    """Wait for an answer about a topic.

    Raises:
        KafkaException: there is no such topic.
        Unavailable: the broker does not answer, or does not let us see it.
    """
    try:
        return asked.result(PATIENCE + 1)
    except KafkaException as error:
        match error.args[0].code():
            case KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            case KafkaError.TOPIC_AUTHORIZATION_FAILED:
                why = lacking("Describe", f"topic {topic}")
            case _:
                why = error.args[0].str()
    except TimeoutError:
        why = "no answer"
    raise Unavailable(f"{topic} cannot be read: {why}")


def lost(cluster: Cluster, places: list[TopicPartition]) -> dict[tuple[str, int], str]:
    """Begin to read at these offsets, with the terms beside them, and give what a client says of records that are lost.

    The brokers are asked by librdkafka only where it has not known the leader before; so it is a client of its own.

    Raises:
        Unavailable: the broker does not answer.
    """
    found: dict[tuple[str, int], str] = {}
    if not places:
        return found
    consumer = Consumer(
        {**READING, **cluster.librdkafka(), "auto.offset.reset": "error", "fetch.message.max.bytes": LITTLE}
    )
    left = {(place.topic, place.partition) for place in places}
    until = time.monotonic() + PATIENCE
    try:
        consumer.assign(places)
        while left:
            for message in consumer.consume(500, 0.2):
                where = message.topic() or "", message.partition() or 0
                if (error := message.error()) is not None and LOST in error.str():
                    found[where] = error.str()
                left.discard(where)
            if time.monotonic() > until:
                raise Unavailable(f"{', '.join(sorted({topic for topic, _ in left}))} cannot be read: no answer")
    except KafkaException as failure:
        raise Unavailable(f"what was read cannot be compared: {failure.args[0].str()}") from None
    finally:
        consumer.close()
    return found


def id_of(described: Any) -> str:
    """Give the id of a described topic as Kafka writes it."""
    most, least = described.topic_id.get_most_significant_bits(), described.topic_id.get_least_significant_bits()
    return written(UUID(int=(most % 2**64) << 64 | least % 2**64))


def written(uuid: UUID) -> str:
    """Write an id as Kafka does (org.apache.kafka.common.Uuid): Base64 for addresses, without padding."""
    return base64.urlsafe_b64encode(uuid.bytes).rstrip(b"=").decode()
