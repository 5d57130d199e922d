"""One session of a process flow: from joining its group to the first failure. It fetches, gathers and commits."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Protocol

from trunkline.engine.cadence import Cadence
from trunkline.engine.committing import OPENING, Committer, UnderWay, Upto
from trunkline.engine.held import Held
from trunkline.engine.making import Entry, Maker, Read, Through
from trunkline.engine.passing import AGAIN, Passage, Passing
from trunkline.engine.watchdog import Heart
from trunkline.engine.watermark import Position
from trunkline.errors import Absent, Retryable, Unavailable
from trunkline.kafka.events import Member, Record, Slot, clock
from trunkline.kafka.transactions import Outdated, Transactions
from trunkline.observe import What

BATCH = 2_000
CHUNK = 500
"""Records that are fetched at once."""
BATCH_BYTES = 16 * 1024 * 1024
"""Bytes to write at which a batch is full."""
WRITE = 512
"""Bytes that a record to be written takes besides its value, roughly."""
IDLE = 0.1
"""Seconds to wait for a record when there is nothing else to do."""
SHORT = 0.002
"""Seconds after which more records are looked for while some are gathered and a transaction is under way."""
RELEASE = 0.05
"""Seconds between two times that what waits for a row is tried again."""
POLLED = 30.0
"""Seconds without fetching after which the group is told that we are still here."""
COMMITTING = 60.0
"""Seconds that a transaction's end, or leaving the group, may take."""


class Owner(Protocol):
    """The flow that a session is one of."""

    heart: Heart
    stopping: threading.Event
    patient: bool
    """Whether an event may wait for a row of a table."""

    @property
    def changes(self) -> int:
        """Counts up whenever a row that is waited for may have come."""
        ...

    def open(self, *, one_by_one: bool) -> Transactions:
        """Take the transactional id over.

        Raises:
            Unavailable: the broker does not answer.
        """
        ...

    def join(
        self,
        revoked: Callable[[list[Slot]], Mapping[Slot, int]],
        lost: Callable[[list[Slot]], None],
        begin: Callable[[Slot, int, str], int],
    ) -> Member:
        """Join the group."""
        ...

    def divide(self, slots: int) -> None:
        """Have the share of the limits of targets that belongs to so many partitions (D13)."""
        ...

    def see(self, what: What, **more: Any) -> None:
        """Tell what happened in the flow."""
        ...


