"""One thread that writes for a process: groups, faults, and many writers at once, over both databases."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from trunkline.ledger import claims, deliveries
from trunkline.ledger.database import Connection, Failure, Ledger
from trunkline.ledger.deliveries import Outcome, Place, Row, State
from trunkline.ledger.intents import GO, Intent, Standing, Wait, intend
from trunkline.ledger.writer import Rewound, Writer

T = TypeVar("T")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = 20_000


def place(number: int, day: int = DAY) -> Place:
    return Place(day, number.to_bytes(16, "big"))


def done(number: int, day: int = DAY) -> Outcome:
    return Outcome(place(number, day), 1, State.DONE, None, 0, number, b"p" * 16, 1, NOW)


def writing(ledger: Ledger, work: Callable[[Writer], Awaitable[T]]) -> T:
    """Run a worker's loop with a writer."""

    async def run() -> T:
        writer = Writer(ledger)
        try:
            return await work(writer)
        finally:
            await writer.close()

    return asyncio.run(run())


def test_what_a_future_gave_is_durable_and_complete(ledger: Ledger) -> None:
    async def work(writer: Writer) -> list[deliveries.Recorded]:
        return await asyncio.gather(
            *(writer.write(lambda db, n=n: deliveries.record(db, [done(n)])) for n in range(1_200))  # type: ignore[misc]
        )

    assert writing(ledger, work) == [deliveries.Recorded(set(), {})] * 1_200
    with ledger.connect() as db:
        assert len(deliveries.look_up(db, map(place, range(1_200)))) == 1_200
        assert db.run("SELECT count(*) FROM writers") == [(0,)]


def test_what_nobody_waits_for_goes_with_the_next_commit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.ledger.writer.LATER", 3600.0)

    def there(db: Connection) -> tuple[int, list[Any]]:
        return len(deliveries.look_up(db, map(place, range(9)))), db.run("SELECT commits FROM writers")

    async def work(writer: Writer) -> tuple[int, list[Any]]:
        for number in range(5):
            writer.later(lambda db, number=number: deliveries.record(db, [done(number)]))  # type: ignore[misc]
        writer.later(lambda db: db.run("INSERT INTO sinks (name) VALUES (NULL)"))  # at fault, and alone in it
        with pytest.raises(Exception, match=r"(?i)null"):
            await writer.write(lambda db: db.run("INSERT INTO sinks (name) VALUES (NULL)"))
        seen = await writer.write(there)
        writer.later(lambda db: deliveries.record(db, [done(5)]))
        return seen

    assert writing(ledger, work) == (5, [(6,)]), "each alone, since some were at fault: five, and the look"
    with ledger.connect() as db:
        assert there(db) == (6, []), "what was left went with the end"


def test_what_nobody_waits_for_goes_by_itself(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.ledger.writer.LATER", 0.0)

    async def work(writer: Writer) -> None:
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        writer.later(lambda _: loop.call_soon_threadsafe(gone.set))
        await asyncio.wait_for(gone.wait(), 30)

    writing(ledger, work)


def test_a_write_at_fault_harms_no_other(ledger: Ledger) -> None:
    def wrong(db: Connection) -> None:
        deliveries.record(db, [done(999)])
        raise TypeError("a bug")

    async def work(writer: Writer) -> list[Any]:
        works: list[Callable[[Connection], Any]] = [lambda db, n=n: deliveries.record(db, [done(n)]) for n in range(9)]  # type: ignore[misc]
        works[4] = wrong
        works[6] = lambda db: db.run("INSERT INTO sinks (name) VALUES (NULL)")
        return await asyncio.gather(*map(writer.write, works), return_exceptions=True)

    results = writing(ledger, work)
    assert [type(result) is deliveries.Recorded for result in results] == [number not in {4, 6} for number in range(9)]
    assert isinstance(results[4], TypeError)
    assert not isinstance(results[6], Failure)
    with ledger.connect() as db:
        found = deliveries.look_up(db, [*map(place, range(9)), place(999)])
    assert found.keys() == {place(number) for number in range(9) if number not in {4, 6}}


def test_writers_of_several_processes_share_a_ledger(ledger: Ledger) -> None:
    """All want the same new days, and each records some of the same events."""

    def process(number: int) -> None:
        async def work(writer: Writer) -> None:
            for n in range(30):
                outcomes = [done(n, DAY + n % 3), done(1_000 * (number + 1) + n, DAY + n % 3)]
                await writer.write(lambda db, outcomes=outcomes: deliveries.record(db, outcomes))  # type: ignore[misc]

        writing(ledger, work)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(process, range(4)))
    with ledger.connect() as db:
        rows = db.run("SELECT state, attempts FROM deliveries")
    assert Counter(rows) == {(State.DONE, 1): 30 + 4 * 30}


def test_of_many_that_announce_the_same_call_one_may_make_it(ledger: Ledger) -> None:
    standings: list[Standing] = []
    together = threading.Barrier(6)
    seconds = NOW.timestamp()

    def process(owner: str) -> None:
        intent = Intent(place(1), 1, None, 0, 1, b"p" * 16, owner, seconds + 22, seconds, keyed=False)
        with ledger.connect() as db:
            together.wait(60)
            with db.transaction():
                standings.append(intend(db, [intent])[intent.place])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(process, map(str, range(6))))
    assert Counter(standings) == {GO: 1, Wait(seconds + 22): 5}


