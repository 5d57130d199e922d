"""Events whose keys wait while others go on: whatever is done is done once, and nothing is left out (P4)."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trunkline.engine.eventtime import Note
from trunkline.engine.held import MOST, Held, Part, note_of, taken
from trunkline.kafka.events import Record, Slot

ONE, TWO = Slot("t", 0), Slot("t", 1)


def record(offset: int, key: bytes | None = b"a", slot: Slot = ONE) -> Record:
    return Record(slot, offset, key, b"", (), 0)


def test_what_is_committed_is_the_first_that_is_not_done_and_which_others_are_not() -> None:
    held = Held()
    held.done(record(5, b"x"))
    held.hold(record(6), 0.0)
    held.done(record(7, b"x"))
    held.hold(record(8), 0.0)
    held.done(record(9, b"x"))
    offset, note = held.places([ONE, TWO])[ONE]
    assert offset == 6
    assert taken(offset, note) == Part(10, {6: None, 8: None})
    assert [one.offset for one in held.first()] == [6]
    assert [one.offset for one in held.release()] == [6, 8]
    assert held.places([ONE])[ONE] == (offset, note), "released is not done"
    held.done(record(6))
    held.done(record(8))
    assert held.places([ONE]) == {ONE: (10, "")}


def test_who_goes_on_there_skips_what_is_done() -> None:
    before = Held()
    for number in range(100, 300):
        one = record(number, b"%d" % number)
        if number in (100, 103, 250):
            before.hold(one, 0.0)
        else:
            before.done(one)
    offset, note = before.places([ONE])[ONE]
    after = Held()
    after.begin(ONE, offset, note)
    assert [number for number in range(offset, 305) if not after.is_done(record(number))] == [
        *(100, 103, 250),
        *range(300, 305),
    ]
    assert not after.is_done(record(0, slot=TWO))


def test_a_key_waits_as_a_whole_and_null_keys_alone() -> None:
    held = Held()
    held.hold(record(1), 0.0)
    held.hold(record(2, None), 0.0)
    assert held.holds(b"a")
    assert not held.holds(b"b")
    assert not held.holds(None)
    held.release()
    assert not held.holds(b"a")


def test_patience_counts_from_when_a_record_was_first_held_back() -> None:
    held = Held()
    assert held.patient(record(1), 100.0, 30)
    held.hold(record(1), 100.0)
    held.hold(record(2), 110.0)  # behind it
    assert [held.is_due(129.9), held.is_due(130.0)] == [False, True]
    held.release()
    assert held.patient(record(1), 129.9, 30)
    assert not held.patient(record(1), 130.0, 30)
    held.done(record(1))
    assert held.patient(record(2), 139.9, 30)
    assert not held.patient(record(2), 140.0, 30), "it has waited as long as the one before it"
    assert held.patient(record(1), 131.0, 30), "what comes again begins anew"
    assert not held.patient(record(3), 131.0, 0.0)


def test_a_partition_that_is_given_up_is_forgotten() -> None:
    held = Held()
    held.hold(record(1), 0.0)
    held.hold(record(7, b"b", TWO), 0.0)
    held.drop([ONE])
    assert [one.slot for one in held.first()] == [TWO]
    assert list(held.places([ONE, TWO])) == [TWO]
    held.begin(ONE, 0, "")
    assert not held.is_done(record(0))


def test_it_is_full_before_its_note_is_too_long() -> None:
    held = Held()
    number = 0
    while not held.full:
        held.hold(record(number), 0.0)
        number += 100_000
    assert len(held.places([ONE])[ONE][1]) + 60 < 4096
    assert number // 100_000 == MOST


@given(st.sets(st.integers(0, 1 << 40), min_size=1, max_size=50), st.integers(0, 1 << 40))
def test_a_note_says_what_it_was_made_of(undone: set[int], more: int) -> None:
    part = Part(max(undone) + 1 + more, dict.fromkeys(sorted(undone)))
    assert taken(part.next, note_of(part)) == part


def test_the_note_of_an_agent_is_none() -> None:
    assert taken(7, str(Note(3, None))) == taken(7, str(Note(3, 1_700_000_000_000))) == Part(7)


@given(st.text(), st.integers(0, 1 << 40))
def test_a_note_that_is_none_skips_nothing_before_its_offset(note: str, offset: int) -> None:
    part = taken(offset, note)
    assert part.next >= offset


actions = st.lists(st.tuples(st.sampled_from(["done", "hold", "release", "restart"]), st.integers(0, 3)), max_size=60)


@given(actions)
def test_whatever_happens_every_record_is_done_exactly_once_and_each_key_in_order(what: list[Any]) -> None:
    """A model of a flow that is killed now and then: what it has committed is all that is left of it."""
    held, at, committed, pending = Held(), 0, (0, ""), list[Record]()
    ended: list[Record] = []
    uncommitted: list[Record] = []
    topic = [record(number, b"%d" % (number % 4)) for number in range(200)]
    for action, key in what:
        if action == "restart":
            held, at, pending, uncommitted = Held(), committed[0], [], []
            held.begin(ONE, *committed)
            continue
        if action == "release":
            pending = [*held.release(), *pending]
        while at < len(topic) and held.is_done(topic[at]):
            at += 1
        if not pending and at < len(topic):
            pending, at = [topic[at]], at + 1
        while pending:
            one = pending.pop(0)
            if held.holds(one.key) or (action == "hold" and one.key == b"%d" % key):
                held.hold(one, 0.0)
            else:
                held.done(one)
                uncommitted.append(one)
        if action == "done" and uncommitted:
            committed = held.places([ONE])[ONE]
            ended += uncommitted
            uncommitted = []
    offsets = [one.offset for one in ended]
    assert len(set(offsets)) == len(offsets)
    for key_ in range(4):
        mine = [offset for offset in offsets if offset % 4 == key_]
        assert mine == sorted(mine)
        assert mine == [key_ + 4 * number for number in range(len(mine))], "none is left out"
