"""Replays of keys that are held back, over a real broker; the order is what the target has recorded."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from tests.trunkline.support import Running, Shelf, Stage, header, note, notes, wait_for
from trunkline import Bus, Deliver, Event, Retry, Target, env
from trunkline.dev.target.behaviour import Behaviour
from trunkline.errors import UsageError
from trunkline.flow.declare import Deliver as Flow
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender, Written
from trunkline.kafka.orders import Command
from trunkline.ledger import deliveries, runs
from trunkline.ledger.deliveries import State
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.sqlite import File
from trunkline.operate.browse import Dead, behind
from trunkline.operate.control import Desk
from trunkline.operate.replay import Known, Plan, Progress, Replay, plan, survey
from trunkline.sinks import HttpSink, Request

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AfterDead = Literal["continue", "park_key", "block"]


class Blind(Shelf):
    """A target that knows no idempotency keys."""

    idempotency = None


class Board(HttpSink):
    """A target that stores the last state of each box."""

    name = "shelf"
    writes = "latest"

    def request(self, event: Event[Any]) -> Request:
        where = {"box": event.key or "none", "number": event.data["number"]}
        return Request.put("/{box}/{number}", path=where, json={"text": event.data["text"]})


def held(prefix: str, after_dead: AfterDead = "park_key", sink: type[HttpSink] = Shelf) -> Bus:
    """One flow; two boxes may share a partition or not."""
    flow = Deliver(notes(prefix, 2), to=sink(Target("shelf", env("SHELF_URL"))), retry=Retry(), after_dead=after_dead)
    return Bus(prefix, [flow])


@dataclass
class Case:
    """A bus with a target that refuses one event of box a."""

    stage: Stage
    bus: Bus
    running: Running | None = None

    @property
    def flow(self) -> Flow:
        [flow] = self.bus.delivering.values()
        return flow

    @property
    def name(self) -> str:
        [name] = self.bus.delivering
        return name

    def refuse(self, path: str = "/a/2", **how: Any) -> None:
        self.stage.target.control.break_(Behaviour(name=self.stage.prefix, match=path, **how or {"status": 422}))

    def heal(self) -> None:
        self.stage.target.control.heal(self.stage.prefix)

    def survey(self) -> Known:
        with Control(self.stage.cluster) as control, closing(File(self.stage.ledger).connect()) as db:
            return survey(self.flow, control, db)

    def held(self) -> set[bytes]:
        with closing(File(self.stage.ledger).connect()) as db:
            return parked_keys(db, deliveries.number_of(db, "shelf"))

    def live(self) -> set[str]:
        with closing(File(self.stage.ledger).connect()) as db:
            return runs.live(db, "shelf")

    def replay(
        self,
        planned: Plan,
        tell: Callable[[Progress], None] = lambda _: None,
        *,
        rate: float = 500,
        connect: Callable[[Cluster], Sender] = Sender,
    ) -> Progress:
        with (
            Control(self.stage.cluster) as control,
            closing(connect(self.stage.cluster)) as sender,
            closing(File(self.stage.ledger).connect()) as db,
        ):
            return Replay(self.flow, control, sender, db, rate=rate, wait=60).run(planned, tell)

    def applied(self, box: str = "a") -> list[int]:
        """Give the numbers of a box's events in the order in which each had its effect."""
        return [one.number for one in self.stage.first_applications() if one.box == box]


def ids(dead: Sequence[Dead]) -> list[str]:
    return [one.id for one in dead]


@contextmanager
def parked(stage: Stage, after_dead: AfterDead, last: int) -> Iterator[Case]:
    """Run a worker until event a-2 is dead and those after it are held back; then heal the target."""
    case = Case(stage, stage.make(held(stage.prefix, after_dead)))
    case.refuse()
    stage.write(case.bus, [note(number) for number in range(1, last + 1)])
    stage.write(case.bus, [note(1, "b"), note(2, "b")])
    with stage.running(case.bus) as case.running:
        behind = {State.PARKED: last - 2} if after_dead == "park_key" else {}
        wait_for(lambda: stage.rows() == {State.DONE: 3, State.DEAD: 1} | behind, why=stage.rows)
        case.heal()
        assert len(case.held()) == 1
        yield case


