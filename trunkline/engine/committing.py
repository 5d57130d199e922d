"""The transactions of a process flow: entries are written a transaction at a time, and counted when they are there."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from trunkline.engine.making import Entry, Maker
from trunkline.errors import TrunklineError, Unavailable
from trunkline.kafka.events import Membership, Slot, clock
from trunkline.kafka.transactions import Outdated, Refused, Transactions

Upto = Mapping[Slot, tuple[int, str]]
"""Of each partition the offset to commit, and what to note beside it."""


OPENING = 60.0
"""Seconds that taking a transactional id over may take."""
PATIENCE = 20.0
"""Seconds that each part of a transaction may take: to write it, to offer its offsets, to commit it, to abort it."""


class UnderWay(NamedTuple):
    """A transaction that a thread of its own brings to its end."""

    since: float
    entries: Sequence[Entry]
    upto: Upto
    written: "Future[None]"


class Open(Protocol):
    """Takes the transactional id over."""

    def __call__(self, *, one_by_one: bool) -> Transactions:
        """Give a new producer.

        Raises:
            Unavailable: the broker does not answer.
        """
        ...


class Committer:
    """Writes entries in transactions; nobody begins one before the last has ended."""

    def __init__(self, maker: Maker, open_: Open, see: Callable[..., None]) -> None:
        """Take the transactional id over.

        Raises:
            Unavailable: the broker does not answer.
        """
        self._maker = maker
        self._open = open_
        self._see = see
        self.due = 0.0
        """By when what is under way has gone on, or never will: librdkafka is given ten seconds for each thing."""
        self._transactions = open_(one_by_one=False)

    def begin(self, entries: Sequence[Entry], upto: Upto, membership: Membership) -> UnderWay:
        """Write entries, and begin to commit them and the offsets after them.

        What is `written` raises Outdated, Halt or Unavailable when nothing was.
        """
        sent: Future[None] = Future()
        written: Future[None] = Future()
        try:
            self._send(entries)
        except TrunklineError as error:
            sent.set_exception(error)

        def end() -> None:
            try:
                self._end(entries, upto, membership, sent)
                written.set_result(None)
            except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
                written.set_exception(error)

        # A thread that can be abandoned: see `Transactions.offer`.
        threading.Thread(target=end, name="transaction", daemon=True).start()
        if not sent.done():
            # Not in that thread: each acknowledgement asks for the interpreter, which nobody here needs meanwhile.
            try:
                self._flush()
                sent.set_result(None)
            except TrunklineError as error:
                sent.set_exception(error)
        return UnderWay(clock(), entries, upto, written)

    def _end(self, entries: Sequence[Entry], upto: Upto, membership: Membership, sent: "Future[None]") -> None:
        """Commit what is being sent; when the broker has refused a record, find out which, and bury its event."""
        try:
            with self._aborting():
                if sent.done():
                    sent.result()  # nothing to offer beside what was not even written
                try:
                    self._offer(upto, membership)  # while the records are on their way
                except Outdated:
                    wait([sent])  # what the client drops then has not failed
                    raise
                except TrunklineError:
                    sent.result()  # a record's fault is told first: it may be mended
                    raise
                sent.result()
                self._commit()
        except Refused:
            try:
                entries = self._sift(entries, upto, membership)
            finally:
                self._transactions = self._take_over(one_by_one=False)
        else:
            self._maker.accepted()
        outcomes = Counter([entry.outcome for entry in entries if entry.trail is None])
        replayed = Counter(["dead" if one.outcome == "dead" else "done" for one in entries if one.trail is not None])
        emitted = Counter([write.topic for entry in entries if entry.outcome == "routed" for write in entry.writes])
        self._see("read", count=sum(outcomes.values()) - outcomes["stray"])
        for outcome, count in replayed.items():
            self._see("replayed", count=count, outcome=outcome)
        for what in ("routed", "filtered", "unrouted"):
            if count := outcomes[what]:
                self._see(what, count=count)
        for topic, count in emitted.items():
            self._see("emitted", topic=topic, count=count)
        for entry in entries if outcomes["dead"] else ():
            if entry.outcome == "dead" and entry.trail is None:
                event, why, kind = entry.dead
                self._see("dead", event=event, detail=why, outcome=kind)

    def _sift(self, entries: Sequence[Entry], upto: Upto, membership: Membership) -> Sequence[Entry]:
        """Write entries one by one in a transaction, with letters in place of those that are refused."""
        sifted = [*entries]
        while True:
            # A new one each time: librdkafka stumbles over the sequence number of a record that was refused.
            self._transactions = self._take_over(one_by_one=True)
            try:
                with self._aborting():
                    self._send(sifted)
                    self._flush()
                    self._offer(upto, membership)
                    self._commit()
            except Refused as refused:
                owners = [number for number, entry in enumerate(sifted) for _ in entry.writes]
                owners += [number for number, entry in enumerate(sifted) if entry.trail is not None]
                reasons = {owners[place]: why for place, why in refused.which.items()}
                if not reasons:
                    raise Unavailable(str(refused)) from None
                for number, why in reasons.items():
                    sifted[number] = self._maker.refuse(sifted[number], why)
            else:
                return sifted

    def _take_over(self, *, one_by_one: bool) -> Transactions:
        self._goes_on(OPENING)
        return self._open(one_by_one=one_by_one)

    def _send(self, entries: Sequence[Entry]) -> None:
        """Open a transaction and write into it."""
        writes = [write for entry in entries for write in entry.writes]
        writes += [entry.trail for entry in entries if entry.trail is not None]
        self._goes_on(PATIENCE)
        self._transactions.begin()
        self._see("begun")
        self._transactions.write(writes)

    def _flush(self) -> None:
        """Wait until the broker has everything."""
        self._goes_on(PATIENCE)
        self._transactions.flush()
        self._see("produced")

    def _offer(self, upto: Upto, membership: Membership) -> None:
        """Let the transaction commit the offsets."""
        offsets = {slot: offset for slot, (offset, _) in upto.items()}
        self._goes_on(PATIENCE)
        self._transactions.offer(offsets, membership, lambda slot: upto[slot][1])

    def _commit(self) -> None:
        """Make it visible together with the offsets."""
        self._see("offered")
        self._goes_on(PATIENCE)
        self._transactions.commit()

    @contextmanager
    def _aborting(self) -> Iterator[None]:
        """Abort the transaction when it fails."""
        try:
            yield
        except TrunklineError:
            self._goes_on(PATIENCE)
            self._transactions.abort()
            raise

    def _goes_on(self, seconds: float) -> None:
        """Say that something begins that may take so long."""
        self.due = clock() + seconds