class Session:
    """From joining the group to the first failure, or to the end of the worker.

    One thread fetches, makes entries, gathers and writes them; another brings one transaction at a time to its end.
    """

    def __init__(self, owner: Owner, maker: Maker, loop: asyncio.AbstractEventLoop | None) -> None:
        """Take the transactional id over, and join the group; `loop` is where steps run that wait, if there are any.

        Raises:
            Unavailable: the broker does not answer.
        """
        self._owner = owner
        self._heart = owner.heart
        self._stopping = owner.stopping
        self._maker = maker
        self._passage = None if loop is None else Passage(maker, loop, self._tell_stuck)
        self._slots = 0
        """How many partitions are ours."""
        self._pending: list[Record] = []
        """Fetched, and no entries yet."""
        self._fetched = 0.0
        self._more = False
        """Whether more records were waiting at the last look."""
        self._again = 0.0
        self._polled = clock()
        self._passing: Passing | None = None
        self._gathered: list[Entry] = []
        self._bytes = 0
        self._under_way: UnderWay | None = None
        self._cadence = Cadence()
        self._failure: Exception | None = None
        self._finished: dict[Slot, int] = {}
        self._held: dict[Slot, Record] = {}
        """The first record of each partition that is fetched and not committed."""
        self._back = Held() if owner.patient else None
        """The records whose keys wait for a row, where that may be or has been."""
        self._changes, self._released = 0, 0.0
        with self._heart.within(OPENING):
            self._committer = Committer(maker, owner.open, owner.see)
        self._member = owner.join(self._revoked, self._lost, self._begin)

    def positions(self) -> dict[Slot, Position]:
        """Say how far each partition is finished; may be asked from any thread."""
        met, finished, held = self._member.met.copy(), self._finished.copy(), self._held.copy()
        return {
            slot: Position(held[slot].offset, held[slot].timestamp)
            if slot in held
            else Position(max(at, finished.get(slot, at)), None)
            for slot, at in met.items()
        }

    def run(self) -> None:
        """Work until the worker stops; then what is gathered is committed.

        Raises:
            Halt, Unavailable, UnknownSchema: a session cannot go on; a new one begins at the committed offsets.
        """
        while not self._stopping.is_set():
            self._heart.beat()
            self._look_after_transaction()
            self._release()
            if self._full or (self._crowded and not self._pending):
                self._let_pass(IDLE)
            elif not self._pending:
                self._fetch()
            elif self._again > clock():
                self._let_pass(self._again - clock())
            else:
                self._make()
        self._finish()

    def close(self) -> None:
        """Leave the group, with what is not committed."""
        self._gathered = []
        self._forget([*self._held])
        with self._heart.within(COMMITTING):
            self._member.close()

    # What comes in.

    @property
    def _full(self) -> bool:
        """Whether no more is to be gathered for the next transaction."""
        return len(self._gathered) >= BATCH or self._bytes >= BATCH_BYTES

    @property
    def _crowded(self) -> bool:
        """Whether no more is to be fetched, as so much waits for rows."""
        return self._back is not None and self._back.full

    def _fetch(self) -> None:
        """Get some records, and wait for them the less the more else there is to do."""
        most = min(CHUNK, BATCH - len(self._gathered))
        if self._gathered and not self._more:  # these wait for the end of the transaction under way, not for more
            self._let_pass(SHORT if self._under_way is not None else min(SHORT, self._cadence.wait(clock())))
        seconds = 0.0 if self._gathered or self._more else IDLE
        self._member.pause(())
        self._more = self._take(most, seconds) == most

    def _take(self, most: int, seconds: float) -> int:
        records = self._member.fetch(most, seconds)
        self._own(len(self._member.slots))
        self._fetched = self._polled = clock()
        if self._failure is not None:  # of what a change of partitions has brought to its end
            raise self._failure
        new = records if self._back is None else [record for record in records if not self._back.is_done(record)]
        for record in new:
            self._held.setdefault(record.slot, record)
        self._pending += new
        return len(records)

    def _begin(self, slot: Slot, offset: int, note: str) -> int:
        """Take a partition over: of what comes after its committed offset some may be done."""
        if self._back is None and note:  # events waited there for rows that this topology does not wait for
            self._back = Held()
            for entry in (*(() if self._under_way is None else self._under_way.entries), *self._gathered):
                self._back.done(entry.record)
        return offset if self._back is None else self._back.begin(slot, offset, note)

    def _release(self) -> None:
        """Try again what waits for a row, when one may have come or the wait is over; it stands before all others."""
        if not self._back or self._passing is not None:
            return
        now, changes = clock(), self._owner.changes
        if now < self._released + RELEASE:
            return
        if changes != self._changes or self._back.is_due(now):
            self._changes, self._released = changes, now
            self._pending = [*self._back.release(), *self._pending]

    def _let_pass(self, seconds: float) -> None:
        """Let some time pass; what waits for long does so as a member of the group."""
        if self._under_way is not None:
            settled(self._under_way.written, min(seconds, IDLE))
        else:
            self._stopping.wait(min(seconds, IDLE))
        if clock() - self._polled > POLLED:
            self._member.pause(self._member.slots)
            self._take(CHUNK, 0)

    def _revoked(self, slots: Sequence[Slot]) -> Mapping[Slot, int]:
        """Commit what is gathered: these partitions are ours until we return."""
        self._forget(slots)
        self._settle(self._finish)
        self._drop(slots)
        self._own(len(self._member.slots.difference(slots)))
        return {}

    def _lost(self, slots: Sequence[Slot]) -> None:
        """Drop what is gathered: these partitions are another's already, who begins at the committed offsets."""
        self._forget(slots)
        self._settle(self._await_transaction)
        self._drop(slots)
        self._own(len(self._member.slots.difference(slots)))

    def _own(self, slots: int) -> None:
        """Have the share of so many partitions."""
        if slots != self._slots:
            self._slots = slots
            self._owner.divide(slots)

    def _forget(self, slots: Sequence[Slot]) -> None:
        """Make no entries of what was fetched from these partitions."""
        self._pending = [record for record in self._pending if record.slot not in slots]
        if self._passing is not None:
            self._passing.given.cancel()
            self._passing = None

    def _settle(self, end: Callable[[], None]) -> None:
        """Do this inside a callback of the consumer; what it raises is raised where records are fetched."""
        with self._heart.within(COMMITTING):
            try:
                end()
            except Exception as error:  # noqa: BLE001 - raised by `_take`
                self._failure = error

    def _drop(self, slots: Sequence[Slot]) -> None:
        """Let what is gathered of these partitions come again, wherever they will be."""
        self._have([entry for entry in self._gathered if entry.record.slot not in slots])
        if self._back is not None:
            self._back.drop(slots)
        self._held = self._first()

    # What becomes of it.

    def _make(self) -> None:
        """Make entries of what is pending, as far as that goes now."""
        records: Sequence[Record] = self._pending
        reads: Sequence[Read | Exception | None] = [None] * len(records)
        given: Sequence[Through | None] = [None] * len(records)
        passing: Passing | None = None
        if self._passage is not None:
            self._passing = self._passing or self._passage.begin([*self._pending], self._heart.beat)
            if not settled(self._passing.given, SHORT if self._under_way is not None else IDLE):
                return
            passing, self._passing = self._passing, None
            records, reads, given = passing.records, passing.reads, passing.given.result()
        made = 0
        for record, read, through in zip(records, reads, given, strict=True):
            self._heart.beat()
            if self._back is not None and self._back.holds(record.key):
                self._back.hold(record, clock())
                made += 1
                continue
            try:
                entry = self._maker.make(record, self._fetched, read, through, self._is_patient)
            except Absent:
                assert self._back is not None
                self._back.hold(record, clock())
                made += 1
                continue
            except (Retryable, OSError, TimeoutError, Unavailable) as error:
                self._tell_stuck(record, error)
                self._again = clock() + AGAIN
                break
            made += 1
            self._gathered.append(entry)
            self._bytes += weight(entry)
            if self._back is not None:
                self._back.done(record)
            if self._stopping.is_set():
                break
            if self._bytes >= BATCH_BYTES:
                self._passing = None if passing is None else passing.after(made)
                break
        self._pending = self._pending[made:]

    def _is_patient(self, record: Record, seconds: float) -> bool:
        return self._back is not None and self._back.patient(record, clock(), seconds)

    def _tell_stuck(self, record: Record, error: Exception) -> None:
        told = self._maker.told(record, error)
        self._owner.see("stuck", detail=f"{record.slot.topic} waits at offset {record.offset}: {told}")

    # What goes out.

    def _look_after_transaction(self) -> None:
        """Note the end of the transaction under way, and begin the next when it is due."""
        if self._under_way is not None:
            if self._under_way.written.done():
                self._note_end(self._under_way)
            elif clock() > self._until(self._under_way):
                raise Unavailable("a transaction was not committed: no answer")
        if self._under_way is None and self._gathered:
            now = clock()
            more = self._more and self._passing is None and self._again <= now
            if self._cadence.is_due(now, full=self._full or self._crowded, more=more):
                self._begin_transaction()

    def _begin_transaction(self) -> None:
        entries, self._gathered, self._bytes = self._gathered, [], 0
        with self._heart.within(COMMITTING):
            self._under_way = self._committer.begin(entries, self._upto(entries), self._member.membership())

    def _upto(self, entries: Sequence[Entry]) -> Upto:
        """Give the offset to commit of each partition with these entries, and the note beside it."""
        if self._back is not None:
            return self._back.places({entry.record.slot for entry in entries})
        last = {entry.record.slot: entry.record for entry in entries}
        return {slot: (record.offset + 1, "") for slot, record in last.items()}

    def _finish(self) -> None:
        """Commit what is gathered."""
        self._await_transaction()
        if self._gathered:
            self._begin_transaction()
            self._await_transaction()

    def _await_transaction(self) -> None:
        if self._under_way is not None:
            while not settled(self._under_way.written, max(0.0, self._until(self._under_way) - clock())):
                if clock() > self._until(self._under_way):
                    raise Unavailable("a transaction was not committed: no answer")
            self._note_end(self._under_way)

    def _until(self, transaction: UnderWay) -> float:
        """Say until when a transaction is waited for: who has asked once need not wait again for its end."""
        return min(self._committer.due, transaction.since + COMMITTING)

    def _note_end(self, transaction: UnderWay) -> None:
        self._under_way = None
        try:
            transaction.written.result()
            self._finished.update((slot, offset) for slot, (offset, _) in transaction.upto.items())
        except Outdated as error:
            if not self._cadence.outdated(clock()):
                raise Unavailable(str(error)) from None
            self._have([*transaction.entries, *self._gathered])
        else:
            self._cadence.ended(clock())
        self._held = self._first()

    def _have(self, entries: list[Entry]) -> None:
        """Have these gathered, whatever was before."""
        self._gathered = entries
        self._bytes = sum(map(weight, entries))

    def _first(self) -> dict[Slot, Record]:
        found: dict[Slot, Record] = {}
        for record in (*[entry.record for entry in self._gathered], *self._pending):
            found.setdefault(record.slot, record)
        for record in () if self._back is None else self._back.first():
            if record.slot not in found or record.offset < found[record.slot].offset:
                found[record.slot] = record
        return found


def weight(entry: Entry) -> int:
    """Say roughly how many bytes an entry has to write."""
    return sum([WRITE + len(write.value or b"") for write in entry.writes])


def settled(future: "Future[Any]", seconds: float) -> bool:
    """Wait until a future has its end, at most so long; say whether it has."""
    wait([future], seconds)
    return future.done()
