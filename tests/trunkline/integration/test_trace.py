"""What `trunkline trace` tells of events on a whole bus, each with another fate."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import (
    QUICK,
    Child,
    Desk,
    Shelf,
    Stage,
    Tray,
    event_of,
    header,
    inspect,
    marks_of,
    note,
    notes,
    wait_for,
)
from trunkline import Agent, Bus, Deliver, Event, Process, Publish, Secret, Stream, Target, Topic, env
from trunkline.cli import trace as cli
from trunkline.dev.target.behaviour import Behaviour
from trunkline.errors import TrunklineError
from trunkline.event import to_headers
from trunkline.flow.transform import stamp
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.orders import Command, current, running
from trunkline.kafka.topics import control_of
from trunkline.ledger import claims
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.operate import control as operators
from trunkline.operate.replay import Replay, plan, survey
from trunkline.operate.trace import Delivery, Trace, Tracer
from trunkline.sources import StandardWebhooks


def parking(prefix: str) -> Bus:
    """A whole bus whose sink parks keys."""
    topic, marks = notes(prefix, 2), Topic(f"{prefix}.marks", MarkV1, key="box", partitions=2)
    return Bus(
        prefix,
        [
            Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=topic),
            Process(topic, [inspect], to={marks: marks_of}),
            Deliver(marks, to=Shelf(Target("shelf", env("SHELF_URL"))), retry=QUICK, after_dead="park_key"),
        ],
    )


async def copied(stream: Stream[NoteWrittenV1], _: timedelta) -> AsyncIterator[Event[MarkV1]]:
    """Mark every note."""
    async for _at, event in stream:
        if event is not None:
            yield event.having({"box": event.data["box"], "number": event.data["number"], "text": ""})


def joined(prefix: str) -> Bus:
    """An agent whose two topics hold other events at the same places, and whose marks nobody reads."""
    first, second = notes(prefix, 1), Topic(f"{prefix}.others", NoteWrittenV1, key="box", partitions=1)
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=1)
    desk, tray = StandardWebhooks(Secret("DESK_SECRET")), StandardWebhooks(Secret("DESK_SECRET"))
    agent = Agent(first, copied, join=second, to=marks, window=timedelta(minutes=1))
    return Bus(prefix, [Publish(Desk(desk), to=first), Publish(Tray(tray), to=second), agent])


@dataclass
class Case:
    stage: Stage
    bus: Bus
    worker: Child

    def post(self, **fields: Any) -> str:
        """Post a note and give its id."""
        data = note(**fields)
        body = json.dumps(data, default=str).encode()
        [source] = self.bus.sources
        headers = source.verify.sign(data["note_id"], body)
        assert httpx.post(f"{self.worker.url}/in/desk", content=body, headers=headers, timeout=60).is_success
        return data["note_id"]

    def trace(self, event: str) -> Trace:
        with Control(self.stage.cluster) as control, closing(File(self.stage.ledger).connect()) as db:
            [found] = Tracer(self.bus, control, db).trace(event)
        return found

    def at_shelf(self, event: str) -> Delivery:
        """Trace an event down to the sink."""
        [step] = self.trace(event).node.steps
        [made] = step.made
        [delivery] = made.deliveries
        return delivery

    def replay(self) -> str:
        [flow] = self.bus.delivering.values()
        with (
            Control(self.stage.cluster) as control,
            closing(Sender(self.stage.cluster)) as sender,
            closing(File(self.stage.ledger).connect()) as db,
        ):
            progress = Replay(flow, control, sender, db, rate=50, wait=60).run(
                plan(survey(flow, control, db)), lambda _: None
            )
        assert progress.complete, progress
        return progress.run


@pytest.fixture
def case(stage: Stage) -> Iterator[Case]:
    bus = stage.make(parking(stage.prefix))
    with stage.child("tests.trunkline.integration.test_trace:parking") as worker:
        yield Case(stage, bus, worker)


def test_every_hop_and_attempt_is_told(case: Case) -> None:
    stage = case.stage
    break_ = stage.target.control.break_
    break_(Behaviour(name=stage.prefix, match="/retried/*", status=503, detail="Not now."))
    smooth = case.post(number=1, box="smooth")
    retried = case.post(number=1, box="retried")
    wait_for(lambda: sum(attempt.box == "retried" for attempt in stage.attempts()) >= 2)
    stage.target.control.heal(stage.prefix)
    break_(Behaviour(name=stage.prefix, match="/dead/1", status=422, detail="No such thing."))
    dead, parked = case.post(number=1, box="dead"), case.post(number=2, box="dead")
    wait_for(lambda: stage.rows() == {State.DONE: 2, State.DEAD: 1, State.PARKED: 1}, why=stage.rows)

    found = case.trace(smooth)
    assert (found.above, found.node.topic, found.node.source) == ((), f"{stage.prefix}.notes", f"{stage.prefix}/desk")
    assert found.node.claim is not None
    assert found.node.claim.published
    assert found.node.record is not None
    assert found.node.record.key == b"smooth"
    [step] = found.node.steps
    [made] = step.made
    assert (step.stands, step.settled, made.topic) == ("done", True, f"{stage.prefix}.marks")
    [delivery] = made.deliveries
    assert (delivery.stands, delivery.attempts, delivery.failed, delivery.outcomes) == ("delivered", 1, (), ())

    up = case.trace(made.id)
    assert [(node.source, node.id) for node in up.above] == [(found.node.source, smooth)]
    assert up.node == made

    delivery = case.at_shelf(retried)
    assert (delivery.stands, delivery.attempts) == ("delivered", len(delivery.failed) + 1)
    assert {attempt.status for attempt in delivery.failed} == {503}
    assert all("Not now." in attempt.words and attempt.seconds > 0 for attempt in delivery.failed)

    delivery = case.at_shelf(dead)
    assert (delivery.stands, delivery.attempts, delivery.replaying) == ("dead", 1, False)
    assert [attempt.status for attempt in delivery.failed] == [422]
    [letter] = delivery.letters
    assert letter.letter.failure.kind == "permanent"
    assert [(entry.state, entry.run) for entry in delivery.outcomes] == [("DEAD", "")]
    first = case.trace(dead).node.steps[0].made[0].id
    assert (case.at_shelf(parked).stands, case.at_shelf(parked).behind) == ("parked", first)

    stage.target.control.heal(stage.prefix)
    run = case.replay()
    delivery = case.at_shelf(dead)
    assert (delivery.stands, delivery.attempts) == ("delivered", 2)
    assert [(entry.state, entry.run) for entry in delivery.outcomes] == [("DEAD", ""), ("DONE", run)]
    assert [entry.state for entry in case.at_shelf(parked).outcomes] == ["PARKED", "DONE"]


def test_what_a_flow_of_steps_did_not_pass_on_is_told(case: Case) -> None:
    stage = case.stage
    dropped, failed = case.post(number=3, text="drop"), case.post(number=4, text="raise it")
    [place] = stage.send([(f"{stage.prefix}.notes", b"x", b"no event", (), 1)])
    wait_for(lambda: len(stage.letters(f"{stage.prefix}.notes.inspect")) == 2)
    [step] = case.trace(dropped).node.steps
    assert (step.stands, step.made, step.letters, step.settled) == ("done", (), (), True)
    [step] = case.trace(failed).node.steps
    assert (step.stands, step.made, step.letters[0].letter.failure.stage) == ("done", (), "process")
    garbage = case.trace(f"1@{place.offset}")
    [step] = garbage.node.steps
    assert (garbage.node.source, step.letters[0].letter.failure.kind) == (f"kafka:{stage.prefix}.notes", "poison")


@pytest.mark.faults(group="process")
def test_what_an_agent_made_leads_to_the_event_that_it_is_made_of(stage: Stage) -> None:
    bus = stage.make(joined(stage.prefix))
    second = event_of(note(2, "b"))
    other = stamp(bus, bus.publishing["tray"], second)
    form = stage.encoder(bus, f"{stage.prefix}.others")
    stage.write(bus, [note(1, "a")])
    stage.send([(f"{stage.prefix}.others", b"b", form.encode(other.data), to_headers(other), 0)])
    with stage.running(bus):
        wait_for(lambda: len(stage.read(f"{stage.prefix}.marks")) == 2)
        wait_for(lambda: stage.committed(bus, f"{stage.prefix}.notes.copied") == {0: 1})
    with Control(stage.cluster) as control, closing(File(stage.ledger).connect()) as db:
        tracer = Tracer(bus, control, db)
        for mark in stage.read(f"{stage.prefix}.marks"):
            [found] = tracer.trace(header(mark, "ce_id"))
            whence = [(node.topic, node.id, node.record and node.record.offset) for node in found.above]
            number = {b"a": ("notes", "a-1"), b"b": ("others", "b-2")}[mark.key]
            assert whence == [(f"{stage.prefix}.{number[0]}", number[1], 0)]
            [below] = tracer.trace(number[1])
            assert [made.id for step in below.node.steps for made in step.made] == [header(mark, "ce_id")]


def test_what_is_under_way_says_where_it_waits(case: Case) -> None:
    stage = case.stage
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/1", latency_ms=600_000))
    slow, behind = case.post(number=1), case.post(number=2)
    wait_for(lambda: stage.in_flight() == 1)
    wait_for(lambda: sum(stage.ends(f"{stage.prefix}.marks").values()) >= 3)
    assert case.at_shelf(slow).stands == "waiting"
    delivery = case.at_shelf(behind)
    assert (delivery.stands, delivery.before > 0) == ("waiting", True)
    [derived] = [one for one in stage.read(f"{stage.prefix}.marks") if header(one, "trunkline-parent").endswith(behind)]
    assert [node.id for node in case.trace(header(derived, "ce_id")).above] == [behind], "the ledger has no row of it"
    stage.target.control.heal(stage.prefix)
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/b/1", status=503))
    again = case.post(number=1, box="b")
    wait_for(lambda: any(attempt.box == "b" for attempt in stage.attempts()))
    wait_for(lambda: case.at_shelf(again).failed)
    assert case.at_shelf(again).stands == "being retried"
    case.worker.kill()
    stage.write(case.bus, [note(9, "c")])
    [step] = case.trace("c-9").node.steps
    assert (step.stands, step.before >= 0) == ("waiting", True)


def test_what_was_published_is_found_before_its_claim_says_so(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is written after the answer; a worker that is killed between the two leaves it as it was."""
    stage = case.stage
    event, source = case.post(number=1), f"{stage.prefix}/desk"
    wait_for(lambda: stage.rows() == {State.DONE: 1}, why=stage.rows)
    case.worker.kill()
    with closing(File(stage.ledger).connect()) as db:
        db.run("UPDATE claims SET state = 1")
        claims.take(db, claims.id_of(source, "early"), b"x", "somebody", time.time())
    node = case.trace(event).node
    assert node.record is not None
    assert node.claim is not None
    assert not node.claim.published
    monkeypatch.setattr(cli, "load_bus", lambda: case.bus)
    monkeypatch.setattr(cli, "load", stage.settings)
    cli.trace(event, as_json=False)
    told = capsys.readouterr().out
    assert "received: being published" in told
    assert ": delivered" in told
    cli.trace("early", as_json=False)
    assert f"on {stage.prefix}.notes, where its record is not found yet" in capsys.readouterr().out


