"""Tables under faults: workers that are killed while keys wait for rows, and a topic that has really been compacted."""

import multiprocessing
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from tests.trunkline.integration.test_tables import bus_of, flow_of, following, put, texts
from tests.trunkline.support import Stage, ask, counts, note, read, say, wait_for
from trunkline import Bus, wait
from trunkline.avro.codec import HEAD, Codec
from trunkline.engine.tables import TableReader
from trunkline.flow.declare import schemas_of
from trunkline.kafka.changes import Change, Changes
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.registry import Format, Registry

pytestmark = pytest.mark.faults(group="process")

BOXES = 40


def patient_bus(prefix: str) -> Bus:
    """Wait for rows for longer than any test takes."""
    return bus_of(prefix, missing=wait(600), boxes=6)


def waits(box: int) -> bool:
    """Say whether a box needs a row that comes late."""
    return box % 3 == 0


def write(stage: Stage, bus: Bus, rounds: Iterable[int]) -> None:
    for number in rounds:
        stage.write(bus, [note(number, f"k{box}", f"late-{box}" if waits(box) else "here") for box in range(BOXES)])


def written(stage: Stage, bus: Bus) -> dict[str, list[int]]:
    """Give the numbers of each box in the order in which they were written."""
    codec = Codec(bus.topics[1].schema.text)
    found: dict[str, list[int]] = {}
    for record in stage.read(bus.topics[1].name):
        found.setdefault(record.key.decode(), []).append(codec.decode(record.value[HEAD:])["number"])
    return found


@pytest.mark.parametrize("moment", ["produced", "offered"])
def test_workers_that_die_while_keys_wait_write_every_event_once_and_in_order(stage: Stage, moment: str) -> None:
    bus = stage.make(patient_bus(stage.prefix))
    make = "tests.trunkline.faults.test_tables:patient_bus"
    put(stage, bus, [("here", "known")])
    write(stage, bus, range(3))
    ready = sum(not waits(box) for box in range(BOXES))
    with stage.child(make, name="dies") as first:
        wait_for(lambda: counts(first, "routed"), why=lambda: first.log)
        wait_for(lambda: len(written(stage, bus)) == ready, why=lambda: first.log)
        with stage.child(make, slot=1, name="joins") as second:
            wait_for(lambda: ask(f"{second.url}/readyz").is_success, why=lambda: second.log)
            write(stage, bus, range(3, 5))
            wait_for(lambda: counts(second, "routed"), why=lambda: second.log)
            second.kill()
    stage.forget_members(bus, flow_of(bus))
    write(stage, bus, range(5, 7))
    with stage.child(make, name="dies again", die=moment) as third:
        assert third.wait() == -9, third.log
    stage.forget_members(bus, flow_of(bus))
    write(stage, bus, range(7, 8))
    with stage.child(make, name="last") as last:
        all_of = list(range(8))
        wait_for(
            lambda: sum(numbers == all_of for numbers in written(stage, bus).values()) == ready,
            why=lambda: (written(stage, bus), last.log),
            seconds=60,
        )
        assert len(written(stage, bus)) == ready
        put(stage, bus, [(f"late-{box}", "came") for box in range(BOXES)])
        wait_for(lambda: stage.committed(bus, flow_of(bus)) == stage.ends(bus.topics[0].name), why=lambda: last.log)
        wait_for(lambda: len(written(stage, bus)) == BOXES)
        assert last.terminate() == 0
    assert {box: numbers for box, numbers in written(stage, bus).items() if numbers != all_of} == {}
    assert stage.letters(flow_of(bus)) == []


def test_a_compacted_topic_is_read_over_its_gaps(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix))
    [table] = bus.tables
    soon = {
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "100",
        "delete.retention.ms": "100",
    }
    with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, table.name, soon)])
    for turn in range(20):
        put(stage, bus, [(f"k{number}", f"turn {turn}") for number in range(50)])
    put(stage, bus, [(f"k{number}", None) for number in range(0, 50, 2)])

    def offsets() -> list[int]:
        put(stage, bus, [("tick", "tock")])  # only closed segments are compacted, and a new record closes one
        return [record.offset for record in read(stage.bootstrap, table.name) if record.key != b"tick"]

    wait_for(lambda: len(offsets()) == 25, seconds=100, why=offsets)
    left = offsets()
    say(f"of {20 * 50 + 25} records {len(left)} are left, at {left[0]} to {left[-1]}")
    assert left[-1] - left[0] > 25
    with following(stage, bus) as reading:
        assert len(reading.reader.rows) == 26
        assert texts(reading, "k0", "k1", "k48", "k49") == [None, "turn 19", None, "turn 19"]
        assert reading.reader.lag == 0


ROWS = 100_000


def read_slowly(bootstrap: str, prefix: str, folder: Path) -> None:
    """Read a table for the first time until somebody ends the process."""
    real = Changes.fetch

    def fetch(changes: Changes, seconds: float) -> list[Change]:
        time.sleep(0.1)
        return real(changes, seconds)

    Changes.fetch = fetch  # type: ignore[method-assign, assignment]  # in a process of its own
    bus = bus_of(prefix)
    registry = Registry(Cluster(bootstrap), schemas_of(bus))
    TableReader(bus.tables[0], Format(registry, bus.tables[0].schema), Cluster(bootstrap), folder, lambda _: None)
    threading.Event().wait()


def test_a_first_read_that_is_killed_goes_on_where_it_was(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix))
    put(stage, bus, [(f"k{number}", "right") for number in range(ROWS)])
    put(stage, bus, [("k0", None), ("k1", "changed")])
    folder = stage.folder / "rows"
    reading = multiprocessing.get_context("spawn").Process(
        target=read_slowly, args=(stage.bootstrap, stage.prefix, folder)
    )
    reading.start()
    wait_for(lambda: sum(path.stat().st_size for path in folder.glob("*/*.log")) > 500_000)
    reading.kill()
    reading.join()
    with following(stage, bus) as again:
        [told] = again.said()
        say(told)
        count = int(told.split()[0])
        assert 0 < count < ROWS, "inconclusive: nothing had been read, or everything"
        assert (len(again.reader.rows), texts(again, "k0", "k1", f"k{ROWS - 1}")) == (
            ROWS - 1,
            [None, "changed", "right"],
        )
        assert sum(row["text"] == "right" for row in again.reader.rows.values()) == ROWS - 2
    put(stage, bus, [("k2", "changed"), ("k3", None)])
    with following(stage, bus) as restarted:
        assert restarted.said() == [f"2 changed rows read, {ROWS - 2} rows held"], "whatever the table has"
        assert texts(restarted, "k2", "k3", "k4") == ["changed", None, "right"]
