"""Deliveries that are more than one call: what each call needs, what may be made next, and when to take back.

    Course ──advance──▶ Make · GiveUp · Close · Wait · Rest · End  pure, no clock of its own
    Course ──noted(change)──▶ Course                               what the ledger does in one transaction

A call is noted as begun before it is made and as ended before anything follows from it. So whoever goes on with a
course, after whatever crash, knows every call that may have had its effect: it is made again under its own key until
its end is known, and only then left alone, built upon or undone.
"""

import enum
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ClassVar, Literal, Protocol, assert_never, runtime_checkable

from trunkline.errors import Permanent, Unknown
from trunkline.event import Event, derived_id
from trunkline.flow.declare import Bus, Deliver, Target, Topic, source_of
from trunkline.flow.transform import key_of
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.verdict import Delivered, Verdict

Kept = Mapping[str, Any]
Answers = Mapping[str, Kept]
"""What was kept of the answers of the calls that are done, by call."""
Write = Callable[[Event[Any], Answers], Request]
OnFailure = Literal["compensate", "continue", "dead_letter"]

LONGEST = 4096
"""Bytes of JSON that are kept of one answer."""
UNDO = "/undo"


@dataclass(frozen=True)
class Call:
    """One named call of a composite sink.

    `request(event, answers)` and `undo(event, answers)` say what to send; both are pure. `needs` names the calls that
    must be done before, `keep` the members of the JSON answer that later calls, `undo` and the result are given.
    """

    name: str
    request: Write
    needs: Sequence[str] = ()
    undo: Write | None = None
    keep: Sequence[str] = ()


class State(enum.IntEnum):
    """How far one call, or what undoes it, is."""

    BEGUN = 1
    """It may have had its effect."""
    DONE = 2
    FAILED = 3
    """The target has refused it: it had no effect."""


@dataclass(frozen=True, slots=True)
class Made:
    """What is known of one call: what was kept of its answer, or why it was refused.

    `open` counts how often it was begun without an end that is known, `round` is the one whose key it has.
    """

    state: State
    kept: Kept = field(default_factory=dict)
    why: str = ""
    open: int = 0
    round: int = 1


@dataclass(frozen=True, slots=True)
class Course:
    """How far the calls of one event are.

    `round` counts from 1: a replay of what was taken back begins anew, under new keys. `began` is in epoch seconds.
    `given_up` says why it is being taken back, empty while it goes forward; `closed` that nothing of it changes any
    more, so that what is told of it is always the same. `run` is the replay that it was last opened for. `made` is by
    step: a call's name, or that with "/undo" behind it.
    """

    round: int = 1
    began: float = 0.0
    given_up: str = ""
    closed: bool = False
    run: str = ""
    made: Mapping[str, Made] = field(default_factory=dict)

    def state(self, step: str) -> State | None:
        """Say how far a step is; None when it has not begun."""
        made = self.made.get(step)
        return None if made is None else made.state

    @property
    def answers(self) -> Answers:
        """What was kept of the calls that are done."""
        return {step: made.kept for step, made in self.made.items() if made.state is State.DONE and not undoes(step)}

    def key(self, step: str) -> str:
        """Name a step so that its idempotency key is its own, and another one after it was undone."""
        round_ = self.made[step].round if step in self.made else self.round
        return step if round_ == 1 else f"{step}#{round_}"


def undoes(step: str) -> bool:
    """Say whether a step undoes a call."""
    return step.endswith(UNDO)


def call_of(step: str) -> str:
    """Give the name of the call that a step makes or undoes."""
    return step.removesuffix(UNDO)


# Changes, each one transaction of the ledger.


@dataclass(frozen=True, slots=True)
class Open:
    """Go on with a course, or begin it; `now` is in epoch seconds, `run` the live replay that asks, if one does."""

    now: float
    run: str = ""


