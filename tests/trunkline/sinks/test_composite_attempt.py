"""How long one attempt at a composite delivery goes on, and what it says when there is more to do."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.sinks.test_composite_simulated import EVENT, call
from tests.trunkline.unit.making import delivery
from trunkline import Bus, Deliver, Target, Topic, env
from trunkline.engine import composer as composing
from trunkline.engine.composer import Composer
from trunkline.engine.composite import Attempt
from trunkline.errors import Halt, Retryable, Unavailable, Unknown
from trunkline.flow.composite import Change, Course, Outcome, State, noted
from trunkline.observe import Observed
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.sinks import CompositeSink
from trunkline.verdict import Delivered

Answer = Callable[[], Response]


class Pair(CompositeSink):
    name = "pair"
    calls = (call("a", []), call("b", ["a"]))


@dataclass
class Desk:
    """A ledger, and a target that does for each step what it is told, or answers."""

    target: dict[str, Any] = field(default_factory=dict)
    course: Course | None = None
    sent: list[str] = field(default_factory=list)
    again: list[bool] = field(default_factory=list)
    open: bool = True

    async def note(self, change: Change) -> Course:
        self.course = noted(self.course, change)
        return self.course

    async def send(self, step: str, key: str, request: Request, *, again: bool) -> Response:
        assert request.method == "POST"
        self.sent.append(key)
        self.again.append(again)
        match self.target.get(step):
            case Exception() as error:
                raise error
            case float() as seconds:
                await asyncio.sleep(seconds)
            case int() as status:
                return Response(status)
        return Response(200, body=b'{"id": 1}')

    async def publish(self, round_: int, outcome: Outcome) -> None:
        raise AssertionError(round_, outcome)

    def may_begin(self) -> bool:
        return self.open

    def told(self, words: str) -> str:
        return words.replace("secret", "[secret]")


def attempt(desk: Desk, seconds: float = 1.0, sink: type[CompositeSink] = Pair) -> Any:
    return asyncio.run(Attempt(sink(Target("t", env("T"))), EVENT, desk, seconds=seconds).run())


def test_no_call_begins_in_the_second_half_of_an_attempt() -> None:
    desk = Desk({"a": 1.5})
    found = attempt(desk, seconds=2.5)
    assert isinstance(found, Retryable)
    assert "stopped between two calls" in str(found)
    assert desk.sent == ["a"]
    assert desk.course is not None
    assert desk.course.state("a") is State.DONE


def test_a_call_is_cut_at_the_end_of_the_attempt_and_made_again_under_its_key() -> None:
    desk = Desk({"a": 30.0})
    assert isinstance(attempt(desk, seconds=1.0), Unknown)
    desk.target = {}
    desk.publish = lambda *_: asyncio.sleep(0)  # type: ignore[method-assign]  # says nothing
    assert attempt(desk) == Delivered(200)
    assert desk.sent == ["a", "a", "b"]
    assert desk.again == [False, True, False]


def test_a_call_is_cut_when_the_whole_is_late() -> None:
    class Brief(Pair):
        on_failure = "dead_letter"
        deadline = timedelta(seconds=0.1)

    assert str(attempt(Desk({"a": 30.0}), seconds=60.0, sink=Brief)) == "it was not finished within 0.1 s"


def test_nothing_begins_where_nothing_may() -> None:
    desk = Desk(open=False)
    assert isinstance(attempt(desk), Retryable)
    assert desk.sent == []


@pytest.mark.parametrize(
    ("failure", "kind", "left"),
    [
        (Retryable("busy", status=503, after=7.0), Retryable, State.BEGUN),
        (Retryable("no connection"), Retryable, None),
        (Retryable("slow down", status=429), Retryable, None),
        (Unknown("no answer"), Unknown, State.BEGUN),
        (401, Halt, None),
    ],
)
def test_what_has_no_end_yet(failure: Any, kind: type, left: State | None) -> None:
    desk = Desk({"a": failure})
    found = attempt(desk)
    assert isinstance(found, kind)
    assert desk.course is not None
    assert desk.course.state("a") is left
    assert getattr(found, "after", None) == getattr(failure, "after", None)


def test_a_target_that_stands_still_counts_for_nothing() -> None:
    desk = Desk({"a": Unavailable("the breaker is open")})
    with pytest.raises(Unavailable, match="the breaker is open"):
        attempt(desk)
    assert desk.course is not None
    assert desk.course.made == {}


def test_an_answer_without_what_is_kept_is_asked_for_again() -> None:
    desk = Desk({"a": 200})
    found = attempt(desk)
    assert isinstance(found, Unknown)
    assert "a answered 200 without id" in str(found)


def giving(found: Any) -> type[CompositeSink]:
    """Make a sink whose verdict on every answer is this, or raises it."""

    def verdict(_self: Pair, _response: Response) -> Any:
        if isinstance(found, KeyError):
            raise found
        return found

    return type("Odd", (Pair,), {"verdict": verdict})


@pytest.mark.parametrize(
    ("sink", "status", "kind", "left"),
    [
        (giving(Retryable("it has not ended yet", after=5.0)), 200, Retryable, State.BEGUN),
        (giving(Retryable("it has not ended yet")), 503, Retryable, State.BEGUN),
        (giving(Retryable("it has not begun")), 429, Retryable, None),
        (giving(Halt("it answers oddly")), 200, Halt, State.BEGUN),
        (giving(None), 200, Unknown, State.BEGUN),
        (giving(KeyError("state")), 200, Unknown, State.BEGUN),
        (Pair, 303, Halt, State.BEGUN),
        (Pair, 401, Halt, None),
    ],
)
def test_a_call_that_was_answered_may_have_had_its_effect_whatever_the_sink_says(
    sink: type[CompositeSink], status: int, kind: type, left: State | None
) -> None:
    """Else nothing would undo it."""
    desk = Desk({"a": status})
    assert isinstance(attempt(desk, sink=sink), kind)
    assert desk.sent == ["a"]
    assert desk.course is not None
    assert desk.course.state("a") is left


class Answering:
    """Targets of which every one answers 200."""

    async def call(self, *_: Any, **__: Any) -> Response:
        return Response(200)


@pytest.mark.parametrize("found", [KeyError("state"), None, Delivered(200)])
def test_an_answer_is_given_back_whatever_the_sink_makes_of_it(found: Any) -> None:
    """What it means is the attempt's to ask, which has the answer then."""
    sink = giving(found)(Target("t", env("T")))
    bus = Bus("b", [Deliver(Topic("trips", NoteWrittenV1, key="box"), to=sink)])
    seen: list[Observed] = []
    targets: Any = Answering()
    nothing: Any = None
    composer = Composer(bus, bus.delivering["trips.pair"], sink, {}, targets, nothing, nothing, seen.append)
    at = composing.Desk(composer, delivery("a", 1), lambda: True, str)
    assert asyncio.run(at.send("a", "a", Request.post("/a"), again=False)) == Response(200)
    [made] = [one for one in seen if one.what == "attempt"]
    assert (made.status, made.outcome) == (200, "delivered" if found == Delivered(200) else "permanent")
