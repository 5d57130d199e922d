"""The patience of the control plane with a broker that is slow, and what it tells of one that is not there."""

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

    def create_topics(self, wanted: Any, **_: object) -> Any:
        return {"topics": [{"name": name, "error_code": 0} for name in wanted]}

    def wait_for_topics(self, _: object) -> None:
        pass

    def describe_topics(self, _: object = None) -> Any:
        return [{"name": "notes", "error_code": 0, "partitions": [{}] * 300}]

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


def test_a_broker_that_does_not_answer_is_told_in_a_line_and_not_with_every_partition(slow: Control) -> None:
    with pytest.raises(Unavailable) as told:
        slow.ends(["notes"])
    assert len(str(told.value)) < 400
