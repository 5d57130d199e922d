import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import NotCoordinatorError

from tests.trunkline.support import wait_for
from trunkline import Bus, Deliver, Target, Topic, env
from trunkline.errors import TopologyError, Unavailable, UsageError
from trunkline.event import Event
from trunkline.flow.declare import group_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control, Start
from trunkline.kafka.events import Slot
from trunkline.kafka.topics import Create, Grow, names, plan, reading
from trunkline.settings import Kafka
from trunkline.sinks import HttpSink, Request

THEN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)  # not so old that the broker deletes it meanwhile


class Store(HttpSink):
    name = "store"

    def request(self, event: Event[Any]) -> Request:
        return Request.put("/x", json=dict(event.data))


def small_bus(*, partitions: int = 2, key: str | None = "id", prefix: str = "") -> Bus:
    prefix = prefix or f"c{uuid.uuid4().hex[:8]}"
    topic = Topic(f"{prefix}.lines", dict, key=key, partitions=partitions)
    return Bus(prefix, [Deliver(topic, to=Store(Target("store", env("STORE_URL"))))])


@pytest.fixture
def bus(control: Control) -> Bus:
    bus = small_bus()
    control.apply(plan(bus, {}, Kafka()))
    return bus


def write(bootstrap: str, topic: str, *values: bytes, partition: int = 0, at: datetime = THEN) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for number, value in enumerate(values):
        timestamp = int((at + timedelta(hours=number)).timestamp() * 1000)
        headers = [("empty", b""), ("one", b"1")]
        producer.send(topic, value, b"k", headers, partition, timestamp).get(timeout=20)
    producer.close()


def test_topics_are_made_once_and_are_then_as_declared(control: Control) -> None:
    bus = small_bus(key=None)
    changes = plan(bus, control.existing(names(bus)), Kafka())
    assert len(changes) == 7
    assert control.apply(changes) == changes
    assert control.topics()[bus.topics[0].name] == 2
    assert control.apply(changes) == changes, "a topic that another apply has made meanwhile is no failure"
    assert plan(bus, control.existing(names(bus)), Kafka()) == []
    assert control.apply([]) == []

    wider = small_bus(partitions=3, key=None, prefix=bus.name)
    grown = control.apply(plan(wider, control.existing(names(bus)), Kafka()))
    assert [type(change) for change in grown] == [Grow, Grow, Grow]
    wait_for(lambda: {control.topics()[change.topic] for change in grown} == {3})


