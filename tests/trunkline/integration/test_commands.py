"""Commands for sinks, on a real broker; most workers here do nothing but obey, and kafka-python is the witness."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.trunkline.integration.project import Project, order
from tests.trunkline.support import Stage, deliver_bus, header, note, read, wait_for
from trunkline import Bus
from trunkline.dev.target.behaviour import Behaviour
from trunkline.flow.declare import group_of
from trunkline.kafka import orders
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import Follower, Record, Sender
from trunkline.kafka.orders import Command, ControlReader, Full, Orders, Trusted, Worker, announcing, current
from trunkline.kafka.topics import control_of, outcomes_of
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.observe import Observed
from trunkline.operate.control import Answer, Desk, Standing, standings
from trunkline.operate.rebuild import Rebuild


def command(why: str = "") -> Command:
    return Command(f"c{why}", "ann@desk", datetime.now(UTC), why)


@dataclass
class Obedient:
    """A worker that only obeys."""

    reader: ControlReader
    worker: Worker
    obeyed: list[Orders] = field(default_factory=list)


@dataclass
class Office:
    """A bus's control topic, and who works there."""

    bus: Bus
    cluster: Cluster
    sender: Sender
    halted: dict[str, str] = field(default_factory=dict)
    full: list[Full] = field(default_factory=list)
    seen: list[Observed] = field(default_factory=list)
    may_obey: threading.Event = field(default_factory=threading.Event)

    @property
    def topic(self) -> str:
        return control_of(self.bus)

    @contextmanager
    def worker(self, *, hesitant: bool = False) -> Iterator[Obedient]:
        """Let a worker obey; a hesitant one from the first command on only when `may_obey` is set."""
        worker = orders.this_worker(self.bus, self.bus.delivering)
        obeyed: list[Orders] = []

        def obey(held: Orders) -> None:
            if hesitant and obeyed:
                self.may_obey.wait(30)
            obeyed.append(held)

        reader = ControlReader(
            self.cluster,
            self.topic,
            worker,
            sender=self.sender,
            fleet=orders.Fleet(),
            obey=obey,
            status=lambda: (self.halted, self.full, {}),
            observe=self.seen.append,
        )
        try:
            reader.wait(30)
            yield Obedient(reader, worker, obeyed)
        finally:
            reader.stop()

    def said(self) -> dict[str, Any]:
        """Read with kafka-python what stands on the topic: the last value of every key."""
        found = {record.key.decode(): record.value for record in read(self.cluster.bootstrap, self.topic)}
        return {key: value and json.loads(value) for key, value in found.items()}

    @contextmanager
    def desk(self, patience: float = 20) -> Iterator[Desk]:
        with Control(self.cluster) as control:
            yield Desk(self.bus, self.cluster, control, self.sender, patience)


@pytest.fixture
def office(stage: Stage) -> Iterator[Office]:
    bus = stage.make(deliver_bus(stage.prefix))
    with closing(Sender(stage.cluster)) as sender:
        yield Office(bus, stage.cluster, sender)


def ids(answer: Answer) -> set[str]:
    return {one.worker.id for one in answer.obeying}


def test_a_command_is_obeyed_by_every_worker_when_it_returns(office: Office) -> None:
    with office.worker() as one, office.worker() as two, office.desk() as desk:
        assert [held.paused for held in one.obeyed] == [{}]
        paused = command("moving")
        answer = desk.pause("shelf", paused)
        assert (ids(answer), answer.complete) == ({one.worker.id, two.worker.id}, True)
        assert one.obeyed[-1].paused == two.obeyed[-1].paused == {"shelf": paused}
        assert office.said()["pause/shelf"] == {
            "id": "cmoving",
            "who": "ann@desk",
            "at": paused.at.isoformat(),
            "why": "moving",
        }

        assert desk.skip("shelf", "e/1", command("skip")).complete
        assert one.obeyed[-1].skips("shelf") == {"e/1"}
        orders.send(office.sender, office.topic, orders.skipped("shelf", "e/1"))
        wait_for(lambda: not two.obeyed[-1].skipped)

        resumed = command("done")
        assert ids(desk.resume("shelf", resumed)) == {one.worker.id, two.worker.id}
        assert (one.obeyed[-1].paused, one.obeyed[-1].resumed) == ({}, {"shelf": resumed})
        assert office.said()["pause/shelf"] is None


