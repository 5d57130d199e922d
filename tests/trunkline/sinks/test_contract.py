"""What every kind of sink promises, with a real broker, ledger and target: one suite for all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.trunkline.sinks.test_written_sinks import twice
from tests.trunkline.sinks.trips import trips
from tests.trunkline.support import QUICK, Stage, deliver_bus, note, notes, wait_for
from trunkline import Bus, Deliver, Target, env
from trunkline.dev.target.behaviour import Behaviour
from trunkline.ledger.deliveries import State
from trunkline.sinks import HttpSink, Idempotency, Item, Request


class Bulk(HttpSink):
    """Four notes a call."""

    name = "bulk"
    together = 4
    idempotency = Idempotency(None)

    def batch(self, items: Sequence[Item[Any]]) -> Request:
        keys = {"Idempotency-Key": "-".join(item.key[:8] for item in items)}
        return Request.post("/bulk/" + "+".join(item.event.id for item in items), json=len(items), headers=keys)


def bulk(prefix: str) -> Bus:
    return Bus(prefix, [Deliver(notes(prefix, 2), to=Bulk(Target("shelf", env("SHELF_URL"))), retry=QUICK)])


def each(prefix: str) -> Bus:
    return deliver_bus(prefix)


KINDS: dict[str, Callable[[str], Bus]] = {"each": each, "bulk": bulk, "written": twice, "composite": trips}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
REFUSED: dict[Callable[[str], Bus], str] = {each: "/a/1"}
EVENTS = [note(number, box) for number in range(4) for box in "abc"]


@pytest.mark.faults(group="targets")
@kinds
def test_trouble_at_the_target_costs_no_event_and_doubles_none(stage: Stage, make: Callable[[str], Bus]) -> None:
    bus = stage.make(make(stage.prefix))
    for trouble in ({"status": 503}, {"status": 503, "after_apply": True}, {"status": 429}, {"reset": True}):
        stage.target.control.break_(Behaviour(name=stage.prefix, rate=0.1, **trouble))
    stage.target.control.break_(Behaviour(name=stage.prefix, rate=0.1, reset=True, after_apply=True))
    stage.write(bus, EVENTS)
    stage.write(bus, EVENTS)  # the same once more, as a sender's retry would
    with stage.running(bus):
        wait_for(lambda: stage.rows()[State.DONE] == len(EVENTS), why=stage.rows)
    effects = stage.effects()
    if make is twice:
        assert {path: times for path, times in effects.items() if path.startswith("/people")} == {
            f"/people/{box}": 4 for box in "abc"
        }
        effects = type(effects)({path: times for path, times in effects.items() if path.startswith("/things")})
    if make is not bulk:
        assert set(effects.values()) == {1}
    assert stage.rows() == {State.DONE: len(EVENTS)}


@kinds
def test_what_a_target_refuses_is_dead_and_the_next_goes_on(stage: Stage, make: Callable[[str], Bus]) -> None:
    bus = stage.make(make(stage.prefix))
    wrong = Behaviour(name=stage.prefix, match=REFUSED.get(make, "*a-1*"), status=422)
    stage.target.control.break_(wrong)
    stage.write(bus, EVENTS)
    [flow] = bus.delivering
    with stage.running(bus):
        wait_for(lambda: sum(stage.rows().values()) == len(EVENTS), why=stage.rows)
    assert stage.rows() == {State.DONE: len(EVENTS) - 1, State.DEAD: 1}
    [letter] = stage.letters(flow)
    assert dict(letter.headers)["ce_id"] == b"a-1"


@kinds
def test_credentials_that_are_refused_stop_the_sink_and_kill_no_event(stage: Stage, make: Callable[[str], Bus]) -> None:
    bus = stage.make(make(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=401))
    stage.write(bus, EVENTS)
    [flow] = bus.delivering
    with stage.running(bus) as running:
        wait_for(lambda: running.worker.stopped().get(flow))
    assert not stage.letters(flow)
    assert not stage.effects()
    stage.target.control.heal(stage.prefix)
    with stage.running(bus):
        wait_for(lambda: stage.rows()[State.DONE] == len(EVENTS), why=stage.rows)
