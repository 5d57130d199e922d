"""A composite sink for tests: a journey of three bookings at one real target, each paid for once."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from tests.trunkline.schemas import MarkV1
from tests.trunkline.support import QUICK, notes
from trunkline import Bus, Deliver, Event, Retry, Target, Topic, env
from trunkline.flow.composite import Answers, OnFailure
from trunkline.sinks import Call, CompositeSink, Outcome, Request


def booking(name: str) -> Call:
    """Book and cancel something; the answer's key stands for the number of the booking."""

    def request(event: Event[Any], answers: Answers) -> Request:
        needs = {"flight": answers["flight"]["key"], "text": event.data["text"]} if name == "car" else {}
        return Request.post(f"/{name}/{event.id}", json={"number": event.data["number"], **needs})

    def undo(event: Event[Any], answers: Answers) -> Request:
        return Request.post(f"/cancel-{name}/{event.id}", json={"booking": answers[name]["key"]})

    return Call(name, request, needs=["flight"] if name == "car" else [], undo=undo, keep=["key"])


class Trip(CompositeSink):
    """Flight and hotel at once, then the car that waits at the airport."""

    name = "trip"
    calls = (booking("flight"), booking("hotel"), booking("car"))

    def result(self, event: Event[Any], outcome: Outcome) -> Mapping[str, Any]:
        told = " ".join([outcome.state, *(f"{call}={state}" for call, state in sorted(outcome.calls.items()))])
        return {"box": event.key, "number": event.data["number"], "text": told}


def trips(
    prefix: str,
    on_failure: OnFailure = "compensate",
    deadline: float = 60,
    retry: Retry = QUICK,
) -> Bus:
    topic = notes(prefix, 2)
    told = Topic(f"{prefix}.trips", MarkV1, key="box", partitions=2)
    kind = type("Trip", (Trip,), {"on_failure": on_failure, "deadline": timedelta(seconds=deadline)})
    return Bus(prefix, [Deliver(topic, to=kind(Target("shelf", env("SHELF_URL")), results=told), retry=retry)])
