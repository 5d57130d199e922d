"""Who may be called next: at most one of a key, at most so many over all, and in the order of their coming."""

from tests.trunkline.unit.making import MAIN, OTHER, REPLAY, delivery
from trunkline.engine.delivery import Delivery, Stage
from trunkline.engine.lanes import Lanes


def lanes(*held: Delivery, width: int = 8, events: int = 100, size: int = 100) -> Lanes:
    made = Lanes(width, events=events, size=size)
    for one in held:
        made.add(one)
    return made


def started(made: Lanes) -> list[str]:
    """Start whoever may be called, as the dispatcher does, and name them."""
    chosen = list(made.start())
    for one in chosen:
        one.stage = Stage.CALLING
    return [one.event.id for one in chosen]


def test_keys_go_at_once_and_the_events_of_one_key_one_after_the_other() -> None:
    made = lanes(delivery("a", 1), delivery("b", 2), delivery("a", 3))
    assert started(made) == ["e1", "e2"]
    made.answered()
    assert started(made) == [], "an answer alone lets nobody follow: it is not durable yet"
    made.finish(b"a")
    assert started(made) == ["e3"]


def test_events_without_a_key_wait_for_nobody() -> None:
    assert started(lanes(delivery(None, 1), delivery(None, 2))) == ["e1", "e2"]


def test_no_more_than_the_width_are_in_flight() -> None:
    made = lanes(*(delivery(f"k{n}", n) for n in range(5)), width=2)
    assert started(made) == ["e0", "e1"]
    assert made.calling == 2
    made.answered()
    assert started(made) == ["e2"], "who waits to be recorded holds none of the width"


def test_it_is_crowded_while_as_many_wait_for_the_width_as_it_has() -> None:
    made = lanes(*(delivery(f"k{n}", n) for n in range(3)), width=2)
    assert started(made) == ["e0", "e1"]
    seen = [made.crowded]
    made.add(delivery("k3", 3))
    seen.append(made.crowded)
    made.answered()
    assert [*seen, made.crowded] == [False, True, False]


def test_a_head_is_followed_while_another_waits_behind_it() -> None:
    made = lanes(delivery("a", 1), delivery("b", 2), delivery("a", 3))
    assert started(made) == ["e1", "e2"]
    assert made.followed(b"a")
    assert not made.followed(b"b")
    made.finish(b"a")
    assert not made.followed(b"a")


def test_one_that_failed_holds_its_key_but_none_of_the_width() -> None:
    first = delivery("a", 1)
    made = lanes(first, delivery("a", 2), delivery("b", 3), width=1)
    assert started(made) == ["e1"]
    made.answered()
    first.stage = Stage.WAITING
    assert started(made) == ["e3"]
    made.answered()
    first.stage = Stage.QUEUED
    made.again(b"a")
    assert started(made) == ["e1"], "it is called again before the next of its key"


def test_a_replay_goes_before_what_was_not_yet_tried() -> None:
    made = lanes(delivery("a", 1), delivery("a", 2))
    assert started(made) == ["e1"]
    made.add(delivery("a", 0, slot=REPLAY, run="r"))
    made.answered()
    made.finish(b"a")
    assert started(made) == ["e0"]


def test_replays_keep_their_own_order() -> None:
    made = lanes(delivery("a", 9), *(delivery("a", n, slot=REPLAY, run="r") for n in (1, 2)))
    order = []
    for _ in range(3):
        order += started(made)
        made.answered()
        made.finish(b"a")
    assert order == ["e1", "e2", "e9"]


def test_only_replays_of_a_blocked_key_begin() -> None:
    made = lanes()
    made.block(b"a")
    made.add(delivery("a", 2))
    made.add(delivery("b", 3))
    assert started(made) == ["e3"]
    made.add(delivery("a", 1, slot=REPLAY, run="r"))
    assert started(made) == ["e1"]
    made.answered()
    made.finish(b"a")
    assert started(made) == [], "the key is blocked until it is told otherwise"
    made.unblock(b"a")
    assert started(made) == ["e2"]


