"""The ceiling: a loop without safety on librdkafka, in transactions or not.

Usage: `route.py txn|no [headers]`. It has no identity, letters, metrics or rebalances; with `headers` its records carry
what an event of ours does.
"""

import sys
import uuid
from typing import Any

from confluent_kafka import Consumer, Producer

from benchmarks.contenders.joining import BOOTSTRAP, GROUP, OUT, TOPIC, made_of, read_rows

BATCH = 2_000


def main() -> None:
    """Run until killed."""
    transactional, headed = sys.argv[1] == "txn", "headers" in sys.argv
    rows = read_rows()
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": GROUP,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([TOPIC])
    settings: dict[str, Any] = {
        "bootstrap.servers": BOOTSTRAP,
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "queue.buffering.max.messages": 1_000_000,
    }
    if transactional:
        settings |= {"transactional.id": f"{GROUP}-{uuid.uuid4()}", "retry.backoff.ms": 5, "retry.backoff.max.ms": 20}
    producer = Producer(settings)
    if transactional:
        producer.init_transactions()
    number = 0
    while True:
        messages = consumer.consume(BATCH, 0.1)
        if not messages:
            continue
        if transactional:
            producer.begin_transaction()
        for message in messages:
            value: Any = message.value()
            for key, made in made_of(value, rows):
                number += 1
                more: Any = {"headers": headers(number, key)} if headed else {}
                produce(producer, key, made, more)
        if transactional:
            places, metadata = consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
            producer.send_offsets_to_transaction([one for one in places if one.offset >= 0], metadata)
            producer.commit_transaction()
        else:
            producer.poll(0)


def produce(producer: Producer, key: bytes, value: bytes, more: Any) -> None:
    """Hand a record over, when there is room."""
    while True:
        try:
            producer.produce(OUT, value, key, **more)
        except BufferError:
            producer.poll(0.1)
        else:
            return


def headers(number: int, key: bytes) -> list[tuple[str, bytes]]:
    """Give as many bytes of headers as an event of ours has."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"%032d" % number),
        ("ce_source", b"bench-12345678/bench-12345678.sales"),
        ("ce_type", b"bench.SalePriced.v1"),
        ("ce_time", b"2026-01-01T00:00:00.000000Z"),
        ("content-type", b"application/avro"),
        ("ce_subject", key),
        ("trunkline-parent", b"3@123456 /bench/till %032d" % number),
    ]


if __name__ == "__main__":
    main()
