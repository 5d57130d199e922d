import asyncio
import math
import secrets
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.support import Shelf
from trunkline import ApiKey, Bus, Deliver, Enrich, Limit, Lookup, Process, Secret, Target, Topic, env
from trunkline.cli.status import alarms
from trunkline.engine.breaker import ANY
from trunkline.engine.targets import Access, Gate, Targets, is_failure, weights_of
from trunkline.errors import Halt, Permanent, Poison, Retryable, Unknown, UsageError
from trunkline.kafka import events
from trunkline.operate import status
from trunkline.operate.targets import Standing, callers, target_of, unused
from trunkline.responses import Response
from trunkline.sinks import Call, CompositeSink, Request
from trunkline.verdict import Delivered, Verdict

WALL = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = secrets.token_hex()
DEPOT = Target("depot", env("DEPOT_URL"), auth=ApiKey(Secret("DEPOT_KEY")))


def bus(*, left: float = 1.0, right: float = 1.0) -> Bus:
    """Two flows that call one target."""
    topics = [Topic(name, NoteWrittenV1, key="box") for name in ("left", "right")]
    return Bus(
        "b", [Deliver(topic, to=Shelf(DEPOT), weight=one) for topic, one in zip(topics, (left, right), strict=True)]
    )


BUS = bus()


