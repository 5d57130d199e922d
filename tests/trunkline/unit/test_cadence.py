"""When transactions begin: not before the marks of the last one are written, unless a batch is full."""

import threading
from typing import Any

import pytest

from trunkline.engine import session
from trunkline.engine.cadence import FIRST, OUTDATED, REST, Cadence
from trunkline.engine.making import Entry
from trunkline.engine.watchdog import Heart
from trunkline.kafka.events import Record, Slot


def test_the_first_transaction_begins_at_once() -> None:
    cadence = Cadence()
    assert cadence.is_due(0.0, full=False, more=False)
    assert not cadence.is_due(0.0, full=False, more=True)


def test_the_next_begins_when_the_marks_of_the_last_are_written() -> None:
    cadence = Cadence()
    cadence.ended(10.0)
    assert cadence.wait(10.0) == pytest.approx(REST)
    assert not cadence.is_due(10.0 + REST / 2, full=False, more=False)
    assert cadence.is_due(10.0 + REST, full=False, more=False)
    assert cadence.wait(10.0 + REST) == 0.0
    assert not cadence.is_due(10.0 + REST, full=False, more=True)


def test_a_full_batch_does_not_wait() -> None:
    cadence = Cadence()
    cadence.ended(10.0)
    assert cadence.is_due(10.0, full=True, more=True)


def test_after_a_change_of_the_group_it_is_tried_ever_later_and_at_last_given_up() -> None:
    cadence = Cadence()
    for time in range(OUTDATED):
        now = 100.0 * time
        assert cadence.outdated(now)
        assert not cadence.is_due(now + FIRST * 2**time * 0.9, full=True, more=False)
        assert cadence.wait(now) == pytest.approx(FIRST * 2**time)
        assert cadence.is_due(now + FIRST * 2**time, full=False, more=False)
    assert not cadence.outdated(5_000.0)
    cadence.ended(6_000.0)
    assert cadence.outdated(7_000.0)


class Stopping(threading.Event):
    """Lets time pass on a flow's clock, instead of waiting."""

    def __init__(self, flow: "Flow") -> None:
        super().__init__()
        self.flow = flow

    def wait(self, timeout: float | None = None) -> bool:
        self.flow.now += timeout or 0.0
        return self.is_set()


class Flow:
    """A flow that gets a record in 0.4 ms of its clock, from a topic with this many; and what it calls."""

    patient, changes = False, 0

    def __init__(self, records: int) -> None:
        self.heart, self.stopping = Heart("flow"), Stopping(self)
        self.left, self.now = records, 0.0
        self.began: list[float] = []
        self.committed: list[float] = []
        self.slots: set[Slot] = set()
        self.met: dict[Slot, int] = {}

    # The owner.

    def open(self, *, one_by_one: bool) -> Any:
        assert not one_by_one
        return self

    def join(self, *_: Any) -> Any:
        return self

    def divide(self, slots: int) -> None:
        pass

    def see(self, what: str, **_: Any) -> None:
        pass

    # The member.

    def fetch(self, _most: int, _seconds: float) -> list[Record]:
        self.now += 0.0004
        self.left -= 1
        if self.left < 0:
            self.stopping.set()
            return []
        return [Record(Slot("topic", 0), 1_000 - self.left, None, b"", (), 0)]

    def pause(self, _wanted: Any) -> None:
        pass

    def membership(self) -> Any:
        return None

    # The maker.

    def make(self, record: Record, *_: Any) -> Entry:
        return Entry(record, "filtered")

    def accepted(self) -> None:
        pass

    # The transactions.

    def begin(self) -> None:
        self.began.append(self.now)

    def write(self, _writes: Any) -> None:
        pass

    def flush(self) -> None:
        pass

    def offer(self, *_: Any) -> None:
        pass

    def commit(self) -> None:
        self.committed.append(self.now)


def test_a_session_lets_the_marks_of_a_transaction_be_written_before_it_begins_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow: Any = Flow(120)
    monkeypatch.setattr(session, "clock", lambda: flow.now)
    session.Session(flow, flow, None).run()
    assert len(flow.began) == len(flow.committed) > 2
    # The last one is that of the end, which waits for nothing.
    rests = [begun - ended for ended, begun in zip(flow.committed, flow.began[1:-1], strict=False)]
    assert min(rests) >= REST
    assert max(rests) < REST + 0.0014  # no longer than records are looked for
