"""A limit that several processes share, and a target that answers 429 to everybody."""

from collections.abc import Callable, Sequence

import pytest

from tests.trunkline.support import Attempt, Child, Stage, deliver_bus, note, say, wait_for
from trunkline.dev.target import Behaviour
from trunkline.flow.declare import Bus, group_of
from trunkline.kafka.control import Control

pytestmark = [pytest.mark.faults(group="targets")]
RATE = 100


def settled(stage: Stage, bus: Bus) -> Callable[[], bool]:
    """Give the condition that everything on the bus's topic is finished and committed."""
    [flow] = bus.delivering
    return lambda: stage.committed(bus, flow) == stage.ends(bus.topics[0].name)


def busiest(attempts: Sequence[Attempt], seconds: float) -> int:
    """Give the most calls that came in any so many seconds."""
    at = sorted(attempt.at for attempt in attempts)
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
    return stage.child("deliver_bus", name=name, options={"partitions": 12, "limit": RATE})


def test_two_processes_keep_one_limit_while_partitions_move(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=12, limit=RATE))
    [flow] = bus.delivering
    stage.write(bus, [note(number // 300, f"k{number % 300}") for number in range(2_600)])
    with worker(stage, "one"):
        wait_for(lambda: len(stage.attempts()) > 300)
        with worker(stage, "two"):
            with Control(stage.bootstrap) as control:
                wait_for(lambda: len(control.members(group_of(bus, flow))) == 2)
            joined = stage.attempts()[-1].at
            wait_for(lambda: stage.attempts()[-1].at > joined + 15, seconds=60)
            wait_for(settled(stage, bus), seconds=60)
    attempts = stage.attempts()
    both = pace(attempts, joined + 5, joined + 13)
    most = {seconds: busiest(attempts, seconds) for seconds in (1, 5)}
    say(f"\n{len(attempts)} calls, {both:.1f} a second by two, at most {most[1]} in a second, {most[5]} in five")
    assert 0.95 * RATE <= both <= 1.05 * RATE
    assert most[5] <= 1.05 * RATE * 5, "in one second more may come than began in it, when the machine is late"
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
