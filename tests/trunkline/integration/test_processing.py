"""Topic to topic with a real broker: what a transaction makes visible, and what goes dead on the way."""

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import (
    ROOT,
    Stage,
    header,
    marks_of,
    note,
    notes,
    process_bus,
    stamped,
    wait_for,
)
from trunkline import Drop, Event, Process, Topic
from trunkline.avro.codec import HEAD, Codec
from trunkline.errors import Unavailable, UsageError
from trunkline.event import Headers, to_headers
from trunkline.flow.declare import Bus, dead_letters_of
from trunkline.kafka import continuity
from trunkline.kafka.events import Member, Record
from trunkline.kafka.transactions import Transactions, Write


def flow_of(bus: Bus) -> str:
    [name] = bus.processing
    return name


def finished(stage: Stage, bus: Bus) -> Callable[[], bool]:
    """Give the condition that everything on the bus's first topic is committed."""

    def check() -> bool:
        ends, committed = stage.ends(bus.topics[0].name), stage.committed(bus, flow_of(bus))
        return committed == ends

    return check


def marks(stage: Stage, bus: Bus) -> list[tuple[str | None, int]]:
    """Give box and number of every record on the output topic, in order per partition."""
    codec = Codec(bus.topics[1].schema.text)
    read = [codec.decode(record.value[HEAD:]) for record in stage.read(bus.topics[1].name)]
    return [(mark["box"], mark["number"]) for mark in read]


def test_good_records_appear_once_and_the_counters_balance(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix))
    texts = ["", "drop", "nothing", "raise", "wrong field", "no record", "large", ""]
    stage.write(bus, [note(number, box, text) for number, text in enumerate(texts) for box in ("a", "b", None)])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=running.worker.stopped)
    assert sorted(marks(stage, bus), key=str) == sorted(
        ((box, number) for number in (0, 7) for box in ("a", "b", None)), key=str
    )
    counted = running.counted(flow_of(bus))
    wanted = {"read": 24, "routed": 6, "emitted": 6, "filtered": 3, "unrouted": 3, "dead": 12}
    assert {what: count for what, count in counted.items() if what in wanted} == wanted
    letters = stage.letters(flow_of(bus))
    assert {header(letter, "trunkline-class") for letter in letters} == {"permanent"}
    assert {header(letter, "trunkline-stage") for letter in letters} == {"process"}
    said = {header(letter, "__connect.errors.exception.message") for letter in letters}
    assert "bug in inspect: ValueError: raise" in said
    assert any("no record" in words for words in said)
    assert any("bytes" in words for words in said), said


def test_poison_becomes_a_letter_with_its_own_bytes_and_the_flow_goes_on(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix))
    topic = bus.topics[0].name
    value = stage.encoder(bus, topic).encode(note(1))
    headers = to_headers(stamped(bus, note(1)))
    poison: list[tuple[bytes | None, bytes | None, Headers]] = [
        (b"a", b"no Avro at all", headers),
        (b"a", None, headers),
        (b"a", b"\0" + (10**6).to_bytes(4, "big") + value[HEAD:], headers),
        (b"a", value + b"!", headers),
        (b"a", value, ()),
        (b"a", value, tuple((name, b"0001-01-01T00:00+14:00" if name == "ce_time" else was) for name, was in headers)),
        (b"a", b"none", (*headers, ("trunkline-origin-topic", b"elsewhere"))),
        (b"\xff\xfe", value, headers),
    ]
    stage.send((topic, key, value_, headers_, 2) for key, value_, headers_ in poison)
    stage.write(bus, [note(number, box) for number in range(2, 5) for box in "ab"])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=running.worker.stopped)
    letters = stage.letters(flow_of(bus))
    assert [letter.partition for letter in letters] == [2] * len(poison)
    for letter, (key, value_, headers_) in zip(letters, poison, strict=True):
        assert (letter.key, letter.value) == (key, value_)
        own = tuple(pair for pair in headers_ if not pair[0].startswith("trunkline-"))
        assert tuple(letter.headers)[: len(own)] == own
        assert header(letter, "trunkline-class") == "poison"
    assert sorted(marks(stage, bus)) == [(box, number) for box in "ab" for number in range(2, 5)]


