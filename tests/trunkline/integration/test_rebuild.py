"""A lost or outdated ledger, made again from a real broker; nothing is delivered here."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, Literal

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from tests.trunkline.integration.project import Project, order
from tests.trunkline.support import Shelf, Stage, header, note, notes, stamped
from trunkline import Bus, Deliver, Target, deadletter, env
from trunkline.avro.codec import HEAD
from trunkline.cli.worker import note as note_passed
from trunkline.deadletter import REFERENCE, Failure, Origin, replayed, stray
from trunkline.errors import UsageError
from trunkline.event import Event, to_headers
from trunkline.flow.declare import dead_letters_of, group_of, replay_of
from trunkline.kafka import audit, orders
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender, Slot
from trunkline.kafka.orders import Announcement, Trusted, current, this_worker
from trunkline.kafka.topics import control_of, outcomes_of
from trunkline.ledger import deliveries, identity, progress, sqlite
from trunkline.ledger.deliveries import Outcome, State
from trunkline.ledger.identity import Identity
from trunkline.ledger.intents import Intent, intend
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.trust import Fine
from trunkline.operate.rebuild import DOUBT, Choice, Rebuild, Restored, trusted

THEN = datetime(2026, 2, 1, tzinfo=UTC)
NOTED = "at=2026-02-01T00:00:00.000+00:00"


class Keyless(Shelf):
    """A target that knows no keys, and stores the last state of each box."""

    idempotency = None
    writes = "latest"


@dataclass
class Loss:
    """A bus with one partition whose ledger is lost, and what the broker holds of it."""

    stage: Stage
    keyless: bool = False
    after_dead: Literal["continue", "park_key", "block"] = "continue"
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = Keyless if self.keyless else Shelf
        sink = kind(Target("shelf", env("SHELF_URL")))
        topic = notes(self.stage.prefix, 1)
        self.bus = self.stage.make(Bus(self.stage.prefix, [Deliver(topic, to=sink, after_dead=self.after_dead)]))
        [self.flow] = self.bus.delivering
        self.topic = topic.name

    @cached_property
    def sender(self) -> Sender:
        return Sender(self.stage.cluster)

    def commit(self, offset: int, topic: str = "") -> None:
        """Commit as a worker would."""
        consumer = Consumer(
            {"bootstrap.servers": self.stage.bootstrap, "group.id": group_of(self.bus, self.flow), "log_level": 0}
        )
        with closing(consumer):
            consumer.commit(offsets=[Place(topic or self.topic, 0, offset, NOTED)], asynchronous=False)

    def event(self, number: int, box: str = "a") -> Event[Any]:
        return stamped(self.bus, note(number, box))

    def say(self, event: Event[Any], offset: int, state: State, *, run: str = "", at: datetime = THEN) -> None:
        """Append an outcome, as the engine would."""
        key = None if event.key is None else deliveries.payload_of(event.key.encode()).hex()
        origin = Origin(self.topic, 0, offset)
        payload = deliveries.payload_of(b"").hex()
        entry = audit.Entry(
            at, self.flow, "shelf", event.source, event.id, event.time, origin, key, payload, state.name, 2, run
        )
        self.sender.send(*audit.record_of(outcomes_of(self.bus), entry)).result(20)

    def rebuild(self, choice: Choice | None = None) -> tuple[Identity, Restored]:
        with Control(self.stage.cluster) as control, self.ledger() as db:
            work = Rebuild(self.bus, self.stage.cluster, control, self.sender, db, self.told.append)
            made, [restored] = work.run(choice)
        return made, restored

    def ledger(self) -> sqlite.Connection:
        return sqlite.File(self.stage.ledger).connect()

    def known(self, *events: Event[Any]) -> list[str | None]:
        """Give the states that the ledger knows of these events."""
        places = [deliveries.place_of("shelf", event) for event in events]
        with self.ledger() as db:
            rows = deliveries.look_up(db, places)
        return [rows[place].state.name if place in rows else None for place in places]

    def is_trusted(self) -> bool:
        with Control(self.stage.cluster) as control, self.ledger() as db:
            known = current(self.stage.cluster, control_of(self.bus)).ledger
            [state] = trusted(self.bus, control, db, known)
        return isinstance(state, Fine)


@pytest.fixture
def loss(stage: Stage) -> Iterator[Loss]:
    found = Loss(stage)
    yield found
    found.sender.close()


@pytest.fixture
def keyless(stage: Stage) -> Iterator[Loss]:
    found = Loss(stage, keyless=True, after_dead="park_key")
    yield found
    found.sender.close()


def test_what_a_person_left_out_is_not_taken_for_delivered(loss: Loss) -> None:
    events = [loss.event(number) for number in range(6)]
    loss.stage.write(loss.bus, [note(number) for number in range(4)])
    group = group_of(loss.bus, loss.flow)
    with closing(KafkaAdminClient(bootstrap_servers=loss.stage.bootstrap)) as admin:
        admin.delete_groups([group])
        admin.delete_records({TopicPartition(loss.topic, 0): 1})
    with Control(loss.stage.cluster) as control:
        noting = partial(note_passed, loss.bus, loss.stage.cluster)
        control.start_offsets(loss.bus, [loss.flow], "latest", noting)
        assert control.committed(group) == {Slot(loss.topic, 0): (4, "")}
    loss.stage.write(loss.bus, [note(number) for number in range(4, 6)])
    loss.commit(6)
    _, restored = loss.rebuild()
    assert loss.known(*events) == [None] * 4 + ["DONE"] * 2
    assert restored.delivered == 2


def test_what_was_committed_is_done_unless_the_outcomes_say_otherwise(loss: Loss) -> None:
    boxes = "abcdef"
    events = [loss.event(number, box) for number, box in enumerate(boxes)]
    loss.stage.write(loss.bus, [note(number, box) for number, box in enumerate(boxes)])
    loss.commit(4)
    loss.say(events[1], 1, State.DEAD)
    loss.say(events[2], 2, State.DEAD)
    loss.say(events[2], 2, State.DONE, run="r1")
    loss.say(events[4], 4, State.DEAD)
    assert not loss.is_trusted()

    made, restored = loss.rebuild()
    assert loss.known(*events) == ["DONE", "DEAD", "DONE", "DONE", "DEAD", None]
    assert (restored.outcomes, restored.delivered, restored.foreign, restored.doubtful) == (4, 2, 0, 0)
    assert restored.states == {State.DONE: 3, State.DEAD: 2}
    assert loss.told == [f"reading {outcomes_of(loss.bus)}", f"reading {loss.topic} partition 0 up to 4"]
    with loss.ledger() as db:
        assert identity.read(db) == made
        assert progress.read(db, "shelf") == {(loss.topic, 0): 4}
        [row] = deliveries.look_up(db, [deliveries.place_of("shelf", events[0])]).values()
        value = loss.stage.read(loss.topic)[0].value
        assert row.payload == deliveries.payload_of(value[HEAD:]), "the same event with another content is noticed"
    assert current(loss.stage.cluster, control_of(loss.bus)).ledger == (made.id, 1)
    assert loss.is_trusted()

    again, restored = loss.rebuild()
    assert (again.epoch, restored.delivered, restored.states) == (2, 0, {State.DONE: 3, State.DEAD: 2})


def test_a_record_that_is_no_event_stays_what_it_was(loss: Loss) -> None:
    good = loss.event(0)
    loss.stage.write(loss.bus, [note(0)])
    headers = to_headers(loss.event(1))
    loss.stage.send([(loss.topic, b"a", b"no avro", headers, 0), (loss.topic, b"a", b"no event", (), 0)])
    loss.stage.send([(loss.topic, b"a", b"long ago", (), 0)])
    loss.commit(4)
    strays = [stray(Origin(loss.topic, 0, offset)) for offset in (1, 2)]
    for offset, event in enumerate(strays, 1):
        loss.say(event, offset, State.DEAD)
    _, restored = loss.rebuild()
    assert loss.known(good, *strays, loss.event(1)) == ["DONE", "DEAD", "DEAD", None]
    assert restored.foreign == 2


def test_the_same_event_twice_is_one(loss: Loss) -> None:
    loss.stage.write(loss.bus, [note(0), note(1), note(0)])
    loss.commit(3)
    _, restored = loss.rebuild()
    assert (restored.delivered, restored.states) == (2, {State.DONE: 2})


def test_entries_that_say_nothing_to_us_are_passed_over(loss: Loss) -> None:
    loss.sender.send(outcomes_of(loss.bus), b"k", b"no json", ()).result(20)
    entry = audit.Entry(
        THEN, "another.flow", "shelf", "s", "e", THEN, Origin("t", 0, 0), None, "00", State.DEAD.name, 1
    )
    loss.sender.send(*audit.record_of(outcomes_of(loss.bus), entry)).result(20)
    _, restored = loss.rebuild()
    assert (restored.outcomes, restored.states) == (0, {})


def test_nobody_can_tell_what_a_target_without_keys_has(keyless: Loss) -> None:
    events = [keyless.event(number, "abc"[number]) for number in range(3)]
    keyless.stage.write(keyless.bus, [note(number, "abc"[number]) for number in range(3)])
    keyless.commit(1)
    with pytest.raises(UsageError) as refused:
        keyless.rebuild()
    assert str(refused.value).startswith("nobody can tell what reached shelf (up to 2 events): ")
    assert str(refused.value).endswith(
        "Say --resend to send these events again, or --ambiguous to keep them as dead letters for a person."
    )
    assert keyless.known(*events) == [None, None, None]

    _, restored = keyless.rebuild("resend")
    assert (restored.doubtful, keyless.known(*events)) == (2, ["DONE", None, None])


def test_what_such_a_target_may_have_becomes_dead_letters(keyless: Loss) -> None:
    boxes = "abcd"
    events = [keyless.event(number, box) for number, box in enumerate(boxes)]
    keyless.stage.write(keyless.bus, [note(number, box) for number, box in enumerate(boxes)])
    keyless.commit(2)
    keyless.say(events[0], 0, State.DEAD)
    keyless.say(events[1], 1, State.DEAD)
    # A replay of the first was under way, that of the second is over.
    source = keyless.stage.read(keyless.topic)[0]
    failure = Failure(keyless.flow, "permanent", "deliver", "Permanent", "no", 1, 422, THEN)
    letter = deadletter.write(tuple(source.headers), Origin(keyless.topic, 0, 0), failure)
    keyless.stage.send([(replay_of(keyless.flow), source.key, source.value, replayed(letter, "r1"), 0)])
    keyless.commit(0, replay_of(keyless.flow))
    keyless.say(events[3], 3, State.SUPERSEDED)

    _, restored = keyless.rebuild("ambiguous")
    assert keyless.known(*events) == ["AMBIGUOUS", "DEAD", "AMBIGUOUS", "SUPERSEDED"]
    assert (restored.doubtful, restored.delivered, restored.parked) == (2, 0, 3)
    letters = keyless.stage.letters(keyless.flow)
    assert sorted(header(one, "ce_id") for one in letters) == ["a-0", "c-2"]
    assert {header(one, "trunkline-class") for one in letters} == {"unknown"}
    assert {header(one, "__connect.errors.exception.message") for one in letters} == {DOUBT}
    assert {header(one, "trunkline-origin-topic") for one in letters} == {keyless.topic}
    said = [json.loads(one.value) for one in keyless.stage.read(outcomes_of(keyless.bus))][-2:]
    assert sorted((one["event"], one["state"], one["why"]) for one in said) == [
        ("a-0", "AMBIGUOUS", DOUBT),
        ("c-2", "AMBIGUOUS", DOUBT),
    ]

    _, restored = keyless.rebuild("ambiguous")
    assert (restored.doubtful, len(keyless.stage.letters(keyless.flow))) == (0, 2), "once is enough"


def test_a_letter_that_is_too_large_says_where_its_value_stands(keyless: Loss) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=keyless.stage.bootstrap)) as admin:
        least = {"max.message.bytes": "9000"}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, dead_letters_of(keyless.flow), configs=least)])
    keyless.stage.write(keyless.bus, [note(0, text="x" * 10_000)])
    keyless.commit(0)
    keyless.rebuild("ambiguous")
    [stood], [letter] = keyless.stage.read(keyless.topic), keyless.stage.letters(keyless.flow)
    assert letter.value is None
    assert header(letter, REFERENCE) == hashlib.sha256(stood.value).hexdigest()
    assert keyless.known(keyless.event(0)) == ["AMBIGUOUS"]


def test_keys_are_parked_and_freed_as_they_were(keyless: Loss) -> None:
    events = {name: keyless.event(number, name) for number, name in enumerate("abc")}
    keyless.stage.write(keyless.bus, [note(number, name) for number, name in enumerate("abc")])
    later = keyless.event(9, "b")
    keyless.commit(3)
    keyless.say(events["a"], 0, State.DEAD)
    keyless.say(events["b"], 1, State.DEAD)
    keyless.say(later, 7, State.PARKED)
    keyless.say(events["b"], 1, State.DONE, run="r")
    keyless.say(events["c"], 2, State.DEAD)
    keyless.say(events["c"], 2, State.DISCARDED)
    _, restored = keyless.rebuild()
    assert keyless.known(*events.values(), later) == ["DEAD", "DONE", "DISCARDED", "PARKED"]
    assert restored.parked == 2
    digests = {name: deliveries.payload_of(name.encode()) for name in "abc"}
    with keyless.ledger() as db:
        assert parked_keys(db, deliveries.number_of(db, "shelf")) == {digests["a"], digests["b"]}


def test_a_restored_copy_is_brought_up_to_date(loss: Loss) -> None:
    """Of a copy everything holds but the calls that were being made then."""
    events = [loss.event(number, "abcd"[number]) for number in range(4)]
    older = loss.event(100, "z")
    loss.stage.write(loss.bus, [note(number, "abcd"[number]) for number in range(4)])
    made, _ = loss.rebuild()
    with loss.ledger() as db, db.transaction():
        number = deliveries.number_of(db, "shelf")
        states = {State.DONE: [older, events[0]], State.DEAD: [events[1]]}
        deliveries.record(
            db,
            [
                Outcome(deliveries.place_of("shelf", event), number, state, None, 0, 0, b"p", 1, THEN)
                for state, group in states.items()
                for event in group
            ],
        )
        called = deliveries.place_of("shelf", events[2])
        intend(db, [Intent(called, number, None, 0, 2, b"p", "me", 9e9, 1.0, keyed=False)])
    copy = loss.stage.ledger.with_suffix(".copy")
    shutil.copy(loss.stage.ledger, copy)
    loss.commit(3)
    loss.say(events[1], 1, State.DONE, run="r")
    copy.replace(loss.stage.ledger)
    assert not loss.is_trusted()

    again, restored = loss.rebuild()
    assert again.epoch == made.epoch + 1
    assert loss.known(older, *events) == ["DONE", "DONE", "DONE", "DONE", None]
    assert restored.delivered == 1
    assert loss.is_trusted()


def test_another_bus_keeps_its_ledger(loss: Loss) -> None:
    loss.rebuild()
    orders.send(loss.sender, control_of(loss.bus), orders.trusting(Trusted("f" * 32, 7)))
    with pytest.raises(UsageError, match=r"^this ledger, .* epoch 1, is not the one of this bus, ffffffff epoch 7\."):
        loss.rebuild()


def test_while_somebody_works_nothing_is_rebuilt(loss: Loss) -> None:
    worker = this_worker(loss.bus, [])
    topic = control_of(loss.bus)
    orders.send(loss.sender, topic, orders.announcing(Announcement(worker, 0, {}, (), orders.NEVER)))
    with pytest.raises(
        UsageError, match=rf"^there are workers at {worker.host} \(pid {worker.pid}\)\. Stop them first"
    ):
        loss.rebuild()
    orders.send(loss.sender, topic, orders.leaving(worker.id))
    consumer = Consumer(
        {"bootstrap.servers": loss.stage.bootstrap, "group.id": group_of(loss.bus, loss.flow), "log_level": 0}
    )
    consumer.subscribe([loss.topic])
    while not consumer.assignment():
        consumer.poll(0.1)
    with closing(consumer), pytest.raises(UsageError, match=rf"^workers run {loss.flow}\. Stop them first"):
        loss.rebuild()
    with loss.ledger() as db:
        assert identity.read(db) is None


def test_a_ledger_is_made_again_and_shown_from_the_command_line(project: Project) -> None:
    assert project("ledger", "show", code=2) == (
        "trunkline: the ledger var/ledger.db does not exist yet: the first `trunkline run` of this bus makes it.\n"
    )
    project.send(project.good, project.value(1), to_headers(order("k1")))
    with Control(project.cluster) as control:
        control.commit(f"{project.prefix}.{project.flow}", {Slot(project.good, 0): 1})
    assert project("ledger", "rebuild", "--resend", "--ambiguous", code=2).startswith("trunkline: --resend and")
    [made] = project.json("ledger", "rebuild")["sinks"]
    assert (made["sink"], made["delivered"], made["states"]["done"], made["doubtful"]) == ("store", 1, 1, 0)
    shown = project.json("ledger", "show")
    assert (shown["epoch"], shown["trusted"], shown["why"], shown["oldest_day"]) == (1, True, None, "2026-03-01")
    assert shown["bytes"] >= project.ledger.stat().st_size
    assert shown["sinks"]["store"] == {**dict.fromkeys(made["states"], 0), "done": 1}
    assert project("ledger", "rebuild").splitlines()[-1].split() == [
        *("store", project.flow, "0", "0", "-", "0", "0", "1", "done")
    ]
    assert "trusted     yes" in project("ledger", "show")
    orders.send(project.sender, f"trunkline.{project.prefix}.control", orders.trusting(Trusted("f" * 32, 7)))
    shown = project.json("ledger", "show")
    assert not shown["trusted"]
    assert "is not the one of this bus, ffffffff epoch 7" in shown["why"]
    assert project("ledger", "rebuild", code=2).startswith("trunkline: this ledger, ")
    project.ledger.unlink()
    assert project("ledger", "show", code=2).startswith(
        "trunkline: the ledger is empty, but this bus has one: ffffffff"
    )