@dataclass(frozen=True, slots=True)
class Begin:
    """A step is about to be made."""

    round: int
    step: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """A step that was begun certainly had no effect, and may be made again."""

    round: int
    step: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A step is DONE or FAILED."""

    round: int
    step: str
    made: Made


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Begin no call any more and take back what is done, because of `why`.

    Decided when `made` was all that was known.
    """

    round: int
    why: str
    made: Mapping[str, Made]


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing changes any more: everything is taken back, or what is not done is left out.

    Decided when `made` was all that was known.
    """

    round: int
    made: Mapping[str, Made]


Change = Open | Begin | Withdraw | Ended | GiveUp | Close


def noted(course: Course | None, change: Change) -> Course:
    """Give the course after a change; one that comes too late changes nothing.

    DONE is final, and counts after FAILED too. To give up and to close follow only from all that is known. Once the
    course is given up no call begins that had not begun.
    """
    if isinstance(change, Open):
        return opened(course, change)
    if course is None or change.round != course.round or course.closed:
        return course or Course()
    match change:
        case Begin(step=step):
            made = course.made.get(step)
            if made is None and course.given_up and not undoes(step):
                return course
            if made is None or made.state is State.BEGUN:
                again = Made(State.BEGUN, round=course.round) if made is None else made
                return having(course, step, replace(again, open=again.open + 1))
        case Withdraw(step=step):
            made = course.made.get(step)
            if made is not None and made.state is State.BEGUN:
                return having(course, step, replace(made, open=made.open - 1) if made.open > 1 else None)
        case Ended(step=step, made=ended):
            before = course.state(step)
            if before is not State.DONE and (before is not State.FAILED or ended.state is State.DONE):
                round_ = course.made[step].round if step in course.made else course.round
                return having(course, step, replace(ended, round=round_))
        case GiveUp() | Close() if change.made != course.made:
            return course  # another has got further meanwhile: what follows from that is decided anew
        case GiveUp(why=why):
            return replace(course, given_up=course.given_up or why)
        case Close():
            return replace(course, closed=True)
        case _:
            assert_never(change)
    return course


def opened(course: Course | None, change: Open) -> Course:
    """Begin a course, or go on with it: for a replay what was refused is tried again, and what was undone anew."""
    if course is None:
        return Course(began=change.now, run=change.run)
    if change.run in ("", course.run):
        return course
    if course.closed:
        left = {step: made for step, made in course.made.items() if stays(course, step)}
        return Course(round=course.round + 1, began=change.now, run=change.run, made=left)
    again = {step: made for step, made in course.made.items() if made.state is not State.FAILED}
    if course.given_up:  # what could not be undone is tried again; the calls themselves are not
        again |= {step: made for step, made in course.made.items() if not undoes(step)}
    return replace(course, began=change.now, run=change.run, made=again)


def stays(course: Course, step: str) -> bool:
    """Say whether a step still counts when the rest was undone: it may have had its effect, which nothing undoes."""
    state = course.state(step)
    return not undoes(step) and state is not State.FAILED and course.state(step + UNDO) is None


def having(course: Course, step: str, made: Made | None) -> Course:
    """Give the course with what is now known of a step; None: nothing."""
    others = {name: one for name, one in course.made.items() if name != step}
    return replace(course, made=others if made is None else {**others, step: made})


# Decisions.


@dataclass(frozen=True, slots=True)
class Make:
    """Make these steps now, all at once."""

    steps: Sequence[str]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a step that is being made has ended."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing more can be made in this attempt; there is more to do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a composite delivery ended, for `result`.

    "complete": every call is done. "partial": some are refused, late, or needed one that is. "compensated": what was
    done is undone. `calls` says of each "done", "failed", "late" (it may still have its effect), "skipped" (not made)
    or "undone"; `answers` is what was kept of those that are done.
    """

    state: Literal["complete", "partial", "compensated"]
    calls: Mapping[str, Literal["done", "failed", "late", "skipped", "undone"]]
    answers: Answers
    why: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """It is over: with an outcome to be told, or without one when a person must go on with it."""

    verdict: Verdict
    outcome: Outcome | None = None