def test_a_step_that_cannot_reach_something_waits_and_loses_nothing(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    switch = stage.folder / "there"
    stage.write(bus, [note(1), note(2, text=f"wait:{switch}"), note(3)])
    with stage.running(bus) as running:
        wait_for(lambda: running.details("stuck"))
        wait_for(lambda: stage.committed(bus, flow_of(bus)) == {0: 1})
        assert marks(stage, bus) == [("a", 1)], "what came before it does not wait"
    with stage.running(bus) as running:
        wait_for(lambda: running.details("stuck"))
        assert "waits at offset 1: nobody there" in running.details("stuck")[0]
        switch.touch()
        wait_for(finished(stage, bus))
    assert marks(stage, bus) == [("a", 1), ("a", 2), ("a", 3)]
    assert stage.letters(flow_of(bus)) == []


def test_a_topic_that_is_made_anew_while_it_is_read_halts_the_flow_and_nothing_of_it_is_passed_over(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuity, "EVERY", 0.2)
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    flow, topic = flow_of(bus), bus.topics[0].name
    with stage.running(bus) as running:
        stage.write(bus, [note(number) for number in range(5)])
        wait_for(finished(stage, bus), why=running.worker.stopped)
        stage.make_anew(bus, topic)
        stage.write(bus, [note(number) for number in range(5, 15)])
        wait_for(running.worker.stopped)
    with stage.control() as control:
        with pytest.raises(UsageError, match=rf"has not read {topic} yet, where up to 10 records wait"):
            control.start_offsets(bus, [flow], None)
        control.start_offsets(bus, [flow], "earliest")
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=running.worker.stopped)
    assert {number for _, number in marks(stage, bus)} == {*range(15)}


def test_twenty_failures_alike_halt_the_flow_and_keep_its_offsets(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(0)])
    with stage.running(bus):
        wait_for(finished(stage, bus))
    begun = stage.committed(bus, flow_of(bus))
    stage.write(bus, [note(number, f"k{number % 7}", "raise") for number in range(25)])
    with stage.running(bus) as running:
        wait_for(running.worker.stopped)
        assert "20 events in a row were refused alike" in running.worker.stopped()[flow_of(bus)]
    assert stage.committed(bus, flow_of(bus)) == begun
    assert len(stage.letters(flow_of(bus))) <= 20


def test_failures_that_differ_only_in_their_data_are_alike(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(number, f"k{number % 7}", f"raise {number}") for number in range(25)])
    with stage.running(bus) as running:
        wait_for(running.worker.stopped)
    assert stage.committed(bus, flow_of(bus)) == {0: 0}


def test_a_failed_session_does_not_count_its_failures_twice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(number, f"k{number % 7}", "raise") for number in range(15)])
    refused: list[int] = []
    real = Transactions.write

    def write(transactions: Transactions, writes: Sequence[Write]) -> None:
        real(transactions, writes)
        if not refused:
            refused.append(1)
            raise Unavailable("once")

    monkeypatch.setattr(Transactions, "write", write)
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=running.worker.stopped)
    assert len(stage.letters(flow_of(bus))) == 15


def test_two_workers_in_one_slot_do_not_both_run(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=2))
    flow = flow_of(bus)
    with stage.running(bus) as first:
        stage.write(bus, [note(1)])
        wait_for(finished(stage, bus))
        with stage.running(bus) as second:

            def halted() -> list[str]:
                return [running.worker.stopped().get(flow, "") for running in (first, second)]

            def write_until_one_halts(numbers: list[int]) -> bool:
                numbers.append(numbers[-1] + 1)
                stage.write(bus, [note(numbers[-1], box) for box in "abcdef"])
                return any(halted())

            numbers = [1]
            wait_for(lambda: write_until_one_halts(numbers), why=halted)
            assert sorted(map(bool, halted())) == [False, True]
            assert "TRUNKLINE_WORKER__SLOT" in "".join(halted())
            wait_for(finished(stage, bus))
    written = [(box, number) for number in range(2, numbers[-1] + 1) for box in "abcdef"]
    assert sorted(marks(stage, bus)) == sorted([("a", 1), *written])


def test_a_key_that_does_not_fit_beside_its_value_is_dead_alone(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    stage.write(bus, [note(1), note(2, "k" * 60_000, "large with its key", name="long"), note(3)])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=lambda: running.details("stuck"))
    assert marks(stage, bus) == [("a", 1), ("a", 3)]
    [letter] = stage.letters(flow_of(bus))
    assert header(letter, "ce_id") == "long"


