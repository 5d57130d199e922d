"""Dead letters that a person gives up: over a real broker and both ledgers, with the worker that obeys."""

import getpass
import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from tests.trunkline.integration.project import HAPPENED, Project, order
from tests.trunkline.integration.test_parking import AfterDead, held, parked
from tests.trunkline.support import Stage, note, read, stamped, wait_for
from trunkline.cli.trace import said_of_outcome
from trunkline.deadletter import Origin
from trunkline.errors import UsageError
from trunkline.event import Event
from trunkline.flow.declare import Bus, dead_letters_of
from trunkline.kafka import audit
from trunkline.kafka.audit import Entry
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.topics import outcomes_of
from trunkline.ledger import deliveries
from trunkline.ledger.database import Connection, Ledger
from trunkline.ledger.deliveries import State
from trunkline.ledger.intents import GO, Intent, intend
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.sqlite import File
from trunkline.operate.browse import STANDING
from trunkline.operate.discard import Plan, discard, survey
from trunkline.operate.rebuild import Rebuild, outcome_of
from trunkline.operate.replay import plan

NOW = datetime(2026, 3, 2, tzinfo=UTC)
KEY = deliveries.key_of(b"a")


def forget(cluster: Cluster, topic: str, partitions: int) -> None:
    """Delete all records of a topic, as its retention would."""
    with closing(KafkaAdminClient(**cluster.kafka_python())) as admin:
        admin.delete_records({TopicPartition(topic, number): -1 for number in range(partitions)})


def ids(planned: Plan) -> list[str]:
    return [one.entry.event for one in planned.give_up]


@pytest.mark.parametrize("after_dead", ["park_key", "block"])
def test_a_key_whose_letters_are_gone_is_freed_and_the_running_worker_goes_on(
    stage: Stage, after_dead: AfterDead
) -> None:
    with parked(stage, after_dead, 4) as case:
        forget(stage.cluster, dead_letters_of(case.name), 2)
        with pytest.raises(UsageError, match="key a is held back by events whose letters are gone"):
            plan(case.survey(), keys=["a"])
        assert len(case.held()) == 1
        with (
            Control(stage.cluster) as control,
            closing(Sender(stage.cluster)) as sender,
            closing(File(stage.ledger).connect()) as db,
        ):
            planned = survey(case.bus, case.flow, control, db, [], {KEY: "a"})
            assert ids(planned) == (["a-2", "a-3", "a-4"] if after_dead == "park_key" else ["a-2"])
            assert (planned.freed, planned.held) == (1, 0)
            assert discard(planned, case.bus, case.flow, sender, db, who="eva", why="no use", now=NOW) == []
            assert deliveries.letters(db) == {}, "nobody waits for a person"
        assert case.held() == set()
        assert case.running is not None
        [deliverer] = case.running.worker._deliverers
        wait_for(lambda: not deliverer.core._barred)
        stage.write(case.bus, [note(5)])
        given_up = {State.DISCARDED: len(planned.give_up)}
        wait_for(lambda: stage.rows() == given_up | {State.DONE: 4 if after_dead == "park_key" else 6}, why=stage.rows)
    assert case.applied() == ([1, 5] if after_dead == "park_key" else [1, 3, 4, 5])
    stood = stage.rows()
    with Control(stage.cluster) as control, closing(Sender(stage.cluster)) as sender:
        again = File(stage.folder / "again.db")
        with closing(again.connect()) as db:
            Rebuild(case.bus, stage.cluster, control, sender, db, lambda _: None).run(None)
            assert {state: count for state, count in deliveries.count(db, "shelf").items() if count} == stood
            assert parked_keys(db, deliveries.number_of(db, "shelf")) == set()
    said = [audit.read(record.value) for record in stage.read(outcomes_of(case.bus))]
    assert [(one.event, one.who, one.why) for one in said if one.state == "DISCARDED"] == [
        (event, "eva", "no use") for event in ids(planned)
    ]


class Case:
    """A bus whose key a is parked by two events, as an audit trail and a ledger know it."""

    def __init__(self, stage: Stage, db: Connection) -> None:
        self.stage, self.db = stage, db
        self.bus: Bus = stage.make(held(stage.prefix))
        [self.name] = self.bus.delivering
        self.flow = self.bus.delivering[self.name]
        self.sender = Sender(stage.cluster)
        self.number = deliveries.number_of(db, "shelf")
        for number, (box, state) in enumerate(
            (("a", State.DEAD), ("a", State.PARKED), ("b", State.AMBIGUOUS), ("c", State.DEAD), ("c", State.DONE))
        ):
            self.say(stamped(self.bus, note(number if state is not State.DONE else number - 1, box)), number, state)

    def say(self, event: Event[Any], offset: int, state: State) -> None:
        """Let an event end, as the engine would."""
        origin, key = Origin(self.bus.topics[0].name, 0, offset), deliveries.key_of((event.key or "").encode()).hex()
        payload, source = deliveries.payload_of(b"").hex(), event.source
        entry = Entry(NOW, self.name, "shelf", source, event.id, event.time, origin, key, payload, state.name, 2)
        self.note(entry)
        with self.db.transaction():
            deliveries.record(self.db, [outcome_of(entry, self.flow, self.number)])

    def note(self, entry: Entry) -> None:
        """Write it to the audit trail alone."""
        self.sender.send(*audit.record_of(outcomes_of(self.bus), entry)).result(20)

    def survey(self, *events: str, **keys: str) -> Plan:
        with Control(self.stage.cluster) as control:
            named = {deliveries.key_of(key.encode()): name for key, name in keys.items()}
            return survey(self.bus, self.flow, control, self.db, events, named)

    def discard(self, planned: Plan) -> list[str]:
        late = discard(planned, self.bus, self.flow, self.sender, self.db, who="eva", why="", now=datetime.now(UTC))
        return [one.entry.event for one in late]

    def states(self) -> dict[State, int]:
        return {state: count for state, count in deliveries.count(self.db, "shelf").items() if count}


