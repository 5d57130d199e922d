"""Limits with a virtual clock: shares of one limit, stops that a target asks for, and limits that it tells."""

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import Limit
from trunkline.engine.breaker import ANY
from trunkline.engine.limits import CATCH_UP, LATEST_EPOCH, LONGEST_STOP, Limiter, Throttle, Told, told
from trunkline.verdict import LONGEST_WISH

WALL = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = 1.0


def spend(limiter: Limiter, now: float) -> int:
    """Make every call that may begin."""
    room = limiter.room(now)
    for _ in range(room):
        limiter.take(now)
    return room


@given(
    st.floats(0.5, 5_000),
    st.sampled_from(["second", "minute"]),
    st.one_of(st.none(), st.floats(1, 500)),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["spend", "move", "away"]), st.integers(0, 11)), max_size=120),
)
def test_however_partitions_go_from_hand_to_hand_all_together_keep_the_limit(
    events: float, per: "str", burst: float | None, steps: list[tuple[float, str, int]]
) -> None:
    limit = Limit(events, per=per, burst=burst)  # type: ignore[arg-type]  # the two words
    rate = events / (1.0 if per == "second" else 60.0)
    workers = [Limiter(limit) for _ in range(3)]
    owner: list[int | None] = [0] * 12
    now, made = 0.0, []
    for worker in range(3):
        workers[worker].divide(owner.count(worker) / 12, now)
    for seconds, what, number in steps:
        now += seconds
        if what == "away":  # first it is given back, and only later another has it (D7)
            owner[number] = None
        elif what == "move":
            before, owner[number] = owner[number], number % 3
            if before is not None and before != owner[number]:
                workers[before].divide(owner.count(before) / 12, now)
        for worker in range(3):
            workers[worker].divide(owner.count(worker) / 12, now)
        if what == "spend":
            made.append((now, sum(spend(one, now) for one in workers)))
    # However small a share is, its worker may hold one call, and what makes up for a late timer.
    most = len(workers) + rate * CATCH_UP + (burst or 0.0)
    for first in range(len(made)):
        total = 0
        for at, calls in made[first:]:
            total += calls
            assert total <= most + rate * (at - made[first][0]) + 1e-6


def test_two_workers_make_a_hundred_calls_a_second_and_not_one_in_twenty_more() -> None:
    workers = [Limiter(Limit(100)), Limiter(Limit(100))]
    for worker, owned in zip(workers, (7, 5), strict=True):
        worker.divide(owned / 12, 0.0)
    ticks = [tick / 500 for tick in range(30 * 500)]
    made = [sum(spend(worker, now) for worker in workers) for now in ticks]
    seconds = [sum(made[start : start + 500]) for start in range(0, len(made) - 500, 50)]
    assert max(seconds) <= 105
    assert min(seconds[20:]) >= 95


def test_a_share_begins_empty_and_fills_evenly() -> None:
    limiter = Limiter(Limit(10, burst=5))
    limiter.divide(1.0, 50.0)
    assert limiter.room(50.0) == 0
    assert limiter.wait(50.0) == pytest.approx(0.1)
    assert [limiter.room(50.0 + tenths / 10) for tenths in (1, 2, 5, 90)] == [1, 2, 5, 5]


def test_a_smaller_share_holds_less_at_once() -> None:
    limiter = Limiter(Limit(10, burst=50))
    limiter.divide(1.0, 0.0)
    assert limiter.room(100.0) == 50
    limiter.divide(0.5, 100.0)
    assert limiter.room(100.0) == 25


def test_a_larger_share_begins_with_what_there_was() -> None:
    limiter = Limiter(Limit(10, burst=10))
    limiter.divide(0.1, 0.0)
    limiter.divide(1.0, 5.0)
    assert limiter.room(5.0) == 1, "of the five seconds before it had a tenth, and held no more than one call"


def test_debt_is_paid_before_anything_begins() -> None:
    limiter = Limiter(Limit(10))
    limiter.divide(1.0, 0.0)
    for _ in range(3):
        limiter.take(0.0)
    assert limiter.room(0.39) == 0
    assert limiter.wait(0.0) == pytest.approx(0.4)
    assert limiter.room(0.4) == 1