def run(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a project whose bus is this test's."""
    project = stage.folder / "project"
    project.mkdir(exist_ok=True)
    (project / "topology.py").write_text(
        f"from tests.trunkline.support import whole_bus\n\nbus = whole_bus({stage.prefix!r})\n"
    )
    environment = {
        **os.environ,
        **stage.environment,
        "PYTHONPATH": str(ROOT),
        "TRUNKLINE_KAFKA__BOOTSTRAP": stage.bootstrap,
        "TRUNKLINE_LEDGER__PATH": str(stage.ledger),
        "TRUNKLINE_GATEWAY__PORT": "0",
    }
    return subprocess.run(
        [str(Path(sys.executable).with_name("trunkline")), *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.timeout(320)  # three commands, of several processes each
def test_running_says_what_is_missing_before_it_starts(stage: Stage) -> None:
    """First the topics, then where a flow begins that is new on an old topic."""
    bus = process_bus(stage.prefix, partitions=3)
    refused = run(stage, "run")
    assert refused.returncode == 2, refused.stderr
    assert "Run `trunkline topics apply`" in refused.stderr
    made = run(stage, "topics", "apply")
    assert made.returncode == 0, made.stderr
    stage.write(bus, [note(1)])
    refused = run(stage, "run", flow_of(bus))
    assert refused.returncode == 2, refused.stderr
    assert "--start earliest|latest|TIME" in refused.stderr
    assert stage.committed(bus, flow_of(bus)) == {}


@pytest.mark.parametrize("bad", [1, 3, 700])
def test_a_batch_with_bad_events_is_one_transaction(stage: Stage, monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """P5: the good ones appear exactly once, the bad ones are dead with their bytes."""
    patiently(monkeypatch, 2_000)
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    topic = bus.topics[0].name
    encode = stage.encoder(bus, topic).encode
    wrong = {number * 2_000 // bad for number in range(bad)}
    bodies = {number: b"no Avro %d" % number for number in wrong}
    events = [stamped(bus, note(number, f"k{number % 40}")) for number in range(2_000)]
    stage.send(
        (topic, (event.key or "").encode(), bodies.get(number) or encode(event.data), to_headers(event), 0)
        for number, event in enumerate(events)
    )
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=running.worker.stopped)
    counted = running.counted(flow_of(bus))
    assert {what: counted[what] for what in ("begun", "read", "routed", "dead")} == {
        "begun": 1,
        "read": 2_000,
        "routed": 2_000 - bad,
        "dead": bad,
    }
    assert sorted(number for _, number in marks(stage, bus)) == sorted(set(range(2_000)) - wrong)
    assert sorted(letter.value for letter in stage.letters(flow_of(bus))) == sorted(bodies.values())


def test_only_what_the_broker_itself_refuses_goes_dead(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: a record without a key on a compacted topic, and one over a limit that somebody has lowered."""
    patiently(monkeypatch, 1_000)
    bus = stage.make(process_bus(stage.prefix, partitions=2))
    configure(stage, bus.topics[1].name, {"cleanup.policy": "compact", "max.message.bytes": "200000"})
    refused = {70, 71, 333, 600, 601, 905}
    good = [number for number in range(1_000) if number not in refused]
    stage.write(
        bus,
        [
            note(
                number,
                None if number in refused and number % 2 else f"k{number % 40}",
                "x" * 300_000 * (number in {70, 600}),
            )
            for number in range(1_000)
        ],
    )
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=lambda: running.details("stuck"))
        stage.write(bus, [note(1_000, "k0")])
        wait_for(finished(stage, bus), why=lambda: running.details("stuck"))
    assert sorted(number for _, number in marks(stage, bus)) == [*good, 1_000]
    letters = stage.letters(flow_of(bus))
    assert sorted(int((header(letter, "ce_id") or "").rpartition("-")[2]) for letter in letters) == sorted(refused)
    assert all(
        "the broker refused" in (header(letter, "__connect.errors.exception.message") or "") for letter in letters
    )
    most = 1 + len(refused) + 1 + 1  # all of them, again for each that is refused, without those, and the last event
    assert running.counted(flow_of(bus))["begun"] <= most


def test_a_letter_that_the_broker_refuses_goes_by_reference(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    topic = bus.topics[0].name
    configure(stage, dead_letters_of(flow_of(bus)), {"max.message.bytes": "50000"})
    stage.send([(topic, b"a", b"x" * 100_000, (), 0)])
    stage.write(bus, [note(1)])
    with stage.running(bus) as running:
        wait_for(finished(stage, bus), why=lambda: running.details("stuck"))
    assert marks(stage, bus) == [("a", 1)]
    [letter] = stage.letters(flow_of(bus))
    assert letter.value is None
    assert header(letter, "trunkline-reference-sha256") == hashlib.sha256(b"x" * 100_000).hexdigest()
    assert header(letter, "trunkline-origin-offset") == "0"


class Calls:
    """What steps that wait have done, and when it was allowed to end."""

    under_way: ClassVar[list[str | None]] = []
    most: ClassVar[int] = 0
    done: ClassVar[list[tuple[str | None, int]]] = []
    failing: ClassVar[set[str]] = set()


async def ask(event: Event[NoteWrittenV1]) -> Event[NoteWrittenV1] | Drop:
    """Wait as a look-up does: what comes later is answered sooner."""
    box, number = event.data["box"], event.data["number"]
    assert box is None or box not in Calls.under_way, "two events of one key at once"
    Calls.under_way.append(box)
    Calls.most = max(Calls.most, len(Calls.under_way))
    try:
        await asyncio.sleep(0.02 if number % 2 else 0.1)
        if box in Calls.failing:
            raise ConnectionError("nobody answers")
        if event.data["text"] == "raise later":
            raise ValueError("raised while it was awaited")
        Calls.done.append((box, number))
    finally:
        Calls.under_way.remove(box)
    return Drop("asked for") if event.data["text"] == "drop later" else event


def asking_bus(prefix: str) -> Bus:
    marked = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=2)
    return Bus(prefix, [Process(notes(prefix, 2), [ask], to={marked: marks_of})])


def test_steps_that_wait_do_so_side_by_side_in_order_per_key_and_outside_the_transaction(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2, P3."""
    patiently(monkeypatch, 210)
    for name, value in (("under_way", []), ("most", 0), ("done", []), ("failing", {"k3"})):
        monkeypatch.setattr(Calls, name, value)
    bus = stage.make(asking_bus(stage.prefix))
    texts = {(7, "k1"): "raise later", (8, "k2"): "drop later"}
    boxes = [*(f"k{key}" for key in range(20)), None]
    written = [(number, box) for number in range(10) for box in boxes]
    stage.write(bus, [note(number, box, texts.get((number, box or ""), "")) for number, box in written])
    with stage.running(bus) as running:
        wait_for(lambda: len(Calls.done) >= len(written) - 11, why=lambda: (len(Calls.done), running.details("halted")))
        assert running.counted(flow_of(bus))["begun"] == 0
        assert any("nobody answers" in told for told in running.details("stuck"))
        Calls.failing.clear()
        wait_for(finished(stage, bus), why=running.worker.stopped)
    assert 20 < Calls.most <= 256
    found: dict[str | None, list[int]] = {}
    for box, number in marks(stage, bus):
        found.setdefault(box, []).append(number)
    found[None].sort()
    wanted = {box: [number for number in range(10) if (number, box) not in texts] for box in boxes}
    assert found == wanted
    [letter] = stage.letters(flow_of(bus))
    told = header(letter, "__connect.errors.exception.message")
    assert told == "bug in ask: ValueError: raised while it was awaited"


def patiently(monkeypatch: pytest.MonkeyPatch, there: int) -> None:
    """Let a worker begin with all that is there, however the broker hands it out."""
    real, begun = Member.fetch, threading.Event()

    def fetch(member: Member, most: int, seconds: float) -> list[Record]:
        records = real(member, most, seconds)
        until = time.monotonic() + 60
        while records and not begun.is_set() and len(records) < there and time.monotonic() < until:
            records += real(member, most - len(records), 0.1)
        if records:
            begun.set()
        return records

    monkeypatch.setattr(Member, "fetch", fetch)


def configure(stage: Stage, topic: str, settings: dict[str, str]) -> None:
    """Change how a topic is kept."""
    with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])


@pytest.mark.parametrize("had", [0, 10], ids=["before it starts", "while it runs"])
def test_a_flow_whose_topic_goes_missing_names_it_and_goes_on_when_it_is_there(stage: Stage, had: int) -> None:
    topics = [Topic(f"{stage.prefix}.{name}", MarkV1, key="box", partitions=2) for name in ("a", "gone", "z")]
    bus = stage.make(Bus(stage.prefix, [Process(notes(stage.prefix, 2), [], to=dict.fromkeys(topics, marks_of))]))

    def remove() -> None:
        with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin, stage.control() as control:
            admin.delete_topics([topics[1].name])
            wait_for(lambda: not control.existing([topics[1].name]))

    if not had:
        remove()
    stage.write(bus, [note(number, f"k{number}") for number in range(10)])
    with stage.running(bus) as running:
        if had:
            wait_for(finished(stage, bus))
            remove()
            stage.write(bus, [note(number, f"k{number}") for number in range(10, 20)])
        wait_for(lambda: running.details("stuck"))
        assert f"missing topics: {topics[1].name}. Run `trunkline topics apply`" in running.details("stuck")[0]
        stage.make(bus)
        wait_for(finished(stage, bus), why=lambda: running.details("stuck"))
    assert {len(stage.read(topic.name)) for topic in (topics[0], topics[2])} == {10 + had}
    assert not stage.letters(flow_of(bus))
