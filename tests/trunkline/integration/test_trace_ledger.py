"""What a trace asks of the ledger, over both databases."""

from datetime import UTC, datetime

from tests.trunkline.integration.test_ledger import KEY, NOW, OTHER, PAYLOAD, ended, place, record
from trunkline.ledger import claims, history
from trunkline.ledger.database import Ledger
from trunkline.ledger.deliveries import State
from trunkline.ledger.history import Claim


def test_an_event_is_found_on_whatever_day_with_where_it_stood(ledger: Ledger) -> None:
    with ledger.connect() as db:
        record(db, ended("e1", State.DONE, 7), ended("e2", State.DEAD, 9, park=True))
        today = place("e1").day + 400
        assert history.days(db, today) == {place("e1").day, today - 1, today, today + 1}
        found = history.fates(db, [place("e1"), place("e2"), place("absent")])
        assert {at: (fate.row.state, fate.partition, fate.offset, fate.key, fate.at) for at, fate in found.items()} == {
            place("e1"): (State.DONE, 0, 7, KEY, NOW),
            place("e2"): (State.DEAD, 0, 9, KEY, NOW),
        }


def test_the_earliest_event_that_holds_a_key_is_named(ledger: Ledger) -> None:
    with ledger.connect() as db:
        assert history.holding(db, 1, KEY) is None
        record(db, ended("late", State.PARKED, 12), ended("early", State.DEAD, 3, park=True))
        assert history.holding(db, 1, KEY) == (0, 3)
        assert history.holding(db, 1, OTHER) is None
        record(db, ended("early", State.DONE, 3))
        assert history.holding(db, 1, KEY) == (0, 12)


def test_a_claim_says_how_far_and_until_when(ledger: Ledger) -> None:
    first, second = claims.id_of("t/till", "e1"), claims.id_of("t/till", "e2")
    with ledger.connect() as db:
        for claim in (first, second):
            claims.take(db, claim, PAYLOAD, "me", 1_000.0)
        claims.publish(db, first)
        until = datetime.fromtimestamp(1_000 + claims.PATIENCE, UTC)
        assert history.claimed(db, [first, second, b"x" * 16]) == {
            first: Claim(published=True, until=until),
            second: Claim(published=False, until=until),
        }
