"""Buses whose every secret is a canary; each is a function that a worker process can be told to run."""

from collections.abc import Sequence
from typing import Any, Literal

from tests.trunkline.schemas import NoteTakenV1
from tests.trunkline.support import HASTY, QUICK, Desk, Shelf, notes
from trunkline import ApiKey, Bus, Deliver, Event, Publish, Retry, Secret, Target, Topic, env
from trunkline.sinks import HttpSink, Request
from trunkline.sources import StandardWebhooks

AfterDead = Literal["continue", "park_key", "block"]


class Blind(Shelf):
    """A target that knows no idempotency keys."""

    idempotency = None


class Board(HttpSink):
    """A target that stores the last state of each box, and knows no idempotency keys either."""

    name = "shelf"
    writes = "latest"

    def request(self, event: Event[Any]) -> Request:
        return Request.put("/{box}", path={"box": event.key}, json={"number": event.data["number"]})


class BlindBoard(Board):
    """The same, and the bus knows it."""

    idempotency = None


class Annex(Shelf):
    """A second sink of the same target, with an identity of its own."""

    name = "annex"

    def request(self, event: Event[Any]) -> Request:
        where = {"box": f"annex-{event.key}", "number": event.data["number"]}
        return Request.post("/{box}/{number}", path=where, json={"text": event.data["text"]})


def target() -> Target:
    return Target("shelf", env("SHELF_URL"), auth=ApiKey(Secret("SHELF_KEY")))


def bus(prefix: str, topic: Topic, *delivering: Deliver, retired: Sequence[str] = ()) -> Bus:
    publish = Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=topic)
    return Bus(prefix, [publish, *delivering], retired=retired)


def keyed(
    prefix: str,
    partitions: int = 6,
    *,
    hasty: bool = False,
    name: str = "",
    after_dead: AfterDead = "continue",
    called: str = "",
) -> Bus:
    """Deliver to a target that honours keys; `hasty` gives up after a second, `called` is the end of the bus's name."""
    topic = notes(prefix, partitions)
    retry: Retry = HASTY if hasty else QUICK
    return bus(
        prefix + called, topic, Deliver(topic, to=Shelf(target()), retry=retry, name=name, after_dead=after_dead)
    )


def blind(prefix: str, partitions: int = 6, *, after_dead: AfterDead = "continue") -> Bus:
    """Deliver to a target without keys."""
    topic = notes(prefix, partitions)
    return bus(prefix, topic, Deliver(topic, to=Blind(target()), retry=QUICK, after_dead=after_dead))


def board(prefix: str, partitions: int = 6, *, blind: bool = False) -> Bus:
    """Deliver to a target that stores the last state of each key."""
    topic = notes(prefix, partitions)
    return bus(prefix, topic, Deliver(topic, to=(BlindBoard if blind else Board)(target()), retry=QUICK))


def retold(prefix: str, partitions: int = 6) -> Bus:
    """Deliver what `keyed` delivers, with a record that no worker of `keyed` can read."""
    topic = notes(prefix, partitions, NoteTakenV1)
    return bus(prefix, topic, Deliver(topic, to=Shelf(target()), retry=QUICK))


def annexed(prefix: str, partitions: int = 6, *, alone: bool = False) -> Bus:
    """Deliver to a second sink besides the first, or in its place."""
    topic = notes(prefix, partitions)
    sinks = [Annex(target())] if alone else [Shelf(target()), Annex(target())]
    delivering = (Deliver(topic, to=sink, retry=QUICK) for sink in sinks)
    return bus(prefix, topic, *delivering, retired=["shelf"] if alone else [])
