"""What is measured: a bus from one topic to one target, each event a POST of its JSON; and one from topic to topic."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from benchmarks.schemas import ProductListedV1, SalePricedV1, SaleRecordedV1
from trunkline import Bus, Deliver, Enrich, Event, Process, Publish, Retry, Secret, Table, Target, Topic, env
from trunkline.sinks import HttpSink, Request
from trunkline.sources import StandardWebhooks, Webhook, WebhookRequest

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


products = Table("bench.products", ProductListedV1, key="sku")


def with_product(sale: Event[SaleRecordedV1], rows: Mapping[str, ProductListedV1]) -> Event[Any]:
    """Join a sale with the row of its product."""
    return sale.having({**sale.data, "row": rows.get(sale.data["sku"])})


def pieces(sale: Event[Any]) -> Iterator[SalePricedV1]:
    """Make one record for each piece of a sale, with what is known of the product."""
    data = sale.data
    row = data["row"]
    for piece in range(data["quantity"]):
        yield {
            "event_id": data["event_id"],
            "piece": piece,
            "sku": data["sku"],
            "product": None if row is None else row["product"],
            "category": "unknown" if row is None else row["category"],
            "amount": data["unit_price"],
            "store": data["store"],
            "note": data["tags"].get("note", ""),
            "occurred_at": data["occurred_at"],
        }


def processing_bus(topic: str, out: str, name: str) -> Bus:
    """Give a bus of this name that prices the sales of a topic."""
    priced = Topic(out, SalePricedV1, key="sku", partitions=PARTITIONS)
    steps = [Enrich(with_product, products)]
    return Bus(name, [Process(sales(topic), steps, to={priced: pieces}, name=f"{name}.sales")])


class Till(Webhook):
    """Posts one sale a request."""

    name = "till"

    def events(self, request: WebhookRequest) -> list[Event[SaleRecordedV1]]:
        """Take the sale as it is."""
        sale = request.json(SaleRecordedV1)
        return [Event(id=sale["event_id"], time=sale["occurred_at"], data=sale)]


class Priced(HttpSink):
    """One POST for each piece."""

    name = "collector"

    def request(self, event: Event[SalePricedV1]) -> Request:
        """Send the event as it is."""
        return Request.post("/events", json=event.data)


def whole_bus(name: str) -> Bus:
    """Give a bus from a source to a target, with every hop between."""
    recorded, priced = sales(f"{name}.sales"), Topic(f"{name}.priced", SalePricedV1, key="sku", partitions=PARTITIONS)
    sink: Any = Priced(Target("collector", env("TARGET_URL")))
    return Bus(
        name,
        [
            Publish(Till(verify=StandardWebhooks(Secret("TILL_SECRET"))), to=recorded),
            Process(recorded, [Enrich(with_product, products)], to={priced: pieces}, name=f"{name}.pricing"),
            Deliver(priced, to=sink, retry=Retry(first=FIRST_RETRY), name=f"{name}.collect"),
        ],
    )
