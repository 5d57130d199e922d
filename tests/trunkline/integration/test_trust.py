"""Taking trust away from a ledger and giving it back, in both databases."""

from datetime import UTC, date, datetime

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
