"""Tables with a real broker: what a start reads, and when what lies on disk is no good (P4)."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import Stage, header, note, notes, read, wait_for
from trunkline import Bus, Enrich, Event, Process, Table, Topic, wait
from trunkline.avro.codec import HEAD, Codec
from trunkline.engine import tables
from trunkline.engine.store import ABOUT, Store
from trunkline.engine.tables import TableReader
from trunkline.errors import Unavailable
from trunkline.flow.declare import schemas_of
from trunkline.kafka.changes import Identity
from trunkline.kafka.events import BY_KEY
from trunkline.kafka.registry import Format, Registry
from trunkline.kafka.transactions import Transactions, Write
from trunkline.observe import Observed


def with_known(event: Event[NoteWrittenV1], known: Any) -> Event[NoteWrittenV1]:
    """Say in the note's text what is known of its box."""
    row = known.get(event.data["text"])
    return event.having({**event.data, "text": "unknown" if row is None else row["text"]})


def marks_of(event: Event[NoteWrittenV1]) -> Iterator[MarkV1]:
    yield {"box": event.data["box"], "number": event.data["number"], "text": event.data["text"]}


def bus_of(prefix: str, missing: Any = "null", partitions: int = 1, boxes: int = 1) -> Bus:
    known = Table(f"{prefix}.known", NoteWrittenV1, key="note_id", partitions=partitions, missing=missing)
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=1)
    return Bus(prefix, [Process(notes(prefix, boxes), [Enrich(with_known, known)], to={marks: marks_of})])


class Reading:
    """One life of a table's reader, and what it has said."""

    def __init__(self, stage: Stage, bus: Bus) -> None:
        self.table = bus.tables[0]
        self.registry = Registry(stage.cluster, schemas_of(bus))
        self.seen: list[Observed] = []
        form = Format(self.registry, self.table.schema)
        self.reader = TableReader(self.table, form, stage.cluster, stage.folder / "rows", self.seen.append)

    def said(self) -> list[str]:
        return [seen.detail for seen in self.seen if seen.what == "table"]


@contextmanager
def following(stage: Stage, bus: Bus) -> Iterator[Reading]:
    reading = Reading(stage, bus)
    try:
        assert reading.reader.ready.wait(30), reading.seen
        yield reading
    finally:
        reading.reader.stop()
        reading.registry.close()


def put(stage: Stage, bus: Bus, rows: Iterable[tuple[str, str | None]]) -> None:
    """Write rows of a text, or delete them."""
    table = bus.tables[0]
    registry = Registry(stage.cluster, schemas_of(bus))
    form = Format(registry, table.schema)
    values = [
        (table.name, name.encode(), None if text is None else form.encode(note(1, text=text, name=name)), (), BY_KEY)
        for name, text in rows
    ]
    registry.close()
    stage.send(values)


def texts(reading: Reading, *names: str) -> list[str | None]:
    rows = reading.reader.rows
    return [None if (row := rows.get(name)) is None else row["text"] for name in names]


def test_a_restart_reads_what_has_changed_and_nothing_else(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix, partitions=3))
    put(stage, bus, [(f"k{number}", "old") for number in range(2_000)])
    with following(stage, bus) as first:
        assert first.said() == ["2000 changed rows read, 2000 rows held"]
        assert texts(first, "k0", "k1999", "none") == ["old", "old", None]
    put(stage, bus, [("k0", "new"), ("k1", "newer"), ("k2", None), ("more", "new"), ("never", None)])
    with following(stage, bus) as second:
        assert second.said() == ["5 changed rows read, 2000 rows held"]
        assert texts(second, "k0", "k1", "k2", "k3", "more") == ["new", "newer", None, "old", "new"]
        assert (len(second.reader.rows), second.reader.lag) == (2_000, 0)
        put(stage, bus, [("k3", "newest"), ("k4", None)])
        wait_for(lambda: texts(second, "k3", "k4") == ["newest", None])
        assert len(set(second.reader.rows)) == len(second.reader.rows) == 1_999
    with following(stage, bus) as third:
        assert third.said() == ["0 changed rows read, 1999 rows held"]


def damage_one_byte(folder: Path) -> None:
    for path in folder.glob("*.log"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)


def truncate(folder: Path) -> None:
    for path in folder.glob("MANIFEST*"):
        path.write_bytes(path.read_bytes()[:10])


