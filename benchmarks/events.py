"""What is delivered: Avro events of about a hundred bytes with our headers, on topics that are filled once."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.schemas import ProductListedV1, SaleRecordedV1
from benchmarks.topology import PARTITIONS, products, sales
from trunkline.avro.codec import Codec
from trunkline.event import Event, to_headers

KEYS = 5_000
ROWS_IN = 0.8
"""The share of the products of sales that are in the table."""
HOT = "SKU-hot"
SCHEMA_ID = 1
"""What a new bus's registry calls its first schema."""
PRODUCT_ID = 3
"""And its third: tables come after topics."""
PRODUCTS = 100_000

Keys = Callable[[int], str]
"""Gives the key of an event by its number."""


def evenly(number: int) -> str:
    """Give every key the same share."""
    return f"SKU-{number % KEYS}"


def with_a_hot_one(number: int) -> str:
    """Give one key a fifth of the events."""
    return HOT if number % 5 == 0 else evenly(number)


def event_of(number: int, key: str, at: datetime) -> SaleRecordedV1:
    """Make one event."""
    return {
        "event_id": f"{number:032x}",
        "sku": key,
        "quantity": number % 7 + 1,
        "unit_price": 9.99,
        "store": "lon-1",
        "customer_id": f"c{number % 1000}",
        "occurred_at": at,
        "tags": {"channel": "web", "campaign": "bf"},
    }


class Writer:
    """Makes topics and writes events onto them."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        self._event_type = sales("any").schema.event_type
        self._codec = Codec(sales("any").schema.text)

    def make(self, topic: str, *, partitions: int = PARTITIONS, config: dict[str, str] | None = None) -> None:
        """Make a topic, anew when it was there."""
        self.drop(topic)
        while True:
            future = self._admin.create_topics([NewTopic(topic, partitions, 1, config=config or {})])[topic]
            if future.exception() is None:
                return
            time.sleep(0.1)  # the broker deletes the last one in its own time

    def drop(self, name: str) -> None:
        """Delete every topic whose name has this in it."""
        known = self._admin.list_topics(timeout=10).topics
        if found := [topic for topic in known if name in topic]:
            for future in self._admin.delete_topics(found).values():
                future.result()

    def fill(self, topic: str, events: int, keys: Keys) -> dict[str, int]:
        """Write a topic anew, as fast as it goes, and give the partition of each key."""
        self.make(topic)
        producer = self._producer(linger_ms=5)
        partitions: dict[str, int] = {}
        at = datetime.now(UTC)
        for number in range(events):
            key = keys(number)
            known = key in partitions
            partitions.setdefault(key, -1)
            self._write(producer, topic, number, key, at, None if known else partitions)
        assert producer.flush(60) == 0
        return partitions

    def fill_products(self, rows: int, schema_id: int = PRODUCT_ID) -> None:
        """Write the table anew, in one partition."""
        self.make(products.name, partitions=1, config={"cleanup.policy": "compact"})
        producer, codec = self._producer(linger_ms=5), Codec(products.schema.text)
        for number in range(rows):
            row: ProductListedV1 = {
                "sku": f"SKU-{number}",
                "product": f"Product {number} of the season",
                "category": f"category {number % 300}",
                "price": number % 97 + 0.99,
            }
            self._hand_over(producer, products.name, row["sku"].encode(), codec.encode(row, schema_id))
        assert producer.flush(60) == 0

    def fill_sales(self, topic: str, events: int, *, pieces: int, payload: int) -> None:
        """Write sales of products that are not all in the table, each of one to so many pieces."""
        self.make(topic)
        producer, note = self._producer(linger_ms=5), "n" * payload
        at = datetime.now(UTC)
        for number in range(events):
            self._write_sale(producer, topic, number, at, number % pieces + 1, note)
        assert producer.flush(60) == 0

    def pace_sales(self, topic: str, first: int, events: int, per_second: float) -> None:
        """Write sales of one piece at a steady rate, each with the time at which it is written."""
        producer = self._producer(linger_ms=0, timely=True)
        for number in steadily(producer, first, events, per_second):
            self._write_sale(producer, topic, number, datetime.now(UTC), 1, "")
        assert producer.flush(60) == 0

    def _write_sale(self, producer: Producer, topic: str, number: int, at: datetime, pieces: int, note: str) -> None:
        # A fixed walk through the products that never comes back soon: uniform, and the same in every run.
        key = f"SKU-{number * 7_919 % int(PRODUCTS / ROWS_IN)}"
        data = event_of(number, key, at)
        data["quantity"] = pieces
        if note:
            data["tags"] = {"channel": "web", "note": note}
        event = Event(id=data["event_id"], time=at, data=data, source="/bench/till", type=self._event_type, key=key)
        value = self._codec.encode(data, SCHEMA_ID)
        self._hand_over(producer, topic, key.encode(), value, list(to_headers(event)))

    def _hand_over(self, producer: Producer, topic: str, key: bytes, value: bytes, headers: Any = ()) -> None:
        while True:
            try:
                producer.produce(topic, key=key, value=value, headers=list(headers))
            except BufferError:
                producer.poll(0.1)
            else:
                producer.poll(0)
                return

    def pace(self, topic: str, first: int, events: int, per_second: float) -> None:
        """Write events at a steady rate, each with the time at which it is written."""
        producer = self._producer(linger_ms=0, timely=True)
        for number in steadily(producer, first, events, per_second):
            self._write(producer, topic, number, evenly(number), datetime.now(UTC), None)
        assert producer.flush(60) == 0

    def _producer(self, *, linger_ms: float, timely: bool = False) -> Producer:
        """Make a producer; a timely one does not hold its first records back for half a second, for a producer's id."""
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "acks": "all",
                "enable.idempotence": not timely,
                "linger.ms": linger_ms,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 500_000,
                "log_level": 0,
            }
        )

    def _write(
        self, producer: Producer, topic: str, number: int, key: str, at: datetime, partitions: dict[str, int] | None
    ) -> None:
        data = event_of(number, key, at)
        event = Event(id=data["event_id"], time=at, data=data, source="/bench/till", type=self._event_type, key=key)

        def written(error: Any, message: Any) -> None:
            assert error is None, error
            if partitions is not None:
                partitions[key] = message.partition()

        while True:
            try:
                producer.produce(
                    topic,
                    key=key.encode(),
                    value=self._codec.encode(data, SCHEMA_ID),
                    headers=list(to_headers(event)),
                    on_delivery=written,
                )
            except BufferError:
                producer.poll(0.1)
            else:
                break
        if number % 1000 == 0:
            producer.poll(0)


def steadily(producer: Producer, first: int, events: int, per_second: float) -> Iterator[int]:
    """Yield the numbers of events, each when it is due at this rate."""
    begun = time.perf_counter()
    for index in range(events):
        if (wait := begun + index / per_second - time.perf_counter()) > 0:
            producer.poll(0)
            time.sleep(wait)
        yield first + index
