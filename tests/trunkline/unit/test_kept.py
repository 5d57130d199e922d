"""The rows of a table as steps get them: decoded once, never those of before a change, none while they may be wrong."""

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline.unit.schemas import CustomerV1
from trunkline import Table, wait
from trunkline.engine import tables
from trunkline.engine.store import Damaged, Store
from trunkline.engine.tables import Kept
from trunkline.errors import Permanent, Poison, Unavailable, UnknownSchema
from trunkline.flow.rows import asked
from trunkline.kafka.changes import Identity

TOPIC = Identity("cluster", "topic", 1)


class Words:
    """A format whose values are words."""

    def __init__(self) -> None:
        self.decoded: list[bytes] = []
        self.during: Any = lambda: None

    def decode(self, value: bytes) -> dict[str, Any]:
        self.decoded.append(value)
        self.during()
        if value == b"garbage":
            raise Poison("no word")
        if value == b"newer":
            raise UnknownSchema("a newer one")
        return {"word": value.decode()}


class Cupboard:
    """A store that a test fills."""

    def __init__(self, **rows: bytes) -> None:
        self.rows = {key.encode(): value for key, value in rows.items()}
        self.damaged = False
        self.asked: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        self.asked.append(key)
        if self.damaged:
            raise Damaged("a checksum is wrong")
        return self.rows.get(key)


def kept(**rows: bytes) -> tuple[Kept, Words, Cupboard]:
    words, cupboard = Words(), Cupboard(**rows)
    found = Kept("t", words)  # type: ignore[arg-type]
    found.have(cupboard)  # type: ignore[arg-type]
    return found, words, cupboard


def test_a_row_is_decoded_once_and_anew_after_it_has_changed() -> None:
    rows, words, cupboard = kept(a=b"one", b=b"two")
    assert [rows["a"], rows.get("a"), rows["b"]] == [{"word": "one"}, {"word": "one"}, {"word": "two"}]
    assert words.decoded == [b"one", b"two"]
    cupboard.rows[b"a"] = b"more"
    rows.changed(["a"])
    assert [rows["a"], rows["b"]] == [{"word": "more"}, {"word": "two"}]
    assert words.decoded == [b"one", b"two", b"more"]
    del cupboard.rows[b"a"]
    rows.changed(["a"])
    assert ("a" in rows, rows.get("a"), rows.get(None)) == (False, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["null", "dead", wait(30)])
def test_a_key_that_is_no_text_is_told_and_not_taken_for_one_without_a_row(missing: Any) -> None:
    found, _, _ = kept(**{"7": b"seven"})
    rows: Any = asked(Table("t", CustomerV1, key="customer", missing=missing), found)
    for ask in (rows.__getitem__, rows.get, rows.__contains__):
        with pytest.raises(Permanent, match=r"^t is asked for a key of type int; its keys are texts") as refused:
            ask(7)
        assert type(refused.value) is Permanent, "it waits for no row"


def test_that_a_key_has_no_row_is_known_until_one_comes() -> None:
    rows, _, cupboard = kept(a=b"one")
    assert [rows.get("b"), rows.get("b", 7), "b" in rows, rows.get("a")] == [None, 7, False, {"word": "one"}]
    assert cupboard.asked == [b"b", b"a"]
    cupboard.rows[b"b"] = b"two"
    rows.changed(["b"])
    assert rows["b"] == {"word": "two"}


def test_a_row_that_changes_while_it_is_decoded_is_not_kept() -> None:
    rows, words, cupboard = kept(a=b"old")

    def change() -> None:
        words.during = lambda: None
        cupboard.rows[b"a"] = b"new"
        rows.changed(["a"])

    words.during = change
    assert rows["a"] == {"word": "old"}, "as it was when it was asked for"
    assert rows["a"] == {"word": "new"}


def test_rows_that_were_not_asked_for_lately_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DECODED", 30)
    rows, words, _ = kept(**{f"k{number}": b"1234567890" for number in range(20)})
    for number in range(20):
        for key in ("k0", f"k{number}"):
            assert rows[key] == {"word": "1234567890"}
    assert words.decoded.count(b"1234567890") == 20, "what is asked for again and again stays"
    assert len(rows._young) + len(rows._old) < 12
    assert not any(rows.get(f"none{number}") for number in range(20))
    assert len(rows._young) + len(rows._old) < 20, "nor is what is not there remembered for ever"


def test_no_row_is_given_while_they_may_be_those_of_another_topic() -> None:
    rows, _, cupboard = kept(a=b"one")
    assert rows["a"]
    rows.lose("its topic is gone")
    for ask in (rows.get, rows.__getitem__, rows.__contains__):
        with pytest.raises(Unavailable, match=r"^the table t cannot be read: its topic is gone$"):
            ask("a")
    cupboard.rows.clear()
    rows.have(cupboard)  # type: ignore[arg-type]
    assert rows.get("a") is None


def test_what_cannot_be_read_is_told() -> None:
    rows, _, cupboard = kept(a=b"garbage", b=b"newer")
    with pytest.raises(Permanent, match=r'^the row "a" of t cannot be read: no word$'):
        rows.get("a")
    with pytest.raises(UnknownSchema):
        rows.get("b")
    cupboard.damaged = True
    with pytest.raises(Unavailable):
        rows.get("c")
    assert rows.damaged


def test_a_thread_that_reads_never_keeps_a_row_of_before() -> None:
    rows, _, cupboard = kept(a=b"0")
    stopping = threading.Event()

    def read() -> None:
        while not stopping.is_set():
            rows.get("a")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2_000):
        cupboard.rows[b"a"] = b"%d" % number
        rows.changed(["a"])
        assert rows["a"] == {"word": f"{number}"}
    stopping.set()
    for thread in threads:
        thread.join()


def test_a_store_keeps_rows_with_how_far_they_were_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert (store.position, store.count) == ({}, 0)
    store.apply({b"a": b"1", b"b": b"2", b"none": None}, TOPIC, {0: 3}, 7.0)
    store.apply({b"a": b"3", b"b": None, b"about": b"4"}, TOPIC, {0: 6}, 8.0)
    with pytest.raises(Unavailable, match="give each its own TRUNKLINE_WORKER__SLOT"):
        Store(tmp_path)
    store.close()
    again = Store(tmp_path)
    assert (again.position, again.count, again.read_at) == ({0: 6}, 2, 8.0)
    assert (again.is_of(TOPIC), again.is_of(Identity("cluster", "made again", 1))) == (True, False)
    assert [again.get(key) for key in (b"a", b"b", b"about", b"none")] == [b"3", None, b"4", None]
    assert sorted(again.keys()) == [b"a", b"about"]
    again.close()


def test_rows_are_for_nobody_else_on_the_machine(tmp_path: Path) -> None:
    Store(tmp_path / "rows").close()
    assert oct((tmp_path / "rows").stat().st_mode & 0o777) == "0o700"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="Set TRUNKLINE_STATE to a folder"):
        Store(tmp_path / "file" / "table")
