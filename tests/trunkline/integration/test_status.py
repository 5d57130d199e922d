"""How flows stand: what was deleted unread or soon will be, what waits for a person, who stands still and why."""

from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from tests.trunkline.integration.project import Project, order
from trunkline.cli import status
from trunkline.deadletter import Failure, Origin, write
from trunkline.event import to_headers
from trunkline.kafka import orders
from trunkline.kafka.audit import Entry, record_of
from trunkline.kafka.control import Control
from trunkline.kafka.events import Slot
from trunkline.kafka.orders import Announcement, Command, Full, Passed, Worker
from trunkline.ledger import identity
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File

NOW = datetime.now(UTC)


@pytest.mark.faults(group="process")
def test_what_was_deleted_unread_is_counted_and_what_soon_will_be_alarms(project: Project) -> None:
    written = NOW - timedelta(days=4)
    with closing(KafkaProducer(bootstrap_servers=project.bootstrap)) as producer:
        for number in range(5):
            timestamp = int(written.timestamp() * 1000)
            producer.send(project.good, b"x", b"k", None, 0, timestamp + number).get(timeout=20)
    with Control(project.cluster) as control:
        control.commit(f"{project.prefix}.{project.flow}", {Slot(project.good, 0): 1, Slot(project.good, 1): 0})
    [worst, *others] = project.json("status")
    assert (worst["flow"], worst["expired"], worst["lag"]) == (project.flow, 0, 4)
    assert 0.57 < worst["unread"] < 0.58
    assert {one["unread"] for one in others} == {0}
    told = project.run("status")
    assert "expired" not in told.stdout
    assert f"{project.flow}: its oldest unread record has used 57% of the time for which {project.good}" in told.stderr

    with closing(KafkaAdminClient(bootstrap_servers=project.bootstrap)) as admin:
        admin.delete_records({TopicPartition(project.good, 0): 4})
    [worst, *_] = project.json("status")
    assert (worst["expired"], worst["gone"], worst["lag"]) == (3, 3, 1)
    told = project.run("status")
    assert told.stdout.splitlines()[0].split()[-1] == "expired"
    assert told.stdout.splitlines()[1].split()[-1] == "3"
    assert f"{project.flow}: 3 records of {project.good} were deleted before they were read; start" in told.stderr

    lost = Passed(project.flow, 0, 1, 4, expired=True)
    orders.send(project.sender, f"trunkline.{project.prefix}.control", orders.passing(lost))
    with Control(project.cluster) as control:
        control.commit(f"{project.prefix}.{project.flow}", {Slot(project.good, 0): 5})
    [found] = [one for one in project.json("status") if one["flow"] == project.flow]
    assert (found["expired"], found["gone"], found["lag"]) == (3, 0, 0), "what was lost stays counted"
    assert "were deleted" not in project.run("status").stderr


