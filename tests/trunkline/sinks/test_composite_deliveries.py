"""Composite deliveries with a real broker, ledger and target."""

from collections import Counter
from contextlib import closing
from itertools import pairwise

import pytest

from tests.trunkline.sinks.trips import trips
from tests.trunkline.support import Stage, header, note, wait_for
from trunkline import Bus, Deliver, Limit, Target, env
from trunkline.dev.target.behaviour import Behaviour
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.operate.replay import Replay, plan, survey
from trunkline.sinks import CompositeSink


def told(stage: Stage) -> list[str]:
    """Give what the results say, each event once, in the order of their numbers."""
    records = {header(record, "ce_id"): record for record in stage.read(f"{stage.prefix}.trips")}
    return sorted(record.value[5:].split(b"\x00")[-1].decode(errors="replace") for record in records.values())


def kinds(stage: Stage) -> Counter[str]:
    """Count effects at the target by the first part of their path; none may have happened twice."""
    effects = stage.effects()
    assert set(effects.values()) <= {1}
    return Counter(path.split("/")[1] for path in effects)


def test_every_call_is_made_once_and_the_result_is_told(stage: Stage) -> None:
    bus = stage.make(trips(stage.prefix))
    stage.write(bus, [note(number, box) for number in range(3) for box in "ab"])
    with stage.running(bus):
        wait_for(lambda: stage.rows()[State.DONE] == 6, why=stage.rows)
    assert kinds(stage) == {"flight": 6, "hotel": 6, "car": 6}
    assert len(stage.attempts()) == 18
    results = told(stage)
    assert len(results) == 6
    assert all("complete car=done flight=done hotel=done" in one for one in results)
    order = [attempt.path for attempt in stage.attempts()]
    assert all(order.index(f"/car/{box}-{n}") > order.index(f"/flight/{box}-{n}") for box in "ab" for n in range(3))


def test_what_is_refused_takes_back_what_is_done(stage: Stage) -> None:
    bus = stage.make(trips(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/car/*", status=422))
    stage.write(bus, [note(1)])
    [flow] = bus.delivering
    with stage.running(bus):
        wait_for(lambda: stage.rows()[State.DEAD] == 1, why=stage.rows)
    assert kinds(stage) == {"flight": 1, "hotel": 1, "cancel-flight": 1, "cancel-hotel": 1}
    [letter] = stage.letters(flow)
    assert "car answered 422" in header(letter, "__connect.errors.exception.message")
    [result] = told(stage)
    assert "compensated car=failed flight=undone hotel=undone" in result


def test_what_is_refused_leaves_the_rest(stage: Stage) -> None:
    bus = stage.make(trips(stage.prefix, on_failure="continue"))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/flight/*", status=422))
    stage.write(bus, [note(1)])
    with stage.running(bus):
        wait_for(lambda: stage.rows()[State.DONE] == 1, why=stage.rows)
    assert kinds(stage) == {"hotel": 1}
    [result] = told(stage)
    assert "partial car=skipped flight=failed hotel=done" in result


def test_what_is_refused_stops_where_it_stands_and_a_replay_goes_on_there(stage: Stage) -> None:
    bus = stage.make(trips(stage.prefix, on_failure="dead_letter"))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/car/*", status=422))
    stage.write(bus, [note(1)])
    [flow] = bus.delivering.values()
    with stage.running(bus), Control(stage.cluster) as control, closing(Sender(stage.cluster)) as sender:
        wait_for(lambda: stage.rows()[State.DEAD] == 1, why=stage.rows)
        assert kinds(stage) == {"flight": 1, "hotel": 1}
        assert told(stage) == []
        stage.target.control.heal(stage.prefix)
        with closing(File(stage.ledger).connect()) as db:
            replay = Replay(flow, control, sender, db, rate=500, wait=30)
            assert replay.run(plan(survey(flow, control, db)), lambda _: None).complete
        wait_for(lambda: stage.rows() == {State.DONE: 1}, why=stage.rows)
    assert kinds(stage) == {"flight": 1, "hotel": 1, "car": 1}
    assert [attempt.path for attempt in stage.attempts()].count("/flight/a-1") == 1, "and is not asked for again"
    [result] = told(stage)
    assert "complete car=done flight=done hotel=done" in result


@pytest.mark.parametrize("on_failure", ["continue", "compensate"])
def test_what_is_late(stage: Stage, on_failure: str) -> None:
    bus = stage.make(trips(stage.prefix, on_failure=on_failure, deadline=3.0))  # type: ignore[arg-type]  # one of them
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/hotel/*", hang=5.0, deaf=True))
    stage.write(bus, [note(1)])
    with stage.running(bus):
        wait_for(lambda: sum(stage.rows().values()) == 1, why=stage.rows)
    [result] = told(stage)
    if on_failure == "continue":
        assert "partial car=done flight=done hotel=late" in result
        assert stage.rows() == {State.DONE: 1}
    else:
        assert "compensated car=undone flight=undone hotel=undone" in result
        assert stage.rows() == {State.DEAD: 1}
        assert kinds(stage) == {
            name: 1 for call in ("flight", "hotel", "car") for name in (call, f"cancel-{call}")
        }  # fmt: skip


def test_the_limit_of_every_target_holds(stage: Stage, let_go: list[float]) -> None:
    """Where only a later call goes there too: each event waits for its turn before its first call."""
    base = trips(stage.prefix)
    [flow] = base.delivering.values()
    assert isinstance(flow.to, CompositeSink)
    hotel = Target("hotel", env("SHELF_URL"), limit=Limit(10))
    bus = stage.make(Bus(stage.prefix, [Deliver(flow.topic, to=type(flow.to)(flow.to.target, hotel=hotel))]))
    stage.write(bus, [note(1, str(number)) for number in range(20)])
    with stage.running(bus):
        wait_for(lambda: stage.rows()[State.DONE] == 20, why=stage.rows)
    assert len(let_go) == sum(attempt.path.startswith("/hotel/") for attempt in stage.attempts()) == 20
    assert max(after - before for before, after in pairwise(let_go)) < 5.0
    assert let_go[-1] - let_go[0] > 1.7, "twenty calls, ten a second"
