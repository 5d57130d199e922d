"""Topic to target with a real broker, a real target and a real ledger."""

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions

from tests.shared import free_port
from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.support import (
    HASTY,
    QUICK,
    Running,
    Stage,
    ask,
    deliver_bus,
    first_calls,
    header,
    note,
    shelf,
    stamped,
    wait_for,
)
from trunkline import Deliver, Topic
from trunkline.deadletter import replayed
from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.running import start
from trunkline.engine import deliver, intake
from trunkline.engine.dispatch import Caps
from trunkline.errors import Permanent, Unavailable, UsageError
from trunkline.event import Headers, idempotency_key, to_headers
from trunkline.flow.declare import Bus, dead_letters_of, group_of, replay_of
from trunkline.http import transport
from trunkline.kafka import continuity, events
from trunkline.kafka.cluster import COMMON
from trunkline.kafka.events import Sender, Slot
from trunkline.kafka.registry import Format
from trunkline.kafka.topics import RECORD_BYTES, names, plan
from trunkline.ledger import deliveries, runs
from trunkline.ledger.database import Connection, Failure
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.operate import replay


def flow_of(bus: Bus) -> str:
    [name] = bus.delivering
    return name


def finished(stage: Stage, bus: Bus) -> Callable[[], bool]:
    """Give the condition that everything on the bus's topic is finished and committed."""

    def check() -> bool:
        return stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name)

    return check


def test_every_event_has_one_effect_and_each_key_its_order(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    stage.write(bus, [note(number, box) for number in range(10) for box in ("a", "b", "ü", None)])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=stage.rows)
    assert set(stage.effects().values()) == {1}
    assert len(stage.effects()) == 40
    called = first_calls(stage.attempts())
    assert called.pop("none") != []
    assert set(map(tuple, called.values())) == {tuple(range(10))}
    counted = running.counted(flow_of(bus))
    assert counted["read"] == counted["delivered"] == 40
    assert counted["repeat"] == counted["dead"] == 0
    assert running.drained


def good(stage: Stage, bus: Bus, number: int, box: str = "a") -> tuple[bytes, Headers]:
    """Give value and headers of an event that can be delivered."""
    flow_topic = bus.topics[0]
    value = stage.encoder(bus, flow_topic.name).encode(note(number, box))
    return value, to_headers(stamped(bus, note(number, box)))


def without(headers: Headers, name: str) -> Headers:
    return tuple((found, value) for found, value in headers if found != name)


def having(headers: Headers, **changed: bytes) -> Headers:
    return tuple((name, changed.get(name, value)) for name, value in headers)


def test_poison_becomes_a_letter_with_its_own_bytes_and_the_flow_goes_on(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    topic = bus.topics[0].name
    value, headers = good(stage, bus, 1)
    poison: list[tuple[bytes | None, bytes | None, Headers]] = [
        (b"a", b"no Avro at all", headers),
        (b"a", b"", headers),
        (b"a", None, headers),
        (b"a", b"\0" + (10**6).to_bytes(4, "big") + value[5:], headers),
        (b"a", value + b"!", headers),
        (b"a", value[:-1], headers),
        (b"a", value, ()),
        (b"a", value, without(headers, "ce_id")),
        (b"a", value, having(headers, ce_id=b"\xff")),
        (b"a", value, having(headers, ce_time=b"yesterday")),
        (b"a", value, having(headers, ce_time=b"2026-01-01T00:00:00")),
        (b"a", value, having(headers, ce_time=b"0001-01-01T00:00:00+14:00")),
        (b"a", b"none", (*headers, ("trunkline-origin-topic", b"elsewhere"))),
        (b"a", b"none", (*headers, ("trunkline-origin-partition", b"x"), ("trunkline-origin-offset", b"\xff"))),
        (b"\xff\xfe", value, headers),
        (None, b"neither key nor event", ()),
    ]
    stage.send((topic, key, value, headers, 1) for key, value, headers in poison)
    stage.write(bus, [note(number, box) for number in range(2, 5) for box in "ab"])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=running.worker.stopped)
    letters = stage.letters(flow_of(bus))
    assert [letter.partition for letter in letters] == [1] * len(poison)
    for letter, (key, value_, headers_) in zip(sorted(letters, key=origin), poison, strict=True):
        assert (letter.key, letter.value) == (key, value_)
        own = tuple(pair for pair in headers_ if not pair[0].startswith("trunkline-"))
        assert tuple(letter.headers)[: len(own)] == own
        assert header(letter, "trunkline-class") == "poison"
        assert header(letter, "trunkline-stage") == "decode"
    assert stage.effects() == {f"/{box}/{number}": 1 for box in "ab" for number in range(2, 5)}
    assert first_calls(stage.attempts()) == {"a": [2, 3, 4], "b": [2, 3, 4]}
    counted = running.counted(flow_of(bus))
    assert counted["read"] == counted["delivered"] + counted["dead"] == 6 + len(poison)