def test_a_worker_obeys_what_held_before_it_began(office: Office) -> None:
    with office.desk() as desk:
        answer = desk.pause("shelf", command())
        assert answer == Answer((), ())
    with office.worker() as late:
        [first] = late.obeyed
        assert "shelf" in first.paused
        said = office.said()[f"worker/{late.worker.id}"]
        assert said["worker"]["flows"] == list(office.bus.delivering)
        assert said["worker"]["pid"] == late.worker.pid


def test_a_worker_that_does_not_obey_is_named_and_the_command_stands(office: Office) -> None:
    with office.worker() as one, office.worker(hesitant=True) as two:
        with office.desk(patience=0) as desk:
            desk.pause("shelf", command())
            [given] = [one.offset for one in read(office.cluster.bootstrap, office.topic) if one.key == b"pause/shelf"]
            wait_for(lambda: office.said()[f"worker/{one.worker.id}"]["applied"] > given)
            answer = desk.wait(office.topic, office.bus.delivering, given)
        assert ids(answer) == {one.worker.id}
        assert [said.worker.id for said in answer.silent] == [two.worker.id]
        assert not answer.complete
        office.may_obey.set()
        wait_for(lambda: len(two.obeyed) == 2)
        assert "shelf" in two.obeyed[-1].paused


