import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import Halt, Permanent, Poison, Retryable, Unknown
from trunkline.redact import redact
from trunkline.verdict import (
    Action,
    Again,
    Bury,
    Delivered,
    Done,
    Guard,
    Retry,
    Stop,
    Supersede,
    Superseded,
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
    Halt: [300, 301, 302, 303, 304, 307, 308, 399, 401, 407],
    Retryable: [-1, 0, 99, 100, 101, 103, 199, 408, 409, 425, 429, 500, 501, 502, 503, 504, 507, 599, 600, 999],
    Permanent: [400, 402, 403, 404, 405, 406, 410, 411, 412, 413, 414, 415, 418, 422, 424, 428, 431, 451, 499],
}
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
WRITING = ["POST", "PUT", "PATCH", "DELETE"]


@pytest.mark.parametrize(("kind", "status"), [(kind, status) for kind, many in TABLE.items() for status in many])
def test_the_table(kind: type[Verdict], status: int) -> None:
    verdict = judge(status, {}, b"", now=NOW)
    assert type(verdict) is kind
    if isinstance(verdict, Delivered | Retryable | Permanent):
        assert verdict.status == status


def expected(status: int, method: str, headers: dict[str, str], *, keyed: bool, latest: bool) -> type[Verdict]:
    """Give the kind that DESIGN §5 and SEMANTICS D11 name, said a second time and in another form."""
    rows: list[tuple[bool, type[Verdict]]] = [
        (status in range(200, 300), Delivered),
        (status in (408, 425, 429), Retryable),
        (status in (404, 410) and method == "DELETE", Delivered),
        (status in (409, 412) and latest and method in WRITING, Superseded),
        (status == 409, Retryable if keyed else Permanent),
        (status in (403, 413) and wished(headers, NOW) is not None, Retryable),
        (status in (401, 407), Halt),
        (status in range(300, 400), Halt),
        (status in range(400, 500), Permanent),
    ]
    return next((kind for holds, kind in rows if holds), Retryable)


BODIES = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([b'{"detail": "no\\nsuch\\tthing"}', b"[" * 9000, b'{"detail": {}}', b"null", b"\xff" * 300]),
)


@given(
    status=st.integers(-5, 1000),
    method=st.sampled_from(METHODS),
    keyed=st.booleans(),
    latest=st.booleans(),
    headers=st.dictionaries(st.just("retry-after"), st.text() | st.sampled_from(["7", "0"])),
    body=BODIES.filter(lambda body: b"idempoten" not in body.lower()),
)
def test_every_answer_has_the_verdict_of_the_table(
    *, status: int, method: str, keyed: bool, latest: bool, headers: dict[str, str], body: bytes
) -> None:
    verdict = judge(status, headers, body, now=NOW, method=method, keyed=keyed, latest=latest)
    assert type(verdict) is expected(status, method, headers, keyed=keyed, latest=latest)
    if isinstance(verdict, Exception):
        assert "\n" not in str(verdict)
        assert str(status) in str(verdict)
    if isinstance(verdict, Delivered | Superseded | Permanent | Retryable):
        assert verdict.status == status
    if isinstance(verdict, Permanent):
        assert not verdict.alarm


def test_a_conflict_is_worth_a_retry_only_under_our_key() -> None:
    assert isinstance(judge(409, {}, b"", now=NOW), Retryable)
    assert str(judge(409, {}, b"Busy.", now=NOW)) == "answered 409: Busy: an earlier attempt is still running"
    assert isinstance(judge(409, {}, b"", now=NOW, keyed=False), Permanent)


