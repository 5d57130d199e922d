"""Workers of a delivering flow that are killed, ended and joined while calls are in flight."""

import os
import signal

import pytest

from tests.trunkline.support import Stage, ask, counts, deliver_bus, header, load, note, overlaps, say, wait_for
from trunkline.dev.target.behaviour import Behaviour
from trunkline.flow.declare import Bus
from trunkline.ledger.deliveries import State

pytestmark = pytest.mark.faults(group="main")


def flow_of(bus: Bus) -> str:
    [name] = bus.delivering
    return name


def finished(stage: Stage, bus: Bus) -> bool:
    return stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name)


def when_busy(stage: Stage, effects: int) -> int:
    """Wait for more than so many effects and for fifty calls in flight, and give their number at that moment."""
    found = [0]

    def busy() -> bool:
        found.append(stage.in_flight())
        return found[-1] >= 50 and len(stage.effects()) > effects

    wait_for(busy, why=lambda: found[-1])
    return found[-1]


def in_order(stage: Stage) -> None:
    """Check that what had an effect first was written first, key by key."""
    applied: dict[str, list[int]] = {}
    for attempt in stage.first_applications():
        applied.setdefault(attempt.box, []).append(attempt.number)
    for box, numbers in applied.items():
        assert numbers == sorted(numbers), f"the order of {box} is {numbers}"


def test_three_killed_workers_lose_nothing_and_repeat_no_effect(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=6))
    stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=300))
    stage.write(bus, [note(number, f"k{key}") for number in range(12) for key in range(80)])
    for kill in range(3):
        effects = len(stage.effects())
        with stage.child("deliver_bus", options={"partitions": 6}) as child:
            in_flight = when_busy(stage, effects + 80)
            child.kill()
        stage.forget_members(bus, flow_of(bus))
        say(f"kill {kill + 1}: {in_flight} calls in flight, {len(stage.effects())} effects")
    assert len(stage.effects()) < 960, "inconclusive: nothing was left to do after the kills"
    with stage.child("deliver_bus", options={"partitions": 6}) as child:
        wait_for(lambda: finished(stage, bus), why=lambda: child.log)
        assert child.terminate() == 0
    effects_of = stage.effects()
    assert len(effects_of) == 960, "something is lost"
    assert set(effects_of.values()) == {1}, "something had its effect twice"
    assert len(stage.attempts()) > 960, "inconclusive: no kill met a call in flight"
    in_order(stage)
    assert overlaps(stage.attempts(), 0.3) == []
    assert stage.rows() == {State.DONE: 960}


def test_a_worker_killed_between_letter_and_ledger_repeats_the_letter_alone(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/2", status=422))
    stage.write(bus, [note(number) for number in range(1, 5)])
    with stage.child("deliver_bus", die="dead", options={"partitions": 1}) as child:
        assert child.wait() == -9
    stage.forget_members(bus, flow_of(bus))
    assert [header(letter, "ce_id") for letter in stage.letters(flow_of(bus))] == ["a-2"]
    assert stage.rows()[State.DEAD] == 0
    assert stage.committed(bus, flow_of(bus))[0] <= 1
    with stage.child("deliver_bus", options={"partitions": 1}) as child:
        wait_for(lambda: finished(stage, bus), why=lambda: child.log)
        assert child.terminate() == 0
    letters = stage.letters(flow_of(bus))
    assert {header(letter, "ce_id") for letter in letters} == {"a-2"}
    assert len(letters) == 2
    assert stage.effects() == {"/a/1": 1, "/a/3": 1, "/a/4": 1}
    assert stage.rows() == {State.DONE: 3, State.DEAD: 1}
    assert stage.committed(bus, flow_of(bus)) == {0: 4}


@pytest.mark.parametrize("moment", ["calling", "answered", "recorded"])
def test_a_worker_killed_around_a_call_repeats_at_most_that_call(stage: Stage, moment: str) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(number) for number in range(6)])
    with stage.child("deliver_bus", die=moment, after=3, options={"partitions": 1}) as child:
        assert child.wait() == -9
    stage.forget_members(bus, flow_of(bus))
    done = stage.rows()[State.DONE]
    with stage.child("deliver_bus", options={"partitions": 1}) as child:
        wait_for(lambda: finished(stage, bus), why=lambda: child.log)
        assert child.terminate() == 0
    assert done == {"calling": 2, "answered": 2, "recorded": 3}[moment]
    assert stage.effects() == {f"/a/{number}": 1 for number in range(6)}
    assert [attempt.number for attempt in stage.attempts()] == {
        "calling": [0, 1, 2, 3, 4, 5],
        "answered": [0, 1, 2, 2, 3, 4, 5],
        "recorded": [0, 1, 2, 3, 4, 5],
    }[moment]


