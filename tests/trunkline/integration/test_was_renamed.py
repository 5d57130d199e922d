"""A bus is renamed, and everything on it: under `was` it goes on as if nothing had happened (I1)."""

import json
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.trunkline.schemas import MarkV1
from tests.trunkline.support import (
    QUICK,
    Desk,
    Shelf,
    Stage,
    inspect,
    marks_of,
    note,
    notes,
    wait_for,
)
from trunkline import Bus, Deliver, Process, Publish, Secret, Target, Topic, env
from trunkline.dev.target.behaviour import Behaviour
from trunkline.errors import UsageError
from trunkline.flow.declare import dead_letters_of, group_of, identity_of, replay_of
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.topics import plan as topics_of
from trunkline.kafka.topics import reading
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.operate import browse
from trunkline.operate.replay import Replay, plan, survey
from trunkline.settings import Kafka
from trunkline.sources import StandardWebhooks


class Office(Desk):
    """The desk, as it is called now."""

    name = "office"


class Rack(Shelf):
    """The shelf, as it is called now."""

    name = "rack"
    was = "shelf"


class Stranger(Shelf):
    """The shelf under a new name, and nobody says that it had another."""

    name = "rack"


def before(prefix: str) -> Bus:
    topic, marks = notes(prefix, 1), Topic(f"{prefix}.marks", MarkV1, key="box", partitions=1)
    return Bus(
        prefix,
        [
            Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=topic),
            Process(topic, [inspect], to={marks: marks_of}),
            Deliver(marks, to=Shelf(Target("shelf", env("SHELF_URL"))), retry=QUICK),
        ],
    )


def after(prefix: str) -> Bus:
    topic, marks = notes(prefix, 1), Topic(f"{prefix}.marks", MarkV1, key="box", partitions=1)
    rack = Rack(Target("rack", env("SHELF_URL")))
    return Bus(
        f"{prefix}-new",
        [
            Publish(Office(StandardWebhooks(Secret("DESK_SECRET"))), to=topic, was="desk"),
            Process(topic, [inspect], to={marks: marks_of}, name="sorting", was=f"{prefix}.notes.inspect"),
            Deliver(marks, to=rack, retry=QUICK, name="bringing", was=f"{prefix}.marks.shelf"),
        ],
        was=prefix,
    )


def unsaid(prefix: str) -> Bus:
    """Rename only the sink, and say nothing of it."""
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=1)
    return Bus(prefix, [Deliver(marks, to=Stranger(Target("shelf", env("SHELF_URL"))), retry=QUICK)])


def post(url: str, source: Any, data: Any) -> str:
    """Post a note to the gateway and give what became of it."""
    body = json.dumps(data, default=str).encode()
    headers = source.verify.sign(data["note_id"], body)
    answer = httpx.post(f"{url}/in/{source.name}", content=body, headers=headers, timeout=60)
    outcome: str = answer.json()["events"][0]["outcome"]
    return outcome


def test_a_renamed_bus_goes_on(stage: Stage) -> None:
    bus = stage.make(before(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/a/2", status=422))
    path = "tests.trunkline.integration.test_was_renamed"
    with stage.child(f"{path}:before") as old:
        assert [post(old.url, bus.sources[0], note(number)) for number in range(1, 5)] == ["published"] * 4
        wait_for(lambda: stage.rows() == {State.DONE: 3, State.DEAD: 1}, why=lambda: old.log)
        assert old.terminate() == 0
    stage.target.control.heal(stage.prefix)
    stage.write(bus, [note(number) for number in range(5, 9)])  # a backlog

    renamed = after(stage.prefix)
    [process] = renamed.processing.values()
    [deliver] = renamed.delivering.values()
    with Control(stage.cluster) as control:
        existing = control.existing(control.topics())
        assert topics_of(renamed, existing, Kafka()) == [], "no topic is new"
        control.start_offsets(renamed, list(reading(renamed)), None)
    calls = len(stage.attempts())
    with stage.child(f"{path}:after", name="renamed") as new:
        wait_for(lambda: stage.rows() == {State.DONE: 7, State.DEAD: 1}, why=lambda: new.log)
        assert post(new.url, renamed.sources[0], note(1)) == "duplicate", "the claim is known by the old name"
        with (
            Control(stage.cluster) as control,
            closing(Sender(stage.cluster)) as sender,
            closing(File(stage.ledger).connect()) as db,
        ):
            assert browse.flow_of(renamed, "rack") == "bringing"
            with pytest.raises(UsageError, match=r"no sink or reading flow shelf\. It is called rack now"):
                browse.flow_of(renamed, "shelf")
            known = survey(deliver, control, db)
            assert [dead.raw_key for dead in known.dead] == [b"a"]
            progress = Replay(deliver, control, sender, db, rate=50, wait=60).run(plan(known), lambda _: None)
            assert progress.complete
            assert len(control.members(group_of(renamed, identity_of(process)))) == 1
        assert new.terminate() == 0
    assert stage.rows() == {State.DONE: 8}
    assert [attempt.number for attempt in stage.attempts()[calls:]] == [5, 6, 7, 8, 2], "nothing was delivered twice"
    assert stage.effects() == {f"/a/{number}": 1 for number in range(1, 9)}
    topics = set(stage_topics(stage))
    assert {dead_letters_of(identity_of(deliver)), replay_of(identity_of(deliver))} <= topics
    assert not [topic for topic in topics if "rack" in topic or "bringing" in topic or "sorting" in topic]


def stage_topics(stage: Stage) -> list[str]:
    with Control(stage.cluster) as control:
        return [topic for topic in control.topics() if stage.prefix in topic]


def test_a_rename_without_a_word_is_not_started(stage: Stage) -> None:
    bus = stage.make(before(stage.prefix))
    stage.write(bus, [note(1), note(2)])
    with stage.running(bus):
        wait_for(lambda: stage.rows() == {State.DONE: 2}, why=stage.rows)
    renamed = unsaid(stage.prefix)
    flow = f"{stage.prefix}.marks.rack"
    with Control(stage.cluster) as control:
        control.apply(topics_of(renamed, control.existing(control.topics()), Kafka()))
        with pytest.raises(UsageError, match=f"{flow} has not read {stage.prefix}.marks yet, .* --start earliest"):
            control.start_offsets(renamed, [flow], None)
        control.start_offsets(renamed, [flow], "latest")
    with stage.running(renamed):
        wait_for(lambda: stage.committed(renamed, flow) == stage.ends(f"{stage.prefix}.marks"))
    assert len(stage.attempts()) == 2
