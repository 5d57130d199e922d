"""What operators type, on a real broker and a project of its own; only the worker is a stand-in."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place

from tests.trunkline.integration.project import BIG, HAPPENED, Project, order
from trunkline import deadletter
from trunkline.cli import replay
from trunkline.deadletter import Failure, Origin
from trunkline.event import to_headers
from trunkline.kafka import control as control_module
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.ledger import runs
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.operate import browse


def test_topics_are_planned_applied_and_then_as_declared(bootstrap: str, tmp_path: Path) -> None:
    project = Project(tmp_path, bootstrap)
    planned = project("topics", "plan")
    assert planned.splitlines()[0].split() == ["topic", "what", "why"]
    assert f"{project.flow}.replay" in planned
    assert {change["what"] for change in project.json("topics", "plan")} == {"create"}
    assert len(project.json("topics", "apply")) == 10, "two of events, two of each flow that reads, four of the bus"
    assert project.json("topics", "apply") == []
    assert project.json("topics", "plan") == []
    assert project.run("topics", "apply").stderr == "Nothing to do: every topic exists.\n"

    topology = tmp_path / "topology.py"
    # Of another length: what was compiled in the same second counts as its own otherwise.
    topology.write_text(topology.read_text().replace("partitions=2", "partitions=12"))
    assert {change["what"] for change in project.json("topics", "plan")} == {"refuse"}
    refused = project("topics", "apply", code=2)
    assert "topology.py:29  " in refused
    assert refused.endswith("2 faults; nothing was started.\n")


def test_without_a_broker_every_command_says_what_to_do(project: Project) -> None:
    none = {"TRUNKLINE_KAFKA__BOOTSTRAP": ""}
    unreachable = {"TRUNKLINE_KAFKA__BOOTSTRAP": "127.0.0.1:1"}
    for command in (
        *(["status"], ["topics", "plan"], ["tail", "x"], ["dlq", "ls"], ["dlq", "replay", "store"]),
        *(["schema", "register"], ["schema", "show", "7"]),
    ):
        assert project(*command, code=2, **none) == (
            "trunkline: no broker: run `trunkline broker up` or set TRUNKLINE_KAFKA__BOOTSTRAP.\n"
        )
        failed = project.run(*command, **unreachable)
        said = "trunkline: no broker answers at 127.0.0.1:1. Start it, or set TRUNKLINE_KAFKA__BOOTSTRAP.\n"
        assert (failed.code, failed.stderr) == (1, said)


def test_tail_decodes_exactly_and_shows_what_it_cannot_decode(project: Project) -> None:
    project.send(project.good, project.value(BIG), to_headers(order("e1")))
    project.send(project.good, b"\x00\x00\x00\x00\x63body", (("note", b"\xff\x1b[31m"),), partition=1)
    project.send(project.good, b"plain", (), partition=1)
    project.send(project.good, None, (), partition=1)
    lines = [json.loads(line) for line in project("tail", project.good, "--json").splitlines()]
    assert [(line["partition"], line["offset"]) for line in lines] == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert lines[0]["value"] == {"id": "k1", "number": BIG, "amount": "12345678901234567.89"}
    assert (lines[0]["key"], lines[0]["ce_time"]) == ("k1", "2026-03-01T12:00:00Z")
    assert lines[0]["timestamp"].endswith("Z")
    assert lines[1]["not_decoded"] == "the value names schema 99, which nobody registered"
    assert lines[1]["hex"] == b"\x00\x00\x00\x00\x63body".hex()
    shown = project("tail", project.good)
    assert str(BIG) in shown
    assert "\x1b" not in shown
    assert "  70 6c 61 69 6e\n" in shown
    assert "  no value\n" in shown
    assert [json.loads(line)["offset"] for line in project("tail", project.good, "-n2", "--json").splitlines()] == [
        1,
        2,
    ]
    nothing = project.run("tail", project.good, "--last", "0")
    assert (nothing.stdout, nothing.stderr) == ("", ""), "it has records"
    project.send(project.good, b"plain", (("[bold]note[/]", b"[/red] :smile:"),), key=b"[/red][bold]k[/]")
    shown = project("tail", project.good, "-n1")
    assert "  key [/red][bold]k[/]  " in shown, "what looks like a style is none"
    assert "  [bold]note[/]: [/red] :smile:\n" in shown
    assert project("tail", f"{project.good}s", code=2) == (
        f"trunkline: there is no topic {project.good}s. Did you mean {project.good}?\n"
    )


def test_tail_finds_the_newest_records_behind_the_marks_of_transactions(project: Project, bootstrap: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": project.prefix, "log_level": 0})
    producer.init_transactions(30)
    for number in range(6):
        producer.begin_transaction()
        producer.produce(project.good, str(number).encode(), partition=0)
        producer.commit_transaction(20)
    with Control(project.cluster) as control:
        control.settle(project.good)
    lines = [json.loads(line) for line in project("tail", project.good, "-n4", "--json").splitlines()]
    assert [bytes.fromhex(line["hex"]) for line in lines] == [b"2", b"3", b"4", b"5"]


def test_tail_follows_until_it_is_interrupted(project: Project) -> None:
    with project.start("tail", project.good, "--follow", "--json") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert tail.stderr.readline() == f"Following {project.good}; Ctrl-C ends it.\n"
        project.send(project.good, b"new", ())
        assert json.loads(tail.stdout.readline())["hex"] == b"new".hex()
        tail.send_signal(2)
        assert (tail.wait(60), tail.stderr.read()) == (0, "")


def test_status_shows_the_worst_first(project: Project, bootstrap: str) -> None:
    quiet = project.json("status")
    assert {(one["kind"], one["workers"], one["lag"], one["behind"]) for one in quiet} == {
        ("publish", None, 0, 0.0),
        ("process", 0, 0, 0.0),
        ("deliver", 0, 0, 0.0),
    }
    project.fail("e1")
    project.fail("e2", state=State.DONE)
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": project.prefix, "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(project.good, b"x", partition=1)
    producer.commit_transaction(20)
    group, note = f"{project.prefix}.{project.flow}", "at=2026-03-02T00:00:00.000+00:00"
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
    consumer.commit(offsets=[Place(project.good, 0, 1, note), Place(project.good, 1, 1, "")], asynchronous=False)
    consumer.close()

    [worst, *_] = project.json("status")
    assert worst["flow"] == project.flow
    assert (worst["lag"], worst["started"], worst["dead"], worst["delivered"]) == (1, True, 1, 1), "a mark is no lag"
    assert 0 < worst["behind"] < 120
    assert worst["progress"] == "2026-03-02T00:00:00+00:00"
    table = project("status")
    assert table.splitlines()[1].startswith(project.flow)
    assert "2026-03-02T00:00:00.000Z" in table

    project.send(f"{project.prefix}.orders", b"x", ())
    standing = {one["kind"]: one for one in project.json("status")}
    assert standing["publish"]["progress"] is not None
    assert (standing["process"]["lag"], standing["process"]["started"]) == (1, False)
    assert "not started" in project("status")


def test_status_names_missing_topics(bootstrap: str, tmp_path: Path) -> None:
    project = Project(tmp_path, bootstrap)
    assert "topics missing: trunkline topics apply" in project("status")
    assert not project.ledger.exists(), "looking makes no ledger"


def test_no_dead_letters_are_not_said_of_a_topic_that_is_not_there(bootstrap: str, tmp_path: Path) -> None:
    listed = Project(tmp_path, bootstrap).run("dlq", "ls")
    assert ".dlq" in listed.stderr
    assert listed.stderr.endswith(" Run `trunkline topics apply`; what they held is gone.\n")


def test_dead_letters_are_listed_and_shown(project: Project) -> None:
    assert project("dlq", "ls") == ""
    project.fail("open")
    project.fail("open", replays=1)
    project.fail("done", state=State.DONE)
    project.fail("raw", value=b"\x01raw", kind="poison", partition=1, state=None)
    [line] = project.json("dlq", "ls")
    assert line == {
        "sink": "store",
        "flow": project.flow,
        "events": 3,
        "letters": 4,
        "open": 2,
        "parked": 0,
        "ambiguous": 0,
        "delivered": 1,
    }
    assert project("dlq", "ls").splitlines()[1].split() == ["store", project.flow, "3", "4", "2", "1"]

    letters = {one["event"]: one for one in project.json("dlq", "ls", "store")}
    assert {event: (one["state"], one["letters"], one["replays"]) for event, one in letters.items()} == {
        "open": ("open", 2, 1),
        "done": ("delivered", 1, 0),
        "1@0": ("open", 1, 0),
    }
    assert project.json("dlq", "ls", project.flow) == list(letters.values())
    table = project("dlq", "ls", "store")
    assert len(table.splitlines()) == 4
    assert "\x1b" not in table

    shown = project("dlq", "show", "store", "open")
    assert shown.splitlines()[0] == (
        "store refused event open (key k1) in 2 attempts: answered 422: no such \N{REPLACEMENT CHARACTER}[31mshelf. "
        "It waits here; nothing else is affected. Replay it with: trunkline dlq replay store --event open"
    )
    assert f'"number": {BIG}' in shown
    assert "ce_id: open" in shown
    assert f"{project.good} partition 0 offset 1" in shown
    assert project.json("dlq", "show", "store")["event"] == "open", "the newest open one"
    assert "A replay has delivered it since" in project("dlq", "show", "store", "done")
    raw = project("dlq", "show", "store", "1@0")
    assert raw.startswith("store cannot read event 1@0")
    assert "01 72 61 77" in raw
    assert project("dlq", "show", "store", "none", code=2) == (
        f"trunkline: no dead letter has event none; `trunkline dlq ls` of the same name lists all {len(letters)}.\n"
    )
    assert project("dlq", "ls", "stor", code=2) == (
        "trunkline: there is no sink or reading flow stor. Did you mean store?\n"
    )


def test_of_many_letters_a_table_has_the_first_and_counts_the_others_and_json_has_all(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        project.fail(f"e{number}", replays=number, partition=number % 2, state=State.DONE if number > 3 else State.DEAD)
    monkeypatch.setattr(browse, "OPENED", 2)
    monkeypatch.setattr(replay, "ROWS", 2)
    letters = project.json("dlq", "ls", "store")
    assert [one["event"] for one in letters] == ["e5", "e4", "e3", "e2", "e1", "e0"], "the newest failure first"
    assert {one["reason"] for one in letters} == {"answered 422: no such \x1b[31mshelf"}
    assert letters[0]["headers"]
    listed = project.run("dlq", "ls", "store", "--limit", "3")
    causes, _, table = listed.stdout.partition("\n\n")
    assert causes.splitlines()[1].split()[:4] == ["6", "4", "permanent", "422"]
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["e3", "e2", "e1"], "what waits goes in front"
    assert listed.stderr == "… and 3 more: --limit shows more of them, --json prints all.\n"
    assert len(project("dlq", "ls", "store").splitlines()) == 7, "all of them, where nothing is left out"
    planned = project.run("dlq", "replay", "store", "--key", "k1")
    assert [line.split()[0] for line in planned.stdout.partition("\n\n")[2].splitlines()] == ["event", "e0", "e2"]
    assert "… and 4 more: --event and --key choose some, --json prints all.\n" in planned.stderr
    assert [one["event"] for one in project.json("dlq", "replay", "store", "--key", "k1")["send"]] == [
        *("e0", "e2", "e1", "e3")
    ]


def test_single_records_are_picked_out_of_a_topic(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project("topics", "apply")
    monkeypatch.setattr(control_module, "APART", 2)
    for number in range(8):
        project.send(project.good, b"%d" % number, (), partition=number % 2)
    with Control(project.cluster) as control:
        found = control.pick(project.good, {(0, 0), (0, 3), (1, 1), (1, 2)})
        assert sorted((one.partition, one.offset, one.value) for one in found) == [
            *((0, 0, b"0"), (0, 3, b"6"), (1, 1, b"3"), (1, 2, b"5"))
        ]
        assert list(control.pick(project.good, set())) == []


def test_without_its_ledger_nothing_is_said_of_what_became_of_a_letter(project: Project, tmp_path: Path) -> None:
    project.fail("done", state=State.DONE)
    where = {"TRUNKLINE_LEDGER__PATH": str(tmp_path / "elsewhere.db")}
    said = f"there is no ledger {tmp_path / 'elsewhere.db'}, which says what was delivered since. Run this where the "
    listed = project.run("dlq", "ls", **where)
    assert listed.stdout.splitlines()[1].split() == ["store", project.flow, "1", "1", "-", "-"]
    assert said in listed.stderr
    letters = project.run("dlq", "ls", "store", "--json", **where)
    assert [one["state"] for one in json.loads(letters.stdout)] == ["unknown"]
    assert said in letters.stderr
    shown = project.run("dlq", "show", "store", **where).stdout.splitlines()[0]
    assert shown.startswith("store refused event done (key k1)")
    assert said in shown
    assert "dlq replay" not in shown, "it may be delivered, and no replay begins without a ledger"
    assert "there is no ledger" not in project.run("status", **where).stderr, "no worker has been here"
    with closing(
        Consumer({"bootstrap.servers": project.bootstrap, "group.id": f"{project.prefix}.{project.flow}"})
    ) as member:
        note = Place(project.good, 0, 0, "at=2026-01-01T00:00:00+00:00")
        member.commit(offsets=[note], asynchronous=False)
    assert "which says what is delivered and what is dead" in project.run("status", **where).stderr


def test_parked_letters_say_what_they_wait_for(project: Project) -> None:
    project.fail("first")
    for event in ("second", "third"):
        project.fail(event, kind="parked", state=State.PARKED)
    project.fail("doubt", kind="unknown", state=State.AMBIGUOUS, partition=1)
    [line] = project.json("dlq", "ls")
    assert (line["open"], line["parked"], line["ambiguous"]) == (4, 2, 1)
    letters = {one["event"]: (one["state"], one["behind"]) for one in project.json("dlq", "ls", "store")}
    assert letters == {
        "first": ("open", None),
        "second": ("parked", "first"),
        "third": ("parked", "first"),
        "doubt": ("ambiguous", None),
    }
    assert project("dlq", "ls", "store").count("parked behind first") == 2
    replay_of_all = "with: trunkline dlq replay store --key k1"
    first, second = (project("dlq", "show", "store", event).splitlines()[0] for event in ("first", "second"))
    assert first.endswith(f"2 later events of its key are parked behind it. Replay them all, in order, {replay_of_all}")
    assert second.startswith("store was not asked for event second (key k1)")
    assert second.endswith(f"It is parked behind event first. Replay its key, in order, {replay_of_all}")
    doubt = project("dlq", "show", "store", "doubt").splitlines()[0]
    assert "It may have been applied, and the target knows no keys: a replay calls it again." in doubt
    planned = project("dlq", "replay", "store")
    for count, what in ((1, "dead, will be sent"), (2, "parked, will be sent after"), (1, "ambiguous: may have been")):
        assert f"{count:>6}  {what}" in planned
    refused = project("dlq", "replay", "store", "--overwrite", code=2)
    assert refused.startswith('trunkline: store does not declare writes="latest"')


def test_a_letter_without_its_value_is_shown_from_its_origin(project: Project) -> None:
    value, seen = project.value(7), order("large")
    stood = project.send(project.good, value, to_headers(seen), partition=1)
    failure = Failure(project.flow, "permanent", "deliver", "Permanent", "answered 422", 1, 422, HAPPENED)
    headers = deadletter.write(to_headers(seen), Origin(project.good, 1, stood.offset), failure)
    project.send(f"{project.flow}.dlq", None, deadletter.by_reference(headers, value), partition=1)
    assert project.json("dlq", "show", "store")["value"]["number"] == 7


def test_a_replay_is_planned_first(project: Project) -> None:
    assert project("dlq", "replay", "store", code=2).startswith("trunkline: there is no ledger var/ledger.db")
    project.fail("one")
    project.fail("two", state=State.DONE)
    project.fail("round", replays=3)
    planned = project.json("dlq", "replay", "store")
    assert {name: [one["event"] for one in planned[name]] for name in ("send", "delivered", "refused")} == {
        "send": ["one"],
        "delivered": ["two"],
        "refused": ["round"],
    }
    assert planned["command"] == "trunkline dlq replay store --run"
    told = project.run("dlq", "replay", "store", "--key", "k1", "--rate", "5/s")
    assert "3 selected" in told.stdout
    assert "2  dead, will be sent" in told.stdout, "who names a key may replay it however often"
    assert told.stderr == "Nothing was sent. Run it with: trunkline dlq replay store --key k1 --rate 5/s --run\n"
    with Control(project.cluster) as control:
        assert set(control.ends([f"{project.flow}.replay"]).values()) == {0}
    assert "is no rate" in project("dlq", "replay", "store", "--rate", "fast", code=2)


@dataclass
class Worker:
    """Stands in for a worker: settles every record of the replay topic, as long as its run is live."""

    project: Project
    refuses: frozenset[str] = frozenset()
    seen: list[Any] = field(default_factory=list)

    def settle(self, stop: threading.Event) -> None:
        flow = self.project.flow
        with Control(self.project.cluster) as control:
            at = dict.fromkeys(range(2), 0)
            while not stop.wait(0.05):
                for record in control.read(f"{flow}.replay", start=at):
                    at[record.partition] = record.offset + 1
                    self.seen.append(record)
                    self.finish(record)

    def finish(self, record: Any) -> None:
        event = dict(record.headers)["ce_id"].decode()
        run = dict(record.headers)[deadletter.REPLAY_RUN].decode()
        with File(self.project.ledger).connect() as db:
            assert run in runs.live(db, "store")
            if event in self.refuses:
                self.project.fail(event, replays=int(dict(record.headers)[deadletter.REPLAY_COUNT]))
            else:
                self.project.record(db, order(event), State.DONE, record.value)


@pytest.fixture
def worker(project: Project) -> Iterator[Worker]:
    worker, stop = Worker(project, frozenset({"stubborn"})), threading.Event()
    thread = threading.Thread(target=worker.settle, args=(stop,))
    thread.start()
    yield worker
    stop.set()
    thread.join()


def live(project: Project) -> set[str]:
    with File(project.ledger).connect() as db:
        return runs.live(db, "store")


def test_a_replay_is_done_when_the_ledger_says_so(project: Project, worker: Worker) -> None:
    for event, partition in (("b", 1), ("a", 0), ("c", 1)):
        project.fail(event, partition=partition)
    report = project.json("dlq", "replay", "store", "--run")
    assert sorted(one["event"] for one in report["delivered"]) == ["a", "b", "c"]
    assert (report["dead_again"], report["still_open"], report["not_sent"], report["trouble"]) == ([], [], [], None)
    seen = sorted(worker.seen, key=lambda record: record.partition)
    assert [(record.partition, dict(record.headers)["ce_id"]) for record in seen] == [(0, b"a"), (1, b"b"), (1, b"c")]
    [first, *_] = seen
    assert (first.key, first.value) == (b"k1", project.value(BIG))
    headers = dict(first.headers)
    assert first.headers[: len(to_headers(order("a")))] == to_headers(order("a"))
    assert (headers[deadletter.REPLAY_COUNT], headers[deadletter.REPLAY_RUN].decode()) == (b"1", report["run"])
    assert headers["trunkline-origin-topic"].decode() == project.good
    assert live(project) == set()
    again = project("dlq", "replay", "store", "--run")
    assert "nothing to send" in again


def test_what_fails_again_is_told_with_its_new_reason(project: Project, worker: Worker) -> None:
    project.fail("easy")
    project.fail("stubborn")
    report = project.json("dlq", "replay", "store", "--run", code=1)
    assert [one["event"] for one in report["delivered"]] == ["easy"]
    assert [(one["event"], one["replays"]) for one in report["dead_again"]] == [("stubborn", 1)]
    assert live(project) == set()
    failed = project.run("dlq", "replay", "store", "--event", "stubborn", "--run")
    assert failed.code == 1
    assert "1 dead again" in failed.stdout
    assert worker.seen


def test_without_a_worker_a_replay_says_so_and_ends(project: Project) -> None:
    project.fail("one")
    ended = project.run("dlq", "replay", "store", "--run", "--wait", "0.5")
    assert ended.code == 1
    assert f"No worker runs {project.flow}: nothing can be delivered until `trunkline run` does." in ended.stderr
    assert "1  dead, will be sent" in ended.stderr, "the plan comes first"
    assert "1 still open" in ended.stdout
    assert "no worker runs this flow" in ended.stderr
    assert live(project) == set()


def test_a_replay_says_what_keeps_its_sink_from_being_called(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "LIVE", timedelta(minutes=10))  # nobody says again that this worker is there
    project.fail("one")
    project("sink", "pause", "store", "--why", "stocktaking")
    worker = orders.Worker("w1", "host", 7, (project.flow,), "t")
    said = orders.Announcement(worker, 0, {project.flow: "bad secret"}, (), orders.NEVER)
    orders.send(project.sender, f"trunkline.{project.prefix}.control", orders.announcing(said))
    assert "paused" not in project.run("dlq", "replay", "store").stderr, "a plan sends nothing anyway"
    told = project.run("dlq", "replay", "store", "--run", "--wait", "0").stderr
    assert " (stocktaking): nothing is delivered until `trunkline sink resume store`.\n" in told
    assert "store has halted, and nothing is delivered meanwhile: bad secret\n" in told


def test_an_interrupted_replay_ends_its_run(project: Project) -> None:
    project.fail("one")
    project.fail("two")
    with project.start("dlq", "replay", "store", "--run", "--rate", "0.01") as replay:
        with Control(project.cluster) as control:
            next(control.read(f"{project.flow}.replay", follow=True))
        assert len(live(project)) == 1
        replay.send_signal(2)
        told, error = replay.communicate(timeout=60)
    assert replay.returncode == 1
    assert "1 still open, 1 not sent" in told
    assert "The run ended early: interrupted" in error
    assert live(project) == set()
