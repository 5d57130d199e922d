from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.deadletter import (
    LONGEST,
    OURS,
    REPLAY_RUN,
    Failure,
    Letter,
    Origin,
    original,
    read,
    replayed,
    sent_again,
    who_of,
    write,
)
from trunkline.engine.trail import again
from trunkline.event import Event, Headers, to_headers
from trunkline.kafka.events import Record, Slot

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)
HERE = Origin("orders", 3, 41)
EVENT = to_headers(Event("42", AT, {}, source="bus/till", type="orders.Placed.v1", key="7"))
FAILURE = Failure("orders.billing", "permanent", "deliver", "Permanent", "answered 422: no", 1, 422, AT)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=LONGEST)
own_headers = st.lists(
    st.tuples(st.text(max_size=20).filter(lambda name: name not in OURS), st.none() | st.binary(max_size=20)),
    max_size=8,
).map(tuple)
failures = st.builds(
    Failure,
    flow=texts,
    kind=st.sampled_from(["poison", "permanent", "exhausted", "unknown"]),
    stage=st.sampled_from(["decode", "process", "deliver"]),
    error=texts,
    message=texts,
    attempts=st.integers(0, 10**6),
    status=st.none() | st.integers(100, 999),
    at=st.datetimes(timezones=st.just(UTC)),
)


@given(own_headers, failures, st.integers(0, 10**6), st.integers(0, 2**62))
def test_what_is_written_is_read_and_the_event_is_untouched(
    headers: Headers, failure: Failure, partition: int, offset: int
) -> None:
    origin = Origin("orders", partition, offset)
    written = write(headers, origin, failure)
    assert written[: len(headers)] == headers
    assert original(written) == headers
    assert read(written) == Letter(origin, failure, failure.at, 0)


@given(own_headers, failures, failures)
def test_a_replay_that_fails_again_keeps_its_first_origin(headers: Headers, first: Failure, second: Failure) -> None:
    dead = write(headers, HERE, first)
    sent = replayed(dead, "run-1")
    assert original(sent) == headers
    assert sent_again(sent, Origin("orders.billing.replay", 0, 9)) == (HERE, "run-1")
    again = write(sent, HERE, second)
    assert original(again) == headers
    assert read(again) == Letter(HERE, second, first.at, 1)
    assert read(write(replayed(again, "run-2"), HERE, first)).replays == 2


def test_a_replay_carries_its_run_and_nothing_of_the_failure() -> None:
    sent = dict(replayed(write(EVENT, HERE, FAILURE), "run-7"))
    assert sent[REPLAY_RUN] == b"run-7"
    assert set(sent) - set(dict(EVENT)) == {
        "trunkline-origin-topic",
        "trunkline-origin-partition",
        "trunkline-origin-offset",
        "trunkline-first-failed-at",
        "trunkline-replay-count",
        "trunkline-replay-run",
    }


def test_a_record_that_no_replay_wrote_stands_where_it_is() -> None:
    assert sent_again(EVENT, HERE) == (HERE, "")
    assert sent_again((("trunkline-origin-topic", b"t"), ("trunkline-origin-partition", b"x")), HERE) == (HERE, "")


@pytest.mark.parametrize(
    "header",
    [
        ("trunkline-replay-count", b"many"),
        ("trunkline-replay-count", None),
        ("trunkline-first-failed-at", b"once"),
        ("trunkline-first-failed-at", b"2026-01-01T00:00:00"),
        ("trunkline-flow", b"\xff"),
    ],
)
def test_a_letter_can_be_read_whatever_the_record_says_under_our_names(header: tuple[str, bytes | None]) -> None:
    sent = replayed(write(EVENT, HERE, FAILURE), "run-1")
    spoilt = (*(one for one in sent if one[0] != header[0]), header)
    assert read(write(spoilt, HERE, FAILURE)) == Letter(HERE, FAILURE, AT, 0)
    record = Record(Slot("orders.billing.replay", 3), 0, b"7", b"", (*spoilt, ("trunkline-replay-count", b"x")), 0)
    assert again(record) is None, "no replay of ours has sent it"


def test_who_it_was_is_read_alone_and_of_what_is_no_event_its_place() -> None:
    """Whatever a record that cannot be read claims to be."""
    poison = replace(FAILURE, kind="poison")
    assert who_of((*write(EVENT, HERE, FAILURE), ("ce_id", None))) == ("bus/till", "42")
    assert who_of(write(EVENT, HERE, poison)) == who_of(write((), HERE, poison)) == ("kafka:orders", "3@41")


def test_existing_tools_find_what_they_know() -> None:
    found = dict(write(EVENT, HERE, FAILURE))
    assert found["__connect.errors.topic"] == b"orders"
    assert found["__connect.errors.partition"] == b"3"
    assert found["__connect.errors.offset"] == b"41"
    assert found["__connect.errors.exception.message"] == b"answered 422: no"


def test_an_endless_message_is_cut() -> None:
    long = Failure("f", "permanent", "process", "E", "\N{SNOWMAN}" * 100_000, 1, None, AT)
    headers = write(EVENT, HERE, long)
    assert read(headers).failure.message == "\N{SNOWMAN}" * LONGEST
    assert sum(len(name) + len(value or b"") for name, value in headers) < 16 * 1024


def test_a_message_that_is_no_text_is_written_all_the_same() -> None:
    failure = Failure("f", "permanent", "process", "KeyError", "no \ud800 here", 1, None, AT)
    assert read(write(EVENT, HERE, failure)).failure.message == "no ? here"


def test_the_first_failure_keeps_its_time() -> None:
    later = Failure("f", "exhausted", "deliver", "Retryable", "busy", 9, 503, AT + timedelta(days=1))
    letter = read(write(replayed(write(EVENT, HERE, FAILURE), "run"), HERE, later))
    assert letter.first_failed_at == AT
    assert letter.failure.at == AT + timedelta(days=1)


@pytest.mark.parametrize("missing", ["trunkline-flow", "trunkline-origin-offset", "trunkline-attempts"])
def test_a_record_of_somebody_else_is_no_dead_letter_of_ours(missing: str) -> None:
    headers = tuple(header for header in write(EVENT, HERE, FAILURE) if header[0] != missing)
    with pytest.raises(KeyError):
        read(headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trunkline-origin-partition", b"-1"),
        ("trunkline-origin-partition", b"2147483648"),
        ("trunkline-origin-offset", b"-5"),
        ("trunkline-origin-offset", b"9223372036854775808"),
        ("trunkline-last-failed-at", b"2026-03-01T12:00:00"),
        ("trunkline-last-failed-at", b"0001-01-01T00:00:00+14:00"),
        ("trunkline-first-failed-at", b"9999-12-31T23:59:59-14:00"),
    ],
)
def test_what_no_worker_writes_is_no_letter_of_ours_and_no_end_of_a_list(name: str, value: bytes) -> None:
    forged = tuple((known, value if known == name else had) for known, had in write(EVENT, HERE, FAILURE))
    with pytest.raises(ValueError, match=r"offset|place|range"):
        read(forged)
    assert sent_again(forged, HERE)[0] == HERE
    again = write(forged, HERE, FAILURE)
    assert read(again) == Letter(HERE, FAILURE, AT, 0), "a record with such headers has a letter that can be read"
