"""What a contender has written, read by fastavro alone."""

import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import fastavro
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks.stage import ROOT
from benchmarks.topology import PARTITIONS

PRICED = fastavro.parse_schema(json.loads((ROOT / "benchmarks" / "schemas" / "sale_priced.v1.avsc").read_text()))


class Arrivals(threading.Thread):
    """Reads what is committed to a topic as it comes, and notes how long after its beginning each event came."""

    def __init__(self, bootstrap: str, topic: str, events: int) -> None:
        super().__init__(daemon=True)
        self._consumer = reader(bootstrap, topic)
        self._events = events
        self._stopping = threading.Event()
        self.times: list[float] = []
        self.ids: set[str] = set()
        self.count = 0

    def run(self) -> None:
        """Read until there is no more, or no longer."""
        while not self._stopping.is_set() and self.count < self._events:
            first = self._consumer.poll(0.05)  # to consume many at once would wait for so many, or for that long
            for message in () if first is None else (first, *self._consumer.consume(1_000, 0)):
                if message.error() is None:
                    now = time.time()
                    event, _, at = identity(message.value())
                    self.times.append(now - at)
                    self.ids.add(event)
                    self.count += 1

    def stop(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self.join()
        self._consumer.close()


def reader(bootstrap: str, topic: str) -> Consumer:
    """Give a reader of what is committed, from the beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 5,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    return consumer


def committed(bootstrap: str, topic: str) -> Iterator[tuple[str, int, float]]:
    """Yield of every committed record its event, its piece, and when the event was published."""
    consumer = reader(bootstrap, topic)
    ends: set[int | None] = set()
    while len(ends) < PARTITIONS:
        for message in consumer.consume(10_000, 0.1):
            if message.error() is None:
                yield identity(message.value())
            else:
                ends.add(message.partition())
    consumer.close()


def identity(value: Any) -> tuple[str, int, float]:
    """Read of a record its event, its piece, and when the event was published; by fastavro alone."""
    found: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), PRICED, None)
    return found["event_id"], found["piece"], found["occurred_at"].timestamp()