def opened(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Open the target at an address."""
    monkeypatch.setenv("DEPOT_URL", url)

    async def run() -> None:
        async with Targets(BUS, list(BUS.delivering), allow=(), connections=1):
            pass

    asyncio.run(run())


@pytest.mark.parametrize("url", ["http://depot", "https://depot.example:8443/v1/", "http://[::1]:80", "HTTP://depot"])
def test_an_address_of_http_or_https_is_taken_as_people_write_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DEPOT_KEY", SECRET)
    opened(monkeypatch, url)


@pytest.mark.parametrize(
    "url",
    [
        *("depot", "depot:8080", "/v1", "ftp://depot", "http://", "http://depot:x", "http://depot:99999"),
        *("http://[::1", "http://depot?key=1", "http://depot/v1#top"),
        *("http://[fe80::1%25eth0]:8080", "http://10.0.0.1.5", "https://xn--a.example", "https://the depot.example"),
    ],
)
def test_what_is_no_address_is_said_before_anything_is_called(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DEPOT_KEY", SECRET)
    with pytest.raises(UsageError, match="DEPOT_URL is no address that target depot can be called at"):
        opened(monkeypatch, url)


@pytest.mark.parametrize("user", ["us", "us:", "us:hush", ":hush", "depot.example%40"])
def test_an_address_with_a_user_in_it_is_refused_and_never_shown(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setenv("DEPOT_KEY", SECRET)
    with pytest.raises(UsageError, match="DEPOT_URL holds a user or password") as error:
        opened(monkeypatch, f"https://{user}@elsewhere.example")
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("tail", ["\nX-Admin: 1", "\x00"], ids=["line break", "null"])
def test_a_secret_that_no_header_holds_is_said_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tail: str
) -> None:
    (tmp_path / "key").write_text(SECRET + tail)
    monkeypatch.setenv("DEPOT_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(UsageError, match="Set DEPOT_KEY again") as error:
        opened(monkeypatch, "http://depot")
    assert SECRET not in f"{error.value}{error.value.__cause__}"
    assert error.value.__context__ is None or error.value.__suppress_context__


def test_flows_share_a_target_by_their_weight() -> None:
    assert weights_of(bus()) == {("left.shelf", "depot"): 0.5, ("right.shelf", "depot"): 0.5}
    assert weights_of(bus(left=3)) == {("left.shelf", "depot"): 0.75, ("right.shelf", "depot"): 0.25}


def test_a_flow_that_looks_up_has_its_share_too() -> None:
    """Of the target's limit, beside the sinks that call it (D13)."""

    def asking(weight: float) -> Bus:
        lookup = Lookup("boxes", DEPOT, "/{key}", NoteWrittenV1, "box")
        notes, marks = Topic("notes", NoteWrittenV1, key="box"), Topic("marks", NoteWrittenV1, key="box")
        enrich = Enrich(lambda event, _: event, lookup)
        process = Process(notes, [enrich, enrich], to={marks: lambda _: []}, name="asks", weight=weight)
        return Bus("b", [process, Deliver(marks, to=Shelf(DEPOT))])

    assert weights_of(asking(1)) == {("asks", "depot"): 0.5, ("marks.shelf", "depot"): 0.5}
    assert weights_of(asking(3)) == {("asks", "depot"): 0.75, ("marks.shelf", "depot"): 0.25}
    assert callers(asking(1), "depot") == ["asks", "marks.shelf"]
    assert target_of(asking(1), "depot") is DEPOT


@pytest.mark.parametrize(
    ("paces", "said"),
    [
        ({"a": 5.0, "b": 25.0}, {"a": ("20 of its 25 calls a second of depot, while b has used all",)}),
        ({"a": 12.6, "b": 25.0}, {}),
        ({"a": 5.0, "b": 22.0}, {}),
        ({"a": 5.0}, {}),
        ({"a": 25.0, "b": 25.0, "c": 50.0}, {}),
        ({"b": 25.0, "c": 50.0}, {"a": ("25 of its 25 calls a second of depot, while b and c have used all",)}),
    ],
)
def test_what_a_flow_leaves_is_said_while_another_has_used_its_share_up(
    paces: dict[str, float], said: dict[str, tuple[str, ...]]
) -> None:
    """Where nobody waits for it, and where nobody says how many calls are made, it is not worth a word (D13)."""
    depot = Target("depot", env("DEPOT_URL"), limit=Limit(100))
    shares = {"a": 0.25, "b": 0.25, "c": 0.5} if "c" in paces else {"a": 0.25, "b": 0.25}
    assert unused([Standing(depot, shares, None, 2, paces)]) == said
    assert unused([Standing(depot, shares, None, 0, paces)]) == {}, "nobody calls it, and what was said is old"
    assert unused([Standing(Target("depot", env("DEPOT_URL")), shares, None, 2)]) == {}


def test_a_share_of_calls_a_minute_is_told_by_the_minute() -> None:
    depot = Target("depot", env("DEPOT_URL"), limit=Limit(60, per="minute"))
    found = Standing(depot, {"a": 0.5, "b": 0.5}, None, 1, {"a": 0.1, "b": 0.5})
    said = unused([found])
    assert said == {"a": ("24 of its 30 calls a minute of depot, while b has used all",)}
    [line] = alarms(status.Standing("a", "deliver", "notes", unused=said["a"]))
    assert line.startswith("it leaves 24 of its 30 calls a minute of depot, while b has used all: ")


@pytest.mark.parametrize(
    ("verdict", "status", "failed"),
    [
        (Retryable("no connection"), None, True),
        (Unknown("no answer"), None, True),
        (Permanent("no such request can be made"), None, None),
        (Poison("no event"), None, None),
        (Halt("no token"), None, None),
        (Delivered(200), None, False),
        (Retryable("answered 503"), 503, True),
        (Retryable("answered 408"), 408, True),
        (Retryable("answered 429"), 429, False),
        (Retryable("answered 409"), 409, False),
        (Unknown("the body cannot be read"), 200, False),
        (Permanent("the sink says that it is the event's fault"), 500, False),
        (Permanent("answered 422"), 422, False),
        (Halt("answered 401"), 401, False),
        (Delivered(200), 200, False),
    ],
)
def test_a_failure_of_the_target_is_no_fault_of_the_event(
    verdict: Verdict, status: int | None, *, failed: bool | None
) -> None:
    assert is_failure(verdict, status) is failed


DOWN = Retryable("no connection")


def fail(access: Access, now: float, times: int = 10) -> None:
    """Let calls fail until the breaker opens."""
    for _ in range(times):
        access.ended(access.begin(now), DOWN, None, now, lambda: WALL)


def test_all_flows_of_a_target_share_its_breaker_and_its_stops() -> None:
    access = Access(DEPOT)
    one, other = Gate(access, DEPOT, 0.5), Gate(access, DEPOT, 0.5)
    assert one.room(100.0) == other.room(100.0) == ANY
    fail(access, 100.0)
    assert one.room(100.0) == other.room(100.0) == 0
    assert one.wait(100.0) == other.wait(100.0) == 5.0
    assert one.room(105.0) == other.room(105.0) == 1
    trial = one.begin(105.0)
    assert other.room(105.0) == 0
    access.ended(trial, Delivered(200), Response(200), 105.0, lambda: WALL)
    assert one.room(105.0) == other.room(105.0) == 2
    access.ended(access.begin(105.0), DOWN, Response(429, {"retry-after": "7"}), 105.0, lambda: WALL)
    assert one.room(106.0) == other.room(106.0) == 0
    assert one.room(112.0) > 0


def test_each_flow_has_its_share_of_the_limit() -> None:
    target = Target("depot", env("DEPOT_URL"), limit=Limit(100, burst=100))
    access = Access(target)
    one, other = Gate(access, target, 0.75), Gate(access, target, 0.25)
    one.divide(0.5, 0.0)
    other.divide(1.0, 0.0)
    assert (one.room(1.0), other.room(1.0)) == (37, 25)
    assert access.throttle.share == 0.625
    one.divide(0.0, 1.0)
    assert (one.room(9.0), other.room(1.0)) == (0, 25)


def test_what_a_target_that_says_429_again_is_given_grows_until_it_has_answered_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer that says nothing of it, as 404, is neither."""
    now = 100.0
    monkeypatch.setattr(events, "clock", lambda: now)
    monkeypatch.setenv("DEPOT_URL", "http://127.0.0.1")
    monkeypatch.setenv("DEPOT_KEY", SECRET)

    async def run() -> list[float]:
        nonlocal now
        stops = []
        async with Targets(BUS, list(BUS.delivering), allow=(), connections=1) as opened:
            gate = opened.gate("left.shelf", DEPOT)
            for status in (429, 429, 404, 404, 429, 404, 404, 200, 200, 429):
                opened.ended(gate, gate.begin(now), Permanent("no", status=status), Response(status))
                if status == 429:
                    stops.append(gate.wait(now))
                now += 10
                assert gate.room(now) == ANY
        return stops

    assert asyncio.run(run()) == [1.0, 2.0, 4.0, 1.0]


def test_time_in_which_a_target_stands_still_is_counted_once() -> None:
    access = Access(DEPOT)
    assert access.stood(100.0) == 0.0
    access.stop(100.0, 10.0, "asked")
    assert access.stood(104.0) == 4.0
    fail(access, 106.0)
    assert access.stood(120.0) == 20.0  # stopped until 110, its breaker open since 106
    access.pause(120.0, paused=True)
    access.go_on(125.0)
    assert (access.room(125.0), access.says(125.0)) == (0, ("paused", 0.0))
    access.pause(130.0, paused=False)
    for _ in range(5):
        assert access.room(130.0) > 0
        access.ended(access.begin(130.0), Delivered(200), Response(200), 130.0, lambda: WALL)
    assert access.closed
    assert access.stood(200.0) == 30.0
    access.stop(200.0, 10.0, "asked")
    access.go_on(203.0)
    assert access.room(203.0) == ANY
    assert access.stood(300.0) == 33.0


def test_failures_are_the_targets_until_it_has_answered_well_since() -> None:
    access = Access(DEPOT)
    access.ended(access.begin(100.0), Delivered(200), Response(200), 101.0, lambda: WALL)
    began = 102.0
    fail(access, 103.0, 9)
    assert access.closed
    assert access.is_down(began)
    access.ended(access.begin(104.0), Permanent("answered 422", status=422), Response(422), 105.0, lambda: WALL)
    assert not access.is_down(began)
    fail(access, 106.0)
    assert access.is_down(began), "its breaker is open"
    assert access.is_down(101.0)
    unbroken = Access(Target("depot", env("DEPOT_URL"), breaker=None))
    assert not unbroken.is_down(began)


def test_an_order_to_go_on_lets_a_breaker_that_is_open_try_at_once() -> None:
    access = Access(DEPOT)
    fail(access, 100.0)
    assert access.room(101.0) == 0
    access.go_on(101.0)
    assert access.room(101.0) == 1


def test_answers_of_a_target_that_is_well_count_too() -> None:
    access = Access(DEPOT)
    access.stop(100.0, 10.0, "asked")
    access.stood(120.0)
    access.calm = True
    for _ in range(100):
        access.ended(access.begin(120.0), Delivered(200), Response(200), 120.0, lambda: WALL)
    assert access.calm
    assert not access.is_down(110.0)
    assert access.is_down(111.0), "by the clock that rested for ten seconds it has answered well at 110"
    fail(access, 121.0, 20)
    assert access.closed, "of six calls one has failed"


def test_a_target_says_how_it_stands() -> None:
    access = Access(DEPOT)
    assert access.says(100.0) == ("running", 0.0)
    access.stop(100.0, 3.0, "asked")
    assert access.says(100.0) == ("asking us to wait", 3.0)
    fail(access, 100.0)
    assert access.says(101.0) == ("down", 4.0)
    assert access.room(105.0) == 1
    assert access.says(105.0) == ("probing", 0.0)
    access.pause(105.0, paused=True)
    assert access.says(105.0) == ("paused", 0.0)


def test_a_target_without_a_breaker_is_called_whatever_happens() -> None:
    access = Access(Target("depot", env("DEPOT_URL"), breaker=None))
    fail(access, 100.0, 100)
    assert access.closed
    assert access.room(100.0) == ANY


class Trip(CompositeSink):
    """Two calls at one target and one at another."""

    name = "trip"
    calls = tuple(Call(name, lambda _, __: Request.post("/x"), undo=lambda _, __: Request.post("/y")) for name in "abc")


def test_an_event_of_several_calls_begins_where_every_limit_has_room_and_counts_for_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a target that only its second call goes to, nobody would else wait for the limit."""
    monkeypatch.setattr(events, "clock", lambda: 0.0)
    for name in ("NEAR", "FAR"):
        monkeypatch.setenv(name, "http://127.0.0.1")
    near, far = (Target(name, env(name.upper()), limit=Limit(10)) for name in ("near", "far"))
    trips = Bus("b", [Deliver(Topic("trips", NoteWrittenV1, key="box"), to=Trip(near, c=far))])

    async def run() -> None:
        async with Targets(trips, list(trips.delivering), allow=(), connections=1) as opened:
            gate, other = (opened.gate("trips.trip", target) for target in (near, far))
            opened.divide("trips.trip", 1.0)
            assert (gate.room(0.0), gate.wait(0.0)) == (0, 0.1)
            other.begin_one(0.1, counted=False)  # of what was undone before
            assert gate.room(0.1) == 0
            assert gate.wait(0.1) == pytest.approx(0.1)
            assert gate.room(0.2) == 1
            opened.unmade(gate, gate.begin(0.2))
            for one in (gate, gate, other):
                one.begin_one(0.2, counted=True)
            assert gate.wait(0.2) == pytest.approx(0.2 - 0.02), "two calls at one, which may make up for a late timer"
            assert other.wait(0.2) == pytest.approx(0.1)
            assert (gate.made, other.made) == (2, 2)

    asyncio.run(run())


def test_events_of_several_calls_have_no_larger_burst() -> None:
    target = Target("depot", env("DEPOT_URL"), limit=Limit(10, burst=6))
    gate = Gate(Access(target), target, 1.0)
    gate.divide(1.0, 0.0)
    assert gate.room(9.0) == 6
    gate.lead_to({gate: 2})
    assert gate.room(9.0) == 3
    gate.begin(9.0)
    assert gate.room(9.0) == 2
    gate.lead_to({gate: 5})
    assert gate.room(9.0) == 1


def test_nothing_looks_for_room_where_only_an_order_or_the_end_of_a_trial_brings_it() -> None:
    """Every 2 ms, for as long as the pause is."""
    access = Access(DEPOT)
    gate = Gate(access, DEPOT, 1.0)
    access.pause(100.0, paused=True)
    assert gate.wait(100.0) == math.inf
    access.pause(100.0, paused=False)
    assert gate.wait(100.0) == 0.0
    fail(access, 100.0)
    assert gate.wait(101.0) == 4.0
    assert (gate.room(105.0), gate.wait(105.0)) == (1, 0.0)
    trial = gate.begin(105.0)
    assert (gate.room(105.0), gate.wait(105.0)) == (0, math.inf)
    access.ended(trial, Delivered(200), Response(200), 105.0, lambda: WALL)
    assert (gate.room(105.0), gate.wait(105.0)) == (2, 0.0)


def test_a_call_that_was_not_made_counts_for_nothing_that_the_target_allows() -> None:
    access = Access(DEPOT)
    gate = Gate(access, DEPOT, 1.0)
    gate.divide(1.0, 0.0)
    policy = Response(200, {"ratelimit-policy": '"burst";q=10;w=1'})
    access.ended(access.begin(0.0), Delivered(200), policy, 0.0, lambda: WALL)
    assert gate.room(0.1) == 1
    access.unmade(gate.begin(0.1), 0.1)
    assert gate.room(0.1) == 1
