"""When a POST is answered: when its event is on the topic, whatever the ledger still has to do."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from tests.trunkline.unit.schemas import OrderPlacedV1
from trunkline import Bus, Event, Publish, Topic
from trunkline.engine.publish import Publisher
from trunkline.errors import Rejected
from trunkline.kafka.events import Sender, Written
from trunkline.kafka.registry import Format
from trunkline.ledger.writer import Writer
from trunkline.observe import NOBODY
from trunkline.sources import Webhook
from trunkline.webhooks import WebhookRequest

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)
orders = Topic("orders", OrderPlacedV1, key="number")
ORDER: OrderPlacedV1 = {"number": "1", "customer": "7", "pieces": 3}


class Anybody:
    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Accept."""

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        return {"id": message_id, "of": body.decode()}


class Web(Webhook):
    name = "web"

    def events(self, _: WebhookRequest) -> list[Event[OrderPlacedV1]]:
        return [Event("1", AT, {"number": "1", "customer": "7", "pieces": 3})]


class Values:
    def encode(self, _: Mapping[str, Any]) -> bytes:
        return b"\0\0\0\0\1value"


class Broker:
    """Acknowledges at once."""

    def __init__(self) -> None:
        self.sent: list[bytes | None] = []

    def sending(self, _topic: str, _key: bytes | None, value: bytes | None, _headers: Any) -> "asyncio.Future[Written]":
        self.sent.append(value)
        done: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        done.set_result(Written(0, len(self.sent) - 1))
        return done


class Claims:
    """A ledger whose one commit is a claim that is ours."""

    def __init__(self) -> None:
        self.notes: list[Callable[[Any], Any]] = []
        """What is still to be written."""

    def write(self, _: Callable[[Any], Any]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(["ours"])
        return future

    def later(self, work: Callable[[Any], Any]) -> None:
        self.notes.append(work)


def test_a_post_is_answered_before_the_ledger_knows_that_its_event_is_published() -> None:
    flow = Publish(Web(Anybody()), to=orders)

    async def post() -> tuple[str, list[bytes | None], int, int]:
        broker, claims = Broker(), Claims()
        publisher = Publisher(
            Bus("bus", [flow]),
            flow,
            form=cast("Format", Values()),
            sender=cast("Sender", broker),
            writer=cast("Writer", claims),
            observe=NOBODY,
        )
        [accepted] = await asyncio.wait_for(publisher.publish(WebhookRequest({}, b"{}")), 10)
        return accepted.outcome, broker.sent, accepted.offset or 0, len(claims.notes)

    assert asyncio.run(post()) == ("published", [b"\0\0\0\0\1value"], 0, 1)


class Panic(BaseException):
    """What libraries written in Rust raise is no Exception either."""


class Leaver(Web):
    def events(self, request: WebhookRequest) -> list[Event[OrderPlacedV1]]:
        if request.body == b"exit":
            sys.exit(3)
        raise Panic(3)


class Leaving(Anybody):
    def check(self, _: Mapping[str, str], body: bytes) -> None:
        if body == b"exit":
            sys.exit(3)
        raise Panic(3)


@pytest.mark.parametrize(("body", "told"), [(b"exit", "SystemExit: 3"), (b"panic", "Panic: 3")])
def test_a_source_or_verifier_that_exits_has_a_bug_and_the_worker_goes_on(body: bytes, told: str) -> None:
    flow = Publish(Leaver(Leaving()), to=orders)
    publisher = Publisher(
        Bus("bus", [flow]),
        flow,
        form=cast("Format", Values()),
        sender=cast("Sender", Broker()),
        writer=cast("Writer", Claims()),
        observe=NOBODY,
    )
    with pytest.raises(RuntimeError, match=f"bug in the source: {told}"):  # answered 500 by the gateway
        asyncio.run(publisher.publish(WebhookRequest({}, body)))
    with pytest.raises(RuntimeError, match=f"bug in the source: {told}"):
        publisher.verify({}, body)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Event("b", datetime(1969, 12, 31, tzinfo=UTC), ORDER), "Event b has the time 1969-12-31T00:00:00+00:00."),
        (Event("c" * 300, AT, {}), f"Event {'c' * 200}: "),
        (Event("d", AT, {**ORDER, "number": "n" * 1_100_000}), "Event d has 2200"),
    ],
    ids=["time", "shape", "size"],
)
def test_of_many_events_the_wrong_one_is_named(wrong: Event[Any], told: str) -> None:
    class Batch(Web):
        def events(self, _: WebhookRequest) -> list[Event[OrderPlacedV1]]:
            return [Event("a", AT, ORDER), wrong]

    flow = Publish(Batch(Anybody()), to=orders)
    of_flow: dict[str, Any] = {
        "form": cast("Format", Values()),
        "sender": cast("Sender", Broker()),
        "writer": cast("Writer", Claims()),
    }
    publisher = Publisher(Bus("bus", [flow]), flow, **of_flow, observe=NOBODY)
    with pytest.raises(Rejected) as refused:
        asyncio.run(publisher.publish(WebhookRequest({}, b"[]")))
    assert str(refused.value).startswith(told)