def test_a_question_about_some_topics_describes_no_others(
    control: Control, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cluster that others share, all topics are as many as they like."""
    describe, asked = control._admin.describe_topics, list[Any]()

    def noting(topics: Any = None) -> Any:
        asked.append(topics)
        return describe(topics)

    monkeypatch.setattr(control._admin, "describe_topics", noting)
    name = bus.topics[0].name
    assert control.ends([name]).keys() == control.beginnings([name]).keys() == {Slot(name, 0), Slot(name, 1)}
    assert [*control.read(name)] == []
    assert [*control.existing([name, f"{name}s"])] == [name]
    assert control.topics(["", "no name/of a topic", "x" * 300, f"{name}s", name]) == {name: 2}
    control.start_offsets(bus, [*reading(bus)], None)
    assert asked
    assert None not in asked
    with pytest.raises(UsageError, match=rf"^there is no topic {name}s\. Did you mean {name}\?$"):
        control.ends([f"{name}s"])


def test_a_topic_that_is_deleted_while_it_is_described_is_not_there(
    control: Control, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings are no secret then: no right is missing."""
    describe, name, *others = control._admin.describe_configs, *names(bus)

    def deleting(*arguments: Any, **more: Any) -> Any:
        control._admin.delete_topics([name])
        wait_for(lambda: name not in control.topics())
        return describe(*arguments, **more)

    monkeypatch.setattr(control._admin, "describe_configs", deleting)
    assert control.existing([name, *others]).keys() == {*others}


def test_offsets_are_set_as_soon_as_their_group_has_a_coordinator(
    control: Control, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.apply(plan(bus, {}, Kafka()))
    real, early = control._admin.alter_group_offsets, [NotCoordinatorError]

    def alter(group: str, offsets: dict[Any, Any]) -> Any:
        return dict.fromkeys(offsets, early.pop()) if early else real(group, offsets)

    monkeypatch.setattr(control._admin, "alter_group_offsets", alter)
    slot = Slot(bus.topics[0].name, 0)
    control.commit(f"{bus.name}.any", {slot: 0})
    assert control.committed(f"{bus.name}.any")[slot][0] == 0


def test_a_refused_change_stops_all_of_them(control: Control, bus: Bus) -> None:
    wider = small_bus(partitions=5, prefix=bus.name)
    missing = Create(f"{bus.name}.more", 1, 1, {}, "events")
    with pytest.raises(TopologyError, match=r"2 partitions and 5 are declared(.|\n)*1 fault; nothing was started"):
        control.apply([missing, *plan(wider, control.existing(names(bus)), Kafka())])
    assert missing.topic not in control.topics()


def test_a_topic_that_the_broker_refuses_is_named(control: Control) -> None:
    name = f"c{uuid.uuid4().hex[:8]}"
    with pytest.raises(Unavailable, match=rf"^{name} cannot be created: .*replication factor of 5"):
        control.apply([Create(name, 1, 5, {}, "events")])


def test_records_are_read_from_any_start_to_the_end_of_that_moment(bootstrap: str, control: Control, bus: Bus) -> None:
    topic = bus.topics[0].name
    write(bootstrap, topic, b"a", b"b", b"c", partition=1)
    records = list(control.read(topic))
    assert [(record.partition, record.offset, record.value) for record in records] == [
        (1, 0, b"a"),
        (1, 1, b"b"),
        (1, 2, b"c"),
    ]
    assert records[0].timestamp == THEN
    assert records[0].headers == (("empty", b""), ("one", b"1"))
    assert records[0].key == b"k"

    def values(start: Any, partition: int | None = None) -> list[bytes | None]:
        return [record.value for record in control.read(topic, start=start, partition=partition)]

    assert values("latest") == []
    assert values(THEN + timedelta(minutes=1)) == [b"b", b"c"]
    assert values(THEN + timedelta(days=1)) == []
    assert values({1: 2}) == [b"c"]
    assert values("earliest", 0) == []
    assert control.last_times([topic]) == {topic: THEN + timedelta(hours=2)}
    with pytest.raises(UsageError, match=rf"^{topic} has no partition 9\.$"):
        values("earliest", 9)


def test_following_goes_on_with_what_arrives(bootstrap: str, control: Control, bus: Bus) -> None:
    topic = bus.topics[0].name
    following = control.read(topic, start="latest", follow=True)
    write(bootstrap, topic, b"new")
    assert next(following).value == b"new"
    following.close()


def test_only_committed_records_are_read_and_marks_are_no_records(bootstrap: str, control: Control, bus: Bus) -> None:
    topic = bus.topics[0].name
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    for value, wanted in ((b"kept", True), (b"gone", False)):
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush(20)
        (producer.commit_transaction if wanted else producer.abort_transaction)(20)
    control.settle(topic)
    assert [record.value for record in control.read(topic)] == [b"kept"]
    assert control.ends([topic]) == {Slot(topic, 0): 4, Slot(topic, 1): 0}
    assert control.first({Slot(topic, 0): 0})[Slot(topic, 0)].value == b"kept"
    assert control.first({Slot(topic, 0): 1, Slot(topic, 1): 0}) == {}


def test_the_first_records_of_all_partitions_are_asked_for_over_one_connection(
    bootstrap: str, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` asks for them wherever a topic ends with the mark of a transaction: each had a client of its own."""
    bus = small_bus(partitions=12)
    control.apply(plan(bus, {}, Kafka()))
    topic = bus.topics[0].name
    for partition in range(10):
        write(bootstrap, topic, b"a", b"b", b"c", partition=partition)
    made = []

    class Counted(KafkaConsumer):  # type: ignore[misc]
        def __init__(self, **how: Any) -> None:
            made.append(self)
            super().__init__(**how)

    monkeypatch.setattr("trunkline.kafka.control.KafkaConsumer", Counted)
    found = control.first({Slot(topic, partition): partition % 4 for partition in range(12)})
    assert {slot.partition: record.offset for slot, record in found.items()} == {
        partition: partition % 4 for partition in range(10) if partition % 4 < 3
    }
    assert len(made) == 1


def test_an_empty_topic_begins_at_once_and_only_once(control: Control, bus: Bus, bootstrap: str) -> None:
    [flow], topic = bus.delivering, bus.topics[0].name
    group = group_of(bus, flow)
    control.start_offsets(bus, [flow], None)
    assert control.committed(group) == {Slot(topic, 0): (0, ""), Slot(topic, 1): (0, "")}
    write(bootstrap, topic, b"a")
    control.start_offsets(bus, [flow], "latest")
    assert control.committed(group) == {Slot(topic, 0): (0, ""), Slot(topic, 1): (0, "")}
    control.commit(group, {Slot(topic, 0): 1})
    control.start_offsets(bus, [flow], None)
    assert control.committed(group)[Slot(topic, 0)] == (1, "")


@pytest.mark.parametrize(
    ("start", "offset"), [("earliest", 0), ("latest", 3), (THEN + timedelta(minutes=90), 2), (datetime.now(UTC), 3)]
)
def test_a_topic_with_records_asks_where_to_begin(
    control: Control, bus: Bus, bootstrap: str, start: Start, offset: int
) -> None:
    [flow], topic = bus.delivering, bus.topics[0].name
    write(bootstrap, topic, b"a", b"b", b"c", partition=1)
    with pytest.raises(UsageError) as refused:
        control.start_offsets(bus, [flow], None)
    assert str(refused.value) == (
        f"{flow} has not read {topic} yet, where up to 3 records wait. "
        "Say where to begin: --start earliest|latest|TIME."
    )
    assert control.committed(group_of(bus, flow)) == {}, "nothing is committed before everything is decided"
    control.start_offsets(bus, [flow], start)
    assert control.committed(group_of(bus, flow)) == {Slot(topic, 0): (0, ""), Slot(topic, 1): (offset, "")}


def test_every_missing_topic_is_named(control: Control) -> None:
    bus = small_bus()
    [flow] = bus.delivering
    with pytest.raises(UsageError) as refused:
        control.start_offsets(bus, [flow], None)
    assert str(refused.value) == (
        f"these topics do not exist: {bus.name}.lines, {flow}.dlq, {flow}.replay, trunkline.{bus.name}.control, "
        f"trunkline.{bus.name}.outcomes, trunkline.{bus.name}.replayed, trunkline.{bus.name}.schemas. "
        "Run `trunkline topics apply`."
    )


def test_a_group_with_members_is_seen_and_keeps_its_offsets(control: Control, bus: Bus, bootstrap: str) -> None:
    [flow], topic = bus.delivering, bus.topics[0].name
    group = group_of(bus, flow)
    assert control.members(group) == []
    control.commit(group, {Slot(topic, 0): 0})
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "client.id": "one", "log_level": 0})
    consumer.subscribe([topic])
    while not consumer.assignment():
        consumer.poll(0.1)
    [member] = control.members(group)
    assert (member.client, set(member.slots)) == ("one", {Slot(topic, 0), Slot(topic, 1)})
    with pytest.raises(Unavailable, match="A group that has members keeps its offsets: stop its workers first"):
        control.commit(group, {Slot(topic, 1): 0})
    with pytest.raises(Unavailable, match="stop its workers first"):
        control.start_offsets(bus, [flow], None)
    consumer.commit(offsets=[Place(topic, 1, 0, "at=2026-01-01T00:00:00.000+00:00")], asynchronous=False)
    control.start_offsets(bus, [flow], None)
    assert control.committed(group)[Slot(topic, 1)] == (0, "at=2026-01-01T00:00:00.000+00:00")
    consumer.close()


def test_a_topic_that_is_not_there_is_named_with_the_one_that_is_meant(control: Control, bus: Bus) -> None:
    with pytest.raises(UsageError, match=rf"there is no topic {bus.name}\.line\. Did you mean {bus.name}\.lines\?"):
        control.read(f"{bus.name}.line")


def test_no_broker_is_one_clear_line() -> None:
    with pytest.raises(Unavailable, match=r"^no broker answers at 127\.0\.0\.1:1\. Start it, or set TRUNKLINE_KAFKA__"):
        Control(Cluster("127.0.0.1:1"))
    with pytest.raises(UsageError, match=r"^the broker's address 'here:there' is no host:port"):
        Control(Cluster("here:there"))
