"""A session of a process flow whose transaction hangs in the client: it is left behind once, and waited for no more."""

import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from trunkline.engine import committing, session
from trunkline.engine.committing import PATIENCE
from trunkline.engine.making import Entry
from trunkline.engine.session import Session
from trunkline.engine.watchdog import Heart
from trunkline.errors import Unavailable
from trunkline.kafka.events import Record, Slot

SLOT = Slot("t.orders", 0)
RECORD = Record(SLOT, 7, b"k", b"v", (), 0)


class Clock:
    """Time passes when somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.hangs = threading.Event()
        for module in (session, committing):
            monkeypatch.setattr(module, "clock", lambda: self.now)
        monkeypatch.setattr(session, "settled", self.settled)

    def settled(self, future: Any, seconds: float) -> bool:
        assert self.hangs.wait(10)
        if not future.done():
            self.now += seconds + 0.001
        return bool(future.done())


class Hanging:
    """Transactions whose `offer` never returns (librdkafka's issue 5456), until the test is over."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.over = clock, threading.Event()
        self.asked: list[str] = []

    def begin(self) -> None:
        self.asked.append("begin")

    def write(self, *_: Any) -> None:
        self.asked.append("write")

    def offer(self, *_: Any) -> None:
        self.asked.append("offer")
        self.clock.hangs.set()
        self.over.wait(30)

    def commit(self) -> None:
        self.asked.append("commit")


class Owner:
    """A flow that has one record, and loses its partition while that is committed."""

    patient, changes = False, 0

    def __init__(self, transactions: Hanging) -> None:
        self.heart, self.stopping, self.transactions = Heart("t"), threading.Event(), transactions
        self.slots, self.met, self.records = {SLOT}, {SLOT: 7}, [RECORD]

    def open(self, *, one_by_one: bool) -> Any:
        assert not one_by_one
        return self.transactions

    def join(
        self, revoked: Callable[[list[Slot]], Mapping[Slot, int]], lost: Callable[[list[Slot]], None], begin: Any
    ) -> Any:
        self.revoked, self.lost, self.begin = revoked, lost, begin
        return self

    def divide(self, slots: int) -> None: ...

    def see(self, what: Any, **more: Any) -> None: ...

    # Its member.

    def fetch(self, *_: Any) -> list[Record]:
        found, self.records = self.records, []
        if not found and self.transactions.asked[-1:] == ["offer"]:
            self.lost([SLOT])
        return found

    def pause(self, wanted: Any) -> None: ...

    def metadata(self) -> None: ...

    def close(self) -> None:
        self.revoked([SLOT])


def test_a_transaction_that_hangs_is_left_behind_after_twenty_seconds_however_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    transactions = Hanging(clock)
    maker = SimpleNamespace(make=lambda record, *_: Entry(record, "filtered"), accepted=lambda: None)
    owner = Owner(transactions)
    held = Session(owner, maker, None)  # type: ignore[arg-type]
    began = clock.now
    with pytest.raises(Unavailable, match="no answer"):
        held.run()
    held.close()
    assert transactions.asked == ["begin", "write", "offer"]
    assert PATIENCE <= clock.now - began < PATIENCE + 1, "twice in callbacks of the consumer, and once at all"
    transactions.over.set()
