"""A transaction offers its offsets while its records are on their way, and tells what is at fault when it fails."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from trunkline.engine.committing import Committer
from trunkline.engine.making import Entry
from trunkline.errors import Halt, TrunklineError, Unavailable
from trunkline.kafka.events import Membership, Record, Slot
from trunkline.kafka.transactions import Outdated, Refused, Write

SLOT = Slot("topic", 0)
ENTRY = Entry(Record(SLOT, 7, None, b"", (), 0), "routed", [Write("t", None, b"v", [])])


class Scripted:
    """Transactions of which each part ends as it is told, once."""

    def __init__(self, **ends: TrunklineError) -> None:
        self.ends = ends
        self.asked: list[str] = []
        self.offered = threading.Event()

    def _end(self, part: str) -> None:
        self.asked.append(part)
        if part in self.ends:
            raise self.ends.pop(part)

    def begin(self) -> None:
        self._end("begin")

    def write(self, _: Any) -> None:
        self._end("write")

    def flush(self) -> None:
        assert self.offered.wait(60), "the offsets waited for the records"
        self._end("flush")

    def offer(self, *_: Any) -> None:
        self.offered.set()
        self._end("offer")

    def commit(self) -> None:
        self._end("commit")

    def abort(self) -> None:
        self._end("abort")


def ended(transactions: Scripted, opened: list[bool] | None = None) -> BaseException | None:
    """Bring a transaction to its end; give what it failed by."""

    def open_(*, one_by_one: bool) -> Any:
        if opened is not None:
            opened.append(one_by_one)
        return transactions

    maker = SimpleNamespace(accepted=lambda: None)
    committer = Committer(maker, open_, lambda *_, **__: None)  # type: ignore[arg-type]
    return committer.begin([ENTRY], {SLOT: (8, "")}, Membership(None, {}, {})).written.exception(60)


def test_offsets_are_offered_while_records_are_on_their_way() -> None:
    transactions = Scripted()
    assert ended(transactions) is None
    assert transactions.asked[:2] == ["begin", "write"]
    assert sorted(transactions.asked[2:4]) == ["flush", "offer"]
    assert transactions.asked[4:] == ["commit"]


def test_records_that_fail_are_not_committed() -> None:
    transactions = Scripted(flush=Unavailable("no answer"))
    assert str(ended(transactions)) == "no answer"
    assert "commit" not in transactions.asked
    assert transactions.asked[-1] == "abort"


def test_nothing_is_offered_for_records_that_could_not_be_written() -> None:
    transactions = Scripted(write=Unavailable("no answer"))
    assert str(ended(transactions)) == "no answer"
    assert transactions.asked == ["begin", "write", "abort"]


def test_a_group_that_has_changed_is_told_whatever_the_client_drops_then() -> None:
    """A transaction that is only outdated is tried again at once; another failure ends the session."""
    transactions = Scripted(offer=Outdated("the group has changed"), flush=Unavailable("purged in queue"))
    assert isinstance(ended(transactions), Outdated)
    assert transactions.asked[-1] == "abort"


@pytest.mark.parametrize("other", [Unavailable("the transaction has failed"), Outdated("the group has changed")])
def test_a_record_that_is_refused_is_found_sooner_or_later(other: TrunklineError) -> None:
    transactions, opened = Scripted(flush=Refused("too large", {}), offer=other), list[bool]()
    found = ended(transactions, opened)
    if isinstance(other, Outdated):
        assert isinstance(found, Outdated), "and meets it when it is tried again"
    else:
        assert found is None
        assert opened == [False, True, False], "it was written one by one"


def test_whoever_has_lost_its_id_halts() -> None:
    assert isinstance(ended(Scripted(offer=Halt("taken"))), Halt)
    assert isinstance(ended(Scripted(flush=Halt("taken"), offer=Unavailable("no answer"))), Halt)
