"""The dead letter and its entry in the audit trail, while the broker refuses the one or the other."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.support import Shelf
from tests.trunkline.unit.making import delivery
from trunkline import Bus, Deliver, Permanent, Target, Topic, env
from trunkline.engine import letters
from trunkline.engine.letters import Letters
from trunkline.errors import Unavailable
from trunkline.kafka.events import Written
from trunkline.ledger.deliveries import State

BUS = Bus("b", [Deliver(Topic("orders", NoteWrittenV1, key="box"), to=Shelf(Target("depot", env("DEPOT_URL"))))])
FLOW = BUS.delivering["orders.shelf"]
REFUSED = Permanent("answered 422", status=422)


class Sender:
    """A broker that says to one record after the other what it is told, and takes the rest."""

    def __init__(self, says: Sequence[Exception | None]) -> None:
        self.says = list(says)
        self.sent: list[tuple[str, bytes | None]] = []

    def send(self, topic: str, _key: bytes | None, value: bytes | None, _headers: Any, **_: Any) -> Future[Written]:
        self.sent.append((topic, value))
        future: Future[Written] = Future()
        if (error := self.says.pop(0) if self.says else None) is not None:
            future.set_exception(error)
        else:
            future.set_result(Written(0, 0))
        return future


@pytest.mark.parametrize(
    ("says", "wanted"),
    [
        ([], ["orders.shelf.dlq", "trail"]),
        ([Unavailable("down")], ["orders.shelf.dlq", "orders.shelf.dlq", "trail"]),
        ([None, Unavailable("down"), Unavailable("down")], ["orders.shelf.dlq", "trail", "trail", "trail"]),
        ([None, Permanent("too large")], ["orders.shelf.dlq", "trail", "trail"]),
        ([Permanent("too large"), None, Unavailable("down")], ["orders.shelf.dlq"] * 2 + ["trail"] * 2),
    ],
)
def test_a_letter_that_is_written_is_not_written_again(
    monkeypatch: pytest.MonkeyPatch, says: Sequence[Exception | None], wanted: list[str]
) -> None:
    """While its entry in the audit trail is refused: there would be another one with each second."""
    monkeypatch.setattr(letters, "AGAIN", 0.0)
    sender: Any = Sender(says)
    writer = Letters(
        BUS, FLOW, sender=sender, owns=lambda _: True, told=lambda _, words: words, see=lambda *_, **__: None
    )
    dead = replace(delivery("a", 7), kind="permanent")
    assert asyncio.run(writer.bury(dead, REFUSED, State.DEAD))
    assert ["trail" if topic.startswith("trunkline.") else topic for topic, _ in sender.sent] == wanted
    referred = isinstance(says[0], Permanent) if says else False
    assert [value for topic, value in sender.sent if topic == "orders.shelf.dlq"][-1] == (None if referred else b"")
