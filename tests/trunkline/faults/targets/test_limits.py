"""A limit that several processes share, and a target that answers 429 to everybody."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.trunkline.support import Attempt, Child, Shelf, Stage, deliver_bus, note, notes, say, wait_for
from trunkline import Deliver, Event, Limit, Target, env
from trunkline.dev.target.behaviour import Behaviour
from trunkline.flow.declare import Bus, group_of
from trunkline.kafka.control import Control
from trunkline.requests import Request

pytestmark = [pytest.mark.faults(group="targets")]
RATE = 100
HELD = 4
"""Calls that two workers may begin at once: each one, however small its share is, and both what a timer's lateness of
20 ms makes up for (`limits.CATCH_UP`). A limit without a burst allows no other."""


class Stamped(Shelf):
    """Writes into the path when its call began, in nanoseconds of the machine: that is what a limit is about."""

    def request(self, event: Event[Any]) -> Request:
        where = {"box": event.key, "number": event.data["number"], "began": time.monotonic_ns()}
        return Request.post("/{box}/{number}/{began}", path=where)


def stamped_bus(prefix: str) -> Bus:
    sink = Stamped(Target("shelf", env("SHELF_URL"), limit=Limit(RATE), breaker=None))
    return Bus(prefix, [Deliver(notes(prefix, 12), to=sink)])


def settled(stage: Stage, bus: Bus) -> Callable[[], bool]:
    """Give the condition that everything on the bus's topic is finished and committed."""
    [flow] = bus.delivering
    return lambda: stage.committed(bus, flow) == stage.ends(bus.topics[0].name)


def busiest(attempts: Sequence[Attempt], seconds: float) -> int:
    """Give the most calls that began in any so many seconds."""
    at = sorted(int(attempt.path.split("/")[3]) / 1e9 for attempt in attempts)
    most = end = 0
    for first in range(len(at)):
        while end < len(at) and at[end] < at[first] + seconds:
            end += 1
        most = max(most, end - first)
    return most


def pace(attempts: Sequence[Attempt], begin: float, end: float) -> float:
    """Give the calls a second between two moments."""
    return sum(begin <= attempt.at < end for attempt in attempts) / (end - begin)


def worker(stage: Stage, name: str) -> Child:
    return stage.child(f"{__name__}:stamped_bus", name=name)


def test_two_processes_keep_one_limit_while_partitions_move(stage: Stage) -> None:
    """(D13) While partitions go from one to the other, and before and after, both together begin what one may.

    In any T seconds they begin RATE * T calls and what both hold at once, HELD. A call is stamped a moment after it
    began: a worker that stands still in between stamps late what it began before, which is HELD again at most, for it
    begins nothing more until then. However late the machine is, that is all.
    """
    bus = stage.make(stamped_bus(stage.prefix))
    [flow] = bus.delivering
    stage.write(bus, [note(number // 300, f"k{number % 300}") for number in range(2_600)])
    with worker(stage, "one"):
        wait_for(lambda: len(stage.attempts()) > 300)
        with worker(stage, "two"):
            with Control(stage.cluster) as control:
                wait_for(lambda: len(control.members(group_of(bus, flow))) == 2)
            joined = stage.attempts()[-1].at
            wait_for(lambda: stage.attempts()[-1].at > joined + 15, seconds=60)
            wait_for(settled(stage, bus), seconds=60)
    attempts = stage.attempts()
    both = pace(attempts, joined + 5, joined + 13)
    most = {seconds: busiest(attempts, seconds) for seconds in (1, 5)}
    say(f"\n{len(attempts)} calls, {both:.1f} a second by two, at most {most[1]} in a second, {most[5]} in five")
    assert both > 0.75 * RATE, "both work: a late machine loses calls, but not half of them (unit/test_limits has 5 %)"
    for seconds, calls in most.items():
        assert calls <= RATE * seconds + 2 * HELD
    assert set(stage.effects().values()) == {1}


@pytest.mark.parametrize("wish", [2, 10**9])
def test_a_storm_of_429_kills_no_event(stage: Stage, wish: int) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=6))
    [flow] = bus.delivering
    stage.target.control.break_(Behaviour(name=stage.prefix, status=429, retry_after=wish))
    stage.write(bus, [note(number, f"k{number % 50}") for number in range(200)])
    constants = {"trunkline.engine.limits.LONGEST_WISH": 3.0, "trunkline.verdict.LONGEST_WISH": 3.0}
    with stage.child("deliver_bus", options={"partitions": 6}, constants=constants):
        wait_for(lambda: stage.attempts() and stage.attempts()[-1].at - stage.attempts()[0].at > 7, seconds=60)
        during = len(stage.attempts())
        stage.target.control.heal(stage.prefix)
        wait_for(settled(stage, bus), seconds=60)
    assert during <= 5 * 50, "each key is called once between two stops"
    assert set(stage.effects().values()) == {1}
    assert len(stage.effects()) == 200
    assert stage.letters(flow) == []
