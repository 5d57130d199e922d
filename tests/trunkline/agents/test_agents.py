"""An agent on a real broker; kafka-python says what came of it."""

from collections import Counter
from functools import partial
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient

from tests.trunkline.agents.buses import tally_bus
from tests.trunkline.support import Stage, header, note, stamped, wait_for
from trunkline.avro.codec import HEAD, Codec
from trunkline.event import to_headers
from trunkline.flow.declare import Bus, group_of, replay_of
from trunkline.kafka.transactions import Transactions, Write


def flow_of(bus: Bus) -> str:
    [name] = bus.watching
    return name


def marks(stage: Stage, bus: Bus) -> list[dict[str, Any]]:
    """Give what is on the output topic, in order per partition."""
    codec = Codec(bus.topics[1].schema.text)
    return [codec.decode(record.value[HEAD:]) for record in stage.read(bus.topics[1].name)]


def finished(stage: Stage, bus: Bus) -> bool:
    """Say whether everything on the bus's first topic is committed."""
    return stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name)


def test_an_agent_counts_in_a_window_misses_what_does_not_come_and_buries_what_it_cannot_take(stage: Stage) -> None:
    bus = stage.make(tally_bus(stage.prefix))
    texts = ["", "open", "raise", "", "wrong", "cancel", "return", ""]
    stage.write(bus, [note(number, box, text) for number, text in enumerate(texts) for box in ("a", "b")])
    stage.write(bus, [note(9, "c", "open"), note(10, "c", "close")])
    with stage.running(bus) as running:
        wait_for(lambda: finished(stage, bus), why=running.worker.stopped)
        wait_for(lambda: sum(mark["text"] == "missed" for mark in marks(stage, bus)) >= 2)
    found = Counter((mark["box"], mark["number"], mark["text"]) for mark in marks(stage, bus))
    wanted = {(box, number, text) for box in "ab" for number, text in ((0, "1"), (1, "2"), (3, "3"), (7, "4"))}
    wanted |= {(box, 1, "missed") for box in "ab"} | {("c", 9, "1"), ("c", 10, "2")}
    assert found == Counter(wanted), "each once, whatever was given again"
    counted = running.counted(flow_of(bus))
    assert {what: counted[what] for what in ("read", "taken", "dead", "emitted")} == {
        "read": 18, "taken": 10, "dead": 8, "emitted": 12,
    }  # fmt: skip
    letters = stage.letters(flow_of(bus))
    assert sorted(header(letter, "ce_id") for letter in letters) == sorted(
        f"{box}-{number}" for number in (2, 4, 5, 6) for box in "ab"
    )
    said = {header(letter, "__connect.errors.exception.message") for letter in letters}
    assert "bug in tally: ValueError: raise" in said
    assert any("cancelled" in words for words in said)
    assert any("does not fit its schema" in words for words in said)
    assert any("returned" in words for words in said)
    [missed] = [record for record in stage.read(bus.topics[1].name) if b"missed" in record.value and record.key == b"a"]
    assert header(missed, "ce_time") == "2026-01-01T00:00:01Z", "it happened when its note did"
    assert header(missed, "trunkline-parent").endswith(f"{bus.name}/desk a-1")
    admin = KafkaAdminClient(bootstrap_servers=stage.bootstrap)
    group = group_of(bus, flow_of(bus))
    read = {bus.topics[0].name, replay_of(flow_of(bus))}
    assert {place.topic for place in admin.list_group_offsets({group: None})[group]} == read
    admin.close()


