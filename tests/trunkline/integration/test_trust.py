"""Taking trust away from a ledger and giving it back, in both databases."""

from datetime import UTC, date, datetime

import pytest

from tests.trunkline.support import Shelf, Stage, note, notes, wait_for
from trunkline import Bus, Deliver, Target, env
from trunkline.cli.worker import work
from trunkline.errors import UsageError
from trunkline.kafka.control import Control
from trunkline.kafka.topics import plan
from trunkline.ledger import deliveries, identity, runs
from trunkline.ledger.database import Ledger
from trunkline.ledger.deliveries import Outcome, Place, State
from trunkline.ledger.identity import Identity
from trunkline.ledger.intents import Intent, intend
from trunkline.ledger.trust import distrust, oldest_day, trust

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def outcome(name: bytes, state: State) -> Outcome:
    return Outcome(Place(20_000, name), 1, state, b"k", 0, 1, b"p", 1, NOW)


def test_what_was_under_way_is_forgotten_with_the_trust(ledger: Ledger) -> None:
    with ledger.connect() as db:
        assert oldest_day(db) is None
        first = identity.create(db)
        deliveries.number_of(db, "shelf")
        runs.begin(db, "r1", "shelf", 1, NOW)
        with db.transaction():
            deliveries.record(db, [outcome(b"dead", State.DEAD), outcome(b"done", State.DONE)])
            for name, run in ((b"new", ""), (b"dead", "r1")):
                called = Intent(Place(20_000, name), 1, b"k", 0, 1, b"p", "me", 9e9, 1.0, run, keyed=False)
                intend(db, [called])
        assert deliveries.count(db, "shelf") == {State.DONE: 1, State.INTENT: 2}
        with db.transaction():
            distrust(db, NOW)
        assert identity.read(db) is None
        assert deliveries.count(db, "shelf") == {State.DONE: 1, State.DEAD: 1}
        assert runs.live(db, "shelf") == set()
        trust(db, Identity("new", first.epoch + 1))
        assert identity.read(db) == Identity("new", 2)
        assert oldest_day(db) == date(2024, 10, 4)


def test_a_ledger_is_of_one_bus(ledger: Ledger) -> None:
    with ledger.connect() as db:
        identity.belong(db, "shop", ledger.name)
        identity.belong(db, "shop", ledger.name)
        with pytest.raises(UsageError, match=r"is the one of bus shop; .* Give other its own: another file"):
            identity.belong(db, "other", ledger.name)


class Elsewhere(Shelf):
    name = "elsewhere"


def bus_of_no_flow_there(stage: Stage) -> Bus:
    """A bus to which the sink of the other one seems to have left with something unread."""
    flow = Deliver(notes(f"{stage.prefix}-third", 1), to=Elsewhere(Target("shelf", env("SHELF_URL"))))
    bus = stage.make(Bus(f"{stage.prefix}-third", [flow]))
    stage.write(Bus(stage.prefix, [Deliver(notes(stage.prefix, 1), to=flow.to)]), [note(2)])
    return bus


def test_a_bus_that_is_given_the_ledger_of_another_does_not_start(stage: Stage) -> None:
    def reading(name: str) -> Bus:
        flow = Deliver(notes(stage.prefix, 1), to=Shelf(Target("shelf", env("SHELF_URL"))), name=f"{name}.shelf")
        return Bus(name, [flow])

    first, second = reading(stage.prefix), reading(f"{stage.prefix}-too")
    stage.make(first)
    stage.write(first, [note(1)])
    with stage.running(first):
        wait_for(lambda: stage.rows() == {State.DONE: 1}, why=stage.rows)
    with Control(stage.cluster) as control:
        control.apply(plan(second, control.existing(control.topics()), stage.kafka))
        control.start_offsets(second, list(second.delivering), "earliest")
    # The rows of both would be the same: nothing of the second would be delivered, and nobody told so.
    with pytest.raises(UsageError, match=f"is the one of bus {stage.prefix};"), stage.running(second):
        pass
    with pytest.raises(UsageError, match=f"is the one of bus {stage.prefix};"):
        work(bus_of_no_flow_there(stage), stage.settings(), [])