def origin(letter: Any) -> int:
    return int(header(letter, "trunkline-origin-offset"))


def test_copies_are_called_once_wherever_they_stand(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=1500))
    stage.write(bus, [note(1), note(1), note(2, None), note(2, None)])  # in one batch
    with stage.running(bus) as running:
        wait_for(lambda: len(stage.attempts()) == 2)
        stage.write(bus, [note(1), note(2, None)])  # while the first is being called
        wait_for(finished(stage, bus))
        stage.write(bus, [note(1)])  # long after
        wait_for(finished(stage, bus))
    assert sorted(attempt.path for attempt in stage.attempts()) == ["/a/1", "/none/2"]
    counted = running.counted(flow_of(bus))
    assert (counted["read"], counted["delivered"], counted["repeat"]) == (2, 2, 5)


def test_a_failing_key_keeps_its_order_and_holds_up_no_other(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/*", status=503))
    stage.write(bus, [note(number, box) for number in range(5) for box in "abc"])
    with stage.running(bus):
        wait_for(lambda: len(stage.effects()) == 10 and len(stage.attempts()) >= 13, why=stage.effects)
        assert first_calls(stage.attempts())["a"] == [0]
        assert stage.committed(bus, flow_of(bus)) == {0: 0}
        stage.target.control.heal(stage.prefix)
        wait_for(finished(stage, bus))
    assert set(stage.effects().values()) == {1}
    assert first_calls(stage.attempts()) == {box: list(range(5)) for box in "abc"}
    assert stage.letters(flow_of(bus)) == []


def test_a_full_partition_holds_up_no_other(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliver, "CAPS", Caps(slot_events=20))
    monkeypatch.setattr(intake, "BATCH", 10)
    bus = stage.make(deliver_bus(stage.prefix, partitions=6))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/*", status=503))
    stuck = stage.write(bus, [note(number, "a") for number in range(200)])[0].partition
    boxes = [f"k{number}" for number in range(60)]
    places = stage.write(bus, [note(number, box) for number in range(5) for box in boxes])
    elsewhere = sum(place.partition != stuck for place in places)
    assert 0 < elsewhere < len(places)
    with stage.running(bus) as running:
        wait_for(lambda: len(stage.effects()) >= elsewhere, why=stage.effects)
        held = 20 + (intake.AHEAD + 2) * 10  # what was on its way when the cap was reached
        assert running.counted(flow_of(bus))["read"] <= elsewhere + held < len(places) + 200
        stage.target.control.heal(stage.prefix)
        wait_for(finished(stage, bus))
    assert set(stage.effects().values()) == {1}
    assert len(stage.effects()) == 500
    assert first_calls(stage.attempts())["a"] == list(range(200))


def test_who_fills_a_partition_up_is_named_and_its_event_once_it_fails(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "CAPS", Caps(lane_events=5))
    bus = stage.make(deliver_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="*", hang=True))
    stage.write(bus, [note(number) for number in range(9)])
    first = header(stage.read(bus.topics[0].name)[0], "ce_id")

    def named(running: Running) -> list[tuple[str | None, str | None]]:
        return [(full.key, full.event) for each in running.worker._deliverers for full in each.filled()]

    with stage.running(bus) as running:
        wait_for(lambda: named(running) == [("a", None)])  # it is slow, and nobody knows better
        stage.target.control.heal(stage.prefix)
        stage.target.control.break_(Behaviour(name=stage.prefix, match="*", status=503))
        wait_for(lambda: named(running) == [("a", first)])
        stage.target.control.heal(stage.prefix)
        wait_for(finished(stage, bus))
    assert len(stage.effects()) == 9


def test_a_full_partition_that_went_to_another_worker_and_came_back_is_read_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "CAPS", Caps(slot_events=20))
    monkeypatch.setattr(intake, "BATCH", 10)
    bus = stage.make(deliver_bus(stage.prefix, partitions=2))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="*", status=503))
    stage.write(bus, [note(number, f"k{number % 40}") for number in range(400)])
    with stage.running(bus) as running:
        wait_for(lambda: running.counted(flow_of(bus))["read"] >= 2 * 20)
        with stage.running(bus) as other:
            wait_for(lambda: other.counted(flow_of(bus))["read"] >= 20)
        stage.target.control.heal(stage.prefix)
        wait_for(finished(stage, bus))
    assert set(stage.effects().values()) == {1}
    assert len(stage.effects()) == 400


def test_a_refused_event_is_dead_after_one_call(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/2", status=422, detail="No such thing."))
    stage.write(bus, [note(1), note(2), note(3), note(4, text="unsayable"), note(5)])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus))
    assert [attempt.number for attempt in stage.attempts()] == [1, 2, 3, 5]
    refused, unsayable = sorted(stage.letters(flow_of(bus)), key=origin)
    assert header(refused, "trunkline-class") == header(unsayable, "trunkline-class") == "permanent"
    assert (header(refused, "trunkline-attempts"), header(refused, "trunkline-http-status")) == ("1", "422")
    assert "No such thing." in header(refused, "__connect.errors.exception.message")
    assert header(unsayable, "__connect.errors.exception.message") == "this cannot be said"
    assert stage.rows() == {State.DONE: 3, State.DEAD: 2}
    counted = running.counted(flow_of(bus))
    assert (counted["read"], counted["delivered"], counted["dead"]) == (5, 3, 2)


def test_refused_credentials_halt_the_sink_and_nothing_else(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(1)])
    flow = flow_of(bus)
    with stage.child("deliver_bus", options={"partitions": 1}) as child:
        wait_for(finished(stage, bus))
        stage.target.control.break_(Behaviour(name=stage.prefix, status=401))
        stage.write(bus, [note(number, box) for number in range(2, 6) for box in "abc"])
        wait_for(lambda: ask(f"{child.url}/readyz").status_code == 503)
        assert "does not accept our credentials" in ask(f"{child.url}/readyz").json()["stopped"][flow]
        assert ask(f"{child.url}/healthz").status_code == 200
        assert f'trunkline_flow_halted{{flow="{flow}"}} 1.0' in ask(f"{child.url}/metrics").text
        assert stage.letters(flow) == []
        assert child.terminate() == 0
        assert '"resumed"' not in child.log
    assert stage.committed(bus, flow) == {0: 1}
    stage.target.control.heal(stage.prefix)
    with stage.running(bus):
        wait_for(finished(stage, bus))
    assert set(stage.effects().values()) == {1}
    assert len(stage.effects()) == 13


def test_a_target_that_recovers_gets_everything(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    for behaviour in (
        Behaviour(name=stage.prefix, match="/a/*", status=503, rate=0.5),
        Behaviour(name=stage.prefix, match="/b/*", status=429, rate=0.5, retry_after=0),
        Behaviour(name=stage.prefix, match="/c/*", reset=True, after_apply=True, rate=0.5),
        Behaviour(name=stage.prefix, match="/d/*", status=500, after_apply=True, rate=0.5),
        Behaviour(name=stage.prefix, match="/e/*", status=409, rate=0.5),
    ):
        stage.target.control.break_(behaviour)
    stage.write(bus, [note(number, box) for number in range(8) for box in "abcde"])
    with stage.running(bus):
        wait_for(finished(stage, bus), why=stage.effects)
    assert set(stage.effects().values()) == {1}
    assert len(stage.effects()) == 40
    assert first_calls(stage.attempts()) == {box: list(range(8)) for box in "abcde"}
    assert stage.letters(flow_of(bus)) == []
    assert len(stage.attempts()) > 40


def test_patience_ends_with_a_letter(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, retry=HASTY))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/1", status=503))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/b/1", reset=True))
    stage.write(bus, [note(1, "a"), note(2, "a"), note(1, "b"), note(2, "b")])
    with stage.running(bus):
        wait_for(finished(stage, bus))
    classes = {letter.key: header(letter, "trunkline-class") for letter in stage.letters(flow_of(bus))}
    assert classes == {b"a": "exhausted", b"b": "unknown"}
    tried = {letter.key: int(header(letter, "trunkline-attempts")) for letter in stage.letters(flow_of(bus))}
    called = Counter(attempt.path for attempt in stage.attempts())
    assert tried == {b"a": called["/a/1"], b"b": called["/b/1"]}
    assert stage.effects() == {"/a/2": 1, "/b/2": 1}


def test_a_target_that_is_not_there_is_tried_until_it_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    port = free_port()
    monkeypatch.setenv("SHELF_URL", f"http://127.0.0.1:{port}/shelf")
    stage.write(bus, [note(1), note(2), note(1, "b")])
    with stage.running(bus) as running:
        wait_for(lambda: running.counted(flow_of(bus))["attempt"] >= 6)
        assert stage.rows() == {}
        with start(stage.folder / "late.db", port) as late:
            wait_for(finished(stage, bus))
            assert late.control.stats()["shelf"].effects == 3
    assert stage.rows() == {State.DONE: 3}


def test_a_call_that_hangs_is_ended_at_its_deadline_and_made_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "DEADLINE", 0.5)
    bus = stage.make(deliver_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/*", hang="forever", after_apply=True))
    stage.write(bus, [note(1), note(2), note(1, "b")])
    with stage.running(bus):
        wait_for(lambda: Counter(attempt.path for attempt in stage.attempts())["/a/1"] >= 3)
        wait_for(lambda: stage.effects() == {"/a/1": 1, "/b/1": 1}, why=stage.effects)
        stage.target.control.heal(stage.prefix)
        wait_for(finished(stage, bus))
    assert stage.effects() == {"/a/1": 1, "/a/2": 1, "/b/1": 1}


def test_a_large_answer_is_no_trouble(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=200, body="x" * 2 * 1024 * 1024, after_apply=True))
    stage.write(bus, [note(number) for number in range(5)])
    with stage.running(bus):
        wait_for(finished(stage, bus))
    assert [attempt.number for attempt in stage.attempts()] == list(range(5))


def test_only_a_live_replay_opens_a_dead_event_again(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    flow = flow_of(bus)
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/*", status=422))
    stage.write(bus, [note(1), note(2), note(3, "b")])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus))
        stage.target.control.heal(stage.prefix)
        dead = sorted(stage.letters(flow), key=origin)
        now = datetime.now(UTC)
        with closing(File(stage.ledger).connect()) as db:
            for run in ("live", "ended"):
                runs.begin(db, run, "shelf", 1, now)
            runs.begin(db, "other", "another sink", 1, now)
            runs.finish(db, "ended", now)

        def replay(letter: Any, run: str) -> None:
            headers = replayed(tuple(letter.headers), run)
            stage.send([(replay_of(flow), letter.key, letter.value, headers, letter.partition)])

        for run in ("ended", "unknown", "other"):
            replay(dead[0], run)
        stage.write(bus, [note(1)])  # a copy that no replay sent
        wait_for(lambda: running.counted(flow)["repeat"] == 4)
        assert stage.rows() == {State.DONE: 1, State.DEAD: 2}
        replay(dead[0], "live")
        wait_for(lambda: stage.rows() == {State.DONE: 2, State.DEAD: 1})
        replay(dead[0], "live")
        wait_for(lambda: running.counted(flow)["repeat"] == 5)
    calls = [attempt for attempt in stage.attempts() if attempt.path == "/a/1"]
    assert [call.status for call in calls] == [422, 200]
    assert {call.key for call in calls} == {idempotency_key(bus.name, "shelf", f"{bus.name}/desk", "a-1")}
    assert stage.effects() == {"/a/1": 1, "/b/3": 1}


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "later"])
def test_one_id_with_two_contents_halts_and_sends_neither_twice(stage: Stage, together: bool) -> None:  # noqa: FBT001
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    first, second = note(1, text="this"), note(1, text="that")
    stage.write(bus, [first, second] if together else [first])
    with stage.running(bus) as running:
        if not together:
            wait_for(finished(stage, bus))
            stage.write(bus, [second])
        wait_for(running.worker.stopped)
        assert "came with another content than before" in running.worker.stopped()[flow_of(bus)]
    assert len(stage.attempts()) <= 1
    assert stage.committed(bus, flow_of(bus))[0] <= 1


def test_a_record_as_large_as_its_topic_allows_still_becomes_a_letter(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    topic = bus.topics[0].name
    overhead = 100
    big = b"x" * (RECORD_BYTES - overhead)
    headers = tuple((f"h{number}", b"y" * 1_000_000) for number in range(1))
    stage.send([(topic, b"a", big, (), 0), (topic, b"b", b"", headers, 0), (topic, b"c" * 1_000_000, b"", (), 0)])
    with pytest.raises(Permanent):
        stage.send([(topic, b"a", big + b"x" * overhead, (), 0)])
    stage.write(bus, [note(1)])
    with stage.running(bus):
        wait_for(finished(stage, bus))
    letters = stage.letters(flow_of(bus))
    assert [len(letter.value) for letter in letters] == [len(big), 0, 0]
    assert letters[0].value == big
    assert letters[1].headers[0] == headers[0]
    assert stage.effects() == {"/a/1": 1}


def test_a_letter_that_the_broker_refuses_goes_by_reference(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    topic, letters = bus.topics[0].name, dead_letters_of(flow_of(bus))
    admin = KafkaAdminClient(bootstrap_servers=stage.bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, letters, {"max.message.bytes": "50000"})])
    admin.close()
    stage.send([(topic, b"a", b"x" * 100_000, (("mine", b"1"),), 0)])
    stage.write(bus, [note(1)])
    with stage.running(bus):
        wait_for(finished(stage, bus))
    [letter] = stage.letters(flow_of(bus))
    assert letter.value is None
    assert letter.headers[0] == ("mine", b"1")
    assert header(letter, "trunkline-reference-sha256") == hashlib.sha256(b"x" * 100_000).hexdigest()
    assert stage.effects() == {"/a/1": 1}


def test_nothing_is_lost_while_the_registry_does_not_answer(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(1)])
    broken = threading.Event()
    broken.set()
    real = Format.decode

    def decode(form: Format, value: bytes | None) -> dict[str, Any]:
        if broken.is_set():
            raise Unavailable("the schemas cannot be read")
        return real(form, value)

    monkeypatch.setattr(Format, "decode", decode)
    with stage.running(bus) as running:
        wait_for(lambda: running.details("stuck"))
        broken.clear()
        stage.write(bus, [note(2)])
        wait_for(finished(stage, bus), why=stage.effects)
    assert stage.effects() == {"/a/1": 1, "/a/2": 1}


def test_a_bug_in_the_engine_is_seen_and_nothing_is_committed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(1)])

    def fail(*_: object) -> None:
        raise LookupError("impossible")

    with monkeypatch.context() as patched:
        patched.setattr(Format, "decode", fail)
        with stage.running(bus) as running:
            wait_for(running.worker.stopped)
            assert "bug in Trunkline: LookupError: impossible" in running.worker.stopped()[flow_of(bus)]
    assert stage.committed(bus, flow_of(bus)) == {0: 0}
    with stage.running(bus):
        wait_for(finished(stage, bus))
    assert stage.effects() == {"/a/1": 1}


def test_what_waits_for_the_targets_limit_does_not_hold_up_the_end(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, limit=2.0))
    stage.write(bus, [note(number, f"k{number}") for number in range(100)])
    with stage.running(bus, drain_seconds=5) as running:
        wait_for(lambda: len(stage.effects()) >= 2)
    assert running.drained, "a call that has not begun need not be waited for"
    called = len(stage.attempts())
    assert called < 20
    with stage.running(deliver_bus(stage.prefix)):
        wait_for(finished(stage, bus))
    assert len(stage.attempts()) == 100, "what was called before the end is not called again"
    assert set(stage.effects().values()) == {1}


def test_a_halt_stops_what_waits_for_the_targets_limit(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, limit=5.0))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=401))
    stage.write(bus, [note(number, f"k{number}") for number in range(100)])
    with stage.running(bus, drain_seconds=5) as running:
        wait_for(running.worker.stopped)
    assert running.drained
    assert len(stage.attempts()) < 20


def give_back(running: Running, slot: Slot, *, seconds: float) -> None:
    """Take a partition from a deliverer, as a rebalance does."""
    worker = running.worker
    [deliverer] = worker._deliverers
    asyncio.run_coroutine_threadsafe(deliverer.give_back([slot], seconds), worker._loop).result()


def test_a_lost_partition_is_not_tried_again_here(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=503, latency_ms=300))
    stage.write(bus, [note(number, box) for number in range(2) for box in "ab"])
    with stage.running(bus) as running:
        wait_for(lambda: stage.in_flight() == 2)
        [deliverer] = running.worker._deliverers
        give_back(running, Slot(bus.topics[0].name, 0), seconds=0)
        wait_for(lambda: deliverer.core.counts()["lanes"] == 0, why=deliverer.core.counts)
        assert deliverer.core._open == {}
        assert first_calls(stage.attempts()) == {"a": [0], "b": [0]}


def test_a_copy_goes_on_when_the_first_has_gone_to_another_worker(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=2))
    topic = bus.topics[0].name
    stage.target.control.break_(Behaviour(name=stage.prefix, status=503))
    value, headers = good(stage, bus, 1)
    with stage.running(bus) as running:
        stage.send([(topic, b"a", value, headers, 0)])
        wait_for(lambda: len(stage.attempts()) >= 2)
        stage.send([(topic, b"a", value, headers, 1)])
        [deliverer] = running.worker._deliverers
        wait_for(lambda: any(first.twins for first in deliverer.core._open.values()))
        give_back(running, Slot(topic, 0), seconds=20)
        stage.target.control.heal(stage.prefix)
        wait_for(lambda: stage.committed(bus, flow_of(bus))[1] == 1, why=lambda: stage.committed(bus, flow_of(bus)))
    assert stage.effects() == {"/a/1": 1}


def test_twenty_refusals_alike_halt_the_sink(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=422))
    stage.write(bus, [note(number, f"k{number % 7}") for number in range(60)])
    with stage.running(bus) as running:
        wait_for(running.worker.stopped)
        assert "20 events in a row were refused alike" in running.worker.stopped()[flow_of(bus)]
    assert len(stage.letters(flow_of(bus))) == 20
    assert stage.committed(bus, flow_of(bus))[0] <= 20
    stage.target.control.heal(stage.prefix)
    with stage.running(bus):
        wait_for(finished(stage, bus))
    assert len(stage.effects()) == 40
    assert len(stage.letters(flow_of(bus))) == 20


def test_outcomes_wait_for_a_ledger_that_cannot_be_written(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(number) for number in range(3)])
    full = threading.Event()
    full.set()
    real = deliveries.record

    def record(db: Connection, outcomes: Any) -> deliveries.Recorded:
        if full.is_set():
            raise Failure("database or disk is full")
        return real(db, outcomes)

    monkeypatch.setattr(deliveries, "record", record)
    with stage.running(bus) as running:
        wait_for(lambda: running.details("stuck"))
        assert "disk is full" in running.details("stuck")[0]
        assert stage.committed(bus, flow_of(bus)) == {0: 0}
        assert [attempt.number for attempt in stage.attempts()] == [0], "the next of a key waits for the ledger"
        full.clear()
        wait_for(finished(stage, bus))
    assert stage.effects() == {f"/a/{number}": 1 for number in range(3)}
    assert running.drained


def unkeyed_bus(prefix: str, partitions: int) -> Bus:
    topic = Topic(f"{prefix}.notes", NoteWrittenV1, key=None, partitions=partitions)
    return Bus(prefix, [Deliver(topic, to=shelf(), retry=QUICK)])


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients notice within a second that a topic has more partitions."""
    for settings in (COMMON, events.PRODUCER):
        monkeypatch.setitem(settings, "topic.metadata.refresh.interval.ms", 1_000)


def place(stage: Stage, bus: Bus, numbers: Iterable[int], partition: int) -> None:
    """Write notes to one partition, with a client that knows all that there are now."""
    form, topic = stage.encoder(bus, bus.topics[0].name), bus.topics[0].name
    with closing(Sender(stage.cluster)) as sender:
        for data in map(note, numbers):
            headers = to_headers(stamped(bus, data))
            sender.send(topic, None, form.encode(data), headers, partition=partition).result()


@pytest.mark.usefixtures("attentive")
def test_partitions_that_a_topic_without_keys_is_given_are_read_from_their_beginning_by_who_runs(stage: Stage) -> None:
    bus = stage.make(unkeyed_bus(stage.prefix, 2))
    flow = flow_of(bus)
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/none/9*", status=422))
    with stage.running(bus):
        place(stage, bus, [1, 90], 0)
        wait_for(finished(stage, bus), why=stage.rows)
        more = unkeyed_bus(stage.prefix, 4)
        with stage.control() as control:
            control.apply(plan(more, control.existing(names(more)), stage.kafka))
            for number in range(4):
                place(stage, bus, [10 + number, 91 + number], number)
            control.start_offsets(more, [flow], None)  # of another worker, which starts with the new topology
        wait_for(finished(stage, bus), why=stage.rows)
        assert stage.rows() == {State.DONE: 5, State.DEAD: 5}
        assert sorted(letter.partition for letter in stage.letters(flow)) == [0, 0, 1, 2, 3]
        stage.target.control.heal(stage.prefix)
        with (
            stage.control() as control,
            closing(File(stage.ledger).connect()) as db,
            closing(Sender(stage.cluster)) as sender,
        ):
            letters = replay.survey(bus.delivering[flow], control, db)
            sent = replay.Replay(bus.delivering[flow], control, sender, db, rate=100, wait=30)
            assert len(sent.run(replay.plan(letters), lambda _: None).delivered) == 5
    assert stage.rows() == {State.DONE: 10}
    assert set(stage.effects().values()) == {1}


@pytest.mark.usefixtures("attentive")
def test_partitions_that_a_topic_with_keys_is_given_halt_the_flow(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, 2))
    with stage.running(bus) as running:
        wait_for(lambda: len(stage.committed(bus, flow_of(bus))) == 2)
        with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
            admin.create_partitions({bus.topics[0].name: NewPartitions(3)})
        wait_for(lambda: len(stage.ends(bus.topics[0].name)) == 3)
        place(stage, bus, [1], 2)
        wait_for(lambda: running.details("halted"))
    [why] = running.details("halted")
    assert "partition 2 was added while the flow ran. Its keys are from other partitions" in why


def test_a_topic_of_replays_that_was_made_anew_is_read_from_its_beginning(stage: Stage) -> None:
    """The ledger knows what is finished, and nobody can say with `--start` where to go on in it."""
    bus = stage.make(deliver_bus(stage.prefix, 1))
    flow = flow_of(bus)
    topic = replay_of(flow)
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/*", status=422))
    stage.write(bus, [note(1)])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus))
        stage.target.control.heal(stage.prefix)
        [dead] = stage.letters(flow)
        with closing(File(stage.ledger).connect()) as db:
            runs.begin(db, "live", "shelf", 1, datetime.now(UTC))

        def replay(run: str) -> None:
            stage.send([(topic, dead.key, dead.value, replayed(tuple(dead.headers), run), 0)])

        for _ in range(5):
            replay("unknown")
        wait_for(lambda: running.counted(flow)["repeat"] == 5)
        stage.make_anew(bus, topic)
        replay("live")
        wait_for(
            lambda: stage.rows() == {State.DONE: 1}, why=lambda: (running.details("halted"), running.details("stuck"))
        )


def test_what_is_deleted_before_it_was_read_halts_the_flow_which_says_how_much(stage: Stage) -> None:
    """(L6) Also when that happens between the check at the start and the first fetch."""
    bus = stage.make(deliver_bus(stage.prefix, 1))
    topic = bus.topics[0].name
    stage.write(bus, [note(number) for number in range(5)])
    with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, 0): 3})
    with stage.running(bus) as running:
        wait_for(lambda: running.details("halted"))
        [why] = running.details("halted")
        assert why == (
            f"3 records of {topic} partition 0 were deleted before they were read. Start its workers again with "
            "`trunkline run --start earliest|latest|TIME`, which says where to go on."
        )


@pytest.mark.parametrize("notices", ["who runs", "who comes next"])
def test_a_topic_that_is_made_anew_while_it_is_read_is_noticed_and_nothing_of_it_passed_over(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, notices: str
) -> None:
    monkeypatch.setattr(continuity, "EVERY", 0.2 if notices == "who runs" else 1e9)
    bus = stage.make(deliver_bus(stage.prefix, 2))
    flow, topic = flow_of(bus), bus.topics[0].name
    form = stage.encoder(bus, topic)
    with stage.running(bus) as running:
        stage.write(bus, [note(number) for number in range(15)], form)
        wait_for(finished(stage, bus), why=stage.rows)
        stage.make_anew(bus, topic)
        stage.write(bus, [note(number) for number in range(15, 45)], form)
        if notices == "who runs":
            wait_for(lambda: running.details("halted"))
            assert f"{topic} was deleted and made anew while it was read" in running.details("halted")[0]
        else:  # it has read what lies behind the offsets of the old topic, and committed that
            wait_for(
                lambda: (sum(stage.rows().values()) > 15 and raw_committed(stage, bus)) or running.details("halted"),
                why=lambda: (stage.rows(), running.details("stuck")),
            )
            # Or, on a busy machine, it has looked there before anything was written.
            assert all("is not there any more" in why for why in running.details("halted"))
    with stage.control() as control:
        with pytest.raises(UsageError, match=rf"has not read {topic} yet, where up to 30 records wait"):
            control.start_offsets(bus, [flow], None)
        control.start_offsets(bus, [flow], "earliest")
    with stage.running(bus):
        wait_for(finished(stage, bus), why=stage.rows)
    assert stage.rows() == {State.DONE: 45}
    assert set(stage.effects().values()) == {1}


def raw_committed(stage: Stage, bus: Bus) -> bool:
    """Say whether the broker holds the ends of the topic as the group's offsets, whatever stands beside them."""
    with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
        found = admin.list_group_offsets({(group := group_of(bus, flow_of(bus))): None})[group]
    topic = bus.topics[0].name
    return {place.partition: at.offset for place, at in found.items() if place.topic == topic} == stage.ends(topic)
