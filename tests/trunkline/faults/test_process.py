"""Workers of a processing flow that are killed, frozen and left alone inside their transaction."""

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from tests.trunkline.faults.cluster import Cluster
from tests.trunkline.schemas import MarkV1
from tests.trunkline.support import (
    Stage,
    counts,
    header,
    inspect,
    load,
    marks_of,
    note,
    notes,
    process_bus,
    say,
    stamped,
    wait_for,
)
from trunkline import Bus, Process, Topic
from trunkline.avro.codec import HEAD, Codec
from trunkline.dev.broker import LocalKafka
from trunkline.dev.target.running import RunningTarget
from trunkline.event import to_headers
from trunkline.flow.declare import group_of

pytestmark = pytest.mark.faults(group="process")


def flow_of(bus: Bus) -> str:
    [name] = bus.processing
    return name


def marks(stage: Stage, bus: Bus, isolation: str) -> list[str]:
    """Give the keys of the output topic."""
    return [record.key.decode() for record in stage.read(bus.topics[1].name, isolation=isolation)]


def funnel(prefix: str) -> Bus:
    """Give a bus whose workers all write to the one partition of their output."""
    marked = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=1)
    return Bus(prefix, [Process(notes(prefix, 6), [inspect], to={marked: marks_of})])


def finished(stage: Stage, bus: Bus) -> bool:
    """Say whether everything has been read and committed."""
    return stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name)


def numbers_by_box(stage: Stage, bus: Bus) -> dict[str, list[int]]:
    """Give the numbers of the committed marks of each box in their order."""
    codec = Codec(bus.topics[1].schema.text)
    found: dict[str, list[int]] = {}
    for record in stage.read(bus.topics[1].name):
        found.setdefault(record.key.decode(), []).append(codec.decode(record.value[HEAD:])["number"])
    return found


def end(stage: Stage, topic: str, isolation: str) -> int:
    """Give the end of partition 0 as readers of this kind see it: of what is committed, or of everything."""
    place = TopicPartition(topic, 0)
    with closing(KafkaConsumer(bootstrap_servers=stage.bootstrap, isolation_level=isolation)) as consumer:
        return int(consumer.end_offsets([place])[place])


@pytest.mark.parametrize("moment", ["begun", "produced", "offered"])
def test_what_a_killed_worker_had_produced_is_never_seen_and_comes_once(stage: Stage, moment: str) -> None:
    bus = stage.make(process_bus(stage.prefix))
    boxes = [f"k{key}" for key in range(50)]
    stage.write(bus, [note(1, box, "raise" if box == "k7" else "") for box in boxes])
    with stage.child("process_bus", die=moment) as child:
        assert child.wait() == -9
    written = marks(stage, bus, "read_uncommitted")
    assert written or moment == "begun", "inconclusive: nothing had been produced"
    assert marks(stage, bus, "read_committed") == []
    assert stage.letters(flow_of(bus)) == []
    assert set(stage.committed(bus, flow_of(bus)).values()) == {0}
    stage.forget_members(bus, flow_of(bus))
    with stage.child("process_bus") as child:
        wait_for(lambda: stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name), why=lambda: child.log)
        assert child.terminate() == 0
    assert sorted(marks(stage, bus, "read_committed")) == sorted(box for box in boxes if box != "k7")
    assert len(marks(stage, bus, "read_uncommitted")) == 49 + len(written)
    assert [letter.key for letter in stage.letters(flow_of(bus))] == [b"k7"]


def test_what_a_worker_had_committed_when_it_was_killed_is_not_written_again(stage: Stage) -> None:
    """The moment after the end of a transaction, before anything is counted or fetched."""
    bus = stage.make(process_bus(stage.prefix))
    boxes = [f"k{key}" for key in range(50)]
    stage.write(bus, [note(1, box, "raise" if box == "k7" else "") for box in boxes])
    with stage.child("process_bus", die="read") as child:
        assert child.wait() == -9
    written = marks(stage, bus, "read_committed")
    assert written, "inconclusive: nothing had been committed"
    stage.forget_members(bus, flow_of(bus))
    with stage.child("process_bus") as child:
        wait_for(lambda: finished(stage, bus), why=lambda: child.log)
        assert child.terminate() == 0
    assert sorted(marks(stage, bus, "read_uncommitted")) == sorted(box for box in boxes if box != "k7")
    assert [letter.key for letter in stage.letters(flow_of(bus))] == [b"k7"]


