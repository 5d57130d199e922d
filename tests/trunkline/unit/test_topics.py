from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from trunkline import Bus, Deliver, Enrich, Process, Publish, Table, Target, Topic, days, env
from trunkline.engine.worker import KEEP
from trunkline.errors import Fault
from trunkline.event import Event
from trunkline.kafka.control import beginning, passed
from trunkline.kafka.events import Slot
from trunkline.kafka.orders import Passed
from trunkline.kafka.topics import Change, Create, Differ, Existing, Grow, Refuse, names, needed, plan
from trunkline.settings import Kafka
from trunkline.sinks import HttpSink, Request

KAFKA = Kafka(replication=3, min_insync=2)


@dataclass
class Till:
    name: str = "till"
    verify: Any = None

    def events(self, request: Any) -> list[Event[Any]]:
        raise NotImplementedError


class Store(HttpSink):
    name = "store"

    def request(self, event: Event[Any]) -> Request:
        return Request.put("/x", json=dict(event.data))


def enriched(event: Event[Any], _rows: Any) -> Event[Any]:
    return event


def bus(*, partitions: int = 4, key: str | None = "id") -> Bus:
    orders = Topic("t.orders", dict, key=key, partitions=partitions, keep=days(2))
    lines = Topic("t.lines", dict, key="id", partitions=3)
    people = Table("t.people", dict, key="id")
    return Bus(
        "t",
        [
            Publish(Till(), to=orders),
            Process(orders, [Enrich(enriched, people)], to={lines: lambda _: []}),
            Deliver(lines, to=Store(Target("store", env("STORE_URL")))),
        ],
    )


def applied(changes: list[Change]) -> dict[str, Existing]:
    """Give the topics that a broker has once every creation is done."""
    return {
        change.topic: Existing(change.partitions, change.replication, change.config)
        for change in changes
        if isinstance(change, Create)
    }


def test_everything_that_is_missing_is_created() -> None:
    found = {change.topic: change for change in plan(bus(), {}, KAFKA) if isinstance(change, Create)}
    assert {name: create.partitions for name, create in found.items()} == {
        "t.orders": 4,
        "t.lines": 3,
        "t.people": 1,
        "t.orders.enriched.dlq": 4,
        "t.orders.enriched.replay": 4,
        "t.lines.store.dlq": 3,
        "t.lines.store.replay": 3,
        "trunkline.t.schemas": 1,
        "trunkline.t.outcomes": 1,
        "trunkline.t.replayed": 1,
        "trunkline.t.control": 1,
    }
    assert {create.replication for create in found.values()} == {3}
    assert {create.config["min.insync.replicas"] for create in found.values()} == {"2"}
    assert found["t.orders"].config["retention.ms"] == "172800000"
    assert found["t.orders"].config["max.message.bytes"] == "1114112"
    assert found["t.lines.store.dlq"].config["max.message.bytes"] == "1179648"
    assert found["t.lines.store.replay"].config["max.message.bytes"] == "1179648"
    assert found["t.people"].config["cleanup.policy"] == "compact"
    assert found["trunkline.t.schemas"].config["retention.ms"] == "-1"
    assert found["trunkline.t.schemas"].config["retention.bytes"] == "-1"
    assert found["trunkline.t.outcomes"].config["retention.ms"] == "-1"
    assert found["trunkline.t.replayed"].config["retention.ms"] == "-1"
    assert found["trunkline.t.control"].config["cleanup.policy"] == "compact"
    assert found["trunkline.t.control"].config["message.timestamp.type"] == "LogAppendTime"
    assert names(bus()) == found.keys()


def test_what_became_of_a_letter_is_known_until_the_letter_has_gone() -> None:
    made = [change for change in plan(bus(), {}, KAFKA) if isinstance(change, Create)]
    letters = [change.config for change in made if change.topic.endswith(".dlq")]
    assert letters
    for config in letters:
        # All letters of a segment stay until the youngest may go; and Kafka looks for them every five minutes.
        longest = timedelta(milliseconds=int(config["retention.ms"]) + int(config["segment.ms"]), hours=1)
        assert longest < KEEP.done, "else a letter that was replayed looks open, and is delivered again"
        assert longest < KEEP.rest


