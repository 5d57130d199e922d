"""What a running worker shows at /metrics besides what it counts, against what was done to it."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from tests.trunkline.observability.buses import guarded_bus
from tests.trunkline.observability.figures import Figures, figures
from tests.trunkline.support import Stage, deliver_bus, note, process_bus, stamped, wait_for, whole_bus
from trunkline.dev.target.behaviour import Behaviour
from trunkline.event import to_headers
from trunkline.flow.declare import group_of
from trunkline.kafka.orders import Orders
from trunkline.ledger import reach
from trunkline.operate.status import standings
from trunkline.settings import Ledger


def until(url: str, holds: Callable[[Figures], object]) -> Figures:
    """Give the first figures of which it holds."""
    found = figures(url)

    def look() -> bool:
        nonlocal found
        found = figures(url)
        return bool(holds(found))

    wait_for(look, why=lambda: found.samples)
    return found


@pytest.mark.faults(group="process")
def test_a_flow_that_is_through_has_no_lag_though_transactions_leave_their_marks(stage: Stage) -> None:
    bus = stage.make(whole_bus(stage.prefix))
    began = time.time()
    stage.write(bus, [note(number, box) for number in range(5) for box in "abc"] + [note(9, "a", "drop")])
    with stage.child("whole_bus") as child:
        found = until(child.url, lambda now: now.total("event_age_seconds_count") == 15 and now.surveyed > began + 1)
        found = until(child.url, lambda now: now.total("flow_lag_records") == 0 and now.surveyed > found.surveyed)
    process, deliver = (f"{stage.prefix}.notes.inspect", f"{stage.prefix}.marks.shelf")
    assert found.total("flow_lag_records", flow=process, topic=f"{stage.prefix}.notes") == 0
    assert found.total("flow_lag_records", flow=deliver, topic=f"{stage.prefix}.marks") == 0
    assert found.total("flow_lag_seconds") == 0
    assert found.total("flow_accounting_gap") == 0
    assert found.total("step_duration_seconds_count", flow=process, step="inspect") == 1
    assert found.total("flow_blocker_offset") is None
    assert found.total("flow_workers", flow=deliver) == 1
    assert found.total("delivery_attempts_total", target="shelf", outcome="delivered", status_class="2xx") == 15
    [age] = (value / 15 for name, _, value in found.samples if name == "trunkline_event_age_seconds_sum")
    happened = [note(number)["written_at"].timestamp() for number in range(5)]
    assert time.time() - max(happened) - 60 < age < time.time() - min(happened)
    for flow in (process, deliver):
        assert began <= (found.total("flow_progress_timestamp_seconds", flow=flow) or 0) <= time.time()


def test_who_runs_no_step_reads_no_letters_of_steps(stage: Stage) -> None:
    """A gateway alone needs no right to read, and several processes do not all read what one of them does."""
    bus = stage.make(whole_bus(stage.prefix))
    process, deliver = (f"{stage.prefix}.notes.inspect", f"{stage.prefix}.marks.shelf")
    often = {"trunkline.engine.survey.EVERY": 0.2}
    with stage.child("whole_bus", process, constants=often) as child:
        until(child.url, lambda now: now.total("deadletter_open", flow=process) == 0)
    with stage.child("whole_bus", *bus.publishing, constants=often) as child:
        first = until(child.url, lambda now: now.surveyed)
        found = until(child.url, lambda now: now.surveyed > first.surveyed + 2)
    assert found.total("deadletter_open", flow=deliver) == 0
    assert found.total("deadletter_open", flow=process) is None


def test_what_is_counted_begins_at_0_so_that_the_first_dead_letters_are_an_increase(stage: Stage) -> None:
    bus = stage.make(whole_bus(stage.prefix))
    process, deliver = (f"{stage.prefix}.notes.inspect", f"{stage.prefix}.marks.shelf")
    with stage.child("whole_bus") as child:
        found = figures(child.url)
    [source] = bus.publishing
    for name, labels in (
        *(("source_events_total", {"source": source, "outcome": outcome}) for outcome in ("received", "rejected")),
        *(("process_events_total", {"flow": process, "outcome": outcome}) for outcome in ("read", "unrouted", "dead")),
        ("process_emitted_total", {"flow": process}),
        *(("sink_events_total", {"flow": deliver, "outcome": outcome}) for outcome in ("delivered", "dead")),
        ("ledger_duplicates_total", {"flow": deliver}),
        ("delivery_attempts_total", {"flow": deliver, "outcome": "delivered"}),
        ("delivery_duration_seconds_count", {"flow": deliver}),
        ("event_age_seconds_bucket", {"flow": deliver, "le": "60.0"}),
        *(("deadletter_events_total", {"flow": flow, "reason": "permanent"}) for flow in (process, deliver)),
        ("deadletter_events_total", {"flow": deliver, "reason": "exhausted"}),
        *(("replay_events_total", {"flow": deliver, "outcome": outcome}) for outcome in ("done", "dead")),
    ):
        assert found.total(name, **labels) == 0, (name, labels)


def test_what_waits_for_its_target_is_lag_that_grows_older_and_has_a_blocker(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/*", status=503))
    stage.write(bus, [note(number, box) for number in range(3) for box in "ba"])
    with stage.child("deliver_bus", options={"partitions": 1}) as child:
        found = until(child.url, lambda now: now.total("sink_events_total", outcome="delivered") == 3)
        found = until(
            child.url,
            lambda now: (
                (now.total("flow_lag_seconds") or 0) > 2 and now.total("flow_deliveries", stage="queued") == 2
            ),  # all three while the breaker is open
        )
        assert found.total("flow_blocker_offset", partition="0") == 1
        assert found.total("flow_lag_records", topic=f"{stage.prefix}.notes") == 5
        assert (found.total("delivery_attempts_total", outcome="retryable", status_class="5xx") or 0) > 0
        stage.target.control.heal(stage.prefix)
        found = until(child.url, lambda now: now.total("flow_lag_records") == 0)
        assert found.total("flow_blocker_offset") is None
        assert found.total("flow_deliveries") == 0


@pytest.mark.faults(group="process")
def test_a_flow_that_gets_on_with_nothing_shows_lag_and_no_progress(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    gone = stage.folder / "gone"
    stage.write(bus, [note(0, text="raise"), note(1)])
    with stage.child("process_bus", options={"partitions": 1}) as child:
        found = until(child.url, lambda now: now.total("process_events_total", outcome="routed") == 1)
        stage.write(bus, [note(2, text=f"wait:{gone}"), note(3)])
        found = until(child.url, lambda now: now.total("flow_lag_records"))
        progress = found.total("flow_progress_timestamp_seconds")
        found = until(child.url, lambda now: (now.total("flow_lag_seconds") or 0) > 3 and now.total("flow_lag_records"))
        assert found.total("flow_progress_timestamp_seconds") == progress
        assert found.total("flow_accounting_gap") == 0
        gone.touch()
        until(child.url, lambda now: now.total("flow_lag_records") == 0)
        assert found.total("deadletter_open") == 1


def test_what_was_written_days_ago_is_as_old_as_that_and_what_is_deleted_unread_is_counted(stage: Stage) -> None:
    """(L6) Also while the sink has halted, when nothing is fetched any more."""
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    topic, days = bus.topics[0].name, 4 * 86_400
    stage.target.control.break_(Behaviour(name=stage.prefix, status=401))
    form = stage.encoder(bus, topic)
    with closing(KafkaProducer(bootstrap_servers=stage.bootstrap)) as producer:
        for event in (stamped(bus, note(number)) for number in range(5)):
            at = int((time.time() - days) * 1000)
            producer.send(topic, form.encode(event.data), b"a", list(to_headers(event)), 0, at).get(timeout=20)
    often = {"trunkline.engine.survey.EVERY": 0.3, "trunkline.engine.survey.SELDOM": 0.5}
    with stage.child("deliver_bus", options={"partitions": 1}, constants=often) as child:
        found = until(
            child.url,
            lambda now: (
                now.total("flow_halted") and now.total("flow_lag_seconds") and now.total("topic_retention_seconds")
            ),
        )
        assert days <= (found.total("flow_lag_seconds") or 0) < days + 300
        assert found.total("topic_retention_seconds", topic=topic) == 7 * 86_400
        assert found.total("flow_expired_records") == 0
        with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
            admin.delete_records({TopicPartition(topic, 0): 3})
        found = until(child.url, lambda now: now.total("flow_expired_records"))
        assert found.total("flow_expired_records") == 3
        assert time.time() - 30 < (found.total("flow_expired_timestamp_seconds") or 0) <= time.time()


@pytest.mark.parametrize("forgotten", [False, True], ids=["", "and the group with its offsets"])
def test_what_is_deleted_while_nobody_runs_the_flow_is_told_before_it_starts_and_when_somebody_has_decided(
    stage: Stage, *, forgotten: bool
) -> None:
    """(L6) Kafka forgets the offsets of a group after a week without members; a topic is deleted no sooner."""
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    [flow], topic = bus.delivering, bus.topics[0].name
    stage.write(bus, [note(0)])
    options = {"partitions": 1}
    with stage.child("deliver_bus", options=options) as child:
        until(child.url, lambda now: now.total("sink_events_total", outcome="delivered") == 1)
        assert child.terminate() == 0
    stage.write(bus, [note(number) for number in range(1, 5)])
    with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, 0): 5})
        if forgotten:
            admin.delete_groups([group_of(bus, flow)])
    refused = stage.child("deliver_bus", options=options, name="refused")
    try:
        assert not refused.url, "it began by itself"
    finally:
        refused.__exit__()
    said = f"4 records of {topic} partition 0 were deleted before {flow} had read them. Say where to begin: --start"
    assert said in refused.log
    with stage.control() as control, reach(Ledger(path=stage.ledger)).connect() as db:
        [standing] = standings(bus, control, db, Orders(), datetime.now(UTC))
    assert (standing.gone, standing.expired, standing.started) == (4, 4, True)
    began = time.time()
    with stage.child("deliver_bus", options=options, name="told", start="earliest") as child:
        found = until(child.url, lambda now: now.total("survey_timestamp_seconds"))
        assert found.total("flow_expired_records") == 4, "from the first look on"
        assert began - 5 < (found.total("flow_expired_timestamp_seconds") or 0) < time.time() + 5
        [told] = [json.loads(line) for line in child.log.splitlines() if '"deleted unread"' in line]
        assert (told["flow"], told["records"], told["level"]) == (flow, 4, "error")
        stage.write(bus, [note(5)])
        until(child.url, lambda now: now.total("sink_events_total", outcome="delivered") == 1)


def test_dead_letters_are_counted_by_class_and_their_age_is_known(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/2", status=422))
    began = time.time()
    stage.write(bus, [note(1), note(2), note(3, text="unsayable")])
    with stage.child("deliver_bus") as child:
        until(child.url, lambda now: now.total("deadletter_events_total", reason="permanent") == 2)
    with stage.child("deliver_bus") as child:  # what counts has gone with its process; what waits has not
        found = until(child.url, lambda now: now.total("deadletter_open") == 2)
        assert began - 1 < (found.total("deadletter_oldest_timestamp_seconds") or 0) < time.time()
        assert found.total("deadletter_retention_seconds") == 14 * 86_400
        assert found.total("deadletter_events_total") == 0


def test_a_target_that_is_down_shows_an_open_circuit_until_it_is_back(stage: Stage) -> None:
    bus = stage.make(guarded_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=503))
    with stage.child("tests.trunkline.observability.buses:guarded_bus") as child:
        until(child.url, lambda now: now.total("circuit_state", target="shelf") == 0)
        stage.write(bus, [note(number, box) for number in range(2) for box in "abcdefghijkl"])
        until(child.url, lambda now: now.total("circuit_state", target="shelf") == 2)
        stage.target.control.heal(stage.prefix)
        found = until(child.url, lambda now: now.total("sink_events_total", outcome="delivered") == 24)
        assert found.total("circuit_state", target="shelf") == 0
        assert found.total("deadletter_events_total") == 0


def test_a_target_that_asks_for_time_shows_until_when(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=429, retry_after=60))
    stage.write(bus, [note(1)])
    with stage.child("deliver_bus", options={"partitions": 1}) as child:
        found = until(child.url, lambda now: now.total("target_wait_until_timestamp_seconds", target="shelf"))
        assert 40 < (found.total("target_wait_until_timestamp_seconds") or 0) - time.time() <= 60