def delete(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def move_to_another_cluster(folder: Path) -> None:
    with closing(Store(folder)) as store:
        about = json.loads(store._get(ABOUT) or b"")
        store.apply({}, Identity("another", *about["identity"][1:]), store.position, time.time())


def grow_old(folder: Path) -> None:
    with closing(Store(folder)) as store:
        about = json.loads(store._get(ABOUT) or b"")
        store.apply({}, Identity(*about["identity"]), store.position, time.time() - 13 * 3_600)


def run_ahead(folder: Path) -> None:
    with closing(Store(folder)) as store:
        about = json.loads(store._get(ABOUT) or b"")
        store.apply({}, Identity(*about["identity"]), {0: 5_000}, time.time())


HARMS: list[Callable[[Path], None]] = [truncate, delete, move_to_another_cluster, grow_old, run_ahead]


def test_rows_on_disk_that_are_no_good_are_read_anew(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix))
    put(stage, bus, [(f"k{number}", "right") for number in range(50)])
    with following(stage, bus):
        pass
    for number, harm in enumerate(HARMS):
        harm(stage.folder / "rows" / bus.tables[0].name)
        put(stage, bus, [(f"k{number}", None)])
        with following(stage, bus) as again:
            assert again.said()[-1] == f"50 changed rows read, {49 - number} rows held", harm
            assert texts(again, f"k{number}", f"k{number + 1}", "k49") == [None, "right", "right"]


def test_rows_damaged_while_they_are_used_are_read_anew(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix))
    put(stage, bus, [(f"k{number}", "right" * 50) for number in range(5_000)])
    with following(stage, bus) as first:
        first.reader._held._store._db.flush()  # type: ignore[union-attr]  # so that the rows lie in files
    for path in (stage.folder / "rows" / bus.tables[0].name).glob("*.sst"):
        content = bytearray(path.read_bytes())
        for place in range(100, len(content) - 2_000, 50):
            content[place] ^= 0xFF
        path.write_bytes(content)
    with following(stage, bus) as again:

        def all_right() -> bool:
            try:
                return len(again.said()) == 2 and texts(again, "k17", "k4711") == ["right" * 50] * 2
            except Unavailable:
                return False

        wait_for(all_right, why=lambda: again.seen)
        assert again.said()[-1] == "5000 changed rows read, 5000 rows held"


def test_a_table_that_ends_with_markers_and_aborted_rows_is_read_to_its_end(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix))
    [table] = bus.tables
    put(stage, bus, [("a", "old"), ("b", "old")])
    registry = Registry(stage.cluster, schemas_of(bus))
    form = Format(registry, table.schema)
    registry.close()

    def write(name: str, text: str) -> None:
        transactions.write([Write(table.name, name.encode(), form.encode(note(1, text=text, name=name)), [])])

    transactions = Transactions(stage.cluster, stage.prefix)
    transactions.begin()
    write("a", "committed")
    transactions.commit()
    transactions.begin()
    write("a", "aborted")
    write("c", "aborted")
    transactions.abort()
    with following(stage, bus) as reading:
        assert reading.said() == ["2 changed rows read, 2 rows held"]
        assert texts(reading, "a", "b", "c") == ["committed", "old", None]
        assert reading.reader.lag == 0
        transactions.begin()
        write("b", "open")
    with following(stage, bus) as during:  # ready although a transaction is open: what it writes is not there yet
        assert texts(during, "a", "b") == ["committed", "old"]
        transactions.commit()
        wait_for(lambda: texts(during, "b") == ["open"])
    assert len(read(stage.bootstrap, table.name)) == 4


def flow_of(bus: Bus) -> str:
    [name] = bus.processing
    return name


def test_a_flow_waits_for_a_table_that_is_gone_and_nothing_goes_dead(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "VERIFYING", 0.2)
    bus = stage.make(bus_of(stage.prefix, missing="dead"))
    [table] = bus.tables
    put(stage, bus, [("here", "known"), ("gone", "known")])
    with stage.running(bus) as running:
        [reader] = running.worker.tables
        stage.write(bus, [note(1, text="here")])
        wait_for(lambda: running.counted(flow_of(bus))["routed"] == 1, why=lambda: running.seen)
        with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
            admin.delete_topics([table.name])
            wait_for(lambda: not reader.ready.is_set())
            stage.write(bus, [note(2, text="gone")])
            wait_for(lambda: [said for said in running.details("stuck") if "waits at offset 1" in said])
            assert running.counted(flow_of(bus))["dead"] == 0
        stage.make(bus)
        put(stage, bus, [("here", "again")])
        wait_for(lambda: running.counted(flow_of(bus))["dead"] == 1, why=lambda: running.details("stuck"))
        wait_for(lambda: reader.ready.is_set() and reader.count == 1, why=lambda: running.details("table"))
        stage.write(bus, [note(3, text="here")])
        wait_for(lambda: running.counted(flow_of(bus))["routed"] == 2, why=lambda: running.details("stuck"))
        counted = running.counted(flow_of(bus))
        assert (counted["read"], counted["dead"]) == (3, 1), "only what the new table does not have"
    codec = Codec(bus.topics[1].schema.text)
    read_back = [codec.decode(record.value[HEAD:])["text"] for record in stage.read(f"{stage.prefix}.marks")]
    assert read_back == ["known", "again"]
    [letter] = stage.letters(flow_of(bus))
    assert header(letter, "__connect.errors.exception.message") == f'{table.name} has no row "gone"'
    assert header(letter, "__connect.errors.exception.class.name") == "Absent"


