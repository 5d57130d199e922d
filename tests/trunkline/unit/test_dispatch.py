"""What becomes of each delivery, told as a story of inputs and of what the dispatcher wants done.

`tests/trunkline/simulator` runs the same through millions of schedules of faults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.trunkline.unit.making import MAIN, OTHER, REPLAY, delivery
from trunkline.engine.delivery import Delivery, Stage
from trunkline.engine.dispatch import (
    LOOK_AGAIN,
    Call,
    Caps,
    Dispatcher,
    Effect,
    Later,
    Letter,
    Policy,
    Record,
    Withdraw,
)
from trunkline.errors import Halt, Permanent, Retryable, Unknown, UnknownSchema
from trunkline.ledger.deliveries import Place, Row, State
from trunkline.ledger.intents import GO, Ambiguous, Finished, Parked, Standing, Superseded, Wait
from trunkline.verdict import Delivered, Retry, Verdict
from trunkline.verdict import Superseded as Later412

LEASE = 100.0
POLICY = Policy(retry=Retry(), replay=REPLAY.topic, sink="crm")
OK = Delivered(200)
REFUSED = Permanent("answered 422", status=422)
BUSY = Retryable("answered 503", status=503, after=7.0)
NO_ANSWER = Unknown("no answer")


class Desk:
    """Drives a dispatcher as the engine does, at a time that stands still unless it is moved."""

    def __init__(self, policy: Policy = POLICY, *, parked: Sequence[bytes] = (), **changes: Any) -> None:
        self.core = Dispatcher(replace(policy, **changes))
        self.now = 1.0
        self.core.renew(LEASE)
        self.core.assign([MAIN, OTHER, REPLAY], parked)
        self.effects: list[Effect] = []

    def arrive(self, *batch: Delivery, known: Mapping[str, State] | None = None, live: Sequence[str] = ()) -> list[str]:
        """Take a batch in that was looked up just now, and name what is to be called."""
        rows = {one.place: Row(known[one.event.id], one.payload, 0) for one in batch if known and one.event.id in known}
        self.core.arrive(self.core.looking(), batch, rows, live)
        return self.turn()

    def turn(self) -> list[str]:
        """Let it choose, and name what is to be called."""
        self.core.turn(self.now)
        self.effects = self.core.take()
        return [one.event.id for effect in self.effects if isinstance(effect, Call) for one in effect.deliveries]

    def begin(self, one: Delivery, standing: Standing = GO) -> bool:
        """Begin a call that was chosen, asking the ledger where that is needed."""
        if not self.core.begin(one, self.now):
            return False
        if one.stage is Stage.PREPARING:
            return self.core.prepared(one, standing, self.now, wall=0.0)
        return True

    def answer(self, one: Delivery, verdict: Verdict = OK) -> list[Effect]:
        """Begin a call, let it end so, and give what is to be done."""
        assert self.begin(one)
        self.core.answered(one, verdict, self.now, lambda: 0.0)
        self.turn()
        return self.effects

    def recorded(self, one: Delivery, *freed: bytes) -> list[str]:
        """Let an outcome be durable, and name what is to be called."""
        self.core.recorded(one, freed)
        return self.turn()

    def deliver(self, one: Delivery) -> list[str]:
        """Deliver one, and name what is to be called."""
        assert self.answer(one) == [Record(one, State.DONE, park=False)]
        return self.recorded(one)

    def die(self, one: Delivery, verdict: Verdict = REFUSED) -> list[str]:
        """Let one become a dead letter, and name what is to be called."""
        [letter] = self.answer(one, verdict)
        assert isinstance(letter, Letter)
        return self.bury(one)

    def bury(self, one: Delivery, *freed: bytes) -> list[str]:
        """Let the letter and then the outcome of a delivery be durable, and name what is to be called."""
        self.core.buried(one)
        self.turn()
        [record] = [effect for effect in self.effects if isinstance(effect, Record)]
        assert record.delivery is one
        return self.recorded(one, *freed)

    @property
    def committed(self) -> int | None:
        """Up to where the main partition may be committed."""
        return self.core.positions().get(MAIN)


# The way of an event.


def test_an_event_is_called_recorded_and_only_then_passed() -> None:
    desk, one, two = Desk(), delivery("a", 1), delivery("a", 2)
    assert desk.arrive(one, two) == ["e1"]
    assert desk.answer(one) == [Record(one, State.DONE, park=False)]
    assert desk.committed == 1, "an answer that is not durable moves nothing"
    assert desk.recorded(one) == ["e2"]
    assert desk.committed == 2


def test_an_outcome_is_awaited_by_the_next_of_its_key_if_that_could_be_called_now() -> None:
    desk, first, alone = Desk(width=2), delivery("a", 1), delivery("b", 2)
    desk.arrive(first, alone, delivery("a", 3))
    desk.answer(first)
    assert desk.core.holds_up(first)
    assert not desk.core.holds_up(alone)
    desk.arrive(*(delivery(f"k{n}", n) for n in range(4, 8)))
    assert not desk.core.holds_up(first), "so many others may be called before it"


def test_offsets_move_past_the_lowest_unfinished_event_only() -> None:
    desk, one, two = Desk(), delivery("a", 1), delivery("b", 2)
    desk.arrive(one, two)
    desk.deliver(two)
    assert desk.committed == 1
    desk.deliver(one)
    assert desk.committed == 3


def test_a_target_that_is_busy_is_called_again_after_the_time_it_asked_for() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.arrive(one)
    assert desk.answer(one, BUSY) == [Later(one, 7.0)]
    assert desk.turn() == []
    desk.core.due(one)
    assert desk.turn() == ["e1"]


def test_what_was_tried_for_too_long_is_dead() -> None:
    desk, one = Desk(retry=Retry(give_up_after=timedelta(seconds=10))), delivery("a", 1)
    desk.arrive(one)
    desk.answer(one, BUSY)
    desk.core.due(one)
    desk.turn()
    desk.now = 20.0
    [letter] = desk.answer(one, BUSY)
    assert isinstance(letter, Letter)
    assert (letter.state, one.kind) == (State.DEAD, "exhausted")


def test_a_dead_letter_is_acknowledged_before_the_ledger_hears_of_it() -> None:
    desk, one, two = Desk(), delivery("a", 1), delivery("a", 2)
    desk.arrive(one, two)
    assert desk.answer(one, REFUSED) == [Letter(one, REFUSED, State.DEAD)]
    desk.core.buried(one)
    desk.turn()
    assert desk.effects == [Record(one, State.DEAD, park=False)]
    assert desk.committed == 1
    assert desk.recorded(one) == ["e2"]


def test_poison_is_a_dead_letter_without_a_call() -> None:
    desk, one = Desk(), delivery("a", 1, poison=True)
    assert desk.arrive(one) == []
    [letter] = desk.effects
    assert isinstance(letter, Letter)
    assert (letter.state, one.kind) == (State.DEAD, "poison")


# Copies, and what the ledger knew.


@pytest.mark.parametrize("state", [state for state in State if state is not State.INTENT])
def test_what_the_ledger_knows_an_outcome_of_is_not_called(state: State) -> None:
    desk = Desk()
    assert desk.arrive(delivery("a", 1), known={"e1": state}) == []
    assert desk.committed == 2
    assert (desk.core.accepted, desk.core.repeats) == (0, 1)


def test_a_copy_waits_for_the_first_and_is_a_repeat_when_that_has_ended() -> None:
    desk, first, copy = Desk(), delivery("a", 1), delivery("a", 2, event="e1", payload=b"e1")
    assert desk.arrive(first, copy) == ["e1"]
    assert desk.deliver(first) == []
    assert desk.committed == 3
    assert (desk.core.accepted, desk.core.repeats) == (1, 1)


def test_a_look_up_that_missed_an_outcome_is_corrected() -> None:
    desk, first, copy = Desk(), delivery("a", 1), delivery("a", 2, event="e1", payload=b"e1")
    desk.arrive(first)
    number = desk.core.looking()  # the ledger is read now, and knows nothing yet
    desk.deliver(first)
    desk.core.arrive(number, [copy], {}, ())
    assert desk.turn() == []
    assert desk.committed == 3


def test_an_event_that_comes_with_another_content_halts_the_flow_and_is_not_sent() -> None:
    desk = Desk()
    desk.arrive(delivery("a", 1), delivery("a", 2, event="e1", payload=b"something else"))
    assert "another content" in str(desk.core.halted)
    assert desk.turn() == []
    assert desk.committed == 1


def test_an_order_lets_the_changed_copy_become_a_dead_letter_of_its_own() -> None:
    desk, copy = Desk(), delivery("a", 2, event="e1", payload=b"something else")
    desk.core.skip({"e1"})
    assert desk.arrive(copy, known={}) == []
    desk = Desk()
    desk.core.skip({"e1"})
    row = {Place(0, b"e1"): Row(State.DONE, b"e1", 1)}
    desk.core.arrive(desk.core.looking(), [copy], row, ())
    desk.turn()
    assert not desk.core.halted
    [letter] = desk.effects
    assert isinstance(letter, Letter)
    assert copy.place != Place(0, b"e1")


# Targets without keys (D4).


def test_a_target_without_keys_is_called_only_when_the_ledger_has_the_intent() -> None:
    desk, one = Desk(keyed=False), delivery("a", 1)
    desk.arrive(one)
    assert desk.core.begin(one, desk.now)
    assert one.stage is Stage.PREPARING, "the intent is not durable yet"
    assert desk.core.prepared(one, GO, desk.now, wall=0.0)


def test_an_unknown_outcome_is_called_again_under_the_same_key_but_never_without_keys() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.arrive(one)
    assert [type(effect) for effect in desk.answer(one, NO_ANSWER)] == [Later]
    desk = Desk(keyed=False)
    one = delivery("a", 1)
    desk.arrive(one)
    assert desk.answer(one, NO_ANSWER) == [Letter(one, NO_ANSWER, State.AMBIGUOUS)]


def test_a_refusal_that_is_called_again_takes_its_intent_back() -> None:
    desk, one = Desk(keyed=False), delivery("a", 1)
    desk.arrive(one)
    assert desk.answer(one, BUSY) == [Withdraw(one), Later(one, 7.0)]


@pytest.mark.parametrize(
    ("standing", "wanted"),
    [
        (Wait(5.0), Later),
        (Ambiguous(), Letter),
        (Superseded(), Record),
        (Parked(), Letter),
    ],
)
def test_what_stands_against_a_call(standing: Standing, wanted: type[Effect]) -> None:
    desk, one = Desk(keyed=False), delivery("a", 1)
    desk.arrive(one)
    assert not desk.begin(one, standing)
    desk.turn()
    assert [type(effect) for effect in desk.effects] == [wanted]


def test_what_another_worker_has_finished_meanwhile_is_passed() -> None:
    desk, one, two = Desk(keyed=False), delivery("a", 1), delivery("a", 2)
    desk.arrive(one, two)
    assert not desk.begin(one, Finished(State.DONE))
    assert desk.turn() == ["e2"]
    assert desk.committed == 2


def test_an_event_that_another_worker_had_begun_is_asked_about_even_with_keys() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.arrive(one, known={"e1": State.INTENT})
    assert desk.core.begin(one, desk.now)
    assert one.stage is Stage.PREPARING


# After a dead letter (D12).


def test_continue_lets_the_next_of_the_key_follow() -> None:
    desk, one, two = Desk(after_dead="continue"), delivery("a", 1), delivery("a", 2)
    desk.arrive(one, two)
    assert desk.die(one) == ["e2"]


def test_park_key_makes_later_events_of_the_key_letters_too() -> None:
    desk, one, two, other = Desk(after_dead="park_key"), delivery("a", 1), delivery("a", 2), delivery("b", 3)
    assert desk.arrive(one, two, other) == ["e1", "e3"]
    desk.answer(one, REFUSED)
    desk.core.buried(one)
    desk.turn()
    assert desk.effects == [Record(one, State.DEAD, park=True)], "the key is parked with the outcome"
    assert desk.recorded(one) == []
    [letter] = desk.effects
    assert isinstance(letter, Letter)
    assert (letter.delivery, letter.state) == (two, State.PARKED)


def test_block_lets_later_events_of_the_key_wait_until_the_key_is_free() -> None:
    desk, one, two = Desk(after_dead="block"), delivery("a", 1), delivery("a", 2)
    desk.arrive(one, two)
    assert desk.die(one) == []
    assert desk.effects == []
    again = delivery("a", 1, slot=REPLAY, run="r")
    assert desk.arrive(again, known={"e1": State.DEAD}, live=["r"]) == ["e1"]
    desk.answer(again)
    assert desk.recorded(again, b"a") == ["e2"]


def test_events_without_a_key_park_nothing() -> None:
    desk, one, two = Desk(after_dead="park_key"), delivery(None, 1), delivery(None, 2)
    desk.arrive(one, two)
    desk.answer(one, REFUSED)
    desk.core.buried(one)
    desk.turn()
    assert desk.effects == [Record(one, State.DEAD, park=False)]


def test_keys_that_are_parked_when_partitions_come_are_known_before_their_first_record() -> None:
    desk = Desk(after_dead="park_key", parked=[b"a"])
    assert desk.arrive(delivery("a", 1), delivery("b", 2)) == ["e2"]


def test_keys_that_others_free_or_park_are_heard_of() -> None:
    desk = Desk(after_dead="park_key", parked=[b"a"])
    desk.core.bars(desk.core.looking(), [b"b"])
    assert desk.arrive(delivery("a", 1), delivery("b", 2)) == ["e1"]


def test_what_happened_here_since_the_keys_were_read_is_newer() -> None:
    desk, one = Desk(after_dead="park_key"), delivery("a", 1)
    desk.arrive(one)
    number = desk.core.looking()  # the park rows are read now: none
    desk.die(one)
    desk.core.bars(number, [])
    assert desk.arrive(delivery("a", 2)) == [], "the key was parked after that"


# Replays (R2).


@pytest.mark.parametrize("state", [State.DEAD, State.PARKED, State.AMBIGUOUS])
def test_a_live_replay_opens_a_letter_again_and_one_that_is_over_does_not(state: State) -> None:
    desk, known = Desk(), {"e1": state}
    assert desk.arrive(delivery("a", 1, slot=REPLAY, run="over"), known=known, live=["r"]) == []
    assert desk.core.positions()[REPLAY] == 2
    assert desk.arrive(delivery("a", 2, event="e1", payload=b"e1", slot=REPLAY, run="r"), known=known, live=["r"]) == [
        "e1"
    ]


@pytest.mark.parametrize("state", [State.DONE, State.SUPERSEDED, State.DISCARDED])
def test_what_is_final_is_not_even_replayed(state: State) -> None:
    desk = Desk()
    assert desk.arrive(delivery("a", 1, slot=REPLAY, run="r"), known={"e1": state}, live=["r"]) == []


def test_a_replay_of_a_key_that_is_kept_last_is_asked_about() -> None:
    desk, one = Desk(latest=True), delivery("a", 1, slot=REPLAY, run="r")
    desk.arrive(one, known={"e1": State.DEAD}, live=["r"])
    assert not desk.begin(one, Superseded())
    desk.turn()
    assert desk.effects == [Record(one, State.SUPERSEDED, park=False)]


def test_an_answer_that_the_target_holds_a_later_state_is_no_dead_letter() -> None:
    desk, one = Desk(latest=True), delivery("a", 1)
    desk.arrive(one)
    assert desk.answer(one, Later412(412)) == [Record(one, State.SUPERSEDED, park=False)]


def test_a_replay_that_is_over_is_not_called_though_it_waited_for_one_that_was_not() -> None:
    desk, known = Desk(keyed=False), {"e1": State.DEAD}
    one, over = (
        delivery("a", 1, slot=REPLAY, run="r"),
        delivery("a", 2, event="e1", payload=b"e1", slot=REPLAY, run="o"),
    )
    desk.arrive(one, known=known, live=["r"])
    desk.begin(one)
    desk.arrive(over, known={"e1": State.INTENT}, live=["r"])
    desk.core.answered(one, NO_ANSWER, desk.now, lambda: 0.0)
    desk.turn()
    assert desk.bury(one) == []
    assert desk.core.positions()[REPLAY] == 3


def test_what_nobody_has_called_when_its_replay_ends_is_not_called_any_more() -> None:
    """A paused sink, a target that is down or a long lane may hold it until long after the person has thought again."""
    desk, known = Desk(), {"e1": State.DEAD, "e2": State.DEAD, "e3": State.DEAD, "e4": State.DEAD}
    called, queued, chosen, other = (
        delivery("a", 1, slot=REPLAY, run="r"),
        delivery("a", 2, slot=REPLAY, run="r"),
        delivery("b", 3, slot=REPLAY, run="r"),
        delivery("c", 4, slot=REPLAY, run="o"),
    )
    later = delivery("a", 5)
    assert desk.arrive(called, queued, chosen, other, known=known, live=["r", "o"]) == ["e1", "e3", "e4"]
    desk.arrive(later)
    assert desk.begin(called)
    desk.core.over(["r"])
    assert not desk.begin(chosen), "it was chosen, and its call had not begun"
    assert desk.begin(other), "its replay goes on"
    assert desk.turn() == []
    assert desk.committed is None or desk.core.positions()[REPLAY] == 1
    desk.core.answered(called, OK, desk.now, lambda: 0.0)
    desk.turn()
    assert desk.effects == [Record(called, State.DONE, park=False)], "it was under way"
    assert desk.recorded(called) == ["e5"], "e2 stays a dead letter, and what came after it goes on"
    desk.core.answered(other, OK, desk.now, lambda: 0.0)
    desk.turn()
    desk.recorded(other)
    assert desk.core.positions()[REPLAY] == 5
    desk.deliver(later)
    assert (len(desk.core._lanes), desk.core.gap(), desk.core.counts()["bytes"]) == (0, 0, 0)


def test_a_replay_goes_before_its_own_event_that_waits_behind_a_blocked_key() -> None:
    """It may be what that event waits for: another worker's late dead letter has blocked the key."""
    desk = Desk(after_dead="block", parked=[b"a"])
    assert desk.arrive(delivery("a", 1)) == []
    assert desk.arrive(delivery("a", 1, slot=REPLAY, run="r"), known={"e1": State.DEAD}, live=["r"]) == ["e1"]


