"""The patience of the control plane with a broker that is slow, and what it tells of one that is not there."""

import math
import time
from typing import Any

import pytest
from kafka.errors import NotLeaderForPartitionError

from trunkline.errors import Unavailable
from trunkline.kafka import control
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.topics import Create


class Slow:
    """An admin client of a broker whose new partitions have no leader until a moment."""

    def __init__(self, *_: object, **__: object) -> None:
        self.until = time.monotonic() + 0.5
        self.asked: list[list[str]] = []

    def create_topics(self, wanted: Any, **_: object) -> Any:
        self.asked.append(list(wanted))
        return {"topics": [{"name": name, "error_code": 0} for name in wanted]}

    def wait_for_topics(self, _: object) -> None:
        pass

    def describe_topics(self, _: object = None) -> Any:
        names = [name for some in self.asked for name in some] or ["notes"]
        return [{"name": name, "error_code": 0, "partitions": [{}] * 300} for name in names]

    def list_partition_offsets(self, wanted: Any, **_: object) -> Any:
        if time.monotonic() < self.until:
            raise NotLeaderForPartitionError(f"timed out for partitions: {list(wanted)}")
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Control:
    monkeypatch.setattr(control, "KafkaAdminClient", Slow)
    monkeypatch.setattr(control, "greet", lambda _: None)
    monkeypatch.setattr(control.Control._offsets, "__kwdefaults__", {"isolation": "read_committed", "patience": 0.1})
    return Control(Cluster("broker:9092"))


def test_new_topics_may_take_longer_than_one_question(slow: Control) -> None:
    create = Create("notes", 300, 1, {}, "events")
    assert slow.apply([create]) == [create]


def test_topics_of_a_large_bus_are_made_in_portions_that_a_controller_takes(slow: Control) -> None:
    sizes = {"a": 12, "b": 480, "c": 12, "huge": 2_000, "d": 1}
    changes = [Create(name, count, 1, {}, "events") for name, count in sizes.items()]
    assert slow.apply(changes) == changes
    admin: Any = slow._admin
    assert admin.asked == [["a", "b"], ["c"], ["huge"], ["d"]]


def test_a_broker_that_does_not_answer_is_told_in_a_line_and_not_with_every_partition(slow: Control) -> None:
    admin: Any = slow._admin
    admin.until = math.inf
    with pytest.raises(Unavailable) as told:
        slow.ends(["notes"])
    assert len(str(told.value)) < 400