def test_of_many_copies_that_race_one_is_published(ledger: Ledger) -> None:
    answers: list[claims.Answer] = []
    together = threading.Barrier(6)
    claim = claims.id_of("t/till", "a")

    def process(owner: str) -> None:
        with ledger.connect() as db:
            together.wait(60)
            with db.transaction():
                answers.append(claims.take(db, claim, b"x", owner, 100.0))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(process, map(str, range(6))))
    assert Counter(answers) == {"ours": 1, "pending": 5}


def test_of_two_that_finish_the_last_events_of_a_key_one_frees_it(ledger: Ledger) -> None:
    with ledger.connect() as db:
        sink = deliveries.number_of(db, "store")
        dead = [done(n)._replace(sink=sink, key=b"k" * 16, state=State.DEAD, park=True) for n in range(2)]
        with db.transaction():
            deliveries.record(db, dead)
    freed: list[set[bytes]] = []
    together = threading.Barrier(2)

    def process(outcome: Outcome) -> None:
        with ledger.connect() as db:
            together.wait(60)
            with db.transaction():
                freed.append(deliveries.record(db, [outcome]).freed)

    outcomes = [one._replace(state=State.DISCARDED, park=False) for one in dead]
    with ThreadPoolExecutor(len(outcomes)) as pool:
        list(pool.map(process, outcomes))
    assert Counter(map(frozenset, freed)) == {frozenset(): 1, frozenset({b"k" * 16}): 1}


def test_ledgers_are_made_once_by_many(ledger: Ledger) -> None:
    together = threading.Barrier(6)

    def process(_: int) -> None:
        together.wait(60)
        ledger.connect().close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(process, range(6)))
    with ledger.connect() as db:
        assert db.run("SELECT count(*) FROM schema_version") == [(1,)]


def test_a_ledger_that_lost_an_acknowledged_commit_takes_no_more(ledger: Ledger) -> None:
    async def work(writer: Writer) -> None:
        await writer.write(lambda db: deliveries.record(db, [done(1)]))
        with ledger.connect() as db:  # what a standby or a backup that lacks the commit would say
            db.run("UPDATE writers SET commits = commits - 1")
        for _ in range(2):
            with pytest.raises(Rewound, match="trunkline ledger rebuild"):
                await writer.write(lambda db: deliveries.record(db, [done(2)]))

    writing(ledger, work)
    with ledger.connect() as db:
        assert deliveries.look_up(db, [place(1), place(2)]) == {place(1): Row(State.DONE, b"p" * 16, 1)}


def test_a_commit_whose_answer_was_lost_is_no_lost_commit(ledger: Ledger) -> None:
    async def work(writer: Writer) -> None:
        await writer.write(lambda db: deliveries.record(db, [done(1)]))
        with ledger.connect() as db:  # counted there, unknown here
            db.run("UPDATE writers SET commits = commits + 1")
        await writer.write(lambda db: deliveries.record(db, [done(2)]))
        await writer.write(lambda db: deliveries.record(db, [done(1)]))

    writing(ledger, work)
    with ledger.connect() as db:
        found = deliveries.look_up(db, [place(1), place(2)])
    assert found == dict.fromkeys([place(1), place(2)], Row(State.DONE, b"p" * 16, 1))


def test_a_ledger_that_fails_says_why_and_is_tried_until_it_takes_something(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trunkline.ledger.writer.AGAIN", 0.05)

    def full(_: Connection) -> None:
        raise Failure("the disk is full")

    def why(writer: Writer) -> str:
        return "" if writer.failing is None else writer.failing[1]

    async def work(writer: Writer) -> None:
        assert not why(writer)
        for _ in range(2):
            with pytest.raises(Failure):
                await writer.write(full)
        assert why(writer) == "the disk is full"
        for _ in range(1_000):
            if not why(writer):
                return
            await asyncio.sleep(0.02)
        raise AssertionError("nobody writes any more, and so nobody sees that it is back")

    writing(ledger, work)


def test_a_day_long_over_takes_new_rows(ledger: Ledger) -> None:
    async def work(writer: Writer) -> None:
        for years in (0, 30, 60):
            outcome = done(years, DAY - 365 * years)
            await writer.write(lambda db, outcome=outcome: deliveries.record(db, [outcome]))  # type: ignore[misc]

    writing(ledger, work)
    with ledger.connect() as db:
        places = [place(years, DAY - 365 * years) for years in (0, 30, 60)]
        assert deliveries.look_up(db, places).keys() == set(places)
        assert deliveries.look_up(db, [place(1, day=-5)]) == {}


def test_late_writes_are_noted_to_the_hour(ledger: Ledger) -> None:
    with ledger.connect() as db:
        for minutes in (0, 59, 61, 30):
            with db.transaction():
                deliveries.open_days(db, {DAY: deliveries.milliseconds(NOW + timedelta(minutes=minutes))})
        assert db.run("SELECT written FROM days") == [(deliveries.milliseconds(NOW + timedelta(minutes=61)),)]
