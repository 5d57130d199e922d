"""Dead letters of steps and of agents, sent again; kafka-python and the target say what came of it."""

import getpass
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import Desk, Running, Stage, header, marks_of, note, notes, shelf, stamped, wait_for
from trunkline import Agent, Bus, Deliver, Event, Process, Publish, Secret, Stream, Topic
from trunkline.avro.codec import HEAD, Codec
from trunkline.cli import discard, dlq, replay
from trunkline.engine.waiting import Waiting
from trunkline.errors import UsageError
from trunkline.event import derived_id
from trunkline.flow.declare import dead_letters_of, group_of, identity_of, replay_of
from trunkline.kafka import audit
from trunkline.kafka.control import Control
from trunkline.kafka.topics import replayed_of
from trunkline.ledger.sqlite import File
from trunkline.operate.discard import survey_made
from trunkline.operate.replay import Known, Plan, Progress, plan
from trunkline.operate.reprocess import Reprocess, survey
from trunkline.operate.trace import Trace, Tracer
from trunkline.sources import StandardWebhooks

Make = Callable[[str], Bus]


def mend(event: Event[NoteWrittenV1]) -> Event[NoteWrittenV1]:
    """Take what names a file only when that is there."""
    what, _, path = event.data["text"].partition(":")
    if what == "mend" and not Path(path).exists():
        raise ValueError("not mended")
    return event


async def tally(stream: Stream[NoteWrittenV1], window: timedelta) -> AsyncIterator[Event[MarkV1]]:
    """Mark each note with how many of its box came within the window."""
    times: defaultdict[str | None, list[Any]] = defaultdict(list)
    async for at, event in stream:
        if event is not None:
            box = mend(event).data["box"]
            times[box] = [time for time in (*times[box], at) if time > at - window]
            yield event.having({"box": box, "number": event.data["number"], "text": f"{len(times[box])}"})


def steps(prefix: str) -> Bus:
    """What steps make is delivered."""
    topic, marks = notes(prefix, 2), Topic(f"{prefix}.marks", MarkV1, key="box", partitions=2)
    desk = Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=topic)
    return Bus(prefix, [desk, Process(topic, [mend], to={marks: marks_of}), Deliver(marks, to=shelf())])


def agent(prefix: str) -> Bus:
    """What an agent makes is delivered."""
    topic, marks = notes(prefix, 2), Topic(f"{prefix}.marks", MarkV1, key="box", partitions=2)
    desk = Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=topic)
    body = Agent(topic, tally, to=marks, window=timedelta(minutes=1))
    return Bus(prefix, [desk, body, Deliver(marks, to=shelf())])


def flow_of(bus: Bus) -> Process | Agent:
    return next(flow for flow in bus.flows if isinstance(flow, Process | Agent))


def name_of(bus: Bus) -> str:
    [name] = (*bus.processing, *bus.watching)
    return name


class Case:
    """A bus with some dead letters, and what an operator does with them."""

    def __init__(self, stage: Stage, make: Make) -> None:
        self.stage = stage
        self.bus = stage.make(make(stage.prefix))
        self.flow, self.name = flow_of(self.bus), name_of(self.bus)
        self.mended = stage.folder / "mended"
        text = f"mend:{self.mended}"
        stage.write(self.bus, [note(1, "a", text), note(2, "a"), note(1, "b", text), note(2, "b")])

    def finished(self) -> bool:
        return self.stage.committed(self.bus, self.name) == self.stage.ends(self.bus.topics[0].name)

    def survey(self) -> Known:
        with Control(self.stage.cluster) as control:
            return survey(control, self.bus, self.flow)

    def replay(self, planned: Plan | None = None, *, wait: float = 30, rate: float = 1000) -> Progress:
        with Control(self.stage.cluster) as control:
            again = Reprocess(self.bus, self.flow, control, self.stage.cluster, rate=rate, wait=wait)
            return again.run(planned or plan(survey(control, self.bus, self.flow)), lambda _: None)

    def trace(self, event: str) -> Trace:
        with Control(self.stage.cluster) as control, closing(File(self.stage.ledger).connect()) as db:
            [found] = Tracer(self.bus, control, db).trace(event)
        return found

    def marks(self) -> list[Any]:
        return self.stage.read(f"{self.stage.prefix}.marks")

    def numbers(self) -> Counter[tuple[str, int]]:
        """Count the marks of each box by number."""
        codec = Codec(self.bus.topics[1].schema.text)
        read = (codec.decode(record.value[HEAD:]) for record in self.marks())
        return Counter((mark["box"], mark["number"]) for mark in read)

    def open(self) -> int:
        """Count the letters as workers do for their gauge."""
        letters = {dead_letters_of(identity_of(self.flow)): self.name}
        with closing(Waiting(self.stage.cluster, letters, replayed_of(self.bus))) as waiting:
            wait_for(lambda: waiting.look().keys() == {self.name}, why=lambda: "its letters are not read to the end")
            return waiting.look()[self.name].open

    def told(self) -> list[tuple[str, str, str]]:
        """Give what the audit trail says of the flow: event, state and what came out."""
        entries = (audit.read(record.value) for record in self.stage.read(replayed_of(self.bus)))
        return [(one.event, one.state, one.kind) for one in entries if one.flow == self.name]