@pytest.mark.parametrize(
    ("status", "headers", "after"),
    [
        (403, {"retry-after": "60"}, 60.0),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1782907200"}, None),
        (413, {"retry-after": "5"}, 5.0),
    ],
)
def test_a_refusal_that_passes_by_its_own_word_is_called_again(
    status: int, headers: dict[str, str], after: float | None
) -> None:
    """As docs.github.com/rest has it: "you will receive a 403 or 429 response"."""
    verdict = judge(status, headers, b'{"message": "You have exceeded a secondary rate limit."}', now=NOW)
    assert isinstance(verdict, Retryable)
    assert verdict.after == after
    left = {**headers, "retry-after": "soon", "x-ratelimit-remaining": "17"}
    assert isinstance(judge(status, left, b"", now=NOW), Permanent)


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_is_deleted(status: int) -> None:
    assert judge(status, {}, b"", now=NOW, method="DELETE") == Delivered(status)
    assert isinstance(judge(status, {}, b"", now=NOW, method="PUT"), Permanent)


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("status", [409, 412])
def test_a_later_state_at_the_target_supersedes_a_write_of_the_latest(*, status: int, keyed: bool) -> None:
    assert judge(status, {}, b"", now=NOW, method="PUT", keyed=keyed, latest=True) == Superseded(status)
    assert not isinstance(judge(status, {}, b"", now=NOW, method="PUT", keyed=keyed), Superseded)
    assert not isinstance(judge(status, {}, b"", now=NOW, method="GET", keyed=keyed, latest=True), Superseded)


REUSE = [
    (422, b'{"title": "Idempotency-Key is already used", "type": "https://api.example/idempotency"}'),
    (422, b"The idempotency key came before."),
    (400, b'{"error": {"type": "idempotency_error", "message": "Keys can only be used with the same parameters."}}'),
    (400, b'{"errors": [{"code": "IDEMPOTENCY_KEY_REUSED"}]}'),
    (409, b"Idempotency key reused with a different payload."),
    (409, b"The Idempotency-Key belongs to another payload."),
]


@pytest.mark.parametrize("latest", [True, False])
@pytest.mark.parametrize(("status", "body"), REUSE)
def test_a_key_that_came_with_another_payload_is_an_alarm(*, status: int, body: bytes, latest: bool) -> None:
    verdict = judge(status, {}, body, now=NOW, latest=latest)
    assert isinstance(verdict, Permanent)
    assert verdict.alarm
    assert str(verdict).endswith(
        "its idempotency key came before with another payload, so one of the two is not applied"
    )
    unkeyed = judge(status, {}, body, now=NOW, keyed=False)
    assert isinstance(unkeyed, Permanent)
    assert not unkeyed.alarm


@pytest.mark.parametrize(
    "body",
    [
        b'{"title": "A request is outstanding for this Idempotency-Key"}',
        b"There is currently another in-progress request using this idempotent key (you probably submitted twice).",
        b'{"error": {"code": "idempotency_key_in_use"}}',
    ],
)
@pytest.mark.parametrize("latest", [True, False])
def test_a_key_in_use_is_worth_a_retry(*, body: bytes, latest: bool) -> None:
    assert isinstance(judge(409, {}, body, now=NOW, latest=latest), Retryable)


def test_a_missing_key_is_no_alarm() -> None:
    body = b'{"title": "Idempotency-Key is missing", "detail": "This operation requires correct usage of it."}'
    verdict = judge(400, {}, body, now=NOW)
    assert isinstance(verdict, Permanent)
    assert not verdict.alarm


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
        ("9" * 5000, math.inf),
        ("1000000000", 1e9),
        ("5, 30", 30.0),
        ("30,5 ,\t7", 30.0),
        ("5, soon", None),
        (",", None),
        ("-5", None),
        ("1.5", None),
        ("1_0", None),
        ("5\n", 5.0),
        ("Wed, 01 Jul 2026 14:00:30 +0200", 30.0),
        ("Wed Jul  1 12:00:30 2026", 30.0),
        ("Sat, 31 Dec 99999 23:59:59 GMT", None),
        ("²", None),
        ("soon", None),
        ("", None),
        ("Wed, 01 Jul 2026 12:00:30", 30.0),
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


DATES = st.tuples(
    st.sampled_from(["Wed", "Sun", "x", ""]),
    st.integers(-1, 40),
    st.sampled_from(["Jan", "Dec", "Foo", "1"]),
    st.integers(-1, 1_000_000),
    st.tuples(*[st.integers(-1, 99)] * 3),
    st.sampled_from(["GMT", "UTC", "-0000", "+9999", "+99999999999", "EST", ""]),
)


