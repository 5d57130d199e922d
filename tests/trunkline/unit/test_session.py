"""A session of a process flow: how much it writes together, and a transaction that hangs in the client."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from trunkline.engine import committing, session
from trunkline.engine.committing import PATIENCE
from trunkline.engine.making import Entry, Read
from trunkline.engine.session import BATCH_BYTES, Session
from trunkline.engine.watchdog import Heart
from trunkline.errors import Unavailable
from trunkline.event import Event
from trunkline.kafka.events import Record, Slot
from trunkline.kafka.transactions import Write

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
        assert self.hangs.wait(60)
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

    def flush(self) -> None: ...

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

    def membership(self) -> None: ...

    def close(self) -> None:
        self.revoked([SLOT])


class Taking:
    """Transactions that are committed at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.written: list[Write] = []

    def begin(self) -> None: ...

    def write(self, writes: list[Write]) -> None:
        self.sizes.append(sum(len(write.value or b"") for write in writes))
        self.written += writes

    def flush(self) -> None: ...

    def offer(self, *_: Any) -> None: ...

    def commit(self) -> None: ...


class Fan(Owner):
    """A flow that makes many records of each of a hundred, and ends when all is written."""

    def __init__(self, transactions: Taking) -> None:
        super().__init__(transactions)  # type: ignore[arg-type]
        self.records = [RECORD._replace(offset=7 + number) for number in range(100)]

    def fetch(self, most: int, _: float) -> list[Record]:
        found, self.records = self.records[:most], self.records[most:]
        if len(self.transactions.written) == 800:  # type: ignore[attr-defined]
            self.stopping.set()
        return found


class Fanning:
    """Makes eight records of half a megabyte of each record."""

    def read(self, _: Record) -> Read:
        return Read(Event("e", datetime.now(UTC), {}), None)

    async def through(self, event: Event[Any]) -> Event[Any]:
        return event

    def make(self, record: Record, *_: Any) -> Entry:
        return Entry(record, "routed", [Write("t", b"%d" % record.offset, b"v" * 512 * 1024, [])] * 8)

    def accepted(self) -> None: ...


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("waits", [False, True])
def test_what_routes_make_much_of_is_written_in_several_transactions(
    loop: asyncio.AbstractEventLoop, *, waits: bool
) -> None:
    transactions = Taking()
    held = Session(Fan(transactions), Fanning(), loop if waits else None)  # type: ignore[arg-type]
    held.run()
    held.close()
    assert [int(write.key or b"") for write in transactions.written[::8]] == [*range(7, 107)], "in order, each once"
    assert max(transactions.sizes) <= BATCH_BYTES + 8 * 512 * 1024


def test_a_full_batch_that_is_lost_leaves_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = Taking()
    owner = Fan(transactions)
    owner.records = owner.records[:8]
    held = Session(owner, Fanning(), None)  # type: ignore[arg-type]
    monkeypatch.setattr(held, "_look_after_transaction", lambda: None)  # as one that hangs for half a minute
    monkeypatch.setattr(session, "POLLED", 0.0)
    fetch = owner.fetch

    def lose(most: int, seconds: float) -> list[Record]:
        if held._full:
            owner.lost([SLOT])
            owner.stopping.set()
        return fetch(most, seconds)

    monkeypatch.setattr(owner, "fetch", lose)
    held.run()
    assert not held._full, "nothing would ever be fetched again"


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
