"""The ids of topics (KIP-516): one that was deleted and made anew under its old name has another.

Offsets that a group has committed are those of the topic that there was then. So its id stands beside each of them, and
whoever goes on there asks what it is today.
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

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from trunkline.errors import Unavailable
from trunkline.kafka.cluster import COMMON, Cluster, lacking

PATIENCE = 10.0
"""Seconds for one question to the broker."""
EVERY = 5.0
"""Seconds between two questions whether topics are still those that they were."""

Ids = Mapping[str, str]
"""Ids by the names of topics."""


class TopicIds:
    """Asks for the ids of topics, for all flows of a process over one connection; used from any thread."""

    def __init__(self, cluster: Cluster) -> None:
        self._admin = AdminClient({**COMMON, **cluster.librdkafka()})
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._asked: Mapping[str, Future[Any]] = {}
        self._since = 0.0

    def ask(self, topics: Collection[str]) -> Ids:
        """Give the ids of those topics that there are.

        Raises:
            Unavailable: the broker does not answer, or does not let us see a topic.
        """
        found = {}
        for topic, asked in self._describe(topics).items():
            try:
                found[topic] = id_of(asked.result(PATIENCE + 1))
            except KafkaException as error:
                match error.args[0].code():
                    case KafkaError.UNKNOWN_TOPIC_OR_PART:
                        continue
                    case KafkaError.TOPIC_AUTHORIZATION_FAILED:
                        why = lacking("Describe", f"topic {topic}")
                    case _:
                        why = error.args[0].str()
                raise Unavailable(f"{topic} cannot be read: {why}") from None
            except TimeoutError:
                raise Unavailable(f"{topic} cannot be read: no answer") from None
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

    def _describe(self, topics: Collection[str]) -> Mapping[str, "Future[Any]"]:
        answer: Mapping[str, Future[Any]] = self._admin.describe_topics(
            TopicCollection([*topics]), request_timeout=PATIENCE
        )
        return answer


@cache
def topic_ids(cluster: Cluster) -> TopicIds:
    """Give the one that this process has for a cluster."""
    return TopicIds(cluster)


def id_of(described: Any) -> str:
    """Give the id of a described topic as Kafka writes it."""
    most, least = described.topic_id.get_most_significant_bits(), described.topic_id.get_least_significant_bits()
    return written(UUID(int=(most % 2**64) << 64 | least % 2**64))


def written(uuid: UUID) -> str:
    """Write an id as Kafka does (org.apache.kafka.common.Uuid): Base64 for addresses, without padding."""
    return base64.urlsafe_b64encode(uuid.bytes).rstrip(b"=").decode()
