"""What partitions hold since some time, read to their ends without a group."""

from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from trunkline.errors import Unavailable
from trunkline.kafka.cluster import READING, Cluster
from trunkline.kafka.events import DENIED, Record, Slot, clock, record_of, words

PATIENCE = 10.0
"""Seconds for which the broker may be silent."""


def stored_since(cluster: Cluster, times: Mapping[Slot, int]) -> list[Record]:
    """Read committed records from a time on (epoch milliseconds, by partition), up to the ends as they are now.

    Raises:
        Unavailable: the broker does not answer.
    """
    if not times:
        return []
    consumer = Consumer({**READING, **cluster.librdkafka()})
    found: list[Record] = []
    topics = ", ".join(sorted({slot.topic for slot in times}))
    try:
        wanted = [TopicPartition(*slot, max(0, time)) for slot, time in times.items()]
        places = [place for place in consumer.offsets_for_times(wanted, timeout=PATIENCE) if place.offset >= 0]
        consumer.assign(places)
        left = {(place.topic, place.partition) for place in places}
        until = clock() + PATIENCE
        while left:
            for message in consumer.consume(5_000, 0.2):
                until = clock() + PATIENCE
                if (error := message.error()) is None:
                    found.append(record_of(message))
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    left.discard((message.topic() or "", message.partition() or 0))
                elif error.code() in DENIED:
                    raise KafkaException(error)  # noqa: TRY301 - told as all broker errors are
            if clock() > until:
                raise Unavailable(f"{', '.join(sorted({topic for topic, _ in left}))} cannot be read: no answer")
    except KafkaException as failure:
        raise Unavailable(f"what is stored cannot be read: {words(failure.args[0], 'Read', topics)}") from None
    finally:
        consumer.close()
    return found