def test_a_worker_that_ended_without_a_word_is_not_waited_for_long(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    with office.worker() as one, office.desk() as desk:
        ghost = orders.this_worker(office.bus, office.bus.delivering)
        orders.send(office.sender, office.topic, announcing(orders.Announcement(ghost, 0, {}, (), orders.NEVER)))
        monkeypatch.setattr(orders, "LIVE", orders.LIVE / 3)
        monkeypatch.setattr(orders, "EVERY", 0.2)
        answer = desk.pause("shelf", command())
        assert (ids(answer), answer.complete) == ({one.worker.id}, True)


def test_a_member_of_the_group_that_never_said_a_word_is_counted(office: Office) -> None:
    [flow] = office.bus.delivering
    consumer = Consumer({**office.cluster.librdkafka(), "group.id": group_of(office.bus, flow), "log_level": 0})
    consumer.subscribe([office.bus.topics[0].name])
    while not consumer.assignment():
        consumer.poll(0.1)
    with closing(consumer), office.desk(patience=0) as desk:
        assert desk.resume("shelf", command()).unknown == 1


def test_who_waits_for_no_worker_still_waits_for_the_broker(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy one hands out what was written a moment later, and nobody would hear who obeys."""
    real, fetched = Follower.fetch, 0

    def fetch(follower: Follower, seconds: float) -> list[Record]:
        nonlocal fetched
        fetched += 1
        return real(follower, seconds) if fetched > 3 else []

    with office.desk(patience=0) as desk:
        monkeypatch.setattr(Follower, "fetch", fetch)
        assert desk.pause("shelf", command()) == Answer((), ())


def test_workers_come_and_go_with_a_word(office: Office) -> None:
    [flow] = office.bus.delivering
    office.halted[flow] = "bad secret"
    office.full.append(Full(flow, "t", 2, "a"))
    with office.worker() as one:
        wait_for(lambda: office.said()[f"worker/{one.worker.id}"]["applied"] > 0)
        said = office.said()[f"worker/{one.worker.id}"]
        assert said["halted"] == {flow: "bad secret"}
        assert said["full"] == [{"flow": flow, "topic": "t", "partition": 2, "key": "a", "event": None}]
        assert [found.full for found in current(office.cluster, office.topic).workers.values()] == [
            (Full(flow, "t", 2, "a"),)
        ]
    wait_for(lambda: office.said()[f"worker/{one.worker.id}"] is None)
    assert office.seen == []


def test_a_worker_speaks_again_and_again_and_buries_who_is_long_silent(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = orders.this_worker(office.bus, office.bus.delivering)
    orders.send(office.sender, office.topic, announcing(orders.Announcement(ghost, 0, {}, (), orders.NEVER)))
    monkeypatch.setattr(orders, "EVERY", 0.2)
    monkeypatch.setattr(orders, "FORGOTTEN", orders.LIVE / 15)
    with office.worker() as one:
        wait_for(lambda: office.said()[f"worker/{ghost.id}"] is None)
        assert ghost.id not in one.reader.orders.workers
        assert one.worker.id in one.reader.orders.workers


def test_a_halt_is_told_at_once(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    [flow] = office.bus.delivering
    monkeypatch.setattr(orders, "EVERY", 600)
    with office.worker() as one:
        office.halted = {flow: "bad secret"}
        wait_for(lambda: office.said()[f"worker/{one.worker.id}"]["halted"] == {flow: "bad secret"})


def test_the_ledger_that_holds_is_known_to_all(office: Office) -> None:
    with office.worker() as one, office.worker() as two:
        orders.send(office.sender, office.topic, orders.trusting(Trusted("abc", 2)))
        wait_for(lambda: one.obeyed[-1].ledger == two.obeyed[-1].ledger == Trusted("abc", 2))


def test_a_worker_that_cannot_obey_says_so_and_tries_again(office: Office) -> None:
    failures = [ValueError("not yet")]

    def obey(_: Orders) -> None:
        if failures:
            raise failures.pop()

    worker = orders.this_worker(office.bus, [])
    reader = ControlReader(
        office.cluster,
        office.topic,
        worker,
        sender=office.sender,
        fleet=orders.Fleet(),
        obey=obey,
        status=lambda: ({}, [], {}),
        observe=office.seen.append,
    )
    try:
        reader.wait(30)
    finally:
        reader.stop()
    assert [one.detail for one in office.seen] == ["no orders are read: not yet"]


def test_without_the_topic_nothing_is_commanded(project: Project) -> None:
    topology = project.folder / "topology.py"
    topology.write_text(topology.read_text().replace(f'"{project.prefix}",', '"another",'))
    said = "trunkline: the topic trunkline.another.control does not exist. Run `trunkline topics apply`.\n"
    assert project("sink", "pause", "store", code=2) == said
    assert project("sink", "ls", code=2) == said


def test_sinks_are_paused_and_resumed_from_the_command_line(project: Project) -> None:
    assert project("sink", "pause", "store", "--why", "they move") == (
        "store: paused as soon as a worker runs it; none does at present.\n"
    )
    [stood] = project.json("sink", "ls")
    assert (stood["sink"], stood["flows"], stood["state"]) == ("store", [project.flow], "paused")
    assert (stood["paused"]["why"], stood["workers"], stood["halted"], stood["skips"]) == ("they move", [], [], [])
    shown = project("sink", "ls")
    assert "paused by" in shown
    assert "they move" in shown
    assert project.json("sink", "skip", project.flow, "k1")["now"] == "skipping k1"
    assert project("sink", "resume", "store").startswith("store: running as soon as")
    [stood] = project.json("sink", "ls")
    assert (stood["state"], stood["paused"], stood["skips"]) == ("no worker", None, ["k1"])


def test_targets_are_paused_shown_and_resumed_from_the_command_line(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"trunkline.{project.prefix}.control"

    def held() -> dict[bytes, bytes | None]:
        return {one.key: one.value for one in read(project.bootstrap, topic) if b"target:" in one.key}

    assert project("target", "pause", "shelves", "--why", "they move") == (
        "shelves: paused as soon as a worker calls it; none does at present.\n"
    )
    order = held()[b"pause/target:shelves"]
    assert order is not None
    assert json.loads(order)["why"] == "they move"
    [stood] = project.json("target", "ls")
    assert stood == project.json("target", "show", "shelves")
    assert (stood["target"], stood["address"], stood["limit"]) == ("shelves", "STORE_URL", None)
    assert (stood["paused"]["why"], stood["shares"]) == ("they move", {project.flow: 1.0})
    assert stood["state"].startswith("paused by ")
    shown = project("target", "ls")
    assert f"{project.flow} 100%" in shown
    assert "they move" in shown
    assert "\naddress: STORE_URL\n" in project("target", "show", "shelves")
    assert project("target", "resume", "shelves").startswith("shelves: running as soon as")
    assert (held()[b"pause/target:shelves"], b"resume/target:shelves" in held()) == (None, True)
    assert project.json("target", "show", "shelves")["state"] == "called by no worker"

    monkeypatch.setattr(orders, "LIVE", timedelta(minutes=10))  # nobody says again that this worker is there
    worker = Worker("w1", "host", 7, (project.flow,), "t")
    said = orders.Announcement(worker, 0, {}, (), orders.NEVER, targets={"shelves": "down"})
    orders.send(project.sender, topic, announcing(said))
    assert "down at 1 of 1 worker" in project("target", "ls")
    assert project.run("target", "pause", "shelves", "--wait", "0.5").code == 1, "it does not obey"
    for command in ("pause", "resume", "show"):
        assert "there is no target store. It is a sink" in project("target", command, "store", code=2)


def test_skipping_says_when_there_may_be_nothing_to_skip(project: Project) -> None:
    project.fail("open", state=None)  # its record is on the topic, and no outcome known
    with closing(
        Consumer({"bootstrap.servers": project.bootstrap, "group.id": f"{project.prefix}.{project.flow}"})
    ) as member:
        member.commit(offsets=[TopicPartition(project.good, number, 0) for number in (0, 1)], asynchronous=False)
    source = f"{project.prefix}/{project.prefix}.orders.checked"
    with File(project.ledger).connect() as db:
        project.record(db, replace(order("had"), source=source), State.DONE, project.value(1))
    assert project.run("sink", "skip", "store", "open").stderr == ""
    said = project.run("sink", "skip", "store", "opne")
    assert (said.code, said.stderr) == (
        0,
        "trunkline: no event opne has come to store so far; should one come, it is skipped. Is the id right?\n",
    )
    had = project.run("sink", "skip", "store", "had").stderr
    assert had == "trunkline: event had is delivered at store already: nothing is skipped.\n"
    assert project.json("sink", "ls")[0]["skips"] == ["had", "open", "opne"]


def test_without_an_id_nothing_is_skipped(project: Project) -> None:
    assert project("sink", "skip", "store", "", code=2) == "trunkline: say which event: its id is empty.\n"


def test_a_flow_that_is_not_there_is_named_before_a_port_is_taken(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert project("run", project.flow[:-1], code=2, TRUNKLINE_GATEWAY__PORT=port) == (
            f"trunkline: there is no flow {project.flow[:-1]}. Did you mean {project.flow}?\n"
        )
        assert f"port {port}" in project("run", project.flow, code=2, TRUNKLINE_GATEWAY__PORT=port)


def test_who_does_not_obey_is_named_on_the_command_line(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "LIVE", timedelta(minutes=10))  # nobody says again that these workers are there
    worker = Worker("w1", "host", 7, (project.flow,), "t")
    full = (Full(project.flow, project.good, 1, "k1"), Full(project.flow, project.good, 0, None))
    said = orders.Announcement(worker, 0, {project.flow: "bad secret"}, full, orders.NEVER)
    topic = f"trunkline.{project.prefix}.control"
    orders.send(project.sender, topic, announcing(said))
    shown = project("sink", "ls")
    assert "halted at 1 of 1 worker" in shown
    assert "bad secret" in shown
    assert f"{project.good} partition 1 by key k1, {project.good} partition 0 by events without a key" in shown
    failed = project.run("sink", "pause", "store", "--wait", "0.5")
    assert failed.code == 1
    assert failed.stdout == "store: paused at 0 workers.\n"
    assert failed.stderr.startswith(
        "trunkline: the command stands, but after 0.5 s it is not obeyed by w1 (last heard of "
    )
    answered = project.run("sink", "pause", "store", "--wait", "0.5", "--json")
    assert (answered.code, json.loads(answered.stdout)["silent"]) == (1, ["w1"])
    orders.send(project.sender, topic, announcing(orders.Announcement(
        Worker("w2", "host", 8, (project.flow,), "u"), 0, {}, (), orders.NEVER)))  # fmt: skip
    mixed = project.run("sink", "ls", "--json")
    assert mixed.stderr.startswith("Workers run different topologies")
    assert [one["id"] for one in json.loads(mixed.stdout)[0]["workers"]] == ["w1", "w2"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stroe", "there is no sink or reading flow stroe. Did you mean store?"),
        (
            "shelves",
            "there is no sink or reading flow shelves. It is a target (`trunkline target show shelves`), called ",
        ),
        ("PREFIX.orders.checked", "calls no target; only a sink can be paused, resumed or told to skip an event."),
    ],
)
def test_a_name_that_is_no_sink_is_wrong_use(project: Project, name: str, said: str) -> None:
    assert said in project("sink", "pause", name.replace("PREFIX", project.prefix), code=2)


# From here on with workers that deliver.


def test_a_paused_sink_calls_nobody_until_it_goes_on(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    with closing(Sender(stage.cluster)) as sender, Control(stage.cluster) as control:
        desk = Desk(bus, stage.cluster, control, sender, 20)
        with stage.running(bus) as running:
            stage.write(bus, [note(number, "a") for number in range(3)])
            wait_for(lambda: len(stage.effects()) == 3)
            answer = desk.pause("shelf", command())
            assert (len(answer.obeying), answer.complete) == (1, True)
            stage.write(bus, [note(number, "b") for number in range(3)])
            [flow] = bus.delivering
            wait_for(lambda: running.counted(flow)["read"] == 6)
            assert len(stage.attempts()) == 3
        with stage.running(bus) as running:
            wait_for(lambda: running.counted(flow)["read"] == 3, why=lambda: running.counted(flow))
            assert len(stage.attempts()) == 3, "a worker that starts obeys what was said before"
            assert desk.resume("shelf", command("on")).complete
            wait_for(lambda: len(stage.effects()) == 6)


def test_a_halted_sink_is_freed_of_one_event(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=1))
    [flow] = bus.delivering
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/1", status=401))
    with closing(Sender(stage.cluster)) as sender, Control(stage.cluster) as control:
        desk = Desk(bus, stage.cluster, control, sender, 20)
        with stage.running(bus) as running:
            stage.write(bus, [note(number, "a") for number in range(3)])
            wait_for(running.worker.stopped)
            wait_for(lambda: standing_of(stage, bus).halted)
            [(_, why)] = standing_of(stage, bus).halted
            assert "Check the secret of this target. When that is mended: `trunkline sink resume shelf`" in why
            asked = command("it is odd")
            assert desk.skip("shelf", "a-1", asked).complete
            assert desk.resume("shelf", command("on")).complete
            wait_for(lambda: len(stage.effects()) == 2, why=running.worker.stopped)
            wait_for(lambda: not standing_of(stage, bus).skips)
    [letter] = stage.letters(flow)
    assert (header(letter, "ce_id"), header(letter, "trunkline-class")) == ("a-1", "skipped")
    [said] = [json.loads(record.value) for record in stage.read(outcomes_of(bus))]
    assert (said["event"], said["state"], said["who"], said["why"]) == ("a-1", "DEAD", "ann@desk", "it is odd")


def standing_of(stage: Stage, bus: Bus) -> Standing:
    [found] = standings(bus, current(stage.cluster, control_of(bus)), datetime.now(UTC))
    return found


def test_a_worker_without_its_ledger_halts_until_it_is_made_again(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    [flow] = bus.delivering
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/c/*", status=422))
    stage.write(bus, [note(0, box) for box in "abcd"])

    def finished() -> bool:
        return stage.committed(bus, flow) == stage.ends(bus.topics[0].name)

    with stage.running(bus):
        wait_for(finished)
    before = stage.rows()
    for end in ("", "-wal", "-shm"):
        stage.ledger.with_name(stage.ledger.name + end).unlink(missing_ok=True)
    stage.write(bus, [note(1, "a")])
    with stage.running(bus) as running:
        wait_for(running.worker.stopped)
        assert running.worker.stopped()[flow].endswith("run `trunkline ledger rebuild`.")  # and not: sink resume
    with (
        closing(Sender(stage.cluster)) as sender,
        Control(stage.cluster) as control,
        File(stage.ledger).connect() as db,
    ):
        Rebuild(bus, stage.cluster, control, sender, db, lambda _: None).run(None)
    assert stage.rows() == before == {State.DONE: 3, State.DEAD: 1}
    with stage.running(bus):
        wait_for(finished)
    assert set(stage.effects().values()) == {1}
    assert len(stage.attempts()) == 5
