"""The attempts at composite deliveries under every order of answers, failures and crashes that a seed decides.

Ledger and target are models: the ledger changes a course by `noted` alone, one change after the other; the target
honours keys. What a life had under way when it ended may still reach either of them, at any time later, or never.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from trunkline import Event, Target, env
from trunkline.engine.composite import Attempt
from trunkline.errors import Permanent, Retryable, Unavailable, Unknown
from trunkline.flow.composite import (
    Answers,
    Begin,
    Change,
    Close,
    Course,
    Ended,
    GiveUp,
    Made,
    Open,
    Outcome,
    State,
    Withdraw,
    noted,
)
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.sinks import Call, CompositeSink
from trunkline.verdict import Delivered, Verdict

EVENT: Event[Any] = Event("e1", datetime(2026, 7, 1, tzinfo=UTC), {}, source="bus/web", key="k")
LONG = 1_000_000.0
"""Seconds of an attempt: here it ends for other reasons."""
LANDS = 12
"""Turns of the loop after which everything that could go on has gone on."""


def call(name: str, needs: list[str], *, undo: bool = True) -> Call:
    def request(_: Event[Any], answers: Answers) -> Request:
        return Request.post(f"/{name}", json={needed: answers[needed]["id"] for needed in needs})

    def back(_: Event[Any], answers: Answers) -> Request:
        return Request.post(f"/{name}/undo", json=answers[name]["id"])

    return Call(name, request, needs=needs, undo=back if undo else None, keep=["id"])


@dataclass
class World:
    """One event's ledger and target, and what is on its way to them."""

    random: Random
    sink: CompositeSink
    refused: set[str]
    """The steps that the target always refuses."""
    trouble: float
    troubled: bool
    now: float = 1000.0
    course: Course | None = None
    effects: list[tuple[str, str]] = field(default_factory=list)
    """Step and key, in order; each key once."""
    told: dict[int, Outcome] = field(default_factory=dict)
    under_way: list[tuple[Callable[[], Any], asyncio.Future[Any], "Life"]] = field(default_factory=list)

    async def land(self, life: "Life", operation: Callable[[], Any]) -> Any:
        """Have something done by the outside world, whenever it gets there."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.under_way.append((operation, future, life))
        return await future

    def deliver_one(self) -> None:
        """Let one thing that is under way arrive."""
        operation, future, _ = self.under_way.pop(self.random.randrange(len(self.under_way)))
        lost = self.random.random() < self.trouble / 4
        try:
            found = operation()
        except (Unavailable, Retryable, Unknown, Permanent) as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                if lost and isinstance(found, Course):
                    future.set_exception(Unavailable("the ledger's answer was lost"))
                elif lost and isinstance(found, Response):
                    future.set_exception(Unknown("the target's answer was lost"))
                else:
                    future.set_result(found)

    def note(self, change: Change) -> Course:
        if self.random.random() < self.trouble / 8:
            raise Unavailable("the ledger is away")
        self.course = noted(self.course, change)
        return self.course

    def apply(self, step: str, key: str, request: Request) -> Response:
        if self.random.random() < self.trouble / 3:
            raise self.random.choice([Retryable("no connection"), Retryable("busy", status=503), Unknown("no answer")])
        if (step, key) in self.effects:
            return self.answer(step, key)
        if step in self.refused:
            return Response(422)
        if not step.endswith("/undo"):
            [made] = [one for one in self.sink.calls if one.name == step]
            assert request.json == {needed: f"{needed}!{self.standing(needed)}" for needed in made.needs}
        else:
            name = step.removesuffix("/undo")
            assert request.json == f"{name}!{self.standing(name)}"
            if not self.troubled and self.sink.deadline > timedelta(days=1):  # else an end may not have been known
                self.undone_last(name)
        self.effects.append((step, key))
        if self.random.random() < self.trouble / 6:
            raise Retryable("it broke afterwards", status=500)
        return self.answer(step, key)

    def undone_last(self, name: str) -> None:
        """Make sure that what needed a call was undone before it."""
        assert self.course is not None
        for one in self.sink.calls:
            if name in one.needs and one.undo is not None and self.course.state(one.name) is State.DONE:
                assert self.course.state(f"{one.name}/undo") in (State.DONE, State.FAILED)

    def answer(self, step: str, key: str) -> Response:
        return Response(200, body=f'{{"id": "{step}!{key}"}}'.encode())

    def standing(self, name: str) -> str:
        """Give the key of the newest effect of a call."""
        return [key for step, key in self.effects if step == name][-1]

    def publish(self, round_: int, outcome: Outcome) -> None:
        assert self.told.setdefault(round_, outcome) == outcome, "a result that comes again is the same"


@dataclass
class Life:
    """One process's work on the event; `zombie` once another has taken over."""

    world: World
    run: str
    zombie: bool = False
    stopped_at: int = 1_000_000

    async def note(self, change: Change) -> Course:
        found: Course = await self.world.land(self, lambda: self.world.note(change))
        return found

    async def send(self, step: str, key: str, request: Request, *, again: bool) -> Response:
        del again
        found: Response = await self.world.land(self, lambda: self.world.apply(step, key, request))
        return found

    async def publish(self, round_: int, outcome: Outcome) -> None:
        await self.world.land(self, lambda: self.world.publish(round_, outcome))

    def may_begin(self) -> bool:
        return not self.zombie

    def told(self, words: str) -> str:
        return words

    async def attempt(self) -> Verdict | None:
        try:
            clock = lambda: self.world.now  # noqa: E731 - read anew each time
            return await Attempt(self.world.sink, EVENT, self, seconds=LONG, now=clock).run(self.run)
        except Unavailable:
            return None


