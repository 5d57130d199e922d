"""How far the calls of a delivery are, as the ledger keeps it: in a file and on a server."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from trunkline.flow.composite import Begin, Change, Close, Course, Ended, GiveUp, Made, Open, State, Withdraw, noted
from trunkline.ledger import calls
from trunkline.ledger.database import Ledger
from trunkline.ledger.deliveries import Place

PLACE, OTHER = Place(20_000, b"1" * 16), Place(20_000, b"2" * 16)


def some_change(random: Random, course: Course | None) -> Change:
    round_ = random.choice([1, 2, 1 if course is None else course.round])
    step = random.choice(["a", "b", "a/undo", "b/undo"])
    made = {} if course is None or random.random() < 0.2 else course.made
    done = Made(State.DONE, {"id": random.choice(["x", 'q"\u0000é', 7]), "more": [1, None]})
    changes: list[Change] = [
        Open(random.random() * 1e9, random.choice(["", "", "run1", "run2", "run3"])),
        *[Begin(round_, step)] * 3,
        Withdraw(round_, step),
        *[Ended(round_, step, done)] * 2,
        Ended(round_, step, Made(State.FAILED, why="answered 422: no")),
        GiveUp(round_, "no car", made),
        Close(round_, made),
    ]
    return random.choice(changes)


@pytest.mark.parametrize("seed", range(6))
def test_the_ledger_keeps_what_the_rule_says(ledger: Ledger, seed: int) -> None:
    random = Random(seed)  # noqa: S311 - a schedule that can be repeated
    course: Course | None = None
    with ledger.connect() as db:
        with db.transaction():
            calls.change(db, OTHER, Open(1.0))
        for _ in range(60):
            change = Open(1.0) if course is None else some_change(random, course)
            expected = noted(course, change)
            with db.transaction():
                found = calls.change(db, PLACE, change)
            assert found == expected
            assert calls.read(db, PLACE) == found
            course = found
        assert calls.read(db, OTHER) == Course(began=1.0)
        assert calls.read(db, Place(20_000, b"3" * 16)) is None


def test_calls_go_with_their_day(ledger: Ledger) -> None:
    now = datetime.now(UTC) - timedelta(days=40)
    with ledger.connect() as db:
        for number in range(700):
            place = Place(20_000 + number % 2, number.to_bytes(16, "big"))
            with db.transaction():
                calls.change(db, place, Open(now.timestamp()))
                calls.change(db, place, Begin(1, "a"))
        assert {day for (day,) in db.run("SELECT day FROM days")} == {20_000, 20_001}
        while True:
            with db.transaction():
                if not calls.forget(db, 20_000):
                    break
        left = {table: db.run(f"SELECT DISTINCT day FROM {table}") for table in ("courses", "calls")}  # noqa: S608 - ours
        assert left == {"courses": [(20_001,)], "calls": [(20_001,)]}
