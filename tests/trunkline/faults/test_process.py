"""Workers of a processing flow that are killed inside their transaction."""

import pytest

from tests.trunkline.support import Stage, counts, load, note, process_bus, wait_for
from trunkline.avro.codec import HEAD, Codec
from trunkline.flow.declare import Bus

pytestmark = pytest.mark.faults(group="main")


def flow_of(bus: Bus) -> str:
    [name] = bus.processing
    return name


def marks(stage: Stage, bus: Bus, isolation: str) -> list[str]:
    """Give the keys of the output topic."""
    return [record.key.decode() for record in stage.read(bus.topics[1].name, isolation=isolation)]


@pytest.mark.parametrize("moment", ["produced"])
def test_what_a_killed_worker_had_produced_is_never_seen_and_comes_once(stage: Stage, moment: str) -> None:
    bus = stage.make(process_bus(stage.prefix))
    boxes = [f"k{key}" for key in range(50)]
    stage.write(bus, [note(1, box, "raise" if box == "k7" else "") for box in boxes])
    with stage.child("process_bus", die=moment) as child:
        assert child.wait() == -9
    written = marks(stage, bus, "read_uncommitted")
    assert written, "inconclusive: nothing had been produced"
    assert marks(stage, bus, "read_committed") == []
    assert stage.letters(flow_of(bus)) == []
    assert set(stage.committed(bus, flow_of(bus)).values()) == {0}
    stage.forget_members(bus, flow_of(bus))
    with stage.child("process_bus") as child:
        wait_for(lambda: stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name), why=lambda: child.log)
        assert child.terminate() == 0
    assert sorted(marks(stage, bus, "read_committed")) == sorted(box for box in boxes if box != "k7")
    assert len(marks(stage, bus, "read_uncommitted")) == 49 + len(written)
    assert [letter.key for letter in stage.letters(flow_of(bus))] == [b"k7"]


def test_workers_that_join_leave_and_die_write_every_record_once(stage: Stage) -> None:
    bus = stage.make(process_bus(stage.prefix, partitions=6))
    options = {"partitions": 6}
    with stage.child("process_bus", options=options) as first:
        with load(stage, bus, 60) as rounds:
            wait_for(lambda: counts(first, "routed"), why=lambda: first.log)
            with stage.child("process_bus", slot=1, name="joins", options=options) as joins:
                wait_for(lambda: counts(joins, "routed"), why=lambda: joins.log)
                assert joins.terminate() == 0, joins.log
            with stage.child("process_bus", slot=1, die="produced", after=20, name="dies", options=options) as dies:
                assert dies.wait() == -9, dies.log
            with stage.child("process_bus", slot=1, name="takes over", options=options) as over:
                wait_for(lambda: counts(over, "routed"), why=lambda: over.log)
        wait_for(lambda: stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name), why=lambda: first.log)
        assert first.terminate() == 0
    codec = Codec(bus.topics[1].schema.text)
    # The offsets of a transaction may be seen a moment before its records.
    wait_for(lambda: len(stage.read(bus.topics[1].name)) >= rounds[0] * 60)
    found: dict[str, list[int]] = {}
    for record in stage.read(bus.topics[1].name):
        found.setdefault(record.key.decode(), []).append(codec.decode(record.value[HEAD:])["number"])
    wanted = list(range(rounds[0]))
    assert {box: numbers for box, numbers in found.items() if numbers != wanted} == {}
    assert len(found) == 60
    assert stage.letters(flow_of(bus)) == []