def test_groups_are_asked_about_together_however_many_flows_there_are(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    for name in ("list_group_offsets", "describe_groups"):
        monkeypatch.setattr(KafkaAdminClient, name, counting(getattr(KafkaAdminClient, name), asked))
    assert [one["workers"] for one in project.json("status") if one["workers"] is not None] == [0, 0]
    assert asked == [2, 2]


def counting(ask: Callable[..., Any], asked: list[int]) -> Callable[..., Any]:
    """Note about how many groups somebody asks."""

    def counted(client: KafkaAdminClient, groups: Collection[str]) -> Any:
        asked.append(len(groups))
        return ask(client, groups)

    return counted


def test_what_waits_for_a_person_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for state in State:
        project.fail(state.name, state=state)
    standing = {one["kind"]: one for one in project.json("status")}
    sink = standing["deliver"]
    assert [sink[name] for name in ("delivered", "dead", "parked", "ambiguous", "superseded", "discarded")] == [1] * 6
    assert (standing["process"]["parked"], standing["process"]["held_up"]) == (None, [])
    header, *rows = (line.split() for line in project("status").splitlines())
    assert header[-4:] == ["parked", "ambiguous", "superseded", "discarded"]
    assert next(row for row in rows if row[0] == project.flow)[-4:] == ["1"] * 4

    assert "the disk of" not in project.run("status").stderr
    monkeypatch.setattr(status, "LITTLE", 2**62)
    assert "MiB left; when it is full, nothing is delivered. Make room.\n" in project.run("status").stderr


def test_dead_letters_of_steps_are_counted_and_what_a_replay_ended_is_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, orders_ = f"{project.prefix}.orders.checked", f"{project.prefix}.orders"
    for number, event in enumerate(("e1", "e2", "e3")):
        headers = to_headers(order(event))
        failure = Failure(flow, "permanent", "process", "Permanent", "bug in checked", 1, None, NOW)
        letter = write(headers, Origin(orders_, 0, number), failure)
        project.send(f"{flow}.dlq", project.value(number), letter)
    ended = Entry(NOW, flow, "", "t/till", "e2", NOW, Origin(orders_, 0, 1), None, "", "DONE", 1, run="r")
    project.sender.send(*record_of(f"trunkline.{project.prefix}.replayed", ended)).result(20)
    [worst] = [one for one in project.json("status") if one["kind"] == "process"]
    assert (worst["flow"], worst["dead"], worst["crowded"]) == (flow, 2, False)
    assert project("status").splitlines()[1].split() == [flow, "process", "no", "worker", "0", "0", "s", "-", "-", "2"]

    monkeypatch.setattr("trunkline.operate.reprocess.GLANCE", 2)
    [worst] = [one for one in project.json("status") if one["kind"] == "process"]
    assert (worst["dead"], worst["crowded"]) == (None, True)
    told = project.run("status")
    assert told.stdout.splitlines()[1].split()[-1] == "many"
    assert f"{flow}: too many dead letters to count at a glance: trunkline dlq ls {flow}.\n" in told.stderr


def test_who_stands_still_and_which_key_holds_a_partition_up(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "LIVE", timedelta(minutes=10))  # nobody says again that this worker is there
    topic = f"trunkline.{project.prefix}.control"
    worker = Worker("w", "host", 7, (project.flow,), "t")
    full = Full(project.flow, project.good, 1, "k1", "-7")
    said = Announcement(
        worker, 0, {project.flow: "bad secret"}, (full,), orders.NEVER, {"shelves": ("its API ends on 2030-01-01",)}
    )
    orders.send(project.sender, topic, orders.announcing(said))
    [worst, *_] = project.json("status")
    assert (worst["flow"], worst["halted"], worst["paused"]) == (project.flow, ["bad secret"], "")
    assert worst["notices"] == ["shelves: its API ends on 2030-01-01"]
    assert worst["held_up"] == [asdict(full)]
    told = project.run("status")
    assert "halted" in told.stdout.splitlines()[1]
    assert f"{project.flow}: halted: bad secret\n" in told.stderr
    assert f"{project.flow}: the target shelves: its API ends on 2030-01-01.\n" in told.stderr
    skip = f"trunkline sink skip {project.flow} -- -7"
    held_up = f"{project.good} partition 1 is held up by key k1: event -7 fails again and again"
    assert f"{project.flow}: {held_up}. Make it a dead letter: {skip}.\n" in told.stderr

    why = "the ledger fails: the disk is full"
    both = replace(said, worker=replace(worker, flows=(project.flow, "till")), waits={project.flow: why, "till": why})
    orders.send(project.sender, topic, orders.announcing(both))
    told = project.run("status")
    assert f"{project.flow}, till: waits, and tries again: {why}.\n" in told.stderr
    assert [line.split()[:3] for line in told.stdout.splitlines()[2:3]] == [["till", "publish", "waits"]]
    orders.send(project.sender, topic, orders.announcing(said))

    orders.send(project.sender, topic, orders.pausing("store", Command("c", "ann@desk", NOW, "a look")))
    [worst, *_] = project.json("status")
    assert (worst["paused"], worst["paused_why"]) == ("ann@desk", "a look")
    told = project.run("status")
    assert "paused by ann@desk" in told.stdout.splitlines()[1]
    mend = f"trunkline sink resume {project.flow}"
    assert f"{project.flow}: paused by ann@desk (a look), and calls nobody until then: {mend}.\n" in told.stderr


def test_a_ledger_that_is_not_the_buss_is_told_where_no_worker_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "LIVE", timedelta(minutes=10))  # nobody says again that this worker is there
    with File(project.ledger).connect() as db:
        assert identity.read(db) is None
    assert "is not known here" not in project.run("status").stderr
    topic = f"trunkline.{project.prefix}.control"
    orders.send(project.sender, topic, orders.trusting(orders.Trusted("abcdefgh", 1)))
    said = (
        "trunkline: what is delivered and what is dead is not known here: the ledger is empty, but this bus has one: "
    )
    told = project.run("status").stderr
    assert said in told
    assert "`trunkline ledger rebuild`" in told
    halted = Announcement(Worker("w", "host", 7, (project.flow,), "t"), 0, {project.flow: "the ledger is empty"}, ())
    orders.send(project.sender, topic, orders.announcing(halted))
    assert said not in project.run("status").stderr
