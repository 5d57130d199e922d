"""The bus that is measured: one topic to one target, each event a POST of its JSON."""

from datetime import timedelta
from typing import Any

from benchmarks.schemas import SaleRecordedV1
from trunkline import Bus, Deliver, Event, Retry, Target, Topic, env
from trunkline.sinks import HttpSink, Request

PARTITIONS = 12
FIRST_RETRY = timedelta(milliseconds=100)
"""With full jitter this waits 50 ms on average, which the peers get as a fixed delay."""


class Collector(HttpSink):
    """One POST of the whole event."""

    name = "collector"

    def request(self, event: Event[SaleRecordedV1]) -> Request:
        """Send the event as it is."""
        return Request.post("/events", json=event.data)


def sales(topic: str) -> Topic:
    """Give the topic of this name."""
    return Topic(topic, SaleRecordedV1, key="sku", partitions=PARTITIONS)


def bus_of(topic: str, name: str) -> Bus:
    """Give a bus of this name, all that it has carries it: a new name is a new group and a new ledger."""
    sink: Any = Collector(Target("collector", env("TARGET_URL")))
    return Bus(name, [Deliver(sales(topic), to=sink, retry=Retry(first=FIRST_RETRY), name=f"{name}.sales")])