# Partitions that come and go (D7), and the lease (D8).


def test_a_partition_that_is_asked_back_begins_nothing_and_waits_for_what_has_begun() -> None:
    desk, one, two, three = Desk(), delivery("a", 1), delivery("b", 2), delivery("a", 3)
    desk.arrive(one, two, three)
    assert desk.begin(one)
    desk.core.leave([MAIN])
    assert not desk.begin(two), "it was chosen, but not begun"
    assert (desk.core.busy([MAIN]), desk.core.busy([OTHER])) == (1, 0)
    desk.core.answered(one, OK, desk.now, lambda: 0.0)
    desk.recorded(one)
    assert desk.core.busy([MAIN]) == 0
    assert desk.committed == 2, "what was given up comes again elsewhere"


def test_a_call_that_fails_on_a_leaving_partition_is_not_called_again_here() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.arrive(one)
    desk.begin(one)
    desk.core.leave([MAIN])
    desk.core.answered(one, BUSY, desk.now, lambda: 0.0)
    desk.turn()
    assert desk.effects == []
    assert desk.core.busy([MAIN]) == 0
    assert desk.committed == 1


def test_after_a_partition_has_gone_only_a_delivery_is_still_recorded() -> None:
    for verdict, wanted in ((OK, [Record]), (REFUSED, []), (BUSY, []), (NO_ANSWER, [])):
        desk, one = Desk(), delivery("a", 1)
        desk.arrive(one)
        desk.begin(one)
        desk.core.leave([MAIN])
        desk.core.forget([MAIN])
        desk.core.answered(one, verdict, desk.now, lambda: 0.0)
        desk.turn()
        assert [type(effect) for effect in desk.effects] == wanted
        assert MAIN not in desk.core.positions()


