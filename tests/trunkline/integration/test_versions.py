"""Events of several versions of one schema on one topic, and workers that do not all have the newest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from tests.trunkline.schemas import BoxMovedV1, BoxMovedV2, BoxMovedV3, MarkV1
from tests.trunkline.support import QUICK, WHEN, Running, Stage, notes, shelf, wait_for
from trunkline import Bus, Deliver, Event, Process, Topic
from trunkline.event import to_headers
from trunkline.kafka.events import BY_KEY
from trunkline.ledger.deliveries import State

BOXES = [f"b{number}" for number in range(12)]


def bus_of(prefix: str, record: type) -> Bus:
    return Bus(prefix, [Deliver(notes(prefix, 3, record), to=shelf(), retry=QUICK)])


def same(event: Event[Any]) -> Event[Any]:
    return event


def marks_of(event: Event[Any]) -> list[MarkV1]:
    return [{"box": event.data["box"], "number": event.data["number"], "text": event.data["text"]}]


def steps_of(prefix: str, record: type) -> Bus:
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=3)
    return Bus(prefix, [Process(notes(prefix, 3, record), [same], to={marks: marks_of})])


def write(stage: Stage, bus: Bus, data: Sequence[Mapping[str, Any]]) -> None:
    """Put events on the bus's first topic, in the version that this bus has."""
    topic = bus.topics[0]
    form = stage.encoder(bus, topic.name)
    events = [
        Event(f"{one['box']}-{one['number']}", WHEN, one, "tests", topic.schema.event_type, one["box"]) for one in data
    ]
    stage.send(
        (topic.name, str(event.key).encode(), form.encode(event.data), to_headers(event), BY_KEY) for event in events
    )


def first(box: str, number: int, weight: str = "12 kg") -> BoxMovedV1:
    return {"box": box, "number": number, "weight": weight}


def second(box: str, number: int) -> BoxMovedV2:
    return {"box": box, "number": number, "text": "moved"}


def third(box: str, number: int) -> BoxMovedV3:
    return {"box": box, "number": number, "text": "moved", "by": "me"}


def waiting(running: Running) -> int:
    return running.worker._deliverers[0].core.counts().get("waiting", 0)


def test_every_version_is_delivered_as_the_newest_and_a_functions_bug_is_the_events_end(stage: Stage) -> None:
    v1, v2, v3 = (bus_of(stage.prefix, record) for record in (BoxMovedV1, BoxMovedV2, BoxMovedV3))
    stage.make(v3)
    [flow] = v3.delivering
    write(stage, v1, [first("a", 0), first("b", 0, "heavy"), first("b", 1)])
    write(stage, v2, [second("a", 1)])
    write(stage, v3, [third("a", 2)])
    with stage.running(v3):
        wait_for(lambda: stage.rows() == Counter({State.DONE: 4, State.DEAD: 1}), why=stage.rows)
    [letter] = stage.letters(flow)
    headers = dict(letter.headers)
    assert headers["trunkline-class"] == b"permanent"
    assert b"bug in v1_to_v2" in headers["__connect.errors.exception.message"]
    form = stage.encoder(v1, v1.topics[0].name)
    assert letter.value == form.encode(first("b", 0, "heavy"))
    assert stage.effects() == Counter({f"/{path}": 1 for path in ("a/0", "a/1", "a/2", "b/1")})


def test_a_really_newer_version_waits_for_who_has_it_though_avro_could_resolve_it(stage: Stage) -> None:
    """An event that V2 could read by dropping a field is none that V2 understands, while somebody has V3 (L5)."""
    old, new = stage.make(bus_of(stage.prefix, BoxMovedV2)), bus_of(stage.prefix, BoxMovedV3)
    with ExitStack() as stack:
        older = stack.enter_context(stage.running(old))
        write(stage, old, [second(box, 0) for box in BOXES])
        wait_for(lambda: stage.rows()[State.DONE] == len(BOXES))
        with stage.running(new, slot=1) as newer:
            wait_for(lambda: all(one.worker._deliverers[0].core.slots for one in (older, newer)))
            write(stage, new, [third(box, 1) for box in BOXES])
            wait_for(lambda: stage.rows()[State.DONE] + waiting(older) == 2 * len(BOXES) and waiting(older))
            write(stage, old, [second(f"old-{box}", 0) for box in BOXES])
            wait_for(lambda: stage.rows()[State.DONE] + waiting(older) == 3 * len(BOXES), why=stage.rows)
            assert waiting(older)
            stack.close()
            wait_for(lambda: stage.rows() == Counter({State.DONE: 3 * len(BOXES)}))


def test_a_newer_version_that_nobody_has_is_read_as_far_as_it_resolves(stage: Stage) -> None:
    old, new = stage.make(bus_of(stage.prefix, BoxMovedV2)), bus_of(stage.prefix, BoxMovedV3)
    with stage.running(old):
        write(stage, new, [third(box, 1) for box in BOXES])
        wait_for(lambda: stage.rows() == Counter({State.DONE: len(BOXES)}), why=stage.rows)


@pytest.mark.faults(group="process")
def test_steps_leave_a_newer_version_to_who_has_it_and_read_it_when_nobody_has(stage: Stage) -> None:
    old, new = stage.make(steps_of(stage.prefix, BoxMovedV2)), steps_of(stage.prefix, BoxMovedV3)
    [flow] = old.processing
    marks = old.topics[1].name
    with ExitStack() as stack:
        older = stack.enter_context(stage.running(old))
        write(stage, new, [third(box, 0) for box in BOXES])
        wait_for(lambda: len(stage.read(marks)) == len(BOXES))
        with stage.running(new, slot=1) as newer:
            wait_for(lambda: all(heart.joined for heart in newer.worker.hearts))
            write(stage, bus_of(stage.prefix, BoxMovedV1), [first("no", 0, "heavy"), first("yes", 0)])
            wait_for(lambda: len(stage.read(marks)) == len(BOXES) + 1)
            stack.close()
        assert not newer.details("stuck")
        assert not older.details("halted")
    [letter] = stage.letters(flow)
    assert b"bug in v1_to_v2" in dict(letter.headers)["__connect.errors.exception.message"]