Next = Make | GiveUp | Close | Wait | Rest | End


@runtime_checkable
class Composite(Protocol):
    """A sink of named calls, as `trunkline.sinks.CompositeSink` is."""

    calls: ClassVar[Sequence[Call]]
    on_failure: ClassVar[OnFailure]
    deadline: ClassVar[timedelta]

    def target_of(self, call: str) -> Target:
        """Give the target that a call goes to."""
        ...

    def verdict(self, response: Response) -> Verdict:
        """Say what an answer means."""
        ...

    def result(self, event: Event[Any], outcome: Outcome) -> Mapping[str, Any]:
        """Say what is published of the end."""
        ...


def advance(sink: Composite, course: Course, *, busy: Collection[str], tried: Collection[str], now: float) -> Next:
    """Say what comes next.

    `busy` are the steps being made, `tried` those that this attempt has made without an end; `now` is epoch seconds.
    """
    if course.closed:
        return undone(sink, course) if course.given_up else partial(sink, course)
    done = {call.name for call in sink.calls if course.state(call.name) is State.DONE}
    if course.given_up:
        return back(sink, course, done, busy, tried)
    refused = [call.name for call in sink.calls if course.state(call.name) is State.FAILED]
    late = now >= course.began + sink.deadline.total_seconds() and len(done) < len(sink.calls)
    skipped = beyond(sink.calls, refused)
    if (refused and sink.on_failure != "continue") or (late and not over(sink, done, refused, skipped)):
        match sink.on_failure:
            case "compensate":
                return GiveUp(course.round, reason(sink, course), course.made)
            case "dead_letter":
                return Wait() if busy else End(Permanent(reason(sink, course)))
            case "continue":
                return Wait() if busy else Close(course.round, course.made)
            case _:
                assert_never(sink.on_failure)
    ready = [
        call.name
        for call in sink.calls
        if call.name not in {*done, *refused, *skipped, *busy, *tried} and done.issuperset(call.needs)
    ]
    if ready:
        return Make(ready)
    if busy:
        return Wait()
    if not over(sink, done, refused, skipped):
        return Rest()
    if refused:
        return Close(course.round, course.made)
    return End(Delivered(200), Outcome("complete", dict.fromkeys(course.answers, "done"), course.answers))


def over(sink: Composite, *ended: Collection[str]) -> bool:
    """Say whether every call is among those that have ended."""
    return {call.name for call in sink.calls} <= {name for names in ended for name in names}


def beyond(calls: Sequence[Call], refused: Collection[str]) -> set[str]:
    """Give the calls that cannot be made because one that they need was refused."""
    found: set[str] = set()
    while new := {call.name for call in calls if not found.union(refused).isdisjoint(call.needs)} - found:
        found |= new
    return found


def reason(sink: Composite, course: Course) -> str:
    """Say why not every call is done."""
    refused = [f"{call.name} {course.made[call.name].why}" for call in sink.calls if failed(course, call.name)]
    return "; ".join(refused) or f"it was not finished within {sink.deadline.total_seconds():g} s"


def failed(course: Course, step: str) -> bool:
    """Say whether a step was refused."""
    return course.state(step) is State.FAILED


def partial(sink: Composite, course: Course) -> End:
    """End without the calls that are not done; when none is, the event is dead."""
    skipped = beyond(sink.calls, [call.name for call in sink.calls if failed(course, call.name)])
    why = reason(sink, course)
    told: dict[str, Any] = {}
    for call in sink.calls:
        match course.state(call.name):
            case State.DONE:
                told[call.name] = "done"
            case State.FAILED:
                told[call.name] = "failed"
            case State.BEGUN:
                told[call.name] = "late"
            case None:
                told[call.name] = "skipped" if call.name in skipped else "late"
    verdict = Delivered(200) if course.answers else Permanent(why)
    return End(verdict, Outcome("partial", told, course.answers, why))


