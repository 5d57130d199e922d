"""What is logged, and how often."""

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from trunkline.observe import TOLD, Log, Metrics, Observed


@pytest.fixture
def told() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


def failed(sink: str = "shelf", status: int | None = 503, **more: Any) -> Observed:
    return Observed("attempt", "flow", sink=sink, status=status, **more)


def test_a_failed_attempt_is_told_with_what_is_known_of_it(told: list[Any]) -> None:
    Log()(failed(event="e-1", lane="a1b2", attempt=3, seconds=0.12345, detail="answered 503"))
    assert told == [
        {
            "event": "attempt failed",
            "log_level": "info",
            "flow": "flow",
            "sink": "shelf",
            "event_id": "e-1",
            "lane": "a1b2",
            "attempt": 3,
            "status": 503,
            "seconds": 0.123,
            "why": "answered 503",
        }
    ]


def test_a_success_is_not_told(told: list[Any]) -> None:
    log = Log()
    for what in ("attempt", "delivered", "read", "recorded", "answered", "calling", "repeat"):
        log(Observed(what, "flow", sink="shelf", status=204))
    assert told == []


def test_a_target_that_is_down_is_told_ten_times_a_second_and_how_often_besides(told: list[Any]) -> None:
    now = [100.0]
    log = Log(lambda: now[0])
    for _ in range(500):
        log(failed(status=None))
    log(failed("other"))
    assert len(told) == TOLD + 1
    now[0] += 1
    log(failed())
    log(failed())
    assert [line.get("untold") for line in told[TOLD + 1 :]] == [500 - TOLD, None]


def test_every_dead_letter_and_halt_is_told(told: list[Any]) -> None:
    log = Log()
    for number in range(50):
        log(Observed("dead", "flow", sink="shelf", event=f"e-{number}", detail="refused"))
    log(Observed("halted", "flow", detail="credentials"))
    log(Observed("resumed", "flow"))
    assert [line["event"] for line in told] == ["dead letter"] * 50 + ["halted", "resumed"]
    assert [line["log_level"] for line in told[-2:]] == ["error", "info"]


def test_an_order_is_told_with_who_gave_it(told: list[Any]) -> None:
    log = Log()
    log(Observed("ordered", "shelf", outcome="skip", event="e-1", detail="ann@desk (too old)"))
    log(Observed("ordered", "target:crm", outcome="pause", detail="ann@desk"))
    skip, pause = told
    assert skip == {
        "event": "order",
        "log_level": "info",
        "what": "skip",
        "of": "shelf",
        "event_id": "e-1",
        "by": "ann@desk (too old)",
    }
    assert "event_id" not in pause


def test_a_flow_that_goes_on_is_no_longer_halted() -> None:
    metrics = Metrics()
    found = []
    for what in ("halted", "resumed", "halted"):
        metrics(Observed(what, "flow"))
        found.append(metrics.registry.get_sample_value("trunkline_flow_halted", {"flow": "flow"}))
    assert found == [1, 0, 1]


def test_outcomes_of_a_sink_are_counted_by_their_names() -> None:
    metrics = Metrics()
    for what in ("delivered", "parked", "ambiguous", "superseded"):
        metrics(Observed(what, "flow", sink="shelf", count=2))
        labels = {"flow": "flow", "sink": "shelf", "outcome": what}
        assert metrics.registry.get_sample_value("trunkline_sink_events_total", labels) == 2


def test_why_a_flow_waits_is_told_once_a_minute(told: list[Any]) -> None:
    now = [100.0]
    log = Log(lambda: now[0])
    for second in range(61):
        now[0] = 100.0 + second
        log(Observed("stuck", "orders", detail=f"topic orders waits at offset {second}: the right Read is missing"))
    log(Observed("stuck", "orders", detail="no leader"))
    assert [(line["why"][-7:], line.get("untold")) for line in told] == [
        ("missing", None),
        ("missing", 59),
        ("no leader"[-7:], None),
    ]
