"""Workers killed between the effect and the answer of calls that carry several events (D10)."""

import pytest

from tests.trunkline.faults.deliver.conftest import MARKS, conclusive
from tests.trunkline.integration.test_batches import Bulk, bus_of, serving
from tests.trunkline.support import Stage, note, wait_for
from trunkline.ledger.deliveries import State

pytestmark = MARKS

EVENTS = 600
SCALED = {"trunkline.http.transport.DEADLINE": 2.0, "trunkline.engine.deliver.SPARE": 0.5}


def killed(stage: Stage, bulk: Bulk, *, sealed: bool) -> int:
    """Kill a worker in full flight, let another one finish, and give how many events were in unanswered calls."""
    bus = stage.make(bus_of(stage.prefix, sealed=sealed))
    stage.write(bus, [note(number, f"b{box}") for number in range(EVENTS // 30) for box in range(30)])
    name = "tests.trunkline.integration.test_batches:bus_of"
    bulk.pause = 0.5
    with stage.child(name, options={"sealed": sealed}, constants=SCALED, name="killed") as child:
        wait_for(lambda: len(bulk.effects) > EVENTS // 4, why=lambda: child.log[-3000:])
        child.kill()
    [flow] = bus.delivering
    stage.forget_members(bus, flow)
    before = stage.rows()
    flying = len(bulk.effects) - before[State.DONE]
    conclusive(flying > 0, "no call was in flight")
    if sealed:
        assert before[State.INTENT] >= flying, "invariant announced: an event was sent that the ledger knows nothing of"
    bulk.pause = 0.0
    with stage.child(name, options={"sealed": sealed}, constants=SCALED, name="next") as child:
        wait_for(
            lambda: sum(stage.rows()[state] for state in (State.DONE, State.AMBIGUOUS)) == EVENTS,
            seconds=60,
            why=lambda: (stage.rows(), child.log[-3000:]),
        )
        assert child.terminate() == 0
    return flying


def test_a_kill_before_a_target_with_a_key_for_each_event(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(stage, monkeypatch) as bulk:
        flying = killed(stage, bulk, sealed=False)
        assert stage.rows() == {State.DONE: EVENTS}
        assert len(bulk.effects) == EVENTS, "invariant lost"
        assert set(bulk.effects.values()) == {1}, "invariant duplicates"
        assert bulk.order == {f"b{box}": list(range(EVENTS // 30)) for box in range(30)}, "invariant inversions"
        called = sum(len(items) for _, items in bulk.calls)
        assert EVENTS + flying <= called <= EVENTS + 60, "invariant repeats: what was in flight is sent again, no more"


def test_a_kill_before_a_target_with_one_key_for_a_call(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(stage, monkeypatch) as bulk:
        flying = killed(stage, bulk, sealed=True)
        rows = stage.rows()
        assert flying <= rows[State.AMBIGUOUS] <= 60, "invariant ambiguous: what was in flight, and no more"
        assert set(bulk.effects.values()) == {1}, "invariant duplicates"
        assert len(bulk.effects) >= rows[State.DONE], "invariant lost"
