"""Workers of one topology give way to workers of another, whose events the first cannot read."""

from contextlib import ExitStack

from tests.trunkline.faults.deliver.conftest import BUS, MARKS, Case
from tests.trunkline.support import counts, wait_for

pytestmark = MARKS


def test_a_rolling_restart_to_another_schema(case: Case) -> None:
    """New workers come while the old ones hold partitions, and what is written from then on only they can read."""
    case.make()
    case.strike(latency_ms=50)
    with ExitStack() as stack, case.load():
        old = [stack.enter_context(case.worker(f"old{slot}", slot=slot)) for slot in range(2)]
        wait_for(lambda: all(counts(one, "delivered") for one in old), why=lambda: [one.log for one in old])
        new = [stack.enter_context(case.stage.child(f"{BUS}retold", name="new2", slot=2))]
        wait_for(lambda: counts(new[0], "delivered"), why=lambda: new[0].log)
        case.become("retold")
        wait_for(lambda: behind(case) > 300, why=lambda: "nothing waits for the new workers")
        for slot, one in enumerate(old, 3):
            case.end(one)
            new.append(stack.enter_context(case.worker(f"new{slot}", slot=slot)))
            wait_for(lambda: counts(new[-1], "delivered"), why=lambda: new[-1].log)
        for one in new:
            case.end(one)
    case.run_out(name="last", slot=9)
    found = case.settle()
    assert found.states == {"done": found.inputs}, "invariant patience: what another worker can read waits for it"


def behind(case: Case) -> int:
    """Count the records that nobody has finished."""
    committed, ends = case.committed, case.stage.ends(case.bus.topics[0].name)
    waiting = case.figures["waiting"] = sum(ends[number] - committed.get(number, 0) for number in ends)
    return waiting