def back(sink: Composite, course: Course, done: set[str], busy: Collection[str], tried: Collection[str]) -> Next:
    """Say what comes next on the way back: a call that may be done is settled, one that is done is undone.

    A call is undone after those that needed it. One whose end is not known holds no other up.
    """
    undoable = [call for call in sink.calls if call.undo is not None]
    unsettled = [call.name for call in undoable if course.state(call.name) is State.BEGUN]
    ended = {call.name for call in undoable if course.state(call.name + UNDO) in (State.DONE, State.FAILED)}
    due = [call.name for call in undoable if call.name in done - ended]
    needed = {name for call in undoable if call.name in due for name in call.needs}
    steps = [*unsettled, *(name + UNDO for name in due if name not in needed)]
    if ready := [step for step in steps if step not in busy and step not in tried]:
        return Make(ready)
    if busy:
        return Wait()
    if steps:
        return Rest()
    if stuck := [name for name in sorted(ended) if failed(course, name + UNDO)]:
        words = [f"{name} could not be undone: {course.made[name + UNDO].why}" for name in stuck]
        return End(Permanent("; ".join([course.given_up, *words]), alarm=True))
    return Close(course.round, course.made)


def undone(sink: Composite, course: Course) -> End:
    """End what was taken back."""
    told: dict[str, Any] = {}
    for call in sink.calls:
        match course.state(call.name), course.state(call.name + UNDO):
            case State.DONE, State.DONE:
                told[call.name] = "undone"
            case State.DONE, _:
                told[call.name] = "done"
            case State.FAILED, _:
                told[call.name] = "failed"
            case State.BEGUN, _:
                told[call.name] = "late"
            case _:
                told[call.name] = "skipped"
    return End(Permanent(course.given_up), Outcome("compensated", told, course.answers, course.given_up))


def write(sink: Composite, step: str, event: Event[Any], answers: Answers) -> Request:
    """Ask a composite for the request of a step.

    Raises:
        Permanent: the event cannot be expressed.
    """
    call = next(call for call in sink.calls if call.name == call_of(step))
    ask = call.undo if undoes(step) else call.request
    if ask is None:
        raise Permanent(f"{call.name} cannot be undone")
    return ask(event, answers)


def kept_of(call: Call, response: Response) -> Kept:
    """Take what a call keeps from its answer.

    Raises:
        Unknown: the answer does not say it, or too much of it; asked again under its key, the target may.
    """
    if not call.keep:
        return {}
    try:
        answer = json.loads(response.body if response.whole else b"null")
        kept = {name: answer[name] for name in call.keep}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Unknown(f"answered {response.status} without {' and '.join(call.keep)}", status=response.status) from None
    if len(json.dumps(kept)) > LONGEST:
        raise Unknown(f"answered {response.status} with more than {LONGEST} bytes to keep", status=response.status)
    return kept


def result_of(
    bus: Bus, flow: Deliver, topic: Topic, event: Event[Any], round_: int, outcome: Outcome
) -> Event[Mapping[str, Any]]:
    """Give the event that tells how a composite delivery ended: in each round another, else always the same (I2).

    Raises:
        Permanent: the sink gives no record of the topic.
    """
    if not isinstance(flow.to, Composite):
        raise Permanent(f"{flow.to.name} has no result")
    data = flow.to.result(event, outcome)
    key = key_of(topic, data)
    return Event(
        id=derived_id(event, topic.name, key, round_ - 1),
        source=source_of(bus, flow),
        type=topic.schema.event_type,
        time=event.time,
        key=key,
        data=data,
        traceparent=event.traceparent,
    )


def ordered(calls: Sequence[Call]) -> Iterator[Call]:
    """Yield the calls that can ever be made, each after those it needs: what is left out needs itself or nobody."""
    given: set[str] = set()
    while ready := [call for call in calls if call.name not in given and given.issuperset(call.needs)]:
        given.update(call.name for call in ready)
        yield from ready