def test_a_call_that_did_not_ask_for_room_counts_like_one_that_did() -> None:
    limiter = Limiter(Limit(10))
    limiter.divide(1.0, 0.0)
    limiter.take(5.0)
    assert limiter.room(5.0) == 0


def test_without_partitions_nothing_begins() -> None:
    limiter = Limiter(Limit(10))
    assert (limiter.room(100.0), limiter.wait(100.0)) == (0, math.inf)
    limiter.divide(1.0, 100.0)
    limiter.divide(0.0, 101.0)
    assert (limiter.room(200.0), limiter.rate) == (0, 0.0)


# What an answer tells.


AS_EXPRESS = (
    {
        "ratelimit": '"3-in-1min"; r=2; t=60',
        "ratelimit-policy": '"3-in-1min"; q=3; w=60; pk=:MTJjYTE3YjQ5YWYy:',
    },
    {"ratelimit": "limit=3, remaining=2, reset=60", "ratelimit-policy": "3;w=60"},
    {
        "ratelimit-limit": "3",
        "ratelimit-policy": "3;w=60",
        "ratelimit-remaining": "2",
        "ratelimit-reset": "60",
        "x-ratelimit-limit": "3",
        "x-ratelimit-remaining": "2",
        "x-ratelimit-reset": f"{WALL.timestamp() + 60:.0f}",
    },
)
"""What express-rate-limit 8.x has answered as its drafts 8, 7 and 6, but for the time."""


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"ratelimit": '"default";r=50;t=30'}, Told(50, 30)),
        ({"ratelimit": '"default";r=50;t=30;pk=:dHJ1c3Q=:'}, Told(50, 30)),
        ({"ratelimit": '"a";r=50;t=30, "b";r=2;t=9'}, Told(2, 9)),
        ({"ratelimit": '"d";r=0', "ratelimit-policy": '"d";q=1;w=7'}, Told(0, 7)),
        ({"ratelimit": '"d";r=1'}, None),
        (
            {
                "ratelimit": '"calls";r=50;t=30, "bytes";r=2;t=9',
                "ratelimit-policy": '"calls";q=60;w=60, "bytes";q=10;w=60;qu="content-bytes"',
            },
            Told(50, 30),
        ),
        *((headers, Told(2, 60)) for headers in AS_EXPRESS),
        ({"ratelimit-policy": '"burst";q=100;w=50, "daily";q=1000;w=86400'}, Told(quota=Limit(2.0))),
        ({"ratelimit-policy": '"daily";q=1000;w=86400'}, None),
        ({"ratelimit-policy": '"none";q=0;w=1'}, None),
        ({"ratelimit": "limit=100, remaining=50, reset=20"}, Told(50, 20)),
        ({"ratelimit-limit": "100", "ratelimit-remaining": "7", "ratelimit-reset": "4"}, Told(7, 4)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "4"}, Told(7, 4)),
        ({"x-rate-limit-remaining": "7, 3", "x-rate-limit-reset": "4"}, Told(3, 4)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{WALL.timestamp() + 30:.0f}"}, Told(7, 30)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{LATEST_EPOCH + 1}"}, Told(7, 0)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{WALL.timestamp() + 30:.3f}"}, Told(7, 30)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": f"{WALL.timestamp() * 1000 + 30_000:.0f}"}, Told(7, 30)),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "1.5"}, Told(7, 1.5)),
        ({"x-ratelimit-remaining": "7"}, Told(7)),
        ({"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "4"}, None),
        ({"x-ratelimit-remaining": "many", "x-ratelimit-reset": "4"}, None),
        ({"x-ratelimit-remaining": "9" * 400}, None),
    ],
)
def test_what_an_answer_tells(headers: dict[str, str], found: Told | None) -> None:
    assert told(headers, WALL) == found