async def until_over(world: World, run: str) -> Verdict:
    """Let lives follow each other, some dying and some beside the next, until the event is over."""
    random = world.random
    for turn in itertools.count():
        assert turn < 400, f"it never ends: {world.course}"
        if turn > 40:
            world.trouble = 0.0
        life = Life(world, run)
        task = asyncio.create_task(life.attempt())
        dies = random.randrange(1, 25) if random.random() < world.trouble else 0
        frozen = random.random() < 0.3
        for step in itertools.count(1):
            for _ in range(LANDS):
                await asyncio.sleep(0)
            if task.done():
                break
            if step == dies:
                life.zombie = True
                if not frozen:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    world.under_way = [one for one in world.under_way if one[2] is not life or random.random() < 0.5]
                break
            if random.random() < 0.2:
                world.now += random.random() * 5
            if world.under_way:
                world.deliver_one()
        if task.done() and not task.cancelled():
            verdict = task.result()
            if isinstance(verdict, Delivered | Permanent):
                return verdict
        world.now += random.random() * 10
    raise AssertionError


async def settle(world: World) -> None:
    """Let everything arrive that is still under way, and what zombies do then."""
    while True:
        for _ in range(LANDS):
            await asyncio.sleep(0)
        if not world.under_way:
            return
        world.deliver_one()


def sink_of(random: Random) -> CompositeSink:
    names = ["a", "b", "c", "d"][: random.randint(2, 4)]
    calls = [
        call(name, [one for one in names[:number] if random.random() < 0.4], undo=random.random() < 0.85)
        for number, name in enumerate(names)
    ]
    members = {
        "name": "trip",
        "calls": calls,
        "on_failure": random.choice(["compensate", "compensate", "continue", "dead_letter"]),
        "deadline": timedelta(seconds=random.choice([5, 40, 100_000])),
    }
    kind: type[CompositeSink] = type("Trip", (CompositeSink,), members)
    return kind(Target("t", env("T")))


