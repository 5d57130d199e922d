"""What is wrong with sinks of more than one call is named before anything runs."""

from datetime import timedelta
from typing import Any

import pytest
from typing_extensions import TypedDict

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from trunkline import Bus, Deliver, Delivered, Event, Retry, Target, Topic, env
from trunkline.flow.check import faults
from trunkline.flow.composite import Answers
from trunkline.flow.kits import warnings
from trunkline.sinks import Call, CompositeSink, HttpSink, Idempotency, Request
from trunkline.verdict import Verdict

NOTES = Topic("notes", NoteWrittenV1, key="box")
SHELF = Target("shelf", env("SHELF_URL"))


def ask(event: Event[NoteWrittenV1], answers: Answers) -> Request:
    return Request.post("/{id}", path={"id": event.id}, json=dict(answers))


def ask_mark(event: Event[MarkV1], _: Answers) -> Request:
    return Request.post("/{id}", path={"id": event.id})


class Numbered(TypedDict):
    number: int


def ask_number(event: Event[Numbered], _: Answers) -> Request:
    return Request.post("/{number}", path={"number": str(event.data["number"])})


async def ask_later(event: Event[NoteWrittenV1], _: Answers) -> Request:
    return Request.post("/{id}", path={"id": event.id})


WRONG: dict[str, Any] = {"later": ask_later, "of one": len}


class Good(CompositeSink):
    name = "good"
    calls = (Call("a", ask, undo=ask), Call("b", ask, needs=["a"]))


def composite(**members: Any) -> CompositeSink:
    kind: type[CompositeSink] = type("Good", (Good,), members)
    return kind(SHELF)


def told(sink: Any, retry: Retry = Retry()) -> list[str]:  # noqa: B008 - frozen
    """Give what is wrong with a sink, but for the topic that nobody writes here."""
    found = faults(Bus("b", [Deliver(NOTES, to=sink, retry=retry)]))
    return [fault.message for fault in found if "nothing above writes it" not in fault.message]


@pytest.mark.parametrize(
    ("sink", "fault"),
    [
        (composite(), None),
        (composite(calls=()), "Good has no calls"),
        (composite(calls=[ask]), "Good.calls holds something of type function"),
        (composite(calls=[Call("A b", ask)]), '"A b" names no call'),
        (composite(calls=[Call("a", ask, needs="b")]), "the needs of a is no list of names"),
        (composite(calls=[Call("a", ask), Call("a", ask)]), "two calls of the name a"),
        (composite(calls=[Call("a", ask, needs=["z"])]), "a needs z, which is none of a"),
        (composite(calls=[Call("a", ask, needs=["b"]), Call("b", ask, needs=["a"])]), "a, b need each other"),
        (composite(calls=[Call("a", ask, needs=["a"])]), "a need each other"),
        (composite(calls=[Call("a", WRONG["later"])]), "the request of a cannot be called"),
        (composite(calls=[Call("a", ask, undo=WRONG["of one"])]), "the undo of a cannot be called"),
        (composite(calls=[Call("a", ask_number)]), None),
        (composite(calls=[Call("a", ask_mark)]), "ask_mark of Good reads MarkV1; notes holds NoteWrittenV1"),
        (composite(on_failure="ignore"), 'the on_failure of Good is "ignore"'),
        (composite(deadline=timedelta(0)), "the deadline of Good is no duration above 0"),
        (composite(deadline=timedelta(minutes=15)), "nothing would be undone"),
        (composite(idempotency=None), "Good has calls and no idempotency header"),
        (Good(SHELF, z=SHELF), "a target for z, which is none of a, b"),
        (Good(SHELF, results=Topic("told", MarkV1)), "does not say what they are"),
    ],
)
def test_a_composite_that_cannot_work(sink: CompositeSink, fault: str | None) -> None:
    found = told(sink)
    assert found == [] if fault is None else any(fault in one for one in found), found


class Own(HttpSink):
    name = "own"

    async def deliver(self, event: Event[NoteWrittenV1], call: Any) -> Verdict:
        assert event
        assert call
        return Delivered(200)


class Sync(HttpSink):
    name = "sync"

    def deliver(self, event: Event[NoteWrittenV1]) -> Verdict:
        assert event
        return Delivered(200)


class Elsewhere(HttpSink):
    name = "elsewhere"
    together = 3

    async def deliver(self, event: Event[MarkV1], call: Any) -> Verdict:
        assert event
        assert call
        return Delivered(200)


def test_a_sink_that_makes_its_calls_itself() -> None:
    assert told(Own(SHELF)) == []
    assert [one.split(". ")[0] for one in told(Sync(SHELF))] == [
        "Sync.deliver is not async",
        "Sync.deliver is given the event and its calls",
    ]
    found = " ".join(told(Elsewhere(SHELF)))
    assert "Elsewhere.deliver reads MarkV1" in found
    assert "Choose one" in found


def test_a_target_that_forgets_keys_before_dead_letters_go() -> None:
    class Forgetful(Own):
        idempotency = Idempotency(window=timedelta(hours=24))

    bus = Bus("b", [Deliver(NOTES, to=Forgetful(SHELF))])
    [warning] = warnings(bus, timedelta(days=14))
    assert "own: its target forgets a key after 1 day" in warning.message
    assert warnings(bus, timedelta(hours=24)) == []