def test_a_letter_whose_partition_has_gone_is_not_recorded() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.arrive(one)
    desk.answer(one, REFUSED)
    desk.core.leave([MAIN])
    desk.core.forget([MAIN])
    desk.core.buried(one)
    assert desk.turn() == []
    assert desk.effects == []


def test_a_copy_that_came_back_with_its_partition_keeps_its_place() -> None:
    desk, old, later = Desk(), delivery("a", 1), delivery("a", 2)
    desk.arrive(old)
    desk.begin(old)
    desk.core.leave([MAIN])
    desk.core.forget([MAIN])
    desk.core.assign([MAIN], ())
    assert desk.arrive(delivery("a", 1), later) == [], "its call is still in flight here"
    desk.core.answered(old, BUSY, desk.now, lambda: 0.0)
    assert desk.turn() == ["e1"]


def test_without_a_lease_nothing_begins() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.now = LEASE
    assert desk.arrive(one) == []
    desk.core.renew(LEASE + 5)
    assert desk.turn() == ["e1"]
    desk.now = LEASE + 5
    assert not desk.begin(one), "it ran out while the call waited for its turn"
    desk.core.renew(LEASE + 10)
    assert desk.turn() == ["e1"]


def test_a_lease_that_runs_out_while_the_ledger_is_asked_takes_the_intent_back() -> None:
    desk, one = Desk(keyed=False), delivery("a", 1)
    desk.arrive(one)
    assert desk.core.begin(one, desk.now)
    assert not desk.core.prepared(one, GO, LEASE, wall=0.0)
    assert desk.core.take() == [Withdraw(one)]