@pytest.mark.parametrize("after_dead", ["park_key", "block"])
def test_a_replay_takes_along_what_is_held_back_meanwhile_and_frees_the_key(
    stage: Stage, after_dead: AfterDead
) -> None:
    with parked(stage, after_dead, 4) as case:
        planned = plan(case.survey(), keys=["a"])
        assert ids(planned.send) == (["a-2", "a-3", "a-4"] if after_dead == "park_key" else ["a-2"])
        late: list[str] = []

        def tell(progress: Progress) -> None:
            if not late:
                late.append(progress.run)
                before = stage.rows()[State.PARKED]
                stage.write(case.bus, [note(5)])
                if after_dead == "park_key":
                    wait_for(lambda: stage.rows()[State.PARKED] == before + 1 or len(ids(progress.delivered)) > 1)

        progress = case.replay(planned, tell, rate=5)
        assert progress.complete, progress
        assert ids(progress.delivered) == (["a-2", "a-3", "a-4", "a-5"] if after_dead == "park_key" else ["a-2"])
        assert case.held() == set()
        assert case.live() == set()
        stage.write(case.bus, [note(6)])
        wait_for(lambda: stage.rows() == {State.DONE: 8}, why=stage.rows)
    assert case.applied() == [1, 2, 3, 4, 5, 6]
    assert set(stage.effects().values()) == {1}


def test_where_one_dies_again_nothing_follows_it(stage: Stage) -> None:
    with parked(stage, "park_key", 5) as case:
        case.refuse()
        progress = case.replay(plan(case.survey()))
        assert (ids(progress.dead), ids(progress.parked), progress.delivered) == (["a-2"], ["a-3", "a-4", "a-5"], [])
        assert not progress.complete
        assert len(stage.letters(case.name)) == 5, "only what was tried has another letter"
        assert len(case.held()) == 1
        case.heal()
        known = case.survey()
        with pytest.raises(UsageError, match=r"event a-3 would overtake event a-2.* --key a replays all 4 of them"):
            plan(known, ["a-3", "a-4"])
        first = case.replay(plan(known, ["a-2"]))
        assert ids(first.delivered) == ["a-2"]
        assert len(case.held()) == 1, "only the earliest was asked for"
        waiting = case.survey()
        waits_for = behind(waiting.dead, [waiting.states.get(one.who) for one in waiting.dead])
        assert {who[1]: head.id for who, head in waits_for.items()} == {"a-4": "a-3", "a-5": "a-3"}
        assert case.replay(plan(waiting)).complete
        assert case.held() == set()
    assert case.applied() == [1, 2, 3, 4, 5]
    assert [header(letter, "trunkline-class") for letter in stage.letters(case.name)].count("parked") == 3


@pytest.mark.faults(group="deliver")
@pytest.mark.parametrize("after_dead", ["park_key", "block"])
def test_a_worker_is_killed_in_the_middle_of_a_replay(stage: Stage, after_dead: AfterDead) -> None:
    last = 12
    with parked(stage, after_dead, last) as case:
        pass
    path, options = "tests.trunkline.integration.test_parking:held", {"after_dead": after_dead}
    ended: list[Progress] = []
    # When the first is told of the key's first events, it is in the midst of the others.
    with stage.child(path, die="delivered", after=4, options=options, name="first") as first:
        thread = threading.Thread(target=lambda: ended.append(case.replay(plan(case.survey()))))
        thread.start()
        first.wait()
        stage.forget_members(case.bus, case.name)
        with stage.child(path, options=options, name="second") as second:
            thread.join(90)
            assert ended, second.log
            wait_for(lambda: stage.rows() == {State.DONE: last + 2}, why=stage.rows)
    assert ended[0].complete, ended[0]
    assert case.held() == set()
    assert case.applied() == list(range(1, last + 1))
    assert set(stage.effects().values()) == {1}


class Interrupted(Sender):
    """Sends, and is interrupted before it hears that the record is on its topic."""

    def send(self, *arguments: Any, **options: Any) -> Future[Written]:
        super().send(*arguments, **options).result()
        waiting: Future[Written] = Future()
        waiting.set_exception(KeyboardInterrupt())
        return waiting


def test_what_is_on_its_way_when_a_replay_is_interrupted_is_open(stage: Stage) -> None:
    with parked(stage, "park_key", 3) as case:
        progress = case.replay(plan(case.survey(), keys=["a"]), connect=Interrupted)
        assert (ids(progress.open), ids(progress.unsent)) == (["a-2"], ["a-3"])
        assert progress.trouble == "interrupted"


