"""What the clients of the broker do at moments that a real broker does not give on demand."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.trunkline.schemas import NoteWrittenV1
from trunkline import Topic
from trunkline.errors import Unavailable
from trunkline.kafka import events
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.continuity import written
from trunkline.kafka.events import AT_END, Member, Sender, Slot, dated, is_of_another, time_in


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

    def leader_epoch(self) -> int | None:
        return None

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


def test_what_stands_beside_an_offset_says_when_and_of_which_topic() -> None:
    ids = {"t": written(UUID(int=7))}
    [known, other] = dated(
        {Slot("t", 0): 5, Slot("u", 1): 6}, ids, {Slot("u", 1): 3}, lambda slot: f"note of {slot.partition}"
    )
    assert (known.topic, known.partition, known.offset) == ("t", 0, 5)
    assert datetime.fromisoformat(time_in(known.metadata or "")) <= datetime.now(UTC)
    assert (known.metadata or "").endswith(";of=AAAAAAAAAAAAAAAAAAAABw note of 0")
    assert (other.metadata or "").partition(" ")[2] == "note of 1"
    terms: list[int | None] = [known.leader_epoch, other.leader_epoch]
    assert terms == [None, 3]
    beside = known.metadata or ""
    assert is_of_another(beside, written(UUID(int=8)))
    assert not is_of_another(beside, ids["t"])
    assert not is_of_another(beside, ""), "there is no such topic, or no id of it"
    for older in (other.metadata or "", "", "at=2026-11-30T12:00:00.000+00:00 ;of=x", "of another client"):
        assert not is_of_another(older, ids["t"])
    assert time_in("of another client") == ""


class MadeAnew(Rebalancing):
    """A consumer whose group has an offset in each topic, of whatever was called so before."""

    def poll(self, _: float) -> Any:
        self.on["on_assign"](self, [TopicPartition("t", 0)])

    def committed(self, places: list[TopicPartition], **_: Any) -> list[TopicPartition]:
        return [TopicPartition(place.topic, place.partition, 9, f"{NOON};of=old its note", 4) for place in places]

    def get_watermark_offsets(self, *_: Any, **__: Any) -> tuple[int, int]:
        return 0, 3

    def commit(self, offsets: list[TopicPartition], **_: Any) -> None:
        self.ends = offsets

    def incremental_assign(self, places: list[TopicPartition]) -> None:
        self.assigned = places


class SomeIds:
    """What a broker says of topics."""

    def __init__(self, **ids: str) -> None:
        self._ids = ids

    def ids(self, _: Any) -> dict[str, str]:
        return self._ids

    def changed(self, _: Any) -> list[str]:
        return []

    def cut_off(self, _: Any) -> dict[tuple[str, int], str]:
        return {}


NOON = "at=2026-11-30T12:00:00.000+00:00"


def test_of_a_topic_that_was_made_anew_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be of another at the next assignment too, and be read from its end again."""
    monkeypatch.setattr(events, "Consumer", MadeAnew)
    monkeypatch.setattr(events, "continuity", lambda _: SomeIds(t="old", r="new"))
    worked: dict[Slot, int] = {}
    member = Member(
        Cluster("nobody:1"),
        "g",
        Topic("t", NoteWrittenV1),
        beside={"r": AT_END},
        assigned=lambda _, offsets: worked.update(offsets),
    )
    assert member.fetch(10, 1.0) == []
    consumer: Any = member._consumer
    assert worked == {Slot("t", 0): 9}
    assert [(place.topic, place.offset, place.leader_epoch) for place in consumer.assigned] == [
        ("t", 9, 4),
        ("r", 3, None),
    ]
    assert [(place.topic, place.offset, place.metadata, place.leader_epoch) for place in consumer.ends] == [
        ("r", 3, None, None)
    ]