# Orders.


def test_a_halt_keeps_the_offsets_until_all_is_fetched_again() -> None:
    desk, one, two = Desk(), delivery("a", 1), delivery("b", 2)
    desk.arrive(one, two)
    desk.answer(one, Halt("answered 401"))
    assert str(desk.core.halted) == "answered 401"
    assert not desk.begin(two)
    assert desk.committed == 1
    desk.core.leave([MAIN])
    desk.core.forget([MAIN])
    desk.core.go_on()
    desk.core.assign([MAIN], ())
    assert desk.arrive(delivery("a", 1), delivery("b", 2)) == ["e1", "e2"]


def test_a_bad_release_halts_after_twenty_refusals_alike() -> None:
    desk = Desk()
    events = [delivery(f"k{n}", n) for n in range(25)]
    desk.arrive(*events)
    for one in events[:20]:
        desk.answer(one, REFUSED)
    assert not desk.core.halted
    desk.answer(events[20], REFUSED)
    assert "20 events in a row" in str(desk.core.halted)


def lose_unwritten(desk: Desk, refused: Sequence[Delivery]) -> None:
    """Lose the partition to an outage in which no dead letter can be written, and have it again."""
    desk.core.forget([MAIN])
    for one in refused:
        desk.core.unburied(one)
    desk.core.assign([MAIN], ())


