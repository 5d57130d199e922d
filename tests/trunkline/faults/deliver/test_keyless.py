"""Targets without idempotency keys: nothing is sent twice; what may have been applied is set aside and counted."""

import pytest

from tests.trunkline.faults.deliver.conftest import EVENTS, KEYS, MARKS, Case, conclusive
from tests.trunkline.support import counts, wait_for

pytestmark = MARKS

SCALED = {"trunkline.http.transport.DEADLINE": 2.0, "trunkline.engine.deliver.SPARE": 0.5}
"""A call is over after two and a half seconds."""


@pytest.mark.parametrize("moment", ["prepared", "calling", "answered", "buried", "recorded"])
def test_a_kill_before_a_target_without_keys(case: Case, moment: str) -> None:
    case.make("blind")
    case.refuse()
    case.strike(hang=0.03, deaf=True)
    case.write(EVENTS // 2, refused=0.1)
    for number in range(2):
        after = case.random.randint(10, 30) if moment == "buried" else case.random.randint(100, 300)
        with case.worker(die=moment, after=after, constants=SCALED) as child:
            assert child.wait() == -9, f"kill {number + 1} did not happen: {child.log[-3000:]}"
        case.forget_killed()
    conclusive(not case.finished(), "nothing was left to do after the kills")
    case.run_out(constants=SCALED)
    found = case.settle()
    assert found.states["done"] + found.states["ambiguous"] + found.states["dead"] == EVENTS // 2
    assert found.attempts <= EVENTS // 2, "invariant blind: no event is called twice"
    assert found.states["ambiguous"] <= case.kills * KEYS, "invariant ambiguous: more than were in flight"
    if moment != "recorded":
        conclusive(found.states["ambiguous"] > 0, "no call was under way")


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_a_reset_by_a_target_without_keys(case: Case, *, applied: bool) -> None:
    case.make("blind")
    case.strike(reset=True, after_apply=applied, rate=0.05)
    case.strike(status=503, rate=0.05)
    case.write()
    case.run_out()
    found = case.settle()
    unknown = found.states["ambiguous"]
    conclusive(unknown >= EVENTS // 50, "hardly a call was reset")
    assert found.states == {"done": EVENTS - unknown, "ambiguous": unknown}
    assert case.target.statuses[None] == unknown, "invariant blind: an unknown outcome is not tried again"
    assert sum(case.target.effects.values()) == EVENTS - (0 if applied else unknown)


@pytest.mark.parametrize("bus", ["keyed", "blind"])
def test_a_key_that_is_parked(case: Case, bus: str) -> None:
    case.make(bus, after_dead="park_key")
    case.refuse()
    case.strike(hang=0.01, deaf=True)
    case.write(EVENTS // 2, refused=0.02)
    with case.worker(die="parked", after=20, constants=SCALED) as child:
        assert child.wait() == -9, child.log[-3000:]
    case.forget_killed()
    case.write(EVENTS // 2)
    case.run_out(constants=SCALED)
    found = case.settle(doubled=KEYS if bus == "keyed" else 0)
    conclusive(found.states["parked"] >= 100, "hardly an event was parked")
    assert sum(found.states[state] for state in ("done", "dead", "parked", "ambiguous")) == EVENTS
    assert bus == "blind" or not found.states["ambiguous"]
    dead: set[str] = set()
    late = []
    for one, state in case.states().items():
        if state != "parked" and one.key in dead:
            late.append(f"{one.id} ({state})")
        if state in {"dead", "ambiguous"}:
            dead.add(one.key)
    assert not late, f"invariant parked: {len(late)} events were called after one of their key had died: {late[:5]}"


def test_a_last_value_at_a_target_without_keys(case: Case) -> None:
    case.make("board")
    case.stores = True
    case.strike(stores="number", hang=0.05, deaf=True)
    case.write()
    for _ in range(2):
        with case.worker(die="answered", after=case.random.randint(100, 400)) as child:
            assert child.wait() == -9, child.log[-3000:]
        case.forget_killed()
    with case.worker("frozen") as frozen:
        case.until_busy(frozen)
        case.stage.freeze(frozen)
        with case.worker("other", slot=1) as other:
            wait_for(lambda: counts(other, "delivered"), why=lambda: other.log)
            case.thaw(frozen)
            case.until_finished(60, frozen, other)
            case.end(other)
        case.end(frozen)
    back = case.figures["steps back"] = len(case.target.steps_back())
    found = case.settle(doubled=3 * KEYS)
    assert found.states == {"done": EVENTS}
    assert back <= 3 * KEYS


def test_a_last_value_at_a_target_that_is_known_to_have_no_keys(case: Case) -> None:
    case.make("board", blind=True)
    case.stores = True
    case.strike(stores="number", hang=0.05, deaf=True)
    case.write()
    for _ in range(2):
        with case.worker(die="calling", after=case.random.randint(100, 400), constants=SCALED) as child:
            assert child.wait() == -9, child.log[-3000:]
        case.forget_killed()
    case.run_out(constants=SCALED)
    found = case.settle()
    conclusive(found.states["ambiguous"] > 0, "no call was under way")
    assert found.states["done"] + found.states["ambiguous"] == EVENTS
    assert not case.target.steps_back(), "invariant back: nothing is sent twice"