def test_a_worker_that_is_told_to_end_finishes_its_calls_and_nothing_is_sent_again(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=6))
    stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=300))
    stage.write(bus, [note(number, f"k{key}") for number in range(6) for key in range(80)])
    with stage.child("deliver_bus", options={"partitions": 6}) as child:
        when_busy(stage, 80)
        assert child.terminate() == 0
    sent = len(stage.attempts())
    assert sent == len(stage.effects()) == stage.rows()[State.DONE]
    assert sent < 480, "inconclusive: nothing was left to do"
    with stage.child("deliver_bus", options={"partitions": 6}) as child:
        wait_for(lambda: finished(stage, bus), why=lambda: child.log)
        assert child.terminate() == 0
    assert len(stage.attempts()) == len(stage.effects()) == 480
    in_order(stage)


def test_workers_that_join_leave_and_die_share_the_keys_and_no_call_overlaps(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=6))
    options = {"partitions": 6}
    stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=100))
    with stage.child("deliver_bus", options=options) as first:
        with load(stage, bus, 60) as rounds:
            wait_for(lambda: counts(first, "delivered"))
            with stage.child("deliver_bus", slot=1, name="joins", options=options) as joins:
                wait_for(lambda: counts(joins, "delivered"), why=lambda: joins.log)
                assert joins.terminate() == 0, joins.log
            with stage.child("deliver_bus", slot=1, name="dies", options=options) as dies:
                wait_for(lambda: counts(dies, "delivered") and stage.in_flight() >= 20, why=lambda: dies.log)
                dies.kill()
        wait_for(lambda: finished(stage, bus), seconds=60, why=lambda: first.log)
        assert first.terminate() == 0
    assert len(stage.effects()) == rounds[0] * 60, "something is lost"
    assert set(stage.effects().values()) == {1}
    in_order(stage)
    assert overlaps(stage.attempts(), 0.1) == []
    assert stage.rows() == {State.DONE: rounds[0] * 60}


def test_a_worker_that_was_frozen_past_its_session_does_no_harm_and_works_on(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=6))
    options = {"partitions": 6}
    stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=300))
    stage.write(bus, [note(number, f"k{key}") for number in range(15) for key in range(80)])
    with stage.child("deliver_bus", name="frozen", options=options) as frozen:
        when_busy(stage, 80)
        stage.freeze(frozen)
        with stage.child("deliver_bus", slot=1, name="other", options=options) as other:
            wait_for(lambda: counts(other, "delivered"), why=lambda: other.log)
            before = len(stage.attempts())
            os.kill(frozen.pid, signal.SIGCONT)
            wait_for(lambda: finished(stage, bus), why=lambda: (frozen.log, other.log))
            after = len(stage.attempts()) - before
            say(f"{after} calls after the thaw, {len(overlaps(stage.attempts(), 0.3))} overlaps")
            assert len(stage.effects()) == 1200
            assert set(stage.effects().values()) == {1}
            in_order(stage)
            assert stage.rows() == {State.DONE: 1200}
            assert other.terminate() == 0
        stage.write(bus, [note(15, f"k{key}") for key in range(80)])
        wait_for(lambda: finished(stage, bus), why=lambda: frozen.log)
        assert len(stage.effects()) == 1280
        assert ask(f"{frozen.url}/readyz").status_code == 200
        assert frozen.terminate() == 0, frozen.log