def test_what_is_given_up_is_final_and_the_last_of_a_key_frees_it(stage: Stage, ledger: Ledger) -> None:
    with closing(ledger.connect()) as db:
        case = Case(stage, db)
        with closing(case.sender):
            before = {State.DEAD: 1, State.PARKED: 1, State.AMBIGUOUS: 1, State.DONE: 1}
            assert case.states() == before
            first = case.survey("a-0", "c-3")
            assert (ids(first), [one.entry.event for one in first.rest]) == (["a-0"], ["c-3"])
            assert (first.freed, first.held) == (0, 1)
            assert case.states() == before, "a plan changes nothing"
            assert case.discard(first) == []
            assert KEY in parked_keys(db, case.number), "another one waits"
            last, doubt = case.survey(a="a"), case.survey("b-2")
            assert (ids(last), last.rest, last.freed, ids(doubt)) == (["a-1"], (), 1, ["b-2"])
            case.say(stamped(case.bus, note(2, "b")), 2, State.DONE)
            assert case.discard(doubt) == ["b-2"], "it was delivered meanwhile: that is never taken back"
            assert case.discard(last) == []
            assert parked_keys(db, case.number) == set()
            assert case.states() == {State.DISCARDED: 2, State.DONE: 2}
            assert ids(case.survey(a="a")) == []
            with pytest.raises(UsageError, match="nothing of event a-9, key z was ever dead"):
                case.survey("a-9", "a-0", z="z")


def test_what_is_being_sent_again_and_what_is_of_another_sink_is_not_given_up(stage: Stage, ledger: Ledger) -> None:
    with closing(ledger.connect()) as db:
        case = Case(stage, db)
        with closing(case.sender):
            [dead] = case.survey("a-0").give_up
            with db.transaction():
                asked = outcome_of(dead.entry, case.flow, case.number)
                call = Intent(*asked[:2], asked.key, 0, 0, asked.payload, "w:1", 22.0, 0.0, run="r", keyed=False)
                assert intend(db, [call]) == {asked.place: GO}
            planned = case.survey(a="a")
            assert (ids(planned), [(one.entry.event, one.stands) for one in planned.rest]) == (
                ["a-1"],
                [("a-0", STANDING[State.INTENT])],
            )
            assert (planned.freed, planned.held) == (0, 1)
            case.note(replace(dead.entry, sink="other", event="a-7"))
            case.note(replace(dead.entry, flow="other", event="a-8"))
            with pytest.raises(UsageError, match="nothing of event a-7, event a-8 was ever dead"):
                case.survey("a-7", "a-8")
            assert ids(case.survey(a="a")) == ["a-1"]


def test_an_operator_plans_it_does_it_and_sees_it(project: Project) -> None:
    project("topics", "apply")
    outcomes = f"trunkline.{project.prefix}.outcomes"
    for offset, event in enumerate(("one", "two")):
        project.fail(event)
        seen, key = order(event), deliveries.key_of(b"k1").hex()
        origin, payload = Origin(project.good, 0, offset), deliveries.payload_of(b"").hex()
        entry = Entry(HAPPENED, project.flow, "store", seen.source, event, seen.time, origin, key, payload, "DEAD", 2)
        project.sender.send(*audit.record_of(outcomes, entry)).result(20)
    planned = project.run("dlq", "discard", "store", "one", "--why", "no use")
    assert planned.stdout.startswith("Discard at store: 1 event\n")
    assert planned.stderr == (
        "Nothing was discarded. Do it with: trunkline dlq discard store one --why 'no use' --run\n"
    )
    assert project.json("dlq", "ls")[0]["open"] == 2
    assert [one["event"] for one in project.json("dlq", "discard", project.flow, "--key", "k1")["discard"]] == [
        *("one", "two")
    ]
    done = json.loads(project("dlq", "discard", "store", "one", "--why", "no use", "--run", "--json"))
    assert ([one["event"] for one in done["discarded"]], done["nothing"], done["command"]) == (["one"], [], None)
    [line] = project.json("dlq", "ls")
    assert line["open"] == 1
    states = {one["event"]: one["state"] for one in project.json("dlq", "ls", "store")}
    assert states == {"one": "discarded", "two": "open"}
    assert "A person has discarded it; nothing is left to do." in project("dlq", "show", "store", "one")
    [*_, said] = (audit.read(record.value) for record in read(project.bootstrap, outcomes))
    assert (said.event, said.state, said.who.partition("@")[0]) == ("one", "DISCARDED", getpass.getuser())
    assert said_of_outcome(said) == f"discarded, by {said.who}: no use"
    assert said_of_outcome(replace(said, why="")) == f"discarded, by {said.who}"
    assert project.json("dlq", "replay", "store")["send"][0]["event"] == "two"
    assert "stay as they are" in project("dlq", "discard", "store", "one", "--run"), "it is so already"
    assert "nothing of event none was ever dead" in project("dlq", "discard", "store", "none", code=2)
    assert "say what to discard" in project("dlq", "discard", "store", code=2)