@pytest.mark.parametrize("status", [422, 403])
def test_refusals_whose_letters_an_outage_has_held_up_count_once(status: int) -> None:
    """Between them other events were delivered; called again they stand in a row."""
    desk, verdict = Desk(), Permanent(f"answered {status}", status=status)
    for n in range(25):
        bad, good = delivery(f"k{n}", 2 * n + 1), delivery(f"g{n}", 2 * n + 2)
        desk.arrive(bad, good)
        desk.answer(bad, verdict)
        desk.deliver(good)
    for _ in range(3):
        again = [delivery(f"k{n}", 2 * n + 1) for n in range(25)]
        lose_unwritten(desk, [*desk.core._open.values()])
        assert len(desk.arrive(*again)) == 25
        for one in again:
            desk.answer(one, verdict)
        assert not desk.core.halted
    for one in again:
        desk.bury(one)


def test_a_bad_release_halts_after_twenty_refusals_alike_though_an_outage_lies_between() -> None:
    desk = Desk()
    first = [delivery(f"k{n}", n) for n in range(15)]
    desk.arrive(*first)
    for one in first:
        desk.answer(one, REFUSED)
    lose_unwritten(desk, first)
    again = [delivery(f"k{n}", n) for n in range(30)]
    desk.arrive(*again)
    for one in again[:20]:
        desk.answer(one, REFUSED)
    assert not desk.core.halted
    desk.answer(again[20], REFUSED)
    assert "20 events in a row" in str(desk.core.halted), "no more of them are buried than without the outage"


