from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.kafka.retention import ALARMING, Unread, kept_for, unread

NOW = datetime(2026, 5, 8, tzinfo=UTC)
WEEK = timedelta(days=7)
ZERO, ONE = ("t", 0), ("t", 1)


def test_the_oldest_unread_record_says_how_much_of_the_retention_is_unread() -> None:
    oldest = {ZERO: NOW - timedelta(days=1), ONE: NOW - timedelta(days=3.6)}
    found = unread({ZERO: 5, ONE: 0}, {ZERO: 0, ONE: 0}, {ZERO: 9, ONE: 9}, oldest, WEEK, NOW)
    assert (found.expired, round(found.share, 3)) == (0, 0.514)
    assert unread({ZERO: 5}, {ZERO: 0}, {ZERO: 9}, {ZERO: NOW - timedelta(days=3.5)}, WEEK, NOW).share == ALARMING


def test_what_was_deleted_unread_is_counted() -> None:
    found = unread({ZERO: 5, ONE: 7}, {ZERO: 8, ONE: 2}, {ZERO: 8, ONE: 7}, {}, WEEK, NOW)
    assert found == Unread(expired=3, share=0.0)


def test_a_partition_that_was_never_read_counts_from_its_beginning() -> None:
    assert unread({}, {ZERO: 0}, {ZERO: 1}, {ZERO: NOW - WEEK}, WEEK, NOW) == Unread(0, 1.0)


def test_what_is_kept_for_ever_alarms_nobody() -> None:
    assert unread({}, {ZERO: 0}, {ZERO: 1}, {ZERO: NOW - WEEK}, None, NOW) == Unread()


slots = st.sampled_from([ZERO, ONE])
offsets = st.integers(0, 9)


@given(st.dictionaries(slots, offsets), offsets, offsets, st.integers(-9, 20))
def test_who_has_read_everything_has_nothing_to_fear(
    committed: dict[tuple[str, int], int], low: int, more: int, age: int
) -> None:
    lows, highs = {ZERO: low, ONE: low}, {ZERO: low + more, ONE: low + more}
    oldest = {slot: NOW - timedelta(days=age) for slot in lows if committed.get(slot, low) < highs[slot]}
    found = unread(committed, lows, highs, oldest, WEEK, NOW)
    assert found.share >= 0
    assert (found.share > ALARMING) == (bool(oldest) and age > 3)
    assert found.expired == sum(max(0, low - offset) for offset in committed.values())


@pytest.mark.parametrize(
    ("settings", "keep"),
    [
        ({"retention.ms": "604800000", "cleanup.policy": "delete"}, WEEK),
        ({"retention.ms": "604800000", "cleanup.policy": "compact,delete"}, WEEK),
        ({"retention.ms": "604800000", "cleanup.policy": "compact"}, None),
        ({"retention.ms": "-1"}, None),
        ({"retention.ms": str(2**63 - 1)}, None),
        ({}, None),
    ],
)
def test_how_long_a_topic_keeps_its_records(settings: dict[str, str], keep: timedelta | None) -> None:
    assert kept_for(settings) == keep
