import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import Halt, Permanent, Poison, Retryable, Unknown
from trunkline.verdict import (
    Again,
    Bury,
    Delivered,
    Done,
    Guard,
    Retry,
    Stop,
    Verdict,
    backoff,
    decide,
    judge,
    of_exception,
    wished,
    words,
)

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
RETRY = Retry(give_up_after=timedelta(minutes=15), longest=timedelta(minutes=1), first=timedelta(milliseconds=500))

TABLE = {
    Delivered: [200, 201, 202, 204, 299],
    Halt: [300, 301, 302, 307, 308, 399, 401, 407],
    Retryable: [408, 409, 425, 429, 500, 501, 502, 503, 504, 507, 599],
    Permanent: [100, 101, 400, 402, 403, 404, 405, 406, 410, 411, 412, 413, 414, 415, 418, 422, 424, 428, 431, 451],
}


@pytest.mark.parametrize(("kind", "status"), [(kind, status) for kind, many in TABLE.items() for status in many])
def test_the_table(kind: type[Verdict], status: int) -> None:
    verdict = judge(status, {}, b"", now=NOW)
    assert type(verdict) is kind
    if isinstance(verdict, Delivered | Retryable | Permanent):
        assert verdict.status == status


def test_a_conflict_is_worth_a_retry_only_under_our_key() -> None:
    assert isinstance(judge(409, {}, b"", now=NOW), Retryable)
    assert isinstance(judge(409, {}, b"", now=NOW, keyed=False), Permanent)


@given(st.integers(100, 999), st.dictionaries(st.just("retry-after"), st.text()), st.binary(max_size=2000))
def test_every_answer_has_a_verdict(status: int, headers: dict[str, str], body: bytes) -> None:
    verdict = judge(status, headers, body, now=NOW)
    assert isinstance(verdict, Delivered | Retryable | Permanent | Halt)
    assert isinstance(verdict, Delivered) or "\n" not in str(verdict)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Retryable("x"), Retryable),
        (Permanent("x"), Permanent),
        (Unknown("x"), Unknown),
        (Poison("x"), Poison),
        (Halt("x"), Halt),
        (ConnectionRefusedError("x"), Retryable),
        (TimeoutError("x"), Retryable),
        (KeyError("x"), Permanent),
        (ZeroDivisionError("x"), Permanent),
    ],
)
def test_exceptions(error: Exception, kind: type[Verdict]) -> None:
    assert type(of_exception(error)) is kind


def test_a_bug_names_itself() -> None:
    assert str(of_exception(KeyError("total"))) == "bug in the adapter: KeyError: 'total'"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        ("Wednesday, 01-Jul-26 12:00:30 GMT", 30.0),
        ("9" * 400, math.inf),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
        ("Wed, 01 Jul 2026 12:00:30", None),
        ("Wed, 99 Jul 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert wished({"retry-after": value}, NOW) == seconds


def test_no_retry_after_is_no_wish() -> None:
    assert wished({}, NOW) is None


@given(st.text())
def test_whatever_a_target_wishes_is_a_wait_or_nothing(value: str) -> None:
    seconds = wished({"retry-after": value}, NOW)
    assert seconds is None or seconds >= 0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded_and_doubles(attempt: int, share: float) -> None:
    wait = backoff(attempt, RETRY, lambda: share)
    most = min(60.0, 0.5 * 2.0 ** min(attempt - 1, 32))
    assert wait == share * most
    assert 0 <= wait <= 60


def test_what_each_verdict_leads_to() -> None:
    def action(verdict: Verdict, *, attempt: int = 1, elapsed: float = 0.0) -> object:
        return decide(verdict, attempt=attempt, elapsed=elapsed, retry=RETRY, random=lambda: 0.5)

    assert action(Delivered(200)) == Done()
    assert action(Halt("no entry")) == Stop("no entry")
    assert action(Permanent("no")) == Bury("permanent")
    assert action(Poison("what")) == Bury("poison")
    assert action(Retryable("busy")) == Again(0.25)
    assert action(Retryable("busy"), attempt=3) == Again(1.0)
    assert action(Unknown("no answer"), attempt=3) == Again(1.0)
    assert action(Retryable("busy"), attempt=20, elapsed=869) == Again(30.0)
    assert action(Retryable("busy"), attempt=20, elapsed=871) == Bury("exhausted")
    assert action(Unknown("no answer"), attempt=20, elapsed=871) == Bury("unknown")


def test_a_wish_lengthens_the_wait_and_never_beyond_patience() -> None:
    def action(after: float, elapsed: float = 0.0) -> object:
        return decide(Retryable("busy", after=after), attempt=1, elapsed=elapsed, retry=RETRY, random=lambda: 0.5)

    assert action(0.0) == Again(0.25)
    assert action(100.0) == Again(100.0)
    assert action(10.0**9) == Again(900.0)
    assert action(10.0**9, elapsed=1) == Again(899.0)
    assert action(math.inf) == Again(900.0)


def test_what_a_target_said_is_one_harmless_line() -> None:
    assert words(b"") == ""
    assert words(b"  no\r\n such\tthing ") == ": no such thing"
    assert words("\x1b[31mred\u202e".encode()) == ": \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"
    assert len(words(b"x" * 10_000)) == 202
    assert words(b"\xff") == ": \N{REPLACEMENT CHARACTER}"


def refused(status: int | None = 422, message: str = "no") -> Permanent:
    return Permanent(message, status=status)


def key(number: int) -> bytes:
    return str(number).encode()


def test_twenty_alike_over_five_keys_are_dead_and_the_next_halts() -> None:
    guard = Guard()
    for number in range(20):
        assert isinstance(guard.consider(refused(), key(number % 5)), Permanent)
    halted = guard.consider(refused(), key(0))
    assert isinstance(halted, Halt)
    assert str(halted) == "20 events in a row were refused alike: no"


def test_a_single_bad_key_never_halts() -> None:
    guard = Guard()
    assert all(isinstance(guard.consider(refused(), key(number % 4)), Permanent) for number in range(100))


@pytest.mark.parametrize("between", [Delivered(200), Halt("stop"), refused(400)])
def test_anything_else_between_begins_a_new_row(between: Verdict) -> None:
    guard = Guard()
    for number in range(19):
        guard.consider(refused(), key(number))
    guard.consider(between, b"x")
    assert all(isinstance(guard.consider(refused(), key(number)), Permanent) for number in range(20))


@pytest.mark.parametrize("between", [Retryable("busy"), Unknown("no answer"), Poison("what")])
def test_what_says_nothing_of_the_target_leaves_the_row(between: Verdict) -> None:
    guard = Guard()
    for number in range(20):
        guard.consider(refused(), key(number))
        assert guard.consider(between, b"x") is between
    assert isinstance(guard.consider(refused(), b"x"), Halt)


@pytest.mark.parametrize("status", [403, 410])
def test_five_keys_without_entry_halt(status: int) -> None:
    guard = Guard()
    for number in range(4):
        assert isinstance(guard.consider(refused(status), key(number)), Permanent)
        assert isinstance(guard.consider(refused(status), key(number)), Permanent)
    assert isinstance(guard.consider(refused(status), key(4)), Halt)


def test_one_bug_is_one_kind_whatever_its_status() -> None:
    guard = Guard()
    for number in range(20):
        guard.consider(of_exception(KeyError("total")), key(number))
    assert isinstance(guard.consider(of_exception(KeyError("total")), b"x"), Halt)