@pytest.mark.parametrize("still", ["paused", "stopping"])
def test_paused_or_stopping_nothing_begins(still: str) -> None:
    desk, one = Desk(), delivery("a", 1)
    setattr(desk.core, still, True)
    assert desk.arrive(one) == []
    setattr(desk.core, still, False)
    assert desk.turn() == ["e1"]


def test_a_skipped_event_becomes_a_dead_letter_instead_of_being_called() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.core.skip({"e1"})
    assert desk.arrive(one) == []
    [letter] = desk.effects
    assert isinstance(letter, Letter)
    assert (letter.state, one.kind) == (State.DEAD, "skipped")


def test_a_halted_flow_can_be_freed_of_one_event() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.arrive(one)
    desk.answer(one, Halt("answered 401"))
    desk.core.skip({"e1"})
    desk.turn()
    assert [type(effect) for effect in desk.effects] == [Letter]


def test_an_order_to_skip_is_obeyed_once_and_by_no_replay() -> None:
    desk, one = Desk(), delivery("a", 1)
    desk.core.skip({"e1"})
    desk.arrive(one)
    desk.core.skip({"e1"})  # heard of again, as with every change of orders
    desk.bury(one)
    again = delivery("a", 1, slot=REPLAY, run="r")
    assert desk.arrive(again, known={"e1": State.DEAD}, live=["r"]) == ["e1"]


