"""What the ledger forgets, and when, over both databases (L2)."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trunkline.errors import Unavailable
from trunkline.event import Event
from trunkline.ledger import claims, deliveries, expiry
from trunkline.ledger.attempts import Attempt, attempts_of, tried
from trunkline.ledger.database import Connection, Ledger
from trunkline.ledger.deliveries import Outcome, Place, State
from trunkline.ledger.expiry import Due, Keep, due, sweep
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.writer import Writer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(1999, 12, 31, 23, tzinfo=UTC)
KEEP = Keep(rest=timedelta(days=14))
WINDOW = timedelta(days=14, hours=1)
KEY = b"k" * 16


@pytest.fixture
def db(ledger: Ledger) -> Iterator[Connection]:
    with ledger.connect() as db:
        yield db


def place(event: str, time: datetime = NOW) -> Place:
    return deliveries.place_of("store", Event(event, time, {}, source="t/till"))


def ended(event: str, state: State = State.DONE, *, time: datetime = NOW, at: datetime = NOW, **more: Any) -> Outcome:
    return Outcome(place(event, time), 1, state, KEY, 0, 0, b"p" * 16, 1, at)._replace(**more)


def record(db: Connection, *outcomes: Outcome) -> None:
    with db.transaction():
        deliveries.record(db, outcomes)


def sweep_all(db: Connection, now: datetime, keep: Keep = KEEP) -> int:
    """Sweep until nothing is left to do and count the steps."""
    steps, more = 0, True
    while more:
        with db.transaction():
            more = sweep(db, now, keep)
        steps += more
    return steps


def known(db: Connection, *places: Place) -> set[Place]:
    return set(deliveries.look_up(db, places))


def test_what_may_go_follows_from_the_last_write_alone() -> None:
    keep = Keep(rest=timedelta(days=14), done=timedelta(days=3))
    last = int(NOW.timestamp() * 1000)
    for age, what in (
        (timedelta(), {}),
        (timedelta(days=3), {}),
        (timedelta(days=3, hours=1), {5: Due.DONE}),
        (timedelta(days=14), {5: Due.DONE}),
        (timedelta(days=14, hours=1), {5: Due.ALL}),
    ):
        assert due({5: last}, NOW + age, keep) == what
    longer = Keep(rest=timedelta(days=3), done=timedelta(days=14))
    assert due({5: last}, NOW + timedelta(days=14), longer) == {}
    assert due({5: last, -7: last}, NOW + WINDOW, longer) == {-7: Due.ALL, 5: Due.ALL}


def test_the_rows_of_a_day_go_together_when_the_window_has_passed_since_its_last_write(db: Connection) -> None:
    record(db, ended("first"), ended("other day", time=NOW + timedelta(days=1)))
    record(db, ended("last", State.DEAD, at=NOW + timedelta(days=9)))
    tried(db, [Attempt(place("last"), NOW, 422, 0.1, "answered 422")])
    assert sweep_all(db, NOW + WINDOW) > 0
    assert known(db, place("first"), place("last")) == {place("first"), place("last")}
    assert known(db, place("other day", NOW + timedelta(days=1))) == set()
    assert sweep_all(db, NOW + timedelta(days=9) + WINDOW) > 0
    assert known(db, place("first"), place("last")) == set()
    assert attempts_of(db, [place("last")]) == []
    assert db.run("SELECT count(*) FROM days") == [(0,)]
    assert sweep_all(db, NOW + timedelta(days=9) + WINDOW) == 0


def test_an_event_of_years_ago_is_kept_as_long_as_one_of_today(db: Connection) -> None:
    old = place("old", LONG_AGO)
    record(db, ended("old", time=LONG_AGO))
    assert sweep_all(db, NOW + timedelta(days=13)) == 0
    assert known(db, old) == {old}
    assert sweep_all(db, NOW + WINDOW) > 0
    assert known(db, old) == set()
    record(db, ended("old", time=LONG_AGO, at=NOW + timedelta(days=20)))
    assert known(db, old) == {old}


def test_a_day_goes_in_small_steps(db: Connection) -> None:
    many = [ended(f"{number}") for number in range(1_100)]
    assert deliveries.number_of(db, "store") == 1
    record(db, *many)
    assert deliveries.count(db, "store") == {State.DONE: 1_100}
    tried(db, [Attempt(one.place, NOW, None, 1.0, "no answer") for one in many])
    assert sweep_all(db, NOW + WINDOW) >= 4
    assert known(db, *(one.place for one in many)) == set()
    assert not deliveries.count(db, "store")


def test_what_is_delivered_may_go_before_the_rest(db: Connection) -> None:
    keep = Keep(rest=timedelta(days=14), done=timedelta(days=2))
    assert deliveries.number_of(db, "store") == 1
    record(db, *(ended(f"{number}") for number in range(700)), ended("dead", State.DEAD))
    assert sweep_all(db, NOW + timedelta(days=3), keep) == 2
    assert deliveries.count(db, "store") == {State.DEAD: 1}
    assert db.run("SELECT state FROM deliveries") == [(State.DEAD,)]


def test_an_event_that_keeps_its_key_parked_never_goes(db: Connection) -> None:
    record(db, ended("dead", State.DEAD, park=True), ended("parked", State.PARKED), ended("done"))
    tried(db, [Attempt(place("dead"), NOW, 422, 0.1, "answered 422")])
    years = NOW + timedelta(days=2_000)
    assert sweep_all(db, years) > 0
    assert known(db, place("dead"), place("parked"), place("done")) == {place("dead"), place("parked")}
    assert len(attempts_of(db, [place("dead")])) == 1
    assert parked_keys(db, 1) == {KEY}
    record(db, ended("dead", at=years), ended("parked", State.DISCARDED, at=years))
    assert parked_keys(db, 1) == set()
    assert sweep_all(db, years + WINDOW) > 0
    assert known(db, place("dead"), place("parked")) == set()
    assert db.run("SELECT count(*) FROM parks") == [(0,)]


def test_claims_go_with_the_window_and_the_newest_of_a_key_much_later(db: Connection) -> None:
    claim = claims.id_of("t/till", "a")
    assert claims.take(db, claim, b"x" * 16, "one", NOW.timestamp()) == "ours"
    claims.publish(db, claim)
    record(db, ended("a", latest=True))
    sweep_all(db, NOW + timedelta(days=13))
    assert claims.take(db, claim, b"x" * 16, "two", NOW.timestamp()) == "published"
    sweep_all(db, NOW + timedelta(days=60))
    assert claims.take(db, claim, b"x" * 16, "two", NOW.timestamp()) == "ours"
    assert len(db.run("SELECT 1 FROM latest")) == 1
    sweep_all(db, NOW + timedelta(days=90))
    assert db.run("SELECT 1 FROM latest") == []


def test_a_day_that_another_connection_has_ended_is_empty_and_may_begin_again(ledger: Ledger, db: Connection) -> None:
    record(db, ended("a"))
    with ledger.connect() as other:
        assert known(other, place("a")) == {place("a")}
        sweep_all(db, NOW + WINDOW)
        assert known(other, place("a")) == set()
        record(other, ended("a", at=NOW + WINDOW))
    assert known(db, place("a")) == {place("a")}


def test_a_day_that_is_written_to_while_it_would_go_stays(ledger: Ledger, db: Connection) -> None:
    record(db, ended("a"))
    swept: list[int] = []

    def sweeping() -> None:
        with ledger.connect() as other:
            swept.append(sweep_all(other, NOW + WINDOW))

    thread = threading.Thread(target=sweeping)
    with db.transaction():
        deliveries.record(db, [ended("b", at=NOW + WINDOW)])
        thread.start()
        thread.join(1)  # it may come as far as it can
    thread.join()
    assert swept == [0]
    assert known(db, place("a"), place("b")) == {place("a"), place("b")}


def test_a_worker_sweeps_while_it_writes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "PAUSE", 0.001)
    many = [ended(f"{number}", time=LONG_AGO) for number in range(1_500)]

    async def work() -> set[Place]:
        writer = Writer(ledger)
        await writer.write(lambda db: deliveries.record(db, many))
        sweeping = asyncio.create_task(expiry.keep_sweeping(writer, KEEP, lambda: NOW + WINDOW))
        while await writer.write(lambda db: known(db, *(one.place for one in many))):
            await writer.write(lambda db: deliveries.record(db, [ended("new", at=NOW + WINDOW)]))
        sweeping.cancel()
        found = await writer.write(lambda db: known(db, place("new")))
        await writer.close()
        return found

    assert asyncio.run(work()) == {place("new")}


def test_a_ledger_that_fails_in_the_middle_of_a_sweep_is_not_asked_at_once() -> None:
    """It would be asked twenty times a second, for as long as it does not answer."""
    asked = 0
    failed = asyncio.Event()

    class Ledger:
        async def write(self, _: object) -> bool:
            nonlocal asked
            asked += 1
            if asked == 2:
                failed.set()
                raise Unavailable("the ledger does not answer")
            return True

    async def run() -> None:
        writer: Any = Ledger()
        sweeping = asyncio.create_task(expiry.keep_sweeping(writer, KEEP))
        await failed.wait()
        await asyncio.wait([sweeping], timeout=5 * expiry.PAUSE)
        assert not sweeping.done()
        sweeping.cancel()

    asyncio.run(run())
    assert asked == 2
