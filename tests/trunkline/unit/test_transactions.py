"""Why a transaction has failed is asked when the client can answer: not while its offsets are offered."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from trunkline.errors import Unavailable
from trunkline.kafka import transactions
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import Membership, Slot
from trunkline.kafka.transactions import Transactions, Write


class Busy:
    """A producer that answers one question at a time, and drops its records for want of a right."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.report = settings["on_delivery"]
        self.offering, self.over = threading.Event(), threading.Event()
        self.topics: list[str] = []

    def init_transactions(self, _: float) -> None: ...

    def produce(self, topic: str, *_: Any, **__: Any) -> None:
        self.topics.append(topic)

    def begin_transaction(self) -> None:
        busy = self.offering.is_set() and not self.over.is_set()
        raise KafkaException(KafkaError(KafkaError._CONFLICT if busy else KafkaError.TOPIC_AUTHORIZATION_FAILED))

    def flush(self, _: float) -> int:
        assert self.offering.wait(60)
        for topic in self.topics:  # of all that it had not sent, whichever was refused
            self.report(KafkaError(KafkaError._PURGE_QUEUE), SimpleNamespace(topic=lambda topic=topic: topic))
        threading.Timer(0.2, self.over.set).start()
        return 0

    def send_offsets_to_transaction(self, *_: Any) -> None:
        self.offering.set()
        assert self.over.wait(60)


@pytest.mark.parametrize(("topics", "told"), [(["marks"], "marks"), (["signs", "marks", "signs"], "marks or signs")])
def test_a_right_that_is_missing_is_told_while_offsets_are_offered(
    monkeypatch: pytest.MonkeyPatch, topics: list[str], told: str
) -> None:
    monkeypatch.setattr(transactions, "Producer", Busy)
    held = Transactions(Cluster("127.0.0.1:1"), "shop.sales.0")
    held.write([Write(topic, None, b"", []) for topic in topics])
    offering = threading.Thread(target=held.offer, args=({Slot("sales", 0): 8}, Membership(None, {}, {})))
    offering.start()
    with pytest.raises(Unavailable, match=f"the ACL Write on the topic {told} is missing"):
        held.flush()
    offering.join()
