"""Targets that are down, refuse because of too many calls, or are called at a limit: with a broker and a ledger."""

from datetime import timedelta

import pytest

from tests.trunkline.integration.test_delivering import finished, flow_of
from tests.trunkline.support import HASTY, Stage, deliver_bus, first_calls, note, wait_for
from trunkline import Breaker
from trunkline.dev.target.behaviour import Behaviour

SOON = Breaker(failures=5, pause=timedelta(seconds=0.3), probes=2)


@pytest.mark.faults(group="targets")
def test_a_target_that_is_down_for_longer_than_patience_kills_no_event(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, retry=HASTY, breaker=SOON))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=503))
    boxes = [f"k{number}" for number in range(20)]
    stage.write(bus, [note(number, box) for number in range(3) for box in boxes])
    with stage.running(bus) as running:
        wait_for(lambda: stage.attempts() and stage.attempts()[-1].at - stage.attempts()[0].at > 4, why=stage.rows)
        seen = [one.outcome for one in running.seen if one.what == "circuit"]
        assert seen == ["open"]
        assert stage.letters(flow_of(bus)) == []
        during = len(stage.attempts())
        stage.target.control.heal(stage.prefix)
        wait_for(finished(stage, bus), why=running.worker.stopped)
    # Twenty calls began before it opened; after that, one for each trial: at 0.3, 0.6, 1.2 … s.
    assert during <= len(boxes) + SOON.failures + 5
    assert set(stage.effects().values()) == {1}
    assert len(stage.effects()) == 60
    assert set(map(tuple, first_calls(stage.attempts()).values())) == {(0, 1, 2)}
    assert stage.letters(flow_of(bus)) == []
    assert [one.outcome for one in running.seen if one.what == "circuit"][-1] == "closed"
    counted = running.counted(flow_of(bus))
    assert (counted["delivered"], counted["dead"]) == (60, 0)


def test_a_wish_to_wait_stops_every_key_and_no_other_call_is_made(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, retry=HASTY))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/*", status=429, retry_after=3))
    stage.write(bus, [note(1, "a")])
    with stage.running(bus) as running:
        wait_for(lambda: len(stage.attempts()) == 1)
        stage.target.control.heal(stage.prefix)
        stage.write(bus, [note(number, box) for number in range(2, 5) for box in "abc"])
        wait_for(finished(stage, bus), why=running.worker.stopped)
    first, *others = stage.attempts()
    assert min(attempt.at for attempt in others) - first.at >= 2.9
    assert set(stage.effects().values()) == {1}
    assert stage.letters(flow_of(bus)) == []


def test_a_limit_is_kept(stage: Stage, let_go: list[float]) -> None:
    bus = stage.make(deliver_bus(stage.prefix, limit=40))
    stage.write(bus, [note(number, f"k{number % 30}") for number in range(120)])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=running.worker.stopped)
    assert len(let_go) == len(stage.attempts()) == 120
    for first in range(len(let_go) - 41):
        assert let_go[first + 41] - let_go[first] > 0.95, "41 calls after one in less than a second"