async def simulate(seed: int) -> Counter[str]:
    """Run one schedule and return what it has met."""
    random = Random(seed)  # noqa: S311 - a schedule that can be repeated
    sink = sink_of(random)
    steps = [step for one in sink.calls for step in (one.name, *([f"{one.name}/undo"] if one.undo else []))]
    refused = {step for step in steps if random.random() < (0.1 if step.endswith("/undo") else 0.2)}
    trouble = random.choice([0.0, 0.3, 0.8])
    world = World(random, sink, refused, trouble, troubled=trouble > 0)
    met: Counter[str] = Counter()
    verdict = await until_over(world, "")
    await settle(world)
    account(world, verdict, replays=0)
    met[f"{sink.on_failure} {type(verdict).__name__}"] += 1
    for replay in range(1, 4):
        if isinstance(verdict, Delivered):
            break
        if random.random() < 0.7:
            world.refused = set()
        verdict = await until_over(world, f"run{replay}")
        await settle(world)
        account(world, verdict, replays=replay)
        met[f"{sink.on_failure} replayed {type(verdict).__name__}"] += 1
    return met


def account(world: World, verdict: Verdict, *, replays: int) -> None:
    """Balance the target against what was promised."""
    assert world.course is not None
    assert not [made for made in world.course.made.values() if "bug" in made.why], world.course
    done: Counter[str] = Counter()
    for step, _ in world.effects:  # in order: what is undone may be done again, by a replay
        name = step.removesuffix("/undo")
        done[name] += -1 if step.endswith("/undo") else 1
        assert done[name] in (0, 1), f"{step}: {world.effects}"
    if not replays:
        assert max(Counter(step for step, _ in world.effects).values(), default=0) <= 1
    outcome = world.told.get(world.course.round)
    names = {one.name for one in world.sink.calls}
    if isinstance(verdict, Delivered):
        assert outcome is not None
        if outcome.state == "complete":
            assert {name for name in names if done[name]} == names
        else:
            assert world.sink.on_failure == "continue"
        assert all(done[name] for name in outcome.answers)
    elif world.sink.on_failure == "compensate" and world.course.given_up:
        stuck = {one for one in names if world.course.state(f"{one}/undo") is State.FAILED}
        undoable = {one.name for one in world.sink.calls if one.undo is not None}
        assert {name for name in undoable if done[name]} == stuck
        assert world.course.closed is not bool(stuck)


@pytest.mark.parametrize("first", range(0, 1200, 300))
def test_each_paid_call_is_made_once_and_taken_back_once(first: int) -> None:
    met: Counter[str] = Counter()
    for seed in range(first, first + 300):
        try:
            met += asyncio.run(simulate(seed))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    for told in ("compensate", "continue", "dead_letter"):
        assert met[f"{told} Delivered"] > 5
        assert met[f"{told} Permanent"] > 5
        assert met[f"{told} replayed Delivered"] > 1


def test_a_change_that_comes_too_late_changes_nothing() -> None:
    first = noted(None, Open(5.0))
    assert first == Course(began=5.0)
    assert noted(first, Open(9.0)) is first
    done = noted(noted(first, Begin(1, "a")), Ended(1, "a", Made(State.DONE)))
    for late in (
        Begin(1, "a"),
        Begin(2, "b"),
        Withdraw(1, "a"),
        Ended(1, "a", Made(State.FAILED, why="no")),
        GiveUp(1, "it was late when a was not done", first.made),
        Close(1, first.made),
    ):
        assert noted(done, late) == done
    given_up = noted(done, GiveUp(1, "b is refused", done.made))
    assert given_up.given_up == "b is refused"
    assert noted(given_up, Begin(1, "b")) == given_up
    refused = noted(first, Ended(1, "a", Made(State.FAILED)))
    assert noted(refused, Ended(1, "a", Made(State.DONE))).state("a") is State.DONE
    closed = noted(given_up, Close(1, given_up.made))
    assert noted(closed, Ended(1, "b", Made(State.DONE))) == closed
    again = noted(noted(Course(closed=True, given_up="no"), Open(9.0, "run1")), Open(10.0, "run1"))
    assert again == Course(round=2, began=9.0, run="run1")