def test_an_order_waits_for_the_doubt_about_another_workers_call() -> None:
    desk, one = Desk(keyed=False), delivery("a", 1)
    desk.core.skip({"e1"})
    assert desk.arrive(one, known={"e1": State.INTENT}) == ["e1"]
    assert not desk.begin(one, Ambiguous())
    desk.turn()
    [letter] = desk.effects
    assert isinstance(letter, Letter)
    assert letter.state is State.AMBIGUOUS


def in_doubt(payload: bytes) -> Row:
    """What the ledger holds while another worker's call may last until seven seconds from now."""
    return Row(State.INTENT, payload, 0, "other:1", 7.0)


def test_an_outcome_that_another_workers_call_came_before_is_none() -> None:
    """The order still holds, nothing of the key begins, no offset moves; then the ledger is asked (D3, D4)."""
    desk, one, two = Desk(keyed=False, after_dead="park_key"), delivery("a", 1), delivery("a", 2)
    desk.core.skip({"e1"})
    desk.arrive(one, two)
    desk.core.buried(one)
    assert [type(effect) for effect in desk.core.take()] == [Record]
    assert desk.core.recorded(one, (), in_doubt(one.payload), wall=0.0) is None
    assert (desk.turn(), desk.effects) == ([], [Later(one, 7.0)])
    assert (one.skipped, desk.committed) == ("", 1)
    desk.core.due(one)
    assert desk.turn() == ["e1"]
    assert not desk.begin(one, GO)
    desk.turn()
    withdraw, letter = desk.effects
    assert (withdraw, type(letter), one.kind) == (Withdraw(one), Letter, "skipped"), "the call was taken back"
    desk.bury(one)
    assert (one.skipped, desk.committed) == ("e1", 2)


def test_an_outcome_that_another_workers_call_came_before_is_none_for_the_next_owner_either() -> None:
    desk, one = Desk(keyed=False), delivery("a", 1)
    desk.core.skip({"e1"})
    desk.arrive(one)
    desk.core.buried(one)
    desk.core.take()
    desk.core.forget([MAIN])
    desk.core.assign([MAIN], ())
    assert desk.core.recorded(one, (), in_doubt(one.payload), wall=0.0) is None
    assert (desk.turn(), one.stage, desk.core.gap()) == ([], Stage.GONE, 0)
    again = delivery("a", 1)
    desk.arrive(again)
    [letter] = desk.effects
    assert isinstance(letter, Letter)
    assert letter.delivery is again, "the order is still to be obeyed"