@given(
    st.dictionaries(
        st.sampled_from(["ratelimit", "ratelimit-policy", "ratelimit-remaining", "ratelimit-reset", "retry-after"]),
        st.one_of(st.text(max_size=60), st.text('";=rtqw0123456789, ab', max_size=200)),
    ),
    st.sampled_from([200, 302, 404, 429, 500, 503]),
)
def test_whatever_an_answer_says_a_target_is_stopped_for_an_hour_at_most(headers: dict[str, str], status: int) -> None:
    throttle = Throttle()
    throttle.divide(1.0, 0.0)
    throttle.begin(0.0)
    throttle.ended(0.0, status, headers, 1.0, lambda: WALL)
    assert throttle.room(1.0 + LONGEST_WISH) > 0 or throttle.limited
    assert throttle.wait(1.0) >= 0
    throttle.go_on(2.0)
    assert throttle.until <= 2.0


@pytest.mark.parametrize("text", ['"' * 900, "a;" * 500, ";" * 5_000, '"a";r=1;t=' + "1" * 5_000, "a," * 5_000])
def test_a_hostile_header_is_read_in_time(text: str) -> None:
    assert told({"ratelimit": text, "ratelimit-policy": text}, WALL) in (None, Told(1.0, 111111111111111.0))


# What it asks.


def answered(throttle: Throttle, status: int, now: float, *, began: float | None = None, **headers: Any) -> float:
    """Take an answer and give the seconds for which nothing begins after it."""
    throttle.begin(now if began is None else began)
    throttle.ended(
        now if began is None else began,
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        now,
        lambda: WALL,
    )
    return throttle.until - now


@pytest.mark.parametrize(
    ("status", "wish", "seconds"),
    [
        (429, "30", 30),
        (429, format_datetime(WALL + timedelta(seconds=30)), 30),
        (503, "30", 30),
        (500, "30", 30),
        (403, "30", 30),
        (429, "0", 1),
        (429, "-5", 1),
        (429, "soon", 1),
        (429, "1000000000", LONGEST_WISH),
        (429, format_datetime(datetime(2099, 1, 1, tzinfo=UTC)), LONGEST_WISH),
        (503, "1000000000", LONGEST_WISH),
        (429, format_datetime(WALL - timedelta(days=1)), 1),
    ],
)
def test_a_wish_to_wait_stops_the_target(status: int, wish: str, seconds: float) -> None:
    throttle = Throttle()
    assert answered(throttle, status, 100.0, retry_after=wish) == seconds
    assert throttle.room(100.0 + seconds - 0.001) == 0
    assert throttle.wait(100.0) == seconds
    assert throttle.room(100.0 + seconds) == ANY


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (503, {}),
        (403, {}),
        (409, {"retry_after": "9"}),
        (202, {"retry_after": "9"}),
        (200, {"x_ratelimit_remaining": "0"}),  # until when, nobody says
    ],
)
def test_what_concerns_one_call_stops_nothing(status: int, headers: dict[str, Any]) -> None:
    throttle = Throttle()
    answered(throttle, status, 100.0, **headers)
    assert throttle.room(100.0) == ANY


def test_refusals_without_a_wish_stop_for_longer_and_longer_until_a_call_succeeds() -> None:
    throttle, now, stops = Throttle(), 100.0, []
    for _ in range(8):
        stops.append(answered(throttle, 429, now))
        answered(throttle, 429, now + 0.1, began=now)  # what was in flight is no refusal more
        now = throttle.until
    assert stops == [1, 2, 4, 8, 16, 32, LONGEST_STOP, LONGEST_STOP]
    answered(throttle, 200, now, began=now - 100)
    assert answered(throttle, 429, now) == LONGEST_STOP
    now = throttle.until
    answered(throttle, 200, now)
    assert answered(throttle, 429, now) == 1
    throttle.go_on(now)
    assert answered(throttle, 429, now) == 1, "whoever says so begins anew"