def test_two_operators_replay_the_same_key(stage: Stage) -> None:
    with parked(stage, "park_key", 20) as case:
        planned = plan(case.survey())
        ended: list[Progress] = []
        threads = [threading.Thread(target=lambda: ended.append(case.replay(planned))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert [progress.complete for progress in ended] == [True, True], ended
        assert case.held() == set()
        stage.write(case.bus, [note(21)])
        wait_for(lambda: stage.rows() == {State.DONE: 23}, why=stage.rows)
    assert case.applied() == list(range(1, 22))
    assert set(stage.effects().values()) == {1}


def test_an_event_that_may_have_been_applied_is_called_again_only_by_replay(stage: Stage) -> None:
    case = Case(stage, stage.make(held(stage.prefix, "park_key", Blind)))
    case.refuse(reset=True, after_apply=True)
    stage.write(case.bus, [note(number) for number in range(1, 5)])
    with stage.running(case.bus):
        wait_for(lambda: stage.rows() == {State.DONE: 1, State.AMBIGUOUS: 1, State.PARKED: 2}, why=stage.rows)
        case.heal()
        planned = plan(case.survey())
        assert planned.counts() == {State.AMBIGUOUS: 1, State.PARKED: 2}
        assert case.replay(planned).complete
        assert case.held() == set()
    assert [attempt.number for attempt in stage.attempts()] == [1, 2, 2, 3, 4]


def test_what_a_later_event_has_overtaken_is_superseded_unless_overwritten(stage: Stage) -> None:
    case = Case(stage, stage.make(held(stage.prefix, "continue", Board)))
    case.refuse("/?/1")
    stage.write(case.bus, [note(1), note(2), note(1, "b"), note(2, "b"), note(1, "c")])
    with stage.running(case.bus):
        wait_for(lambda: stage.rows() == {State.DONE: 2, State.DEAD: 3}, why=stage.rows)
        case.heal()
        known = case.survey()
        assert sorted(ids(plan(known).superseded)) == ["a-1", "b-1"]
        progress = case.replay(plan(known, keys=["a"]))
        assert (ids(progress.superseded), progress.delivered, progress.complete) == (["a-1"], [], True)
        again = plan(case.survey(), keys=["a"])
        assert (ids(again.finished), again.send) == (["a-1"], ())
        progress = case.replay(plan(known, keys=["b"], overwrite=True))
        assert (ids(progress.delivered), progress.complete) == (["b-1"], True)
        assert ids(case.replay(plan(known, keys=["c"])).delivered) == ["c-1"]
    assert (case.applied("a"), case.applied("b"), case.applied("c")) == ([2], [2, 1], [1])
    assert stage.rows() == {State.DONE: 4, State.SUPERSEDED: 1}


def test_what_an_interrupted_replay_has_sent_is_not_called_when_the_sink_goes_on(stage: Stage) -> None:
    case = Case(stage, stage.make(held(stage.prefix, "continue")))
    case.refuse("/a/1")
    stage.write(case.bus, [note(1)])

    def ended_before_it_was_called(progress: Progress) -> None:
        if progress.open:
            wait_for(lambda: sum(one.core.stages()["queued"] for one in deliverers) == 1)
            raise KeyboardInterrupt

    with stage.running(case.bus) as running:
        deliverers = running.worker._deliverers
        wait_for(lambda: stage.rows() == {State.DEAD: 1}, why=stage.rows)
        case.heal()
        with Control(stage.cluster) as control, closing(Sender(stage.cluster)) as sender:
            desk = Desk(case.bus, stage.cluster, control, sender, 30)
            assert desk.pause("shelf", Command("one", "ann@desk", NOW)).complete
            assert case.replay(plan(case.survey()), ended_before_it_was_called).trouble == "interrupted"
            stage.write(case.bus, [note(2)])
            wait_for(lambda: sum(one.core.stages()["queued"] for one in deliverers) == 2)
            wait_for(lambda: not any(one.live for of in deliverers for one in of.core._open.values() if one.run))
            assert desk.resume("shelf", Command("two", "ann@desk", NOW)).complete
        wait_for(lambda: stage.rows() == {State.DEAD: 1, State.DONE: 1}, why=stage.rows)
        assert case.applied() == [2], "who has interrupted a replay had a reason"
        assert case.replay(plan(case.survey())).complete
        assert case.applied() == [2, 1]
