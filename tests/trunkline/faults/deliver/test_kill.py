"""Workers that are killed at every moment that matters, or told to end, in full flight."""

import pytest

from tests.trunkline.faults.deliver.conftest import EVENTS, KEYS, MARKS, Case, conclusive

pytestmark = MARKS


@pytest.mark.parametrize("moment", ["calling", "answered", "buried", "recorded"])
def test_a_kill(case: Case, moment: str) -> None:
    case.make()
    case.strike(latency_ms=30)
    case.refuse()
    case.write(refused=0.1)
    for number in range(3):
        after = case.random.randint(20, 60) if moment == "buried" else case.random.randint(100, 500)
        with case.worker(die=moment, after=after) as child:
            assert child.wait() == -9, f"kill {number + 1} did not happen: {child.log[-3000:]}"
        case.forget_killed()
    conclusive(not case.finished(), "nothing was left to do after the kills")
    case.run_out()
    found = case.settle(doubled=case.kills * KEYS, stale=0)
    assert found.states == {"done": EVENTS - case.refused, "dead": case.refused}
    again = case.figures["again"] = found.attempts - EVENTS
    assert again <= case.kills * KEYS, "invariant repeats: more calls again than there were in flight"
    letters = case.figures["letters"] = len(case.stage.letters(case.flow))
    if moment == "answered":
        conclusive(found.repeats > 0, "no call was made again")
    if moment == "buried":
        conclusive(letters > case.refused, "no letter was written again")


def test_a_termination_in_full_flight(case: Case) -> None:
    case.make()
    case.strike(latency_ms=200)
    case.write()
    for number in range(3):
        with case.worker() as child:
            case.until_busy(child)
            case.figures[f"in flight at end {number + 1}"] = case.stage.in_flight()
            case.end(child)
    conclusive(not case.finished(), "nothing was left to do")
    case.run_out()
    found = case.settle()
    assert found.states == {"done": EVENTS}
    assert found.attempts == EVENTS, "invariant repeats: a worker that ends finishes what it has begun"
