"""What the bus remembers of the events that the body of an agent was given."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from trunkline.engine.eventtime import LATE, Reach
from trunkline.engine.partition import Partition, Taken, moment_of, tick

BEGUN = datetime(2026, 7, 1, tzinfo=UTC)
WINDOW = 60_000


def test_an_event_that_a_body_holds_keeps_no_others_in_memory() -> None:
    part = Partition(0, {"t": Reach(0, 0)}, cast("Any", None), None, set(), quiet=False)
    held: Taken[Any] = Taken("held", BEGUN, {}, "tests")
    for number in range(3_000):
        at = BEGUN + timedelta(seconds=number)
        assert part.ordinal(held, "a", at) == number, "its records are all told apart"
        part.ordinal(Taken(f"e{number}", BEGUN, {}, "tests"), "a", at)
        part.finish(tick(round(at.timestamp() * 1000)))
        part.notes(WINDOW)
    assert len(part.ordinals) <= 2 + (WINDOW + LATE) // 1_000


@pytest.mark.parametrize(
    ("millis", "year"), [(-(10**17), 1970), (-1, 1970), (0, 1970), (1_782_864_000_000, 2026), (2**62, 9999)]
)
def test_any_time_of_a_record_is_a_time_that_a_body_can_reckon_with(millis: int, year: int) -> None:
    at = moment_of(millis)
    assert at.year == year
    assert at - timedelta(hours=23) < at + timedelta(hours=23)
