"""The ledger's file: its layout over time, and what befalls it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trunkline.errors import UsageError
from trunkline.ledger import deliveries, runs, sqlite
from trunkline.ledger.database import Connection, Failure
from trunkline.ledger.deliveries import Outcome, Place, Row, State
from trunkline.ledger.sqlite import File


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    with File(tmp_path / "ledger.db").connect() as db:
        yield db


def done(number: int) -> Outcome:
    place = Place(20_000, number.to_bytes(16, "big"))
    return Outcome(place, 1, State.DONE, b"k" * 16, 0, number, b"p" * 16, 1, datetime(2026, 3, 1, tzinfo=UTC))


def record(db: Connection, *outcomes: Outcome) -> set[bytes]:
    with db.transaction():
        return deliveries.record(db, outcomes).freed


FIRST_LAYOUT = """
CREATE TABLE sinks (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE deliveries (day INTEGER NOT NULL, id BLOB NOT NULL, sink INTEGER NOT NULL, state INTEGER NOT NULL,
    key BLOB, partition INTEGER NOT NULL, offset INTEGER NOT NULL, payload BLOB NOT NULL, attempts INTEGER NOT NULL,
    at INTEGER NOT NULL, PRIMARY KEY (day, id)) WITHOUT ROWID;
CREATE TABLE runs (id TEXT PRIMARY KEY, sink TEXT NOT NULL, planned INTEGER NOT NULL, started TEXT NOT NULL,
    finished TEXT) WITHOUT ROWID;
INSERT INTO deliveries VALUES (5, x'01', 1, 1, NULL, 0, 9, x'02', 1, 1000);
INSERT INTO sinks VALUES (1, 'store');
INSERT INTO runs VALUES ('r', 'store', 1, 'then', NULL);
"""


def test_the_log_gives_back_what_it_took_while_a_reader_had_a_transaction_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows by some gigabytes an hour meanwhile, and would keep them for as long as a worker runs."""
    monkeypatch.setattr(sqlite, "LOGGED", 20)
    monkeypatch.setattr(sqlite, "LARGEST_LOG", 200_000)
    log = tmp_path / "ledger.db-wal"
    with File(tmp_path / "ledger.db").connect() as db, closing(sqlite3.connect(tmp_path / "ledger.db")) as reader:
        record(db, done(0))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM deliveries").fetchall()
        for number in range(1, 100):
            record(db, done(number))
        assert log.stat().st_size > 500_000
        reader.rollback()
        for number in range(100, 110):
            record(db, done(number))
        assert log.stat().st_size <= 200_000


def test_a_new_ledger_is_not_for_everybody_on_the_machine(tmp_path: Path) -> None:
    with File(tmp_path / "made" / "ledger.db").connect() as db:
        record(db, done(1))
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in (tmp_path / "made").iterdir()}
    assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), "0o640")


def test_a_ledger_of_the_first_layout_is_brought_up_to_date(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as raw:
        raw.executescript(FIRST_LAYOUT)
    for _ in range(2):
        with File(tmp_path / "old.db").connect() as db:
            assert deliveries.look_up(db, [Place(5, b"\1")]) == {Place(5, b"\1"): Row(State.DONE, b"\2", 1)}
            assert db.run("SELECT day, written FROM days") == [(5, 1000)]
            assert deliveries.count(db, "store") == {State.DONE: 1}
            assert (runs.live(db, "store"), runs.overwriting(db, "store")) == ({"r"}, set())


def test_a_ledger_of_a_newer_trunkline_is_refused(tmp_path: Path) -> None:
    with File(tmp_path / "new.db").connect() as db:
        db.run("UPDATE schema_version SET version = 99")
    with pytest.raises(UsageError, match=r"made by a newer Trunkline.*99.*Upgrade"):
        File(tmp_path / "new.db").connect()


def test_what_is_no_ledger_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at " * 99)
    with pytest.raises(Failure, match=r"file is not a database\. Move it away and run `trunkline ledger rebuild`"):
        File(tmp_path / "text").connect()
    with pytest.raises(Failure, match="cannot be opened"):
        File(tmp_path / "text" / "ledger.db").connect()


def test_looking_for_a_ledger_makes_none(tmp_path: Path) -> None:
    file = File(tmp_path / "ledger.db")
    assert not file.exists()
    file.connect().close()
    assert file.exists()


def test_a_file_that_was_removed_or_replaced_is_noticed_and_not_made_again(tmp_path: Path) -> None:
    file = File(tmp_path / "ledger.db")
    with file.connect() as db:
        record(db, done(1))
        file.path.unlink()
        with pytest.raises(Failure, match="has gone"):
            record(db, done(2))
        with pytest.raises(Failure, match="has gone"):
            deliveries.look_up(db, [done(1).place])
        with pytest.raises(Failure, match="has gone"):
            file.connect()
        assert not file.path.exists()
        File(file.path).connect().close()
        with pytest.raises(Failure, match="replaced"):
            deliveries.look_up(db, [done(1).place])
        with pytest.raises(Failure, match="replaced"):
            file.connect()


def test_a_file_that_goes_during_a_commit_is_noticed(db: Connection, tmp_path: Path) -> None:
    def write_and_remove() -> None:
        with db.transaction():
            db.run("INSERT INTO sinks (name) VALUES ('x')")
            (tmp_path / "ledger.db").unlink()

    with pytest.raises(Failure, match="has gone"):
        write_and_remove()


def test_a_full_disk_is_a_failure_and_takes_nothing_with_it(db: Connection) -> None:
    record(db, done(1))
    [(pages,)] = db.run("PRAGMA page_count")
    db.run(f"PRAGMA max_page_count = {pages}")
    many = [done(number) for number in range(2, 2_002)]
    with pytest.raises(Failure, match="full"):
        record(db, *many)
    assert deliveries.look_up(db, [done(1).place, done(2).place]).keys() == {done(1).place}
    db.run("PRAGMA max_page_count = 100000")
    record(db, *many)
    assert len(deliveries.look_up(db, [one.place for one in many])) == 2_000


def test_how_much_its_disk_has_left_is_known_where_there_is_a_folder(tmp_path: Path) -> None:
    assert File(tmp_path / "ledger.db").free() == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert File(tmp_path / "none" / "ledger.db").free() is None