@pytest.fixture(params=[steps, agent])
def case(stage: Stage, request: pytest.FixtureRequest) -> Case:
    return Case(stage, request.param)


def ids(dead: Any) -> list[str]:
    return sorted(one.id for one in dead)


def took(running: Running, case: Case) -> int:
    """Count the events that were taken for the first time."""
    return running.counted(case.name)["routed"] + running.counted(case.name)["taken"]


def test_a_letter_is_dead_until_what_was_wrong_is_mended_and_then_has_its_effect_once(case: Case) -> None:
    stage, bus, name = case.stage, case.bus, case.name
    [garbage] = stage.send([(bus.topics[0].name, b"x", b"no event", (), 1)])
    with stage.running(bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
        assert ids(plan(case.survey()).send) == sorted(["a-1", "b-1", f"1@{garbage.offset}"])
        vain = case.replay(plan(case.survey(), ["a-1"]))
        assert (ids(vain.dead), vain.dead[0].replays, vain.complete) == (["a-1"], 1, False)
        assert case.numbers() == Counter({("a", 2): 1, ("b", 2): 1})
        assert case.open() == 3, "not its letters, nor the marks of transactions: events"
        case.mended.touch()
        done = case.replay()
        assert case.open() == 1
        assert (ids(done.delivered), ids(done.dead)) == (["a-1", "b-1"], [f"1@{garbage.offset}"])
        counted = partial(running.counted, name)  # after its transaction, of which the operator hears as soon
        wait_for(lambda: counted()["replayed"] == 4 and took(running, case) == 2, why=counted)
        assert {what: counted()[what] for what in ("read", "dead", "replayed")} == {"read": 5, "dead": 3, "replayed": 4}
        assert took(running, case) == 2
        again = plan(case.survey())
        assert (ids(again.finished), ids(again.send)) == (["a-1", "b-1"], [f"1@{garbage.offset}"])
        wait_for(lambda: sum(stage.effects().values()) == 4, why=stage.effects)
    assert case.numbers() == Counter({(box, number): 1 for box in "ab" for number in (1, 2)})
    assert set(stage.effects().values()) == {1}
    letters = {header(one, "ce_id"): one for one in stage.letters(name) if one.value != b"no event"}
    [mark] = [one for one in case.marks() if header(one, "trunkline-parent").endswith(f"{bus.name}/desk a-1")]
    parent = stamped(bus, note(1, "a"))
    assert header(mark, "ce_id") == derived_id(parent, f"{stage.prefix}.marks", "a", 0), "as if it had never died"
    place = (header(letters["a-1"], f"trunkline-origin-{part}") for part in ("partition", "offset"))
    assert header(mark, "trunkline-parent").split(" ")[0] == "@".join(place), "the parent is where it first stood"
    [step] = case.trace("a-1").node.steps
    assert [made.id for made in step.made] == [header(mark, "ce_id")], "it was made after what came later"
    assert [(entry.state, entry.run) for entry in step.outcomes] == [("DEAD", vain.run), ("DONE", done.run)]
    assert [node.id for node in case.trace(header(mark, "ce_id")).above] == ["a-1"]
    assert sorted(case.told()) == sorted(
        [
            ("a-1", "DEAD", "permanent"),
            ("a-1", "DONE", "routed" if isinstance(case.flow, Process) else "taken"),
            ("b-1", "DONE", "routed" if isinstance(case.flow, Process) else "taken"),
            (f"1@{garbage.offset}", "DEAD", "poison"),
        ]
    )


@pytest.mark.faults(group="process")
def test_what_no_worker_has_taken_yet_is_under_way_and_not_sent_again(case: Case) -> None:
    with case.stage.running(case.bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
    case.mended.touch()
    waiting = case.replay(plan(case.survey(), ["a-1"]), wait=0)
    assert (ids(waiting.open), waiting.complete) == (["a-1"], False)
    planned = plan(case.survey())
    assert (ids(planned.under_way), ids(planned.send)) == (["a-1"], ["b-1"])
    with Control(case.stage.cluster) as control:
        given_up = survey_made(case.bus, case.flow, control, ["a-1", "b-1"], [])
    assert [one.entry.event for one in given_up.give_up] == ["b-1"]
    assert [(one.entry.event, one.stands) for one in given_up.rest] == [("a-1", "under way")]
    with case.stage.running(case.bus) as running:
        assert ids(case.replay().delivered) == ["b-1"]
        wait_for(lambda: ids(plan(case.survey()).finished) == ["a-1", "b-1"], why=case.told)
        assert took(running, case) == 0
    assert case.numbers() == Counter({(box, number): 1 for box in "ab" for number in (1, 2)})


@pytest.mark.faults(group="process")
def test_who_begins_a_replay_ends_another_and_goes_on_with_what_is_left(case: Case) -> None:
    with case.stage.running(case.bus) as running, Control(case.stage.cluster) as control:
        wait_for(case.finished, why=running.worker.stopped)
        case.mended.touch()
        first = Reprocess(case.bus, case.flow, control, case.stage.cluster, rate=0.1, wait=30)
        planned = plan(survey(control, case.bus, case.flow))
        second: list[Progress] = []

        def meanwhile(progress: Progress) -> None:
            if progress.delivered and not second:  # one of two is sent, and done
                second.append(case.replay())

        ended = first.run(planned, meanwhile)
        assert ended.trouble.startswith("another replay of this flow has begun")
        assert (len(ended.delivered), len(ended.unsent)) == (1, 1)
        assert ids(second[0].delivered) == ids(ended.unsent)
    assert case.numbers() == Counter({(box, number): 1 for box in "ab" for number in (1, 2)})


@pytest.mark.faults(group="process")
def test_a_group_that_has_lost_its_offsets_repeats_no_replay(case: Case) -> None:
    stage, bus = case.stage, case.bus
    group, topic = group_of(bus, case.name), replay_of(identity_of(case.flow))
    with stage.running(bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
        case.mended.touch()
        assert case.replay().complete
    places = [TopicPartition(topic, number) for number in range(2)]
    with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
        admin.delete_group_offsets(group, places)
        assert not any(place.topic == topic for place in admin.list_group_offsets({group: None})[group])
    stage.write(bus, [note(3, "a"), note(3, "b")])
    with stage.running(bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
        assert running.counted(case.name)["replayed"] == 0
    assert case.numbers() == Counter({(box, number): 1 for box in "ab" for number in (1, 2, 3)})
    with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
        found = admin.list_group_offsets({group: None})[group]
    with closing(KafkaConsumer(bootstrap_servers=stage.bootstrap)) as consumer:
        ends = consumer.end_offsets(places)
    assert {place: found[place].offset for place in places} == ends, "whoever comes later begins there too"


@pytest.mark.faults(group="process")
def test_replays_that_have_expired_hold_nothing_up(case: Case) -> None:
    """The mark of the transaction that sent the last one is behind the group's offset, and goes with it."""
    stage, bus, topic = case.stage, case.bus, replay_of(identity_of(case.flow))
    with stage.running(bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
        case.mended.touch()
        assert ids(case.replay(plan(case.survey(), ["a-1"])).delivered) == ["a-1"]
    with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
        admin.delete_records({TopicPartition(topic, number): -1 for number in range(2)})
    with stage.running(bus) as running:
        assert ids(case.replay().delivered) == ["b-1"], running.worker.stopped()
        assert running.worker.stopped() == {}
    assert case.numbers() == Counter({(box, number): 1 for box in "ab" for number in (1, 2)})


@pytest.mark.faults(group="process")
def test_an_agent_remembers_what_was_replayed_after_a_restart(stage: Stage) -> None:
    case = Case(stage, agent)
    with stage.running(case.bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
        case.mended.touch()
        assert case.replay().complete
    stage.write(case.bus, [note(3, "a")])
    with stage.running(case.bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
    codec = Codec(case.bus.topics[1].schema.text)
    marks = [codec.decode(record.value[HEAD:]) for record in case.marks() if record.key == b"a"]
    assert [(mark["number"], mark["text"]) for mark in marks] == [(2, "1"), (1, "2"), (3, "3")]


@pytest.mark.faults(group="process")
def test_an_operator_sees_plans_and_runs_it(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (dlq, replay):
        monkeypatch.setattr(module, "load_bus", lambda: case.bus)
        monkeypatch.setattr(module, "load", case.stage.settings)
    stage, name = case.stage, case.name

    def printed(command: Callable[..., Any], *arguments: Any, **options: Any) -> str:
        command(*arguments, **options)
        return capsys.readouterr().out

    def replayed(**options: Any) -> Any:
        return json.loads(printed(replay.replay, name, as_json=True, **{"rate": "50/s", "wait": 30, **options}))

    with stage.running(case.bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
        [line] = json.loads(printed(dlq.list_letters, None, as_json=True))
        assert (line["flow"], line["sink"], line["events"], line["open"]) == (name, "-", 2, 2)
        story = printed(dlq.show, name, "a-1", as_json=False).splitlines()[0]
        assert story.startswith(f"{name} refused event a-1 (key a): bug in ")
        assert story.endswith(f"Replay it with: trunkline dlq replay {name} --event a-1")
        planned = replayed()
        assert (ids_of(planned["send"]), planned["processed"], planned["under_way"]) == (["a-1", "b-1"], [], [])
        assert planned["command"] == f"trunkline dlq replay {name} --run"
        assert case.told() == [], "nothing was sent"
        with pytest.raises(typer.Exit):
            replayed(event=["a-1"], run=True)
        assert ids_of(json.loads(capsys.readouterr().out)["dead_again"]) == ["a-1"]
        case.mended.touch()
        assert ids_of(replayed(event=["a-1"], run=True)["processed"]) == ["a-1"]
        states = {one["event"]: one["state"] for one in json.loads(printed(dlq.list_letters, name, as_json=True))}
        assert states == {"a-1": "processed", "b-1": "open"}
        story = printed(dlq.show, name, "a-1", as_json=False).splitlines()[0]
        assert story.endswith("A replay has had it processed since; nothing is left to do.")
        with pytest.raises(UsageError, match='does not declare writes="latest"'):
            replayed(overwrite=True)
    with pytest.raises(UsageError, match=f"no worker runs {name}"):
        replayed(run=True)
    assert case.replay(wait=0).open
    assert "A replay has sent it again" in printed(dlq.show, name, "b-1", as_json=False)
    with stage.running(case.bus):
        wait_for(lambda: ids(case.survey().dead) == ids(plan(case.survey()).finished), why=case.told)


def test_what_a_person_gives_up_waits_for_nobody_and_is_not_sent(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (dlq, replay, discard):
        monkeypatch.setattr(module, "load_bus", lambda: case.bus)
        monkeypatch.setattr(module, "load", case.stage.settings)

    def discarded(*events: str, run: bool = True, **options: Any) -> Any:
        discard.discard(case.name, [*events], as_json=True, run=run, why="no use", **options)
        return json.loads(capsys.readouterr().out)

    with case.stage.running(case.bus) as running:
        wait_for(case.finished, why=running.worker.stopped)
        assert case.open() == 2
        assert ids_of(discarded("a-1", run=False)["discard"]) == ["a-1"]
        assert case.open() == 2, "a plan changes nothing"
        told = discarded("a-1")
        assert (ids_of(told["discarded"]), told["nothing"], told["flow"]) == (["a-1"], [], case.name)
        assert case.open() == 1
        again = discarded("a-1", key=["b"], run=False)
        assert (ids_of(again["discard"]), [one["state"] for one in again["nothing"]]) == (["b-1"], ["discarded"])
        with pytest.raises(UsageError, match="no dead letter has event a-9"):
            discarded("a-9")
        dlq.list_letters(case.name, as_json=True)
        states = {one["event"]: one["state"] for one in json.loads(capsys.readouterr().out)}
        assert states == {"a-1": "discarded", "b-1": "open"}
        replay.replay(case.name, rate="50/s", wait=30, as_json=True)
        planned = json.loads(capsys.readouterr().out)
        assert (ids_of(planned["send"]), ids_of(planned["discarded"]), planned["processed"]) == (["b-1"], ["a-1"], [])
        case.mended.touch()
        assert ids(case.replay().delivered) == ["b-1"]
        assert case.open() == 0
        assert ids(case.survey().dead) == ["a-1", "b-1"], "their letters stay as long as their topic keeps them"
        left = discarded("b-1", run=False)
        assert (left["discard"], [one["state"] for one in left["nothing"]]) == ([], ["processed"])
    [entry] = [one for one in map(read_entry, case.stage.read(replayed_of(case.bus))) if one.state == "DISCARDED"]
    assert (entry.event, entry.flow, entry.why, entry.who.partition("@")[0]) == (
        *("a-1", case.name, "no use", getpass.getuser()),
    )
    assert case.trace("a-1").node.steps[0].outcomes == (entry,)


def read_entry(record: Any) -> audit.Entry:
    return audit.read(record.value)


def ids_of(found: list[dict[str, Any]]) -> list[str]:
    return [one["event"] for one in found]
