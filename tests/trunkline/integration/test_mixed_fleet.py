"""Workers of two topologies at once: what one of them cannot read waits for the other, and is decided in the end."""

from collections import Counter
from contextlib import ExitStack

import pytest

from tests.trunkline.schemas import MarkV1, NoteTakenV1
from tests.trunkline.support import (
    QUICK,
    Running,
    Stage,
    deliver_bus,
    first_calls,
    inspect,
    marks_of,
    note,
    notes,
    process_bus,
    shelf,
    wait_for,
)
from trunkline import Bus, Deliver, Process, Topic
from trunkline.ledger.deliveries import State

BOXES = [f"b{number}" for number in range(12)]


def later_deliver_bus(prefix: str) -> Bus:
    return Bus(prefix, [Deliver(notes(prefix, 3, NoteTakenV1), to=shelf(), retry=QUICK)])


def later_process_bus(prefix: str) -> Bus:
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=3)
    return Bus(prefix, [Process(notes(prefix, 3, NoteTakenV1), [inspect], to={marks: marks_of})])


def waiting(running: Running) -> int:
    """Count the events that a worker's only sink waits with."""
    return running.worker._deliverers[0].core.counts().get("waiting", 0)


def delivered(stage: Stage) -> int:
    return stage.rows()[State.DONE]


def test_what_only_another_topology_can_read_waits_for_it(stage: Stage) -> None:
    old, new = stage.make(deliver_bus(stage.prefix)), later_deliver_bus(stage.prefix)
    [flow] = old.delivering
    with ExitStack() as stack:
        first = stack.enter_context(stage.running(old))
        stage.write(old, [note(0, box) for box in BOXES])
        wait_for(lambda: delivered(stage) == len(BOXES))
        with stage.running(new, slot=1) as second:
            wait_for(lambda: all(one.worker._deliverers[0].core.slots for one in (first, second)))
            stage.write(new, [note(1, box) for box in BOXES])
            wait_for(lambda: delivered(stage) + waiting(first) == 2 * len(BOXES) and waiting(first))
            stage.write(old, [note(0, f"old-{box}") for box in BOXES])
            wait_for(lambda: delivered(stage) + waiting(first) == 3 * len(BOXES), why=lambda: "other keys are held up")
            stage.write(new, [note(2, box) for box in BOXES])
            assert waiting(first)
            stack.close()
            wait_for(lambda: delivered(stage) == 4 * len(BOXES))
            assert not second.details("dead")
    assert not stage.letters(flow)
    assert stage.rows() == Counter({State.DONE: 4 * len(BOXES)})
    assert all(numbers == sorted(numbers) for numbers in first_calls(stage.attempts()).values())


def test_what_nobody_can_read_is_decided_when_all_run_one_topology(stage: Stage) -> None:
    old, new = stage.make(deliver_bus(stage.prefix)), later_deliver_bus(stage.prefix)
    [flow] = old.delivering
    with stage.running(old) as running:
        stage.write(new, [note(0, "alone")])
        wait_for(lambda: stage.rows()[State.DEAD] == 1)
        with stage.running(Bus(stage.prefix, []), slot=1):
            stage.write(new, [note(0, box) for box in BOXES])
            wait_for(lambda: waiting(running) == len(BOXES))
            assert stage.rows() == Counter({State.DEAD: 1})
        wait_for(lambda: stage.rows()[State.DEAD] == len(BOXES) + 1)
    assert {dict(letter.headers)["trunkline-class"] for letter in stage.letters(flow)} == {b"poison"}


@pytest.mark.faults(group="process")
def test_a_flow_of_steps_leaves_what_it_cannot_read_to_who_can(stage: Stage) -> None:
    old, new = stage.make(process_bus(stage.prefix)), later_process_bus(stage.prefix)
    [flow] = old.processing
    marks = old.topics[1].name
    with ExitStack() as stack:
        first = stack.enter_context(stage.running(old))
        stage.write(old, [note(0, box) for box in BOXES])
        wait_for(lambda: len(stage.read(marks)) == len(BOXES))
        with stage.running(new, slot=1) as second:
            wait_for(lambda: all(heart.joined for heart in second.worker.hearts))
            stage.write(new, [note(1, box) for box in BOXES])
            wait_for(lambda: len(stage.read(marks)) == 2 * len(BOXES), why=lambda: first.details("stuck"))
            stage.write(new, [note(2, box, "nothing") for box in BOXES])
            wait_for(lambda: second.counted(flow)["unrouted"] == len(BOXES))
            stack.close()
    assert not stage.letters(flow)
    assert not first.counted(flow)["unrouted"]


@pytest.mark.faults(group="process")
def test_a_flow_of_steps_decides_when_all_run_one_topology(stage: Stage) -> None:
    old, new = stage.make(process_bus(stage.prefix)), later_process_bus(stage.prefix)
    [flow] = old.processing
    with stage.running(old) as running:
        with stage.running(Bus(stage.prefix, []), slot=1):
            stage.write(new, [note(0, box) for box in BOXES])
            wait_for(lambda: running.details("stuck"))
            assert not stage.letters(flow)
        wait_for(lambda: len(stage.letters(flow)) == len(BOXES))
    assert running.counted(flow)["dead"] == len(BOXES)