def test_what_was_applied_needs_nothing_more() -> None:
    assert plan(bus(), applied(plan(bus(), {}, KAFKA)), KAFKA) == []


def test_more_partitions_on_a_keyed_topic_are_refused_and_its_followers_stay() -> None:
    wider = bus(partitions=8)
    [refused] = plan(wider, applied(plan(bus(), {}, KAFKA)), KAFKA)
    assert isinstance(refused, Refuse)
    assert refused.fault == Fault(
        wider.topics[0].where,
        "t.orders has 4 partitions and 8 are declared: keys would move to other partitions and lose their order. "
        "Declare partitions=4, or a topic of another name.",
    )


def test_a_topic_without_a_key_grows_and_its_dead_letters_with_it() -> None:
    changes = plan(bus(partitions=8, key=None), applied(plan(bus(key=None), {}, KAFKA)), KAFKA)
    assert [(change.topic, change.partitions) for change in changes if isinstance(change, Grow)] == [
        ("t.orders", 8),
        ("t.orders.enriched.dlq", 8),
        ("t.orders.enriched.replay", 8),
    ]
    assert len(changes) == 3


def test_replays_follow_the_partitions_that_their_topic_really_has() -> None:
    existing = {"t.lines": applied(plan(bus(), {}, KAFKA))["t.lines"]}
    existing["t.lines"] = replace(existing["t.lines"], partitions=9)
    changes = plan(bus(), existing, KAFKA)
    created = {change.topic: change.partitions for change in changes if isinstance(change, Create)}
    assert created["t.lines.store.replay"] == created["t.lines.store.dlq"] == 9
    assert Differ("t.lines", "9 partitions, 3 are declared; Kafka never takes any away") in changes


def test_differences_are_only_told() -> None:
    existing = applied(plan(bus(), {}, KAFKA))
    existing["t.orders"] = Existing(4, 1, {**existing["t.orders"].config, "retention.ms": "1"})
    existing["t.lines.store.replay"] = replace(existing["t.lines.store.replay"], partitions=5)
    existing["t.lines.store.dlq"] = replace(existing["t.lines.store.dlq"], partitions=5)
    assert plan(bus(), existing, KAFKA) == [
        Differ("t.orders", "replication is 1, 3 is set"),
        Differ("t.orders", "retention.ms is 1, 172800000 is declared"),
        Differ("t.lines.store.replay", "5 partitions, only 3 are used"),
    ]


@pytest.mark.parametrize(
    ("flow", "topics"),
    [
        ("till", ["t.orders"]),
        ("t.orders.enriched", ["t.orders", "t.lines", "t.people", "t.orders.enriched.dlq", "t.orders.enriched.replay"]),
        ("t.lines.store", ["t.lines", "t.lines.store.dlq", "t.lines.store.replay"]),
    ],
)
def test_a_flow_needs_its_own_topics_and_those_of_the_bus(flow: str, topics: list[str]) -> None:
    own = [f"trunkline.t.{name}" for name in ("schemas", "outcomes", "replayed", "control")]
    assert needed(bus(), [flow]) == [*own, *topics]


def test_only_a_partition_where_records_wait_or_are_gone_is_undecided() -> None:
    read, empty, expired, waiting, deleted, remade = (Slot("t", number) for number in range(6))
    low = {read: 0, empty: 0, expired: 7, waiting: 2, deleted: 6, remade: 0}
    high = {read: 5, empty: 0, expired: 7, waiting: 9, deleted: 9, remade: 3}
    committed = {read: 5, deleted: 5, remade: 4}
    assert beginning(low, high, committed) == ({empty: 0, expired: 7}, [waiting], [deleted, remade])


def test_what_a_start_leaves_out_and_what_was_deleted_before_it_are_told_apart() -> None:
    new, cut, all_of_it = (Slot("t", number) for number in range(3))
    low, begin = {new: 3, cut: 6, all_of_it: 0}, {new: 5, cut: 9, all_of_it: 0}
    assert list(passed("f", low, begin, {cut: 2})) == [
        Passed("f", 0, 3, 5, expired=False),
        Passed("f", 1, 2, 6, expired=True),
        Passed("f", 1, 6, 9, expired=False),
    ]
