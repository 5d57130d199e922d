"""Which letters of steps and agents are open."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from trunkline.deadletter import Failure, Kind, Origin, write
from trunkline.engine.waiting import Letters, Pile
from trunkline.event import Event, to_headers
from trunkline.kafka.audit import Entry
from trunkline.kafka.events import Record, Slot

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)
SLOT = Slot("orders.split.dlq", 1)


def letter(offset: int, event: str, kind: Kind = "permanent", origin: int = 7) -> Record:
    headers = to_headers(Event(event, AT, {}, source="bus/till", type="orders.Placed.v1"))
    failure = Failure("orders.split", kind, "process", "Permanent", "no", 1, None, AT)
    written = write(headers, Origin("orders", 1, origin), failure)
    return Record(SLOT, offset, b"k", b"v", written, 1_000 * offset)


def entry(event: str, origin: int = 7, source: str = "bus/till") -> Entry:
    where = Origin("orders", 1, origin)
    return Entry(AT, "orders.split", "", source, event, AT, where, None, "", "DONE", 1, "run", "routed")


def since(offset: int) -> datetime:
    return datetime.fromtimestamp(offset, UTC)


def test_an_event_is_open_once_however_often_it_died_and_as_old_as_its_newest_letter() -> None:
    pile = Pile()
    for number, event in enumerate("aba"):
        pile.add(letter(number + 1, event, origin=ord(event)))
    assert pile.letters() == Letters(2, since(2))


def test_what_a_replay_brought_to_an_end_is_open_no_more_in_whatever_order_that_is_read() -> None:
    pile = Pile()
    pile.add(letter(1, "a"))
    pile.settle(entry("a"))
    pile.settle(entry("b", origin=8))
    pile.add(letter(2, "b", origin=8))
    pile.add(letter(3, "a"))
    assert pile.letters() == Letters(0, None)


@pytest.mark.parametrize("known", ["kafka:orders 1@7", "bus/till a"])
def test_poison_is_known_by_its_place_also_when_it_turns_out_to_be_an_event(known: str) -> None:
    pile = Pile()
    pile.add(letter(1, "a", "poison"))
    pile.add(letter(2, "a", "poison", origin=8))
    source, event = known.split()
    pile.settle(entry(event, source=source))
    assert pile.letters() == Letters(1, since(2))


def test_letters_expire_and_what_is_no_letter_counts_for_nothing() -> None:
    pile = Pile()
    pile.add(unclassed(letter(1, "x")))
    for number, event in enumerate("abc"):
        pile.add(letter(number + 2, event, origin=number))
    pile.expire({SLOT: 3, Slot("orders.split.dlq", 0): 9})
    assert pile.letters() == Letters(2, since(3))


def unclassed(record: Record) -> Record:
    return record._replace(headers=tuple(one for one in record.headers if one[0] != "trunkline-class"))


def test_another_sources_event_of_the_same_id_stays_open() -> None:
    pile = Pile()
    pile.add(letter(1, "a"))
    pile.settle(replace(entry("a", origin=9), source="bus/other"))
    assert pile.letters() == Letters(1, since(1))