@given(DATES)
def test_whatever_date_a_target_wishes_is_a_wait_or_nothing(
    parts: tuple[str, int, str, int, tuple[int, int, int], str],
) -> None:
    weekday, day, month, year, clock, zone = parts
    value = f"{weekday}, {day} {month} {year} {':'.join(map(str, clock))} {zone}"
    seconds = wished({"retry-after": value}, NOW)
    assert seconds is None or 0 <= seconds <= 86_400 * 366 * 10_000


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded_and_doubles(attempt: int, share: float) -> None:
    wait = backoff(attempt, RETRY, lambda: share)
    most = min(60.0, 0.5 * 2.0 ** min(attempt - 1, 32))
    assert wait == share * most
    assert 0 <= wait <= 60


def action(verdict: Verdict, *, attempt: int = 1, elapsed: float | None = 0.0, keyed: bool = True) -> Action:
    return decide(verdict, attempt=attempt, elapsed=elapsed, retry=RETRY, random=lambda: 0.5, keyed=keyed)


@pytest.mark.parametrize("keyed", [True, False])
def test_what_each_verdict_leads_to(*, keyed: bool) -> None:
    assert action(Delivered(200), keyed=keyed) == Done()
    assert action(Superseded(412), keyed=keyed) == Supersede()
    no_entry = Halt("no entry")
    assert action(no_entry, keyed=keyed) == Stop(no_entry)
    assert action(Permanent("no"), keyed=keyed) == Bury("permanent")
    assert action(Poison("what"), keyed=keyed) == Bury("poison")
    assert action(Retryable("busy"), keyed=keyed) == Again(0.25)
    assert action(Retryable("busy"), attempt=3, keyed=keyed) == Again(1.0)
    assert action(Retryable("busy"), attempt=20, elapsed=869, keyed=keyed) == Again(30.0)
    assert action(Retryable("busy"), attempt=20, elapsed=871, keyed=keyed) == Bury("exhausted")


def test_while_time_does_not_count_nothing_is_given_up() -> None:
    hasty = Retry(timedelta(seconds=1), longest=timedelta(minutes=1))
    for verdict in (Retryable("busy"), Retryable("busy", after=7.0), Unknown("no answer")):
        found = decide(verdict, attempt=20, elapsed=None, retry=hasty, random=lambda: 0.5)
        assert found == Again(30.0)
    assert action(Unknown("no answer"), elapsed=None, keyed=False) == Bury("unknown")


def test_an_unknown_outcome_is_repeated_only_under_our_key() -> None:
    assert action(Unknown("no answer"), attempt=3) == Again(1.0)
    assert action(Unknown("no answer"), attempt=20, elapsed=871) == Bury("unknown")
    assert action(Unknown("no answer"), keyed=False) == Bury("unknown")


def test_a_wish_lengthens_the_wait_and_never_beyond_patience() -> None:
    def wait(after: float, elapsed: float = 0.0) -> object:
        return action(Retryable("busy", after=after), elapsed=elapsed)

    assert wait(0.0) == Again(0.25)
    assert wait(100.0) == Again(100.0)
    assert wait(10.0**9) == Again(900.0)
    assert wait(10.0**9, elapsed=1) == Again(899.0)
    assert wait(math.inf) == Again(900.0)
    assert wait(-5.0) == Again(0.25)
    assert wait(math.nan) == Again(0.25)


def test_a_wish_counts_up_to_an_hour() -> None:
    patient = Retry(give_up_after=timedelta(days=1), longest=timedelta(hours=6), first=timedelta(hours=6))

    def wait(after: float, share: float) -> object:
        verdict = Retryable("busy", after=after)
        return decide(verdict, attempt=1, elapsed=0, retry=patient, random=lambda: share)

    assert wait(86_000.0, 0.0) == Again(3600.0)
    assert wait(3599.0, 0.0) == Again(3599.0)
    assert wait(86_000.0, 0.5) == Again(3 * 3600.0), "our own wait may be longer"


VERDICTS = st.one_of(
    st.builds(Delivered, st.integers(200, 299)),
    st.builds(Superseded, st.sampled_from([409, 412])),
    st.builds(Retryable, st.just("busy"), after=st.none() | st.floats()),
    st.builds(Permanent, st.just("no"), status=st.none() | st.integers(400, 499)),
    st.builds(Unknown, st.just("no answer")),
    st.builds(Poison, st.just("what")),
    st.builds(Halt, st.just("stop")),
)