def test_a_worker_says_how_its_tables_stand(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix))
    put(stage, bus, [("a", "x"), ("b", "x"), ("b", "y")])
    with stage.running(bus) as running:
        [reader] = running.worker.tables
        assert reader.ready.wait(30)
        with stage.running(bus) as second:  # the same slot
            wait_for(lambda: second.details("stuck"))
            assert "give each its own TRUNKLINE_WORKER__SLOT" in second.details("stuck")[0]
        assert (reader.count, reader.lag) == (2, 0)
        assert reader.size > 0


def marks(stage: Stage, bus: Bus) -> list[tuple[str | None, int, str]]:
    codec = Codec(bus.topics[1].schema.text)
    found = [codec.decode(record.value[HEAD:]) for record in stage.read(bus.topics[1].name)]
    return [(mark["box"], mark["number"], mark["text"]) for mark in found]


def test_a_missing_row_is_waited_for_by_its_key_only_and_nothing_comes_twice(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix, missing=wait(60)))
    flow = flow_of(bus)
    put(stage, bus, [("here", "known")])
    with stage.running(bus) as running:
        stage.write(bus, [note(1, "late", "late"), note(2, "late", "here"), note(3, "other", "here")])
        wait_for(lambda: running.counted(flow)["routed"] == 1, why=lambda: running.seen)
        stage.write(bus, [note(4, "late", "here"), note(5, "other", "here"), note(6, None, "later")])
        wait_for(lambda: running.counted(flow)["routed"] == 2, why=lambda: running.seen)
        assert stage.committed(bus, flow) == {0: 0}, "at the first that waits"
    assert marks(stage, bus) == [("other", 3, "known"), ("other", 5, "known")]
    with stage.running(bus) as running:  # which begins there, and knows what is done
        stage.write(bus, [note(7, "other", "here")])
        wait_for(lambda: running.counted(flow)["routed"] == 1, why=lambda: running.seen)
        put(stage, bus, [("later", "came")])
        wait_for(lambda: running.counted(flow)["routed"] == 2, why=lambda: running.seen)
        put(stage, bus, [("late", "came")])
        wait_for(lambda: running.counted(flow)["routed"] == 5, why=lambda: running.seen)
        wait_for(lambda: stage.committed(bus, flow) == {0: stage.ends(bus.topics[0].name)[0]})
    assert marks(stage, bus) == [
        ("other", 3, "known"),
        ("other", 5, "known"),
        ("other", 7, "known"),
        (None, 6, "came"),
        ("late", 1, "came"),
        ("late", 2, "known"),
        ("late", 4, "known"),
    ]
    assert stage.letters(flow) == []


@pytest.mark.parametrize("missing", ["null", "dead"])
def test_what_is_done_is_not_repeated_when_a_topology_waits_no_more(stage: Stage, missing: Any) -> None:
    bus = stage.make(bus_of(stage.prefix, missing=wait(60), boxes=2))
    flow = flow_of(bus)
    put(stage, bus, [("here", "known")])
    with stage.running(bus) as running:
        stage.write(bus, [note(1, "late", "late")])
        stage.write(bus, [note(number, box, "here") for number in (2, 3) for box in "abcdef"])
        wait_for(lambda: running.counted(flow)["routed"] == 12, why=lambda: running.seen)
    bus = bus_of(stage.prefix, missing=missing, boxes=2)
    with stage.running(bus) as running:
        stage.write(bus, [note(number, box, "here") for number in (4, 5) for box in "abcdef"])
        wait_for(lambda: stage.committed(bus, flow) == stage.ends(bus.topics[0].name), why=lambda: running.seen)
    found = [mark for mark in marks(stage, bus) if mark[0] != "late"]
    assert sorted(found) == [(box, number, "known") for box in "abcdef" for number in (2, 3, 4, 5)]
    assert len(stage.letters(flow)) == (missing == "dead")


def test_a_row_that_does_not_come_in_time_makes_a_letter_and_its_key_goes_on(stage: Stage) -> None:
    bus = stage.make(bus_of(stage.prefix, missing=wait(0.3)))
    put(stage, bus, [("here", "known")])
    with stage.running(bus) as running:
        stage.write(bus, [note(number, "a", "never" if number < 5 else "here") for number in range(10)])
        wait_for(lambda: running.counted(flow_of(bus))["read"] == 10, why=lambda: running.seen)
    assert [number for _, number, _ in marks(stage, bus)] == [5, 6, 7, 8, 9]
    assert len(stage.letters(flow_of(bus))) == 5