def test_a_key_that_is_blocked_while_its_head_could_begin_does_not_begin() -> None:
    made = lanes(delivery("a", 1))
    made.block(b"a")
    assert started(made) == []


def test_a_full_lane_pauses_the_partition_that_filled_it_until_it_is_half_empty() -> None:
    made = lanes(*(delivery("a", n) for n in range(3)), events=4)
    assert not made.full(MAIN)
    made.add(delivery("a", 3))
    assert made.full(MAIN)
    assert made.filled(MAIN) == b"a"
    assert not made.full(OTHER), "the others go on"
    for _ in range(2):
        assert made.full(MAIN)
        started(made)
        made.answered()
        made.finish(b"a")
    assert not made.full(MAIN)
    assert made.filled(MAIN) is None


def test_a_lane_is_full_by_weight_too_but_one_event_alone_never_fills_it() -> None:
    made = lanes(delivery("a", 1, size=50), size=10)
    assert not made.full(MAIN), "it could never become half empty"
    made.add(delivery("a", 2))
    assert made.full(MAIN)


def test_a_replay_fills_no_lane() -> None:
    """Or the partition of the replays would pause, although only they can let a blocked key go on."""
    made = lanes(delivery("a", 1), events=2)
    made.add(delivery("a", 0, slot=REPLAY, run="r"))
    assert not made.full(REPLAY)


def test_what_is_discarded_goes_except_what_has_begun() -> None:
    made = lanes(delivery("a", 1), delivery("a", 2), delivery("b", 3), width=1)
    assert started(made) == ["e1"]
    made.discard(lambda one: one.record.slot == MAIN)
    assert len(made) == 1
    made.answered()
    assert started(made) == []
    made.finish(b"a")
    assert len(made) == 0


def test_what_is_discarded_before_the_head_of_another_partition_lets_that_one_begin() -> None:
    made = lanes(delivery("a", 1), delivery("a", 2, slot=OTHER))
    made.discard(lambda one: one.record.slot == MAIN)
    assert started(made) == ["e2"]


def test_a_copy_takes_the_place_of_a_head_that_has_gone() -> None:
    made = lanes(delivery("a", 1), delivery("a", 2))
    assert started(made) == ["e1"]
    made.answered()
    made.replace(delivery("a", 1, event="e1 again"))
    assert started(made) == ["e1 again"], "not behind what came later"


def test_a_copy_that_takes_a_place_waits_behind_the_replay_that_may_free_its_key() -> None:
    """As when a letter of the first could not be written before its partition went and came back (D12)."""
    made = lanes(delivery("a", 2))
    assert started(made) == ["e2"]
    made.answered()
    made.add(delivery("a", 3))
    made.add(delivery("a", 1, slot=REPLAY, run="r"))
    made.block(b"a")
    made.replace(delivery("a", 2, event="e2 again"))
    assert started(made) == ["e1"]
    made.answered()
    made.finish(b"a")
    made.unblock(b"a")
    assert started(made) == ["e2 again"]


def test_a_copy_of_a_replay_takes_its_place_before_other_replays() -> None:
    made = lanes(*(delivery("a", n, slot=REPLAY, run="r") for n in (1, 2)))
    assert started(made) == ["e1"]
    made.answered()
    made.replace(delivery("a", 1, event="e1 again", slot=REPLAY, run="r"))
    assert started(made) == ["e1 again"]


def test_a_replay_takes_the_place_of_its_event_that_waits_untried() -> None:
    waiting = delivery("a", 2)
    made = lanes(delivery("a", 1), waiting)
    assert started(made) == ["e1"]
    made.supplant(waiting, delivery("a", 0, event="e2", slot=REPLAY, run="r"))
    made.answered()
    made.finish(b"a")
    assert started(made) == ["e2"]
    made.answered()
    made.finish(b"a")
    assert len(made) == 0


def test_an_order_takes_a_head_out_of_turn() -> None:
    made = lanes(delivery("a", 1))
    made.withdraw(b"a")
    assert started(made) == []
    assert made.head(b"a").event.id == "e1", "it still holds its key"