def test_what_is_left_is_shared_and_counted_down_until_the_reset() -> None:
    throttle = Throttle()
    throttle.divide(0.5, 0.0)
    for _ in range(3):
        throttle.begin(0.0)
    throttle.ended(0.0, 200, {"ratelimit": '"d";r=20;t=10'}, 0.0, lambda: WALL)
    assert (throttle.limited, throttle.wait(0.0)) == (True, 0.0)
    assert throttle.room(0.0) == 20 * 0.5 - 2  # two more are in flight, and may or may not be counted
    throttle.begin(0.0)
    assert throttle.room(0.0) == 7
    throttle.unmade(0.0)
    assert throttle.room(0.0) == 8
    throttle.begin(0.0)
    throttle.ended(0.0, 200, {"ratelimit": '"d";r=10;t=10'}, 0.0, lambda: WALL)
    assert throttle.room(0.0) == 10 * 0.5 - 2, "what was not made is not in flight"


def test_a_window_that_nothing_is_told_of_yet_is_taken_for_one_as_before() -> None:
    """All that wait would begin at its first moment, and most be refused."""
    throttle = Throttle()
    throttle.divide(0.5, 0.0)
    answered(throttle, 200, 0.0, ratelimit='"d";r=20;t=10')
    answered(throttle, 200, 8.0, ratelimit='"d";r=2;t=2')
    assert [throttle.room(now) for now in (8.0, 10.0)] == [1, 10]
    for _ in range(10):
        throttle.begin(15.0)
    assert (throttle.room(15.0), throttle.wait(15.0)) == (0, 5.0)
    assert throttle.room(20.0) == 10
    assert throttle.room(47.0) == 10, "however long nobody has called"
    assert throttle.wait(47.0) == 0.0
    throttle.divide(0.01, 47.0)
    assert throttle.room(50.0) == 1, "one call however small the share is, or nothing would ever be told"
    answered(throttle, 404, 51.0)
    assert throttle.limited
    answered(throttle, 200, 51.0)
    assert (throttle.limited, throttle.room(51.0)) == (False, ANY), "it tells no more"


def test_nothing_left_for_no_time_is_no_limit() -> None:
    throttle = Throttle()
    throttle.divide(1.0, 0.0)
    answered(throttle, 200, 7.0, x_ratelimit_remaining="0", x_ratelimit_reset="0")
    assert (throttle.limited, throttle.room(7.0)) == (False, ANY)


def test_a_window_of_no_time_is_one_of_a_second() -> None:
    throttle = Throttle()
    throttle.divide(1.0, 0.0)
    answered(throttle, 200, 7.0, x_ratelimit_remaining="3", x_ratelimit_reset="0")
    assert throttle.room(7.0) == 3
    for _ in range(3):
        throttle.begin(7.0)
    assert (throttle.room(7.5), throttle.room(8.0)) == (0, 3)


def test_the_last_call_that_is_left_is_made() -> None:
    throttle = Throttle()
    throttle.divide(1.0, 0.0)
    throttle.begin(0.0)
    throttle.ended(0.0, 200, {"ratelimit": '"d";r=1;t=10'}, 0.0, lambda: WALL)
    assert (throttle.room(0.0), throttle.wait(0.0)) == (1, 0.0)


def test_when_nothing_is_left_the_target_stops_until_the_reset() -> None:
    throttle = Throttle()
    assert answered(throttle, 200, 5.0, x_ratelimit_remaining="0", x_ratelimit_reset="30") == 30
    assert throttle.why == "it allows no more calls until then"


def test_a_policy_alone_is_a_pace() -> None:
    throttle = Throttle()
    throttle.divide(0.5, 0.0)
    before = throttle.limited
    answered(throttle, 200, 0.0, ratelimit_policy='"d";q=100;w=10')
    assert (before, throttle.limited) == (False, True)
    assert throttle.room(0.0) == 0
    assert throttle.wait(0.0) == pytest.approx(0.2)
    throttle.begin(0.2)
    throttle.divide(1.0, 0.2)
    assert throttle.wait(0.2) == pytest.approx(0.1)
    throttle.ended(0.2, 200, {"ratelimit-policy": '"d";q=100;w=10'}, 0.25, lambda: WALL)
    assert throttle.wait(0.25) == pytest.approx(0.05), "what has filled stays, however often it is told"
