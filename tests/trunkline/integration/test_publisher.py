import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas import ProductV1, StockMovementV1
from trunkline import Bus, Drop, Enrich, Event, Process, Table, Topic
from trunkline.errors import Permanent, Unavailable
from trunkline.flow.declare import schemas_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.publisher import Publisher
from trunkline.kafka.registry import Format, Registry
from trunkline.kafka.topics import names, plan
from trunkline.settings import Kafka

THEN = datetime(2026, 1, 1, 12, tzinfo=UTC)


def nothing(_event: Event[Any], _rows: Any) -> Drop:
    return Drop("nothing")


def row(sku: str, **more: Any) -> dict[str, Any]:
    return {"sku": sku, "department": "GROCERY", "brand": "Private", "category": None, "size": "1 L", **more}


@pytest.fixture
def bus(control: Control) -> Bus:
    name = f"p{uuid.uuid4().hex[:8]}"
    table = Table(f"{name}.things", ProductV1, key="sku", partitions=5)
    topic = Topic(f"{name}.moves", StockMovementV1, key="sku", partitions=5)
    bus = Bus(name, [Process(topic, [Enrich(nothing, table)], to={})])
    control.apply(plan(bus, control.existing(names(bus)), Kafka()))
    return bus


def test_rows_arrive_as_events_of_the_service_that_every_client_can_read(
    cluster: Cluster, bus: Bus, control: Control
) -> None:
    [table] = bus.tables
    wanted = [row(f"{number}") for number in range(3_000)]
    with Publisher(cluster, bus, table, service="crm") as publisher:
        places = list(publisher.rows(wanted, THEN))
    found = {record.key: record for record in control.read(table.name)}
    registry = Registry(cluster, schemas_of(bus))
    form = Format(registry, table.schema)
    assert [form.decode(found[one["sku"].encode()].value) for one in wanted] == wanted
    assert [(found[one["sku"].encode()].partition, found[one["sku"].encode()].offset) for one in wanted] == places
    headers = dict(found[b"7"].headers)
    assert headers["ce_id"] == f"{table.name}:7:2026-01-01T12:00:00+00:00".encode()
    assert headers["ce_source"] == f"{bus.name}/crm".encode()
    assert headers["ce_type"] == b"shop.Product.v1"
    assert headers["ce_time"] == b"2026-01-01T12:00:00Z"
    registry.close()


def test_a_key_lies_where_a_worker_would_put_it(cluster: Cluster, bus: Bus) -> None:
    [table] = bus.tables
    keys = [f"key {number}" for number in range(50)]
    with Publisher(cluster, bus, table, service="crm") as publisher:
        ours = [place.partition for place in publisher.rows([row(key) for key in keys], THEN)]
    sender = Sender(cluster)
    theirs = [sender.send(table.name, key.encode(), b"", ()).result(20).partition for key in keys]
    sender.close()
    assert ours == theirs


def test_events_keep_their_own_identity(cluster: Cluster, bus: Bus, control: Control) -> None:
    [topic] = bus.topics
    data = {"sku": "1", "delta": -2, "basket_id": "b", "store_id": "s"}
    with Publisher(cluster, bus, topic, service="tills") as publisher:
        [place] = publisher.publish([Event("e1", THEN, data)])
    [record] = control.read(topic.name)
    assert (record.partition, record.offset) == place
    assert dict(record.headers)["ce_id"] == b"e1"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sku": "1"}, "does not fit its schema"),
        ({"department": "no key"}, "has no sku, which is the topic's key"),
        (row("1", brand="x" * 2_000_000), "is larger than its topic allows"),
    ],
)
def test_what_can_never_be_published_says_why(cluster: Cluster, bus: Bus, wrong: dict[str, Any], said: str) -> None:
    [table] = bus.tables
    with (
        Publisher(cluster, bus, table, service="crm") as publisher,
        pytest.raises(Permanent, match=said),
    ):
        list(publisher.rows([row("0"), wrong], THEN))


@pytest.mark.parametrize(
    ("event_id", "time", "said"),
    [
        ("", THEN, "an event needs an id"),
        ("e", THEN.replace(tzinfo=None), "its time has an offset"),
        ("e", datetime(1969, 12, 31, tzinfo=UTC), "after 1970"),
        ("e", datetime.now(UTC) + timedelta(days=2), "at most a day ahead"),
    ],
)
def test_what_the_gateway_lets_in_is_published_and_no_more(
    cluster: Cluster, bus: Bus, event_id: str, time: datetime, said: str
) -> None:
    [topic] = bus.topics
    data = {"sku": "1", "delta": -2, "basket_id": "b", "store_id": "s"}
    with Publisher(cluster, bus, topic, service="tills") as publisher, pytest.raises(Permanent, match=said):
        list(publisher.publish([Event(event_id, time, data)]))


def test_nobody_to_publish_to_is_one_line(cluster: Cluster, bus: Bus) -> None:
    missing = Table(f"{bus.name}.absent", ProductV1, key="sku")
    with (
        Publisher(cluster, bus, missing, service="crm", patience=2) as publisher,
        pytest.raises(Unavailable, match="the broker did not acknowledge the record"),
    ):
        list(publisher.rows([row("0")], THEN))
    with pytest.raises(Unavailable):
        Publisher("127.0.0.1:1", bus, missing, service="crm", patience=2)
