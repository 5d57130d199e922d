"""The same event again: as another record, an hour later, on the next day."""

import time

import pytest

from tests.trunkline.faults.deliver.conftest import MARKS, Case, conclusive

pytestmark = MARKS

DAY = 86_400.0
EVENTS = 500


@pytest.mark.parametrize("start", ["23:30", "12:00"])
def test_copies_an_hour_later(case: Case, start: str) -> None:
    hours, minutes = map(int, start.split(":"))
    fast = hours * 3600 + minutes * 60 - time.time() % DAY
    case.make()
    case.refuse()
    case.write(EVENTS, refused=0.1)
    case.write_again(EVENTS // 10)
    case.run_out(clock=fast)
    letters = len(case.stage.letters(case.flow))
    attempts = case.target.attempts
    for hour in (1, 2):
        case.write_again()
        case.run_out(name=f"hour {hour}", clock=fast + 3600.0 * hour)
    records = sum(case.stage.ends(case.bus.topics[0].name).values())
    case.figures["records"] = records
    conclusive(records >= 3 * EVENTS, "there were no copies")
    found = case.settle()
    assert found.states == {"done": EVENTS - case.refused, "dead": case.refused}
    assert found.attempts == attempts == EVENTS, "invariant copies: a copy is not sent, however late it comes"
    assert len(case.stage.letters(case.flow)) == letters == case.refused, "invariant copies: it has no other letter"
