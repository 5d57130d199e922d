"""A sink that leaves the topology, with something left for it and with nothing."""

from collections.abc import Collection, Sequence

import pytest

from tests.trunkline.faults.buses import Annex
from tests.trunkline.support import QUICK, Stage, note, notes, shelf, wait_for
from trunkline import Bus, Deliver, Target, env
from trunkline.cli.worker import work
from trunkline.errors import UsageError
from trunkline.kafka.control import Control
from trunkline.ledger.deliveries import State
from trunkline.ledger.sqlite import File
from trunkline.operate.leaving import Left, left


def before(stage: Stage) -> Bus:
    return Bus(stage.prefix, [Deliver(notes(stage.prefix, 3), to=shelf(), retry=QUICK, after_dead="park_key")])


def after(stage: Stage, *, retired: Sequence[str] = ()) -> Bus:
    annex = Annex(Target("annex", env("SHELF_URL")))
    return Bus(stage.prefix, [Deliver(notes(stage.prefix, 3), to=annex, retry=QUICK)], retired=retired)


class Sparing(Control):
    """Asks of no other topics than it has a reason to: a cluster may have thousands."""

    def topics(self, names: Collection[str] | None = None) -> dict[str, int]:
        assert names is not None
        return super().topics(names)


def look(stage: Stage, bus: Bus) -> list[Left]:
    with Sparing(stage.cluster) as control, File(stage.ledger).connect() as db:
        return left(bus, control, db)


def test_a_sink_that_has_finished_may_leave(stage: Stage) -> None:
    bus = stage.make(before(stage))
    with stage.running(bus):
        stage.write(bus, [note(0, "a"), note(0, "b")])
        wait_for(lambda: stage.rows()[State.DONE] == 2)
    assert look(stage, after(stage)) == look(stage, bus) == []


def test_what_is_left_for_a_sink_is_said_until_it_is_retired(stage: Stage) -> None:
    bus = stage.make(before(stage))
    topic = bus.topics[0].name
    with stage.running(bus):
        stage.write(bus, [note(0, "a", "unsayable"), note(1, "a"), note(0, "b")])
        wait_for(lambda: stage.rows() == {State.DEAD: 1, State.PARKED: 1, State.DONE: 1})
    stage.write(bus, [note(1, "b"), note(2, "b"), note(2, "a")])
    assert look(stage, bus) == []
    [found] = look(stage, after(stage))
    assert found == Left("shelf", {topic: 3}, letters=2, parked=1)
    assert str(found).startswith(
        f"the sink shelf has left the topology; unread records of {topic}: 3, dead letters: 2, parked keys: 1. "
        "If it, or its flow, has another name now, say the old one with `was`. Else put it back until "
    )
    with pytest.raises(UsageError, match=r'the sink shelf has left.*Bus\(…, retired=\["shelf"\]\)'):
        work(after(stage), stage.settings(), [], start="latest")
    assert look(stage, after(stage, retired=["shelf"])) == []
    [flow] = bus.delivering
    assert look(stage, after(stage, retired=[flow])) == [Left("shelf", {}, letters=2, parked=1)]
