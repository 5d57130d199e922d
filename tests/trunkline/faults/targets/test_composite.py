"""Workers killed at every step of composite deliveries: each paid call once, each compensation once, at the target."""

import os
import signal
import threading
from collections import Counter, defaultdict
from contextlib import closing

import pytest

from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.sinks.trips import trips
from tests.trunkline.support import Stage, counts, header, note, wait_for
from trunkline.dev.target.behaviour import Behaviour
from trunkline.flow.composite import OnFailure
from trunkline.flow.declare import Bus
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.operate.replay import Replay, plan, survey

pytestmark = [pytest.mark.faults(group="targets")]

EVENTS = 60
BUS = "tests.trunkline.sinks.trips:trips"


def journeys(refused: float) -> list[NoteWrittenV1]:
    """Give journeys of twelve people, of which every so many-th finds no car."""
    return [
        note(number, f"k{number % 12}", "refused" if number % round(1 / refused) == 0 else "")
        for number in range(EVENTS)
    ]


def made(stage: Stage) -> dict[str, Counter[str]]:
    """Give how often each step of each event had its effect."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for path, times in stage.effects().items():
        _, step, event = path.split("/")
        found[event][step] += times
    return found


def finished(stage: Stage, bus: Bus) -> bool:
    [flow] = bus.delivering
    return stage.committed(bus, flow) == stage.ends(bus.topics[0].name)


def settle(stage: Stage, data: list[NoteWrittenV1]) -> None:
    """Balance target, ledger and results: each paid call once, what is taken back once, one result for each."""
    effects = made(stage)
    for one in data:
        refused = one["text"] == "refused"
        steps = ("flight", "hotel", "cancel-flight", "cancel-hotel") if refused else ("flight", "hotel", "car")
        assert effects.pop(one["note_id"]) == dict.fromkeys(steps, 1), one
    assert not effects
    lost = sum(one["text"] == "refused" for one in data)
    assert stage.rows() == {State.DONE: EVENTS - lost, State.DEAD: lost}
    results = defaultdict(set)
    for record in stage.read(f"{stage.prefix}.trips"):
        results[header(record, "ce_id")].add(record.value)
    assert len(results) == EVENTS, "one result for each, under one id"
    assert all(len(values) == 1 for values in results.values()), "and always the same"


@pytest.mark.parametrize("moment", ["prepared", "calling", "attempt", "answered", "recorded", "produced", "buried"])
def test_a_kill_in_the_middle_of_composite_deliveries(stage: Stage, moment: str) -> None:
    bus = stage.make(trips(stage.prefix))
    [flow] = bus.delivering
    stage.target.control.break_(Behaviour(name=stage.prefix, match="text=refused", status=422))
    stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=20))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=503, rate=0.05, after_apply=True))
    data = journeys(refused=0.25)
    stage.write(bus, data)
    for number, after in enumerate((3, 5) if moment in {"produced", "buried"} else (7, 40, 41)):
        with stage.child(BUS, die=moment, after=after) as child:
            assert child.wait() == -9, f"kill {number + 1} did not happen: {child.log[-3000:]}"
        stage.forget_members(bus, flow)
    assert not finished(stage, bus), "inconclusive: nothing was left to do"
    with stage.child(BUS) as child:
        wait_for(lambda: finished(stage, bus), seconds=60, why=lambda: child.log[-3000:])
        assert child.terminate() == 0, child.log[-3000:]
    settle(stage, data)


@pytest.mark.parametrize("on_failure", ["continue", "dead_letter"])
def test_a_kill_in_the_middle_where_nothing_is_taken_back(stage: Stage, on_failure: OnFailure) -> None:
    options = {"on_failure": on_failure}
    bus = stage.make(trips(stage.prefix, on_failure))
    [flow] = bus.delivering
    stage.target.control.break_(Behaviour(name=stage.prefix, match="text=refused", status=422))
    stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=20))
    data = journeys(refused=0.25)
    stage.write(bus, data)
    for moment in ("calling", "answered", "recorded"):
        with stage.child(BUS, options=options, die=moment, after=20) as child:
            assert child.wait() == -9, f"no kill while {moment}: {child.log[-3000:]}"
        stage.forget_members(bus, flow)
    assert not finished(stage, bus), "inconclusive: nothing was left to do"
    with stage.child(BUS, options=options) as child:
        wait_for(lambda: finished(stage, bus), seconds=60, why=lambda: child.log[-3000:])
        assert child.terminate() == 0, child.log[-3000:]
    steps = {"refused": {"flight": 1, "hotel": 1}, "": {"flight": 1, "hotel": 1, "car": 1}}
    assert made(stage) == {one["note_id"]: steps[one["text"]] for one in data}
    lost = 0 if on_failure == "continue" else sum(one["text"] == "refused" for one in data)
    assert stage.rows() == Counter({State.DONE: EVENTS - lost, State.DEAD: lost})
    assert len({header(record, "ce_id") for record in stage.read(f"{stage.prefix}.trips")}) == EVENTS - lost


def test_a_worker_frozen_in_the_middle_of_composite_deliveries(stage: Stage) -> None:
    bus = stage.make(trips(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="text=refused", status=422))
    stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=100))
    data = journeys(refused=0.25)
    stage.write(bus, data)
    with stage.child(BUS, name="frozen") as frozen:
        wait_for(lambda: sum(stage.effects().values()) > EVENTS, why=lambda: frozen.log[-3000:])
        stage.freeze(frozen)
        assert not finished(stage, bus), "inconclusive: nothing was left to do"
        with stage.child(BUS, name="other", slot=1) as other:
            wait_for(lambda: counts(other, "delivered"), why=lambda: other.log[-3000:])
            os.kill(frozen.pid, signal.SIGCONT)
            wait_for(lambda: finished(stage, bus), seconds=60, why=lambda: [frozen.log[-2000:], other.log[-2000:]])
            assert other.terminate() == 0, other.log[-3000:]
        assert frozen.terminate() == 0, frozen.log[-3000:]
    settle(stage, data)


@pytest.mark.parametrize(("moment", "after"), [("prepared", 3), ("calling", 5), ("answered", 1), ("recorded", 4)])
def test_a_kill_in_the_middle_of_a_replay_of_what_was_taken_back(stage: Stage, moment: str, after: int) -> None:
    bus = stage.make(trips(stage.prefix))
    [flow] = bus.delivering.values()
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/car/*", status=422))
    stage.write(bus, [note(1), note(2, "b")])
    with stage.child(BUS) as child:
        wait_for(lambda: stage.rows() == {State.DEAD: 2}, why=lambda: child.log[-3000:])
        assert child.terminate() == 0
    stage.target.control.heal(stage.prefix)
    with (
        Control(stage.cluster) as control,
        closing(Sender(stage.cluster)) as sender,
        closing(File(stage.ledger).connect()) as db,
    ):
        planned = plan(survey(flow, control, db))
        assert len(planned.send) == 2
        ended = []
        replay = Replay(flow, control, sender, db, rate=500, wait=60)
        with stage.child(BUS, die=moment, after=after) as child:
            thread = threading.Thread(target=lambda: ended.append(replay.run(planned, lambda _: None)))
            thread.start()
            assert child.wait() == -9, child.log[-3000:]
        [name] = bus.delivering
        stage.forget_members(bus, name)
        with stage.child(BUS) as child:
            thread.join(90)
            wait_for(lambda: stage.rows() == {State.DONE: 2}, why=lambda: child.log[-3000:])
            assert child.terminate() == 0
    assert ended[0].complete
    again = {"flight": 2, "hotel": 2, "car": 1, "cancel-flight": 1, "cancel-hotel": 1}
    assert made(stage) == dict.fromkeys(("a-1", "b-2"), again)
    assert len({header(record, "ce_id") for record in stage.read(f"{stage.prefix}.trips")}) == 4
