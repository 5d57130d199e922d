"""What the clients of the broker do at moments that a real broker does not give on demand."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.trunkline.schemas import NoteWrittenV1
from trunkline import Topic
from trunkline.errors import Unavailable
from trunkline.kafka import events
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import Member, Sender, Slot


class Message:
    def __init__(self, partition: int, offset: int) -> None:
        self._place = partition, offset

    def error(self) -> KafkaError | None:
        return None

    def topic(self) -> str:
        return "t"

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


class Rebalancing:
    """A consumer whose first partition is revoked between the first record of a batch and the rest."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.events: list[str] = []

    def subscribe(self, _: list[str], **on: Callable[..., None]) -> None:
        self.on = on

    def poll(self, _: float) -> Message:
        self.on["on_assign"](self, [TopicPartition("t", 0), TopicPartition("t", 1)])
        return Message(0, 5)

    def consume(self, _: int, __: float) -> list[Message]:
        self.on["on_revoke"](self, [TopicPartition("t", 0)])
        return [Message(1, 7)]

    def incremental_assign(self, _: list[TopicPartition]) -> None:
        pass

    incremental_unassign = resume = incremental_assign


def test_what_was_fetched_from_a_partition_that_is_revoked_meanwhile_is_not_given_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events, "Consumer", Rebalancing)
    member = Member(Cluster("nobody:1"), "g", Topic("t", NoteWrittenV1))
    assert [(record.slot, record.offset) for record in member.fetch(10, 1.0)] == [(Slot("t", 1), 7)]


def test_who_gives_up_on_a_record_does_not_stop_the_others_reports() -> None:
    sender = Sender(Cluster("127.0.0.1:1"), patience=0.2)
    given_up, other = (sender.send("t", None, b"v", ()) for _ in range(2))
    assert not given_up.cancel()
    with pytest.raises(Unavailable, match="did not acknowledge"):
        other.result(30)
    late = sender.send("t", None, b"v", ())
    with pytest.raises(Unavailable):
        late.result(30)
    sender.close()