def test_of_poison_that_another_worker_had_begun_to_send_the_ledger_is_asked_first() -> None:
    """A worker of another topology could read it (D4, L5)."""
    desk, one = Desk(keyed=False), delivery("a", 1, poison=True)
    assert desk.arrive(one, known={"e1": State.INTENT}) == ["e1"]
    assert not desk.begin(one, Wait(7.0))
    desk.turn()
    desk.core.due(one)
    assert desk.turn() == ["e1"]
    assert not desk.begin(one, GO), "that call was taken back"
    desk.turn()
    withdraw, letter = desk.effects
    assert (withdraw, type(letter), one.kind) == (Withdraw(one), Letter, "poison")


def test_an_event_has_ended_as_the_ledger_says() -> None:
    desk, one, two = Desk(keyed=False, after_dead="park_key"), delivery("a", 1), delivery("a", 2)
    desk.arrive(one, two)
    assert not desk.begin(one, Ambiguous())
    desk.core.buried(one)
    desk.core.take()
    assert desk.core.recorded(one, (), Row(State.DONE, one.payload, 1)) is State.DONE
    assert desk.turn() == ["e2"], "nothing is parked behind what was delivered after all"


# How much is held (D6).


def test_a_full_partition_pauses_alone_and_goes_on_when_it_is_less_than_half_full() -> None:
    desk = Desk(caps=Caps(slot_events=4))
    events = [delivery(f"k{n}", n) for n in range(4)]
    desk.arrive(*events)
    assert desk.core.full(MAIN, paused=False)
    assert not desk.core.full(OTHER, paused=False)
    for one in events[:2]:
        desk.deliver(one)
        assert not desk.core.full(MAIN, paused=False)
        assert desk.core.full(MAIN, paused=True)
    desk.deliver(events[2])
    assert not desk.core.full(MAIN, paused=True)


def test_the_bytes_of_all_partitions_pause_all_but_the_replays() -> None:
    desk = Desk(caps=Caps(bytes=10))
    desk.arrive(delivery("a", 1, size=10))
    assert desk.core.full(MAIN, paused=False)
    assert desk.core.full(OTHER, paused=False)
    assert not desk.core.full(REPLAY, paused=False), "they may be what frees the others"


def test_a_partition_spans_no_more_than_the_cap_from_its_watermark() -> None:
    desk = Desk(caps=Caps(span=3))
    desk.arrive(delivery("a", 1), *(delivery("b", n) for n in (2, 3)), known={"e2": State.DONE, "e3": State.DONE})
    assert desk.core.full(MAIN, paused=False)


def test_the_key_that_fills_a_partition_up_has_a_name() -> None:
    desk = Desk(caps=Caps(lane_events=2))
    desk.arrive(delivery("a", 1), delivery("a", 2))
    assert desk.core.full(MAIN, paused=False)
    found = desk.core.filled(MAIN)
    assert found is not None
    assert found.key == b"a"


def test_what_another_topology_may_read_waits_until_all_run_one() -> None:
    desk = Desk()
    unread = delivery("a", 1)
    unread.poison, unread.fetched = UnknownSchema("nobody registered it"), 5.0
    desk.core.uniform = 4.0
    assert desk.arrive(unread, delivery("a", 2), delivery("b", 3)) == ["e3"]
    assert desk.effects[0] == Later(unread, LOOK_AGAIN)
    desk.core.due(unread)
    assert desk.turn() == []
    assert desk.effects == [Later(unread, LOOK_AGAIN)]
    desk.core.uniform = 5.0
    desk.core.due(unread)
    desk.turn()
    [letter] = desk.effects
    assert isinstance(letter, Letter)
    assert (letter.delivery, unread.kind) == (unread, "poison")


def test_what_another_topology_may_read_can_be_skipped() -> None:
    desk = Desk()
    unread = delivery("a", 1)
    unread.poison, unread.fetched = UnknownSchema("nobody registered it"), 5.0
    desk.core.uniform = 4.0
    desk.arrive(unread)
    desk.core.skip(["e1"])
    desk.turn()
    assert unread.kind == "skipped"