def test_after_a_restart_an_agent_remembers_its_window_and_says_nothing_twice(stage: Stage) -> None:
    bus = stage.make(tally_bus(stage.prefix, partitions=1, window=60))
    stage.write(bus, [note(number, "a", text) for number, text in enumerate(["", "raise", ""])])
    with stage.running(bus) as running:
        wait_for(lambda: finished(stage, bus), why=running.worker.stopped)
    assert running.counted(flow_of(bus))["dead"] == 1, running.details("dead")
    stage.write(bus, [note(3, "a"), note(3, "a", name="a-0")])
    with stage.running(bus) as running:
        wait_for(lambda: finished(stage, bus), why=running.worker.stopped)
    assert [(mark["number"], mark["text"]) for mark in marks(stage, bus)] == [(0, "1"), (2, "2"), (3, "3")]
    counted = running.counted(flow_of(bus))
    wanted = {"read": 1, "taken": 1, "emitted": 1, "repeat": 1}
    found = {what: count for what, count in counted.items() if what in {*wanted, "dead"}}
    assert found == wanted, "what is given again is not counted again"
    assert len(stage.letters(flow_of(bus))) == 1


def test_an_agent_goes_on_after_a_restart_behind_the_mark_of_a_transaction(stage: Stage) -> None:
    bus = stage.make(tally_bus(stage.prefix, partitions=1, window=60))
    topic = bus.topics[0].name
    form, transactions = stage.encoder(bus, topic), Transactions(stage.cluster, stage.prefix)
    for number in range(2):
        event = stamped(bus, note(number, "a"))
        transactions.begin()
        transactions.write([Write(topic, b"a", form.encode(event.data), [*to_headers(event)])])
        transactions.commit()
        if number == 0:
            with stage.running(bus) as running:
                wait_for(lambda: finished(stage, bus), why=running.worker.stopped)
            assert stage.committed(bus, flow_of(bus)) == {0: 2}, "behind the mark, where the next record will be"
    with stage.running(bus) as running:
        wait_for(lambda: finished(stage, bus), why=running.worker.stopped)
    assert [(mark["number"], mark["text"]) for mark in marks(stage, bus)] == [(0, "1"), (1, "2")]


def test_what_was_still_due_at_a_restart_is_missed_after_it(stage: Stage) -> None:
    for window in (4, 40):
        bus = stage.make(tally_bus(f"{stage.prefix}.{window}", partitions=1, window=window))
        stage.write(bus, [note(0, "a", "open"), note(1, "b", "open"), note(2, "b", "close")])
        with stage.running(bus) as running:
            wait_for(partial(finished, stage, bus), why=running.worker.stopped)
        if not any(mark["text"] == "missed" for mark in marks(stage, bus)):
            break
    else:
        pytest.fail("inconclusive: a slow machine ended the window while the first worker ran")
    with stage.running(bus) as running:
        wait_for(lambda: running.counted(flow_of(bus))["emitted"], why=running.worker.stopped)
    assert [mark["box"] for mark in marks(stage, bus) if mark["text"] == "missed"] == ["a"]


def test_a_body_that_cannot_reach_something_waits_and_loses_nothing(stage: Stage) -> None:
    bus = stage.make(tally_bus(stage.prefix, partitions=1, window=60))
    switch = stage.folder / "there"
    stage.write(bus, [note(1), note(2, text=f"wait:{switch}"), note(3)])
    with stage.running(bus) as running:
        wait_for(lambda: running.details("stuck"))
        assert "offset 1" in running.details("stuck")[0]
        switch.touch()
        wait_for(lambda: finished(stage, bus), why=running.worker.stopped)
    assert [(mark["number"], mark["text"]) for mark in marks(stage, bus)] == [(1, "1"), (2, "2"), (3, "3")]
    assert stage.letters(flow_of(bus)) == []


def test_twenty_failures_alike_halt_an_agent_and_keep_its_offsets(stage: Stage) -> None:
    bus = stage.make(tally_bus(stage.prefix, partitions=1, window=60))
    stage.write(bus, [note(number, f"k{number % 7}", "raise") for number in range(25)])
    with stage.running(bus) as running:
        wait_for(running.worker.stopped)
        assert "20 events in a row were refused alike" in running.worker.stopped()[flow_of(bus)]
    assert len(stage.letters(flow_of(bus))) == 20
    assert stage.committed(bus, flow_of(bus)) == {0: 20}
