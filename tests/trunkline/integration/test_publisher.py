import multiprocessing
import os
import signal
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas import ProductV1, StockMovementV1
from tests.trunkline.support import wait_for
from trunkline import Bus, Drop, Enrich, Event, Process, Table, Topic
from trunkline.dev.broker import LocalKafka
from trunkline.errors import Permanent, Unavailable, UsageError
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


def test_a_publisher_that_is_closed_or_anothers_says_so(cluster: Cluster, bus: Bus, control: Control) -> None:
    [topic] = bus.topics
    with Publisher(cluster, bus, topic, service="tills") as publisher:
        list(publisher.publish([move(1)]))
        begun = publisher.publish([move(4)])
        child = multiprocessing.get_context("fork").Process(target=publish_elsewhere, args=(publisher,))
        child.start()
        child.join(60)
        assert child.exitcode == 7
        list(publisher.publish([move(2)]))
    for late in (publisher.publish([move(3)]), begun):
        with pytest.raises(UsageError, match="this publisher is closed"):
            next(late)
    assert sorted(dict(record.headers)["ce_id"] or b"" for record in control.read(topic.name)) == [b"e1", b"e2"]


def publish_elsewhere(publisher: Publisher) -> None:
    try:
        with publisher:
            list(publisher.publish([move(9)]))
    except UsageError as error:
        os._exit(7 if "make one in each process" in str(error) else 8)


def move(number: int) -> Event[Any]:
    return Event(f"e{number}", THEN, {"sku": f"{number}", "delta": -2, "basket_id": "b", "store_id": "s"})


@pytest.mark.faults(group="main")
@pytest.mark.timeout(200)
def test_a_publisher_outlives_a_broker_that_stands_still(tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path / "broker")
    cluster = Cluster(broker.start().bootstrap)
    assert broker.pid is not None
    topic = Topic("p.moves", StockMovementV1, key="sku", partitions=5)
    bus = Bus("p", [Process(topic, [], to={})])
    try:
        with Control(cluster) as control:
            control.apply(plan(bus, control.existing(names(bus)), Kafka()))
        with Publisher(cluster, bus, topic, service="tills", patience=4) as publisher:
            list(publisher.publish(move(number) for number in range(50)))
            os.kill(broker.pid, signal.SIGSTOP)
            with pytest.raises(Unavailable):
                list(publisher.publish(move(number) for number in range(50, 400)))
            os.kill(broker.pid, signal.SIGCONT)
            again(publisher, range(50, 400))
            os.kill(broker.pid, signal.SIGSTOP)
            next(publisher.publish(map(move, range(400, 402))), None)
    except Unavailable:
        os.kill(broker.pid, signal.SIGCONT)
        with Control(cluster) as control:
            found = {dict(record.headers)["ce_id"] for record in control.read(topic.name)}
        assert found >= {b"e%d" % number for number in range(400)}
    else:
        pytest.fail("nobody was told")
    finally:
        os.kill(broker.pid, signal.SIGCONT)
        broker.stop()


def again(publisher: Publisher, numbers: range) -> None:
    """Publish what was not acknowledged, as a service does: until it is."""

    def done() -> bool:
        try:
            return len(list(publisher.publish(map(move, numbers)))) == len(numbers)
        except Unavailable:
            return False

    wait_for(done, seconds=40)


def test_a_table_is_filled_as_the_page_says(cluster: Cluster, bus: Bus, control: Control) -> None:
    [table] = bus.tables
    page = Path("docs/processing.md").read_text()
    defined: dict[str, Any] = {}
    exec(page.partition("<!-- example: rows -->\n```python\n")[2].partition("```")[0], defined)  # noqa: S102 - ours
    assert defined["fill"](cluster.bootstrap, bus, table, [row("1"), row("2")]) == 2
    assert {record.key for record in control.read(table.name)} == {b"1", b"2"}