def test_workers_that_join_leave_and_die_write_every_record_once(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=6))
    options = {"partitions": 6}
    with stage.child("process_bus", options=options) as first:
        with load(stage, bus, 60) as rounds:
            wait_for(lambda: counts(first, "routed"), why=lambda: first.log)
            with stage.child("process_bus", slot=1, name="joins", options=options) as joins:
                wait_for(lambda: counts(joins, "routed"), why=lambda: joins.log)
                assert joins.terminate() == 0, joins.log
            with stage.child("process_bus", slot=1, die="produced", after=20, name="dies", options=options) as dies:
                assert dies.wait() == -9, dies.log
            with stage.child("process_bus", slot=1, name="takes over", options=options) as over:
                wait_for(lambda: counts(over, "routed"), why=lambda: over.log)
        wait_for(lambda: stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name), why=lambda: first.log)
        assert first.terminate() == 0
    codec = Codec(bus.topics[1].schema.text)
    # The offsets of a transaction may be seen a moment before its records.
    wait_for(lambda: len(stage.read(bus.topics[1].name)) >= rounds[0] * 60)
    found: dict[str, list[int]] = {}
    for record in stage.read(bus.topics[1].name):
        found.setdefault(record.key.decode(), []).append(codec.decode(record.value[HEAD:])["number"])
    wanted = list(range(rounds[0]))
    assert {box: numbers for box, numbers in found.items() if numbers != wanted} == {}
    assert len(found) == 60
    assert stage.letters(flow_of(bus)) == []


@pytest.mark.parametrize("moment", ["produced", "offered"])
@pytest.mark.parametrize(("slot", "most"), [(1, 5.0), (None, 23.0)])
def test_what_other_workers_commit_can_be_read_soon_after_one_was_killed(
    stage: Stage,
    moment: str,
    slot: int | None,
    most: float,
) -> None:
    """P1: an open transaction hides what others commit behind it, until its worker is back or the broker ends it."""
    bus = stage.make(funnel(stage.prefix))
    name, topic = f"{__name__}:funnel", bus.topics[1].name
    with stage.child(name) as first, load(stage, bus, 60):
        wait_for(lambda: counts(first, "routed"), why=lambda: first.log)
        with stage.child(name, slot=1, die=moment, after=5, name="dies") as dies:
            assert dies.wait() == -9, dies.log
        killed = time.monotonic()
        hidden = end(stage, topic, "read_uncommitted")
        wait_for(lambda: end(stage, topic, "read_uncommitted") > hidden, why=lambda: first.log)
        if slot is not None:
            with stage.child(name, slot=slot, name="again") as over:
                up = time.monotonic()
                wait_for(lambda: end(stage, topic, "read_committed") > hidden, why=lambda: over.log)
                took = time.monotonic() - up
                assert over.terminate() == 0, over.log
        else:
            wait_for(lambda: end(stage, topic, "read_committed") > hidden, seconds=40, why=lambda: first.log)
            took = time.monotonic() - killed
    say(f"killed when {moment}: readable after {took:.1f} s {'alone' if slot is None else 'of the worker in its slot'}")
    assert took <= most


def test_a_frozen_worker_is_fenced_by_the_one_that_took_its_slot(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix))
    boxes = [f"k{key}" for key in range(50)]
    with stage.child("process_bus", die="offered", name="frozen", by=signal.SIGSTOP) as frozen:
        stage.write(bus, [note(1, box) for box in boxes])
        wait_for(lambda: stopped(frozen.pid), why=lambda: frozen.log)
        stage.forget_members(bus, flow_of(bus))
        with stage.child("process_bus", name="takes over") as over:
            wait_for(lambda: finished(stage, bus), why=lambda: over.log)
            os.kill(frozen.pid, signal.SIGCONT)
            wait_for(lambda: "same slot" in frozen.log, why=lambda: frozen.log)
            stage.write(bus, [note(2, box) for box in boxes])
            wait_for(lambda: finished(stage, bus), why=lambda: over.log)
            assert over.terminate() == 0, over.log
    assert numbers_by_box(stage, bus) == {box: [1, 2] for box in boxes}


