"""Workers that are killed while they take what a replay has sent."""

import pytest

from tests.trunkline.integration.test_reprocess import Case, agent, ids, steps
from tests.trunkline.support import Stage, header, wait_for
from trunkline.operate.replay import plan

pytestmark = pytest.mark.faults(group="process")

BUSES = "tests.trunkline.integration.test_reprocess:"


@pytest.mark.parametrize("moment", ["produced", "offered", "replayed"])
def test_a_replay_is_processed_once_whenever_its_worker_is_killed(stage: Stage, moment: str) -> None:
    case = Case(stage, steps)
    done = taken(case, "steps", moment)
    before = [("a-1", "DONE", "routed"), ("b-1", "DONE", "routed")] if moment == "replayed" else []
    assert sorted(done) == before, "outputs and what is told of them appear together or not at all"
    finish(case, "steps")
    assert sorted(case.told()) == [("a-1", "DONE", "routed"), ("b-1", "DONE", "routed")]
    assert set(case.numbers().values()) == {1}


@pytest.mark.parametrize("moment", ["produced", "emitted", "replayed"])
def test_what_an_agent_made_of_a_replay_comes_again_under_the_same_ids(stage: Stage, moment: str) -> None:
    case = Case(stage, agent)
    taken(case, "agent", moment)
    finish(case, "agent")
    assert {told for told in case.told() if told[0] != "a-2"} == {("a-1", "DONE", "taken"), ("b-1", "DONE", "taken")}
    assert len({header(mark, "ce_id") for mark in case.marks()}) == 4
    assert set(case.numbers()) == {(box, number) for box in "ab" for number in (1, 2)}


def taken(case: Case, bus: str, moment: str) -> list[tuple[str, str, str]]:
    """Send everything again to a worker that dies at a moment; give what is told by then."""
    stage = case.stage
    with stage.child(f"{BUSES}{bus}", case.name) as child:
        wait_for(case.finished, why=lambda: child.log)
        assert child.terminate() == 0, child.log
    case.mended.touch()
    assert ids(case.replay(wait=0).open) == ["a-1", "b-1"]
    with stage.child(f"{BUSES}{bus}", case.name, die=moment, name="dies") as child:
        assert child.wait() == -9, child.log
    stage.forget_members(case.bus, case.name)
    return case.told()


def finish(case: Case, bus: str) -> None:
    """Let another worker take what is left, until nothing is open."""
    with case.stage.child(f"{BUSES}{bus}", case.name, name="again") as child:
        wait_for(lambda: ids(plan(case.survey()).finished) == ["a-1", "b-1"], seconds=60, why=lambda: child.log)
        assert child.terminate() == 0, child.log
    planned = plan(case.survey())
    assert (planned.send, planned.under_way) == ((), ())
