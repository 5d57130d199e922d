"""Agents whose bodies hang, and whose processes are killed, moved and cut off from their dead letters."""

from collections import Counter
from contextlib import closing

import pytest
from kafka.admin import KafkaAdminClient

from tests.trunkline.agents.buses import tally_bus
from tests.trunkline.support import Stage, counts, header, load, note, wait_for
from trunkline.avro.codec import HEAD, Codec
from trunkline.flow.declare import Bus, dead_letters_of
from trunkline.kafka.control import Control
from trunkline.kafka.topics import names, plan

pytestmark = pytest.mark.faults(group="process")

BUS = "tests.trunkline.agents.buses:tally_bus"
HASTY = {"trunkline.engine.watchdog.SILENT": 3.0}


def flow_of(bus: Bus) -> str:
    [name] = bus.watching
    return name


def ids(stage: Stage, bus: Bus) -> list[str]:
    """Give the ids on the output topic."""
    return [header(record, "ce_id") for record in stage.read(bus.topics[1].name)]


def numbers(stage: Stage, bus: Bus) -> dict[str, set[int]]:
    """Give the numbers that were marked, by box."""
    found: dict[str, set[int]] = {}
    for box, number, _ in all_marks(stage, bus):
        found.setdefault(box, set()).add(number)
    return found


def all_marks(stage: Stage, bus: Bus) -> set[tuple[str, int, str]]:
    """Give what was marked, each once."""
    codec = Codec(bus.topics[1].schema.text)
    read = [codec.decode(record.value[HEAD:]) for record in stage.read(bus.topics[1].name)]
    return {(mark["box"], mark["number"], mark["text"]) for mark in read}


def finished(stage: Stage, bus: Bus) -> bool:
    return stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name)


@pytest.mark.parametrize("how", ["once", "block"])
def test_a_body_that_hangs_ends_its_process_and_nothing_is_lost(stage: Stage, how: str) -> None:
    bus = stage.make(tally_bus(stage.prefix, window=60))
    stuck = f"once:{stage.folder / 'once'}" if how == "once" else "block"
    stage.write(bus, [note(1, "a"), note(2, "a", stuck), note(3, "a"), note(1, "b")])
    with stage.child(BUS, options={"window": 60}, constants=HASTY) as child:
        assert child.wait() == 70
        assert "the thread that polls for" in child.log
    if how == "block":  # it would for ever
        assert not finished(stage, bus)
        return
    stage.forget_members(bus, flow_of(bus))
    with stage.child(BUS, options={"window": 60}, name="again") as again:
        wait_for(lambda: finished(stage, bus), why=lambda: again.log)
        assert again.terminate() == 0
    assert numbers(stage, bus) == {"a": {1, 2, 3}, "b": {1}}
    assert stage.letters(flow_of(bus)) == []


@pytest.mark.parametrize("moment", ["produced", "emitted", "buried", "taken"])
def test_what_a_killed_agent_had_made_comes_again_under_the_same_ids(stage: Stage, moment: str) -> None:
    bus = stage.make(tally_bus(stage.prefix, window=60))
    boxes = [f"k{key}" for key in range(40)]
    stage.write(
        bus, [note(number, box, "raise" if (box, number) == ("k7", 1) else "") for box in boxes for number in (1, 2)]
    )
    with stage.child(BUS, options={"window": 60}, die=moment) as child:
        assert child.wait() == -9
    stage.forget_members(bus, flow_of(bus))
    with stage.child(BUS, options={"window": 60}, name="again") as again:
        wait_for(lambda: finished(stage, bus), why=lambda: again.log)
        assert again.terminate() == 0
    assert numbers(stage, bus) == {box: {2} if box == "k7" else {1, 2} for box in boxes}
    assert len(set(ids(stage, bus))) == 79, "whatever was written twice has one id"
    letters = {header(letter, "ce_id") for letter in stage.letters(flow_of(bus))}
    assert letters == {"k7-1"}


def test_an_event_whose_letter_cannot_be_written_ends_the_process_and_stays(stage: Stage) -> None:
    bus = stage.make(tally_bus(stage.prefix, partitions=1, window=60))
    options = {"partitions": 1, "window": 60}
    letters = dead_letters_of(flow_of(bus))
    stage.write(bus, [note(1)])
    with stage.child(BUS, options=options) as child:
        wait_for(lambda: finished(stage, bus), why=lambda: child.log)
        with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
            admin.delete_topics([letters])
        stage.write(bus, [note(2, text="raise"), note(3)])
        assert child.wait() == 70
        assert "the dead letter of offset 1 cannot be written" in child.log
    assert stage.committed(bus, flow_of(bus)) == {0: 1}
    with Control(stage.cluster) as control:
        control.apply(plan(bus, control.existing(names(bus)), stage.kafka))
    stage.forget_members(bus, flow_of(bus))
    with stage.child(BUS, options=options, name="again") as again:
        wait_for(lambda: finished(stage, bus), why=lambda: again.log)
        assert again.terminate() == 0
    assert numbers(stage, bus) == {"a": {1, 3}}
    assert [header(letter, "ce_id") for letter in stage.letters(flow_of(bus))] == ["a-2"]


def test_agents_that_join_leave_and_die_take_every_event(stage: Stage) -> None:
    bus = stage.make(tally_bus(stage.prefix, partitions=6, window=60))
    options = {"partitions": 6, "window": 60}
    with stage.child(BUS, options=options) as first:
        with load(stage, bus, 30) as rounds:
            wait_for(lambda: counts(first, "taken"), why=lambda: first.log)
            with stage.child(BUS, slot=1, name="joins", options=options) as joins:
                wait_for(lambda: counts(joins, "taken"), why=lambda: joins.log)
                assert joins.terminate() == 0, joins.log
            with stage.child(BUS, slot=1, die="emitted", after=20, name="dies", options=options) as dies:
                assert dies.wait() == -9, dies.log
            with stage.child(BUS, slot=1, name="takes over", options=options) as over:
                wait_for(lambda: counts(over, "taken"), why=lambda: over.log)
        wait_for(lambda: finished(stage, bus), why=lambda: first.log)
        assert first.terminate() == 0
    wanted = set(range(rounds[0]))
    found = numbers(stage, bus)
    assert {box: wanted - those for box, those in found.items() if those != wanted} == {}
    assert len(found) == 30
    assert len(set(ids(stage, bus))) == 30 * rounds[0], "whatever was written twice has one id"
    counted = Counter(text for _, _, text in all_marks(stage, bus))
    assert counted["1"] == 30, "no body that took over had forgotten the window"
    assert stage.letters(flow_of(bus)) == []