def test_it_is_told_in_lines_and_in_json(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = case.stage
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/1", status=422, detail="No such thing."))
    event = case.post(number=1, text="confidential")
    wait_for(lambda: stage.rows() == {State.DEAD: 1}, why=stage.rows)
    monkeypatch.setattr(cli, "load_bus", lambda: case.bus)
    monkeypatch.setattr(cli, "load", stage.settings)
    cli.trace(event, as_json=False)
    told = capsys.readouterr().out
    for part in (
        f"event {event} of {stage.prefix}/desk",
        "received: published",
        f"on {stage.prefix}.notes partition",
        f"{stage.prefix}.notes.inspect: done, 1 event made of it",
        f"shelf ({stage.prefix}.marks.shelf): dead since",
        "422 after",
        "No such thing.",
        "What to do: trunkline dlq show shelf ",
    ):
        assert part in told
    assert "confidential" not in told
    cli.trace(event, as_json=True)
    text = capsys.readouterr().out
    [found] = json.loads(text)
    [delivery] = found["event"]["steps"][0]["made"][0]["deliveries"]
    assert (delivery["stands"], delivery["failed"][0]["status"]) == ("dead", 422)
    assert "confidential" not in text
    with pytest.raises(TrunklineError, match="no event nobody is known"):
        cli.trace("nobody")
    assert "nobody runs it" not in told, "what has come to its end waits for nobody"
    with Control(stage.cluster) as control, closing(Sender(stage.cluster)) as sender:
        command = Command("c", "ann@desk", datetime.now(UTC), "a look")
        assert operators.Desk(case.bus, stage.cluster, control, sender, 20).pause("shelf", command).complete
    waits = case.post(number=1, box="b")
    wait_for(lambda: [made.deliveries for step in case.trace(waits).node.steps for made in step.made])
    cli.trace(waits, as_json=False)
    assert f"\n{stage.prefix}.marks.shelf: its sink is paused by ann@desk (a look)\n" in capsys.readouterr().out
    case.worker.kill()
    stage.write(case.bus, [note(9, "c")])
    monkeypatch.setattr(orders, "LIVE", timedelta(seconds=1))
    wait_for(lambda: not running(current(stage.cluster, control_of(case.bus)), case.bus.delivering, datetime.now(UTC)))
    cli.trace("c-9", as_json=False)
    flow = f"{stage.prefix}.notes.inspect"
    assert f"\n{flow}: nobody runs it: trunkline run {flow}\n" in capsys.readouterr().out