def stopped(pid: int) -> bool:
    """Say whether a process is frozen."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_storm_of_poison_goes_dead_and_what_is_among_it_appears_once(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix))
    topic = bus.topics[0].name
    encode = stage.encoder(bus, topic).encode
    good = {number: stamped(bus, note(number, f"k{number % 10}")) for number in range(0, 6_000, 60)}
    stage.send(
        (
            topic,
            b"k%d" % (number % 10),
            encode(good[number].data) if number in good else b"poison %d" % number,
            to_headers(good[number]) if number in good else (),
            number % 3,
        )
        for number in range(6_000)
    )
    with stage.running(bus) as running:
        wait_for(lambda: finished(stage, bus), why=running.worker.stopped)
    found = sorted(number for numbers in numbers_by_box(stage, bus).values() for number in numbers)
    assert found == sorted(good)
    letters = stage.letters(flow_of(bus))
    wanted = sorted(b"poison %d" % number for number in range(6_000) if number not in good)
    assert sorted(letter.value for letter in letters) == wanted
    assert {header(letter, "trunkline-class") for letter in letters} == {"poison"}


@pytest.fixture
def own(witness: tuple[RunningTarget, Path], tmp_path: Path) -> Iterator[tuple[Stage, LocalKafka]]:
    """Give a stage on a broker that may be killed: it coordinates transactions and groups alike."""
    broker = LocalKafka(tmp_path / "broker")
    bootstrap = broker.start().bootstrap
    running, database = witness
    yield Stage("own" + datetime.now(UTC).strftime("%H%M%S%f"), bootstrap, tmp_path, running, database), broker
    broker.stop()


@pytest.mark.timeout(400)
def test_a_coordinator_that_is_killed_costs_and_doubles_nothing(own: tuple[Stage, LocalKafka]) -> None:
    stage, broker = own
    bus = stage.make(process_bus(stage.prefix))
    boxes = [f"k{key}" for key in range(60)]
    with stage.child("process_bus") as worker:
        for number in range(2):
            stage.write(bus, [note(number, box) for box in boxes])
            broker.kill()  # perhaps in the middle of a transaction
            broker.start()
            wait_for(lambda: finished(stage, bus), seconds=90, why=lambda: worker.log)
        assert worker.terminate() == 0, worker.log
    assert numbers_by_box(stage, bus) == {box: [0, 1] for box in boxes}
    assert stage.letters(flow_of(bus)) == []


@pytest.fixture
def swept(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Close the sockets that kafka-python leaves open with which it has tried a broker that was not there."""
    caplog.set_level(logging.CRITICAL, "kafka")  # what it says of its tasks would keep them until the end
    yield
    for _ in range(5):  # each may free what the next one finds
        gc.collect()


@pytest.mark.usefixtures("swept")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(400)
def test_a_coordinator_of_three_that_is_killed_leaves_its_transactions_to_another(
    tmp_path: Path, witness: tuple[RunningTarget, Path]
) -> None:
    """The node that coordinates the transactions of the worker goes for good; two of three go on."""
    running, database = witness
    with Cluster(tmp_path / "cluster", 3) as cluster:
        prefix = "three" + datetime.now(UTC).strftime("%H%M%S%f")
        stage = Stage(prefix, cluster.bootstrap, tmp_path, running, database, kafka=cluster.kafka)
        bus = stage.make(process_bus(stage.prefix))
        with stage.child("process_bus", drain_seconds=60) as worker, load(stage, bus, 60) as rounds:
            wait_for(lambda: counts(worker, "routed"), why=lambda: worker.log)
            many = len(stage.ends("__transaction_state"))
            place = hashed(f"{group_of(bus, flow_of(bus))}.{socket.gethostname()}.0") % many
            coordinator = cluster.leader_of("__transaction_state", place)
            assert coordinator is not None
            coordinator.kill()
            wait_for(lambda: cluster.leader_of("__transaction_state", place) not in (None, coordinator), seconds=60)
            then = rounds[0]
            wait_for(lambda: rounds[0] > then + 10, seconds=60)
            left = replace(stage, bootstrap=cluster.without(coordinator))
            wait_for(lambda: most(numbers_by_box(left, bus)) > then, seconds=90, why=lambda: worker.log)
        with left.child("process_bus", name="goes on") as over:
            wait_for(lambda: finished(left, bus), seconds=90, why=lambda: over.log)
            assert over.terminate() == 0, over.log
        assert numbers_by_box(left, bus) == {f"k{key}": list(range(rounds[0])) for key in range(60)}
        assert left.letters(flow_of(bus)) == []


def most(numbers: dict[str, list[int]]) -> int:
    """Give the number of marks of the box that has most."""
    return max(map(len, numbers.values()), default=0)


def hashed(transactional_id: str) -> int:
    """Give what the broker chooses the partition of __transaction_state by: Java's hash of the id, without its sign."""
    digest = 0
    for character in transactional_id:
        digest = (31 * digest + ord(character)) & 0xFFFFFFFF
    return abs(digest - 0x1_0000_0000 if digest & 0x8000_0000 else digest)