@given(
    verdict=VERDICTS,
    attempt=st.integers(1, 10**9),
    elapsed=st.floats(0, 10**9),
    share=st.floats(0, 1, exclude_max=True),
    keyed=st.booleans(),
)
def test_every_verdict_has_an_action_and_no_wait_ends_after_patience(
    *, verdict: Verdict, attempt: int, elapsed: float, share: float, keyed: bool
) -> None:
    found = decide(verdict, attempt=attempt, elapsed=elapsed, retry=RETRY, random=lambda: share, keyed=keyed)
    if isinstance(found, Again):
        assert found.seconds >= 0
        assert elapsed + found.seconds <= 900 * (1 + 1e-9)
        assert isinstance(verdict, Retryable | Unknown)
        assert keyed or isinstance(verdict, Retryable)


def test_what_was_cut_out_of_an_answer_is_hidden_in_the_middle_of_a_verdict_too() -> None:
    body = b"x" * 180 + b" ann.onymous@example.com has it already"
    verdict = judge(409, {}, body, now=NOW)
    assert "ann.onymous@exam" in str(verdict)
    assert "ann" not in redact(str(verdict), ["ann.onymous@example.com"])


def test_what_a_target_said_is_one_harmless_line() -> None:
    assert words(b"") == ""
    assert words(b"  no\r\n such\tthing ") == ": no such thing"
    assert words("\x1b[31mred\u202e".encode()) == ": \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"
    assert len(words(b"x" * 10_000)) == 202
    assert words(b"x" * 201).endswith("xx…"), "who reads on sees that it was cut"
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


@pytest.mark.parametrize("between", [Delivered(200), Superseded(412), Halt("stop"), refused(400)])
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


def test_five_keys_without_entry_halt_whichever_of_the_two_each_got() -> None:
    guard = Guard()
    verdicts = [guard.consider(refused(status), key(number)) for number, status in enumerate([403, 410, 403, 410, 403])]
    assert [type(verdict) for verdict in verdicts] == [Permanent] * 4 + [Halt]


@pytest.mark.parametrize("between", [Delivered(200), Superseded(409), refused(422)])
def test_an_entry_between_begins_a_new_row_of_keys_without(between: Verdict) -> None:
    guard = Guard()
    for number in range(4):
        guard.consider(refused(403), key(number))
    guard.consider(between, b"x")
    for number in range(4, 8):
        assert isinstance(guard.consider(refused(403), key(number)), Permanent)
    assert isinstance(guard.consider(refused(403), key(8)), Halt)


def test_events_without_a_key_are_one_key() -> None:
    guard = Guard()
    assert all(isinstance(guard.consider(refused(403), None), Permanent) for _ in range(100))


@given(st.lists(st.tuples(st.sampled_from([None, 200, 403, 410, 422, 503]), st.integers(0, 6)), max_size=80))
def test_the_guard_counts_as_the_design_says(answers: list[tuple[int | None, int]]) -> None:
    guard = Guard()
    row: list[tuple[str, int]] = []
    for status, number in answers:
        verdict = of_exception(KeyError("x")) if status is None else judge(status, {}, b"", now=NOW)
        halted = isinstance(guard.consider(verdict, key(number)), Halt)
        if status == 200:
            row.clear()
        elif status != 503:
            row.append((str(status), number))
        alike = list(takewhile(lambda one: one[0] == row[-1][0], reversed(row)))
        barred = {who for _, who in takewhile(lambda one: one[0] in ("403", "410"), reversed(row))}
        many = len(alike) > 20 and len({who for _, who in alike}) >= 5
        assert halted == (status not in (200, 503) and (many or len(barred) >= 5))


def test_one_bug_is_one_kind_whatever_its_status() -> None:
    guard = Guard()
    for number in range(20):
        guard.consider(of_exception(KeyError("total")), key(number))
    assert isinstance(guard.consider(of_exception(KeyError("total")), b"x"), Halt)
