"""How what is observed is counted, timed and placed; no broker."""

from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from tests.trunkline.support import inspect, note, process_bus, stamped
from trunkline import Event
from trunkline.engine import spans
from trunkline.engine.survey import age, behind
from trunkline.engine.timing import EVERY, timed
from trunkline.engine.watermark import Position
from trunkline.flow.declare import body_of, flow_name
from trunkline.observe import AGES, CALLS, TRACE, Histogram, Metrics, Observed

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@given(st.lists(st.floats(min_value=0, max_value=1e6) | st.sampled_from(AGES)))
def test_a_histogram_says_what_the_library_would_say(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    found = Histogram("age_seconds", "Age.", AGES, ["flow"])
    ours.register(found)
    wanted = prometheus_client.Histogram("age_seconds", "Age.", ["flow"], buckets=AGES, registry=theirs)
    series, library = found.labels("f"), wanted.labels("f")
    for value in values:
        series.observe(value)
        library.observe(value)
    assert sorted(generate_latest(ours).splitlines()) == sorted(generate_latest(theirs).splitlines())


def test_two_metrics_never_have_one_name() -> None:
    registry = CollectorRegistry()
    registry.register(Histogram("age_seconds", "Age.", CALLS, ["flow"]))
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus_client.Counter("age_seconds_count", "Another.", registry=registry)


def test_what_is_observed_is_counted_under_names_of_the_topology_only() -> None:
    metrics = Metrics()
    for seen in (
        Observed("attempt", "f", sink="s", target="t", event="secret-id", status=503, outcome="retryable", seconds=0.2),
        Observed("attempt", "f", sink="s", target="t", event="secret-id", seconds=0.2, lane="secret-lane"),
        Observed("delivered", "f", sink="s", count=2, ages=[0.5, 100.0]),
        Observed("dead", "f", sink="s", event="secret-id", detail="secret", outcome="poison"),
        Observed("parked", "f", sink="s"),
        Observed("repeat", "f", sink="s", count=3),
        Observed("replayed", "f", sink="s", outcome="done", count=2),
        Observed("circuit", "f", target="t", outcome="open"),
        Observed("published", "desk"),
    ):
        metrics(seen)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"trunkline_{name}", labels)

    where = {"flow": "f", "sink": "s"}
    assert value("delivery_attempts_total", **where, target="t", outcome="retryable", status_class="5xx") == 1
    assert value("delivery_attempts_total", **where, target="t", outcome="delivered", status_class="none") == 1
    assert value("event_age_seconds_sum", **where) == 100.5
    assert value("event_age_seconds_bucket", **where, le="60.0") == 1
    assert value("deadletter_events_total", flow="f", reason="poison") == 1
    assert value("deadletter_events_total", flow="f", reason="parked") == 1
    assert value("ledger_duplicates_total", **where) == 3
    assert value("replay_events_total", flow="f", outcome="done") == 2
    assert value("circuit_state", target="t") == 2
    assert (value("source_last_event_timestamp_seconds", source="desk") or 0) > 1e9
    assert b"secret" not in generate_latest(metrics.registry)


@pytest.mark.parametrize(("text", "outcome"), [("", "passed"), ("drop", "dropped"), ("raise", "failed")])
def test_one_run_of_a_step_in_many_is_timed_and_all_do_what_they_did(text: str, outcome: str) -> None:
    bus = process_bus("p")
    [flow] = bus.processing.values()
    seen: list[Observed] = []
    same = timed(flow, seen.append)
    assert flow_name(same) == flow_name(flow)
    step = body_of(same.steps[0])
    event: Event[Any] = stamped(bus, note(1, text=text))

    def run(one: Any) -> Any:
        try:
            return one(event)
        except ValueError as error:
            return str(error)

    for _ in range(EVERY + 1):
        assert run(step) == run(inspect)
    assert [(one.detail, one.outcome) for one in seen] == [("inspect", outcome)] * 2


def test_lag_is_that_of_the_oldest_record_that_is_not_finished() -> None:
    fetched, waiting, idle = Position(5, 10_000), Position(5, None), Position(9, None)
    assert [behind(one, 9) for one in (fetched, waiting, idle)] == [4, 4, 0]
    assert age(fetched, 4, since=0.0, now=70.0) == 60
    assert age(waiting, 4, since=40.0, now=70.0) == 30, "not fetched yet: since it was first seen"
    assert age(idle, 0, since=40.0, now=70.0) == 0
    assert behind(Position(12, None), 9) == 0, "read further since the end was asked for"


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "00",
        GOOD + "\r\nx: y",
        GOOD + "\n",
        GOOD.upper(),
        GOOD + "-more",
        GOOD.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        GOOD.replace("0af7", "\uff10af7"),
    ],
)
def test_what_is_no_traceparent_goes_no_further(hostile: str) -> None:
    assert not spans.valid(hostile)
    assert spans.place_of(hostile) is None
    token = TRACE.set(None)
    assert spans.receiving("desk", hostile) is None
    assert TRACE.get() is None
    event: Event[Any] = Event("e", note(1)["written_at"], {}, traceparent=hostile)
    assert spans.calling("s", "f", "t", [event], replayed=False) is None
    assert TRACE.get() is None
    TRACE.reset(token)


def test_a_traceparent_is_passed_on_as_it_came_where_nothing_is_exported() -> None:
    token = TRACE.set(None)
    spans.receiving("desk", GOOD)
    event: Event[Any] = Event("e", note(1)["written_at"], {})
    carried, span = spans.carried("publish", "topic", event, {})
    assert (carried.traceparent, span) == (GOOD, None)
    spans.calling("s", "f", "t", [carried], replayed=False)
    assert TRACE.get() == GOOD
    spans.calling("s", "f", "t", [carried, carried], replayed=False)
    assert TRACE.get() is None, "several events have no trace in common"
    TRACE.reset(token)
