"""Topic to topics in transactions: what a batch writes, its dead letters and its offsets appear together or not at all.

    fetch ─▶ decode ─▶ steps ─▶ routes ─▶ encode ─▶ [ begin ─▶ produce ─▶ offsets ─▶ commit ]
    └────────── the next batch is gathered ────────┘  while the last transaction is under way

Everything that can wait or fail for one event happens before the transaction begins (P2, P5). A batch is what was
gathered during the last transaction: some milliseconds' worth at low load, 2,000 records when more are waiting.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from trunkline.engine.held import Held
from trunkline.engine.lookups import askers_of
from trunkline.engine.making import Entry, Maker, Read, Through
from trunkline.engine.tables import TableReader
from trunkline.engine.targets import Targets
from trunkline.engine.timing import timed
from trunkline.engine.watchdog import Heart
from trunkline.engine.watermark import Position
from trunkline.errors import Absent, Halt, Retryable, TrunklineError, Unavailable, UnknownSchema
from trunkline.flow.declare import Bus, Process, Wait, flow_name, group_of, identity_of, tables_of
from trunkline.flow.rows import Given
from trunkline.flow.transform import waits
from trunkline.kafka.events import Member, Record, Slot, clock
from trunkline.kafka.orders import Fleet
from trunkline.kafka.registry import Format
from trunkline.kafka.transactions import Outdated, Refused, Transactions
from trunkline.observe import TRACE, Observed, Observer
from trunkline.redact import redact

BATCH = 2_000
CHUNK = 500
"""Records that are fetched at once."""
BATCH_BYTES = 16 * 1024 * 1024
"""Bytes to write at which a batch is full."""
WIDTH = 256
"""Events that are in steps which wait at once."""
IDLE = 0.1
"""Seconds to wait for a record when there is nothing else to do."""
SHORT = 0.002
"""Seconds to wait for more records while a transaction is under way and some are gathered."""
RELEASE = 0.05
"""Seconds between two times that what waits for a row is tried again."""
AGAIN = 1.0
"""Seconds after which a step is tried again that could not reach something."""
OUTDATED = 10
"""How often in a row a transaction is tried again because the group has changed."""
POLLED = 30.0
"""Seconds without fetching after which the group is told that we are still here."""
OPENING = 60.0
"""Seconds that taking a transactional id over may take."""
COMMITTING = 60.0
"""Seconds that a transaction's end, or leaving the group, may take."""
ASKING = 2.0
"""Seconds in which the fleet must have answered, else the flow is left to others."""


class Processor:
    """Runs one Process flow until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        flow: Process,
        *,
        bootstrap: str,
        forms: Mapping[str, Format],
        tables: Mapping[str, TableReader],
        slot: int,
        fleet: Fleet,
        targets: Targets,
        loop: asyncio.AbstractEventLoop,
        observe: Observer,
    ) -> None:
        """Prepare.

        `forms` holds the format of every topic of the flow by name, `tables` each table by name; steps that wait
        run in `loop`, and so do the calls to `targets`.
        """
        self.name = flow_name(flow)
        self.heart = Heart(self.name)
        self.halted = ""
        """Why the flow stands still; empty while it runs."""
        self._topic = flow.topic.name
        self._bootstrap = bootstrap
        self._group = group_of(bus, identity_of(flow))
        self._id = f"{self._group}.{socket.gethostname()}.{slot}"
        self._fleet = fleet
        self._loop = loop
        self._waits = waits(flow)
        self.patient = any(isinstance(table.missing, Wait) for step in flow.steps for table in tables_of(step))
        """Whether an event may wait for a row of a table."""
        self._observe = observe
        self._readers = [tables[table.name] for step in flow.steps for table in tables_of(step)]
        self._targets = targets
        self._partitions = flow.topic.partitions
        self._askers = askers_of(flow, targets, observe)
        rows: Given = {**{reader.name: reader.rows for reader in self._readers}, **self._askers}
        self._make_maker: Callable[[], Maker] = lambda: Maker(
            bus, timed(flow, observe), forms=forms, tables=rows, elsewhere=self._known_elsewhere
        )
        self._session: Session | None = None
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Join the group and begin."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Commit the batch under way, at most so long, and leave the group; say whether that was in time."""
        self.stopping.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    async def close(self) -> None:
        """Ask targets no more."""
        for asker in self._askers.values():
            await asker.close()

    def divide(self, slots: int) -> None:
        """Have the share of the limits of targets that belongs to so many partitions (D13)."""
        if self._askers:
            share = min(1.0, slots / self._partitions)
            self._loop.call_soon_threadsafe(self._targets.divide, self.name, share)

    def positions(self) -> dict[Slot, Position]:
        """Say how far each partition is finished; may be asked from any thread."""
        return {} if self._session is None else self._session.positions()

    def see(self, what: Any, **more: Any) -> None:
        """Tell what happened in this flow."""
        self._observe(Observed(what, self.name, **more))

    def _run(self) -> None:
        """Run sessions: a transaction that fails ends one, and the next begins at the committed offsets."""
        while not self.stopping.is_set():
            try:
                if self._tables_read():
                    self._hold_session()
            except UnknownSchema as error:
                self.see("stuck", detail=f"left to workers of another topology: {error}")
                self._leave_to_others()
            except Halt as error:
                self._halt(str(error))
                break
            except Unavailable as error:
                self.see("stuck", detail=f"the batch is tried again: {error}")
                self.stopping.wait(1.0)
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be a stalled flow
                self._halt(f"bug in Trunkline: {type(error).__name__}: {error}")
                break
        self.heart.rest()

    def _tables_read(self) -> bool:
        """Wait for the tables to be read to the ends that they had at the start (P4), unless stopped before."""
        while not (read := all(reader.ready.is_set() for reader in self._readers)) and not self.stopping.wait(0.02):
            self.heart.beat()
        return read

    def open(self, *, one_by_one: bool) -> Transactions:
        """Take the transactional id of this slot over.

        Raises:
            Unavailable: the broker does not answer.
        """
        return Transactions(self._bootstrap, self._id, one_by_one=one_by_one)

    def join(
        self,
        revoked: Callable[[list[Slot]], Mapping[Slot, int]],
        lost: Callable[[list[Slot]], None],
        begin: Callable[[Slot, int, str], int],
    ) -> Member:
        """Join the group."""
        return Member(
            self._bootstrap,
            self._group,
            self._topic,
            assigned=self._joined,
            revoked=revoked,
            lost=lost,
            begin=begin if self.patient else None,
        )

    @property
    def changes(self) -> int:
        """Counts up whenever a row that is waited for may have come."""
        return sum(reader.changes for reader in self._readers)

    def _hold_session(self) -> None:
        session = Session(self, self._make_maker(), self._loop if self._waits else None)
        self._session = session
        try:
            session.run()
        finally:
            session.close()

    def _joined(self, _slots: list[Slot], _committed: Mapping[Slot, int]) -> None:
        self.heart.joined = True

    def _known_elsewhere(self, fetched: float) -> bool:
        """Say whether another worker may know what this one does not, of a record fetched by then (L5)."""
        until = clock() + ASKING
        while self._fleet.looked < fetched and clock() < until and not self.stopping.is_set():
            self._fleet.asked.set()
            self.heart.beat()
            self.stopping.wait(0.02)
        return self._fleet.uniform < fetched

    def _leave_to_others(self) -> None:
        """Be no member of the group until all workers run one topology: who may know what is unknown here is one."""
        self.heart.rest()
        since = clock()
        while self._fleet.uniform < since and not self.stopping.wait(0.2):
            pass

    def _halt(self, reason: str) -> None:
        self.halted = redact(reason)
        self.see("halted", detail=self.halted)


class Passing(NamedTuple):
    """Records that are in steps which wait."""

    records: Sequence[Record]
    reads: Sequence[Read | Exception]
    given: "Future[list[Through | None]]"


Upto = Mapping[Slot, tuple[int, str]]
"""Of each partition the offset to commit, and what to note beside it."""


class UnderWay(NamedTuple):
    """A transaction that a thread of its own brings to its end."""

    since: float
    entries: Sequence[Entry]
    upto: Upto
    written: "Future[None]"


class Session:
    """From joining the group to the first failure, or to the end of the worker.

    One thread fetches, makes entries and gathers them; another brings one transaction at a time to its end.
    """

    def __init__(self, processor: Processor, maker: Maker, loop: asyncio.AbstractEventLoop | None) -> None:
        """Take the transactional id over, and join the group; `loop` is where steps run that wait, if there are any.

        Raises:
            Unavailable: the broker does not answer.
        """
        self._heart = processor.heart
        self._stopping = processor.stopping
        self._see = processor.see
        self._maker = maker
        self._open = processor.open
        self._divide = processor.divide
        self._owned = 0
        self._loop = loop
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
        self._outdated = 0
        """How often in a row the group had changed before a transaction could end."""
        self._retry = 0.0
        self._failure: Exception | None = None
        self._finished: dict[Slot, int] = {}
        self._held: dict[Slot, Record] = {}
        """The first record of each partition that is fetched and not committed."""
        self._back = Held() if processor.patient else None
        """The records whose keys wait for a row, where that may be."""
        self._changes, self._released = 0, 0.0
        self._processor = processor
        with self._heart.within(OPENING):
            self._transactions = self._open(one_by_one=False)
        self._member = processor.join(self._revoked, self._lost, self._begin)

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
            if not self._pending:
                if self._full:
                    self._let_pass(IDLE)
                else:
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
        crowded = self._back is not None and self._back.full
        return len(self._gathered) >= BATCH or self._bytes >= BATCH_BYTES or crowded

    def _fetch(self) -> None:
        """Get some records, and wait for them the less the more else there is to do."""
        most = min(CHUNK, BATCH - len(self._gathered))
        seconds = 0.0 if self._more else SHORT if self._gathered else IDLE
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
        return offset if self._back is None else self._back.begin(slot, offset, note)

    def _release(self) -> None:
        """Try again what waits for a row, when one may have come or the wait is over; it stands before all others."""
        if not self._back or self._passing is not None:
            return
        now, changes = clock(), self._processor.changes
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
        if slots != self._owned:
            self._owned = slots
            self._divide(slots)

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
        self._gathered = [entry for entry in self._gathered if entry.record.slot not in slots]
        if self._back is not None:
            self._back.drop(slots)
        self._held = self._first()

    # What becomes of it.

    def _make(self) -> None:
        """Make entries of what is pending, as far as that goes now."""
        records: Sequence[Record] = self._pending
        reads: Sequence[Read | Exception | None] = [None] * len(records)
        given: Sequence[Through | None] = [None] * len(records)
        if self._loop is not None:
            self._passing = self._passing or self._pass(self._loop)
            if not settled(self._passing.given, SHORT if self._under_way is not None else IDLE):
                return
            records, reads, given = self._passing.records, self._passing.reads, self._passing.given.result()
            self._passing = None
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
            if self._back is not None:
                self._back.done(record)
            for write in entry.writes:
                self._bytes += len(write.value or b"")
            if self._stopping.is_set():
                break
        self._pending = self._pending[made:]

    def _is_patient(self, record: Record, seconds: float) -> bool:
        return self._back is not None and self._back.patient(record, clock(), seconds)

    def _pass(self, loop: asyncio.AbstractEventLoop) -> Passing:
        """Begin to take what is pending through steps that wait."""
        records = [*self._pending]
        reads = [self._read(record) for record in records]
        coroutine = self._through(records, reads)
        return Passing(records, reads, asyncio.run_coroutine_threadsafe(coroutine, loop))

    def _read(self, record: Record) -> Read | Exception:
        self._heart.beat()
        try:
            return self._maker.read(record)
        except TrunklineError as error:
            return error

    async def _through(self, records: Sequence[Record], reads: Sequence[Read | Exception]) -> list[Through | None]:
        """Take events through the steps: so many at once, those of one key one after the other."""
        lanes: dict[bytes | int, list[int]] = {}
        for number, record in enumerate(records):
            lanes.setdefault(number if record.key is None else record.key, []).append(number)
        found: list[Through | None] = [None] * len(records)
        gate = asyncio.Semaphore(WIDTH)

        async def follow(lane: Sequence[int]) -> None:
            async with gate:
                for number in lane:
                    if isinstance(read := reads[number], Read):
                        found[number] = await self._persist(records[number], read)

        await asyncio.gather(*map(follow, lanes.values()))
        return found

    async def _persist(self, record: Record, read: Read) -> Through:
        """Take an event through the steps, again for as long as one of them cannot reach something."""
        TRACE.set(read.event.traceparent)
        while True:
            try:
                return await self._maker.through(read.event)
            except (Retryable, OSError, TimeoutError, Unavailable) as error:
                self._tell_stuck(record, error)
                after = error.after if isinstance(error, Retryable) else None
                await asyncio.sleep(AGAIN if after is None else max(AGAIN, after))
            except TrunklineError as error:
                return error

    def _tell_stuck(self, record: Record, error: Exception) -> None:
        told = self._maker.told(record, error)
        self._see("stuck", detail=f"{record.slot.topic} waits at offset {record.offset}: {told}")

    # What goes out.

    def _look_after_transaction(self) -> None:
        """Note the end of the transaction under way, and begin the next when there is no more to gather."""
        if self._under_way is not None:
            if self._under_way.written.done():
                self._note_end(self._under_way)
            elif clock() - self._under_way.since > COMMITTING:
                raise Unavailable("a transaction was not committed: no answer")
        if self._under_way is None and self._gathered and self._ready:
            self._begin_transaction()

    @property
    def _ready(self) -> bool:
        """Whether nothing more can be gathered without waiting."""
        now = clock()
        waiting = not self._more or self._passing is not None or self._again > now
        return (waiting or self._full) and self._retry <= now

    def _begin_transaction(self) -> None:
        entries, self._gathered, self._bytes = self._gathered, [], 0
        upto = self._upto(entries)
        metadata = self._member.metadata()
        written: Future[None] = Future()

        def write() -> None:
            try:
                self._write(entries, upto, metadata)
                written.set_result(None)
            except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
                written.set_exception(error)

        # A thread that can be abandoned: see `Transactions.commit`.
        threading.Thread(target=write, name="transaction", daemon=True).start()
        self._under_way = UnderWay(clock(), entries, upto, written)

    def _upto(self, entries: Sequence[Entry]) -> dict[Slot, tuple[int, str]]:
        """Give the offset to commit of each partition with these entries, and the note beside it."""
        if self._back is not None:
            return self._back.places({entry.record.slot for entry in entries})
        return {entry.record.slot: (entry.record.offset + 1, "") for entry in entries}

    def _finish(self) -> None:
        """Commit what is gathered."""
        self._await_transaction()
        if self._gathered:
            self._begin_transaction()
            self._await_transaction()

    def _await_transaction(self) -> None:
        if self._under_way is not None:
            if not settled(self._under_way.written, COMMITTING):
                raise Unavailable("a transaction was not committed: no answer")
            self._note_end(self._under_way)

    def _note_end(self, transaction: UnderWay) -> None:
        self._under_way = None
        try:
            transaction.written.result()
            self._finished.update((slot, offset) for slot, (offset, _) in transaction.upto.items())
        except Outdated as error:
            self._outdated += 1
            if self._outdated > OUTDATED:
                raise Unavailable(str(error)) from None
            self._gathered = [*transaction.entries, *self._gathered]
            self._retry = clock() + SHORT * 2**self._outdated
        else:
            self._outdated = 0
        self._held = self._first()

    def _first(self) -> dict[Slot, Record]:
        found = {
            record.slot: record for record in (*reversed(self._pending), *(e.record for e in reversed(self._gathered)))
        }
        for record in () if self._back is None else self._back.first():
            if record.slot not in found or record.offset < found[record.slot].offset:
                found[record.slot] = record
        return found

    def _write(self, entries: Sequence[Entry], upto: Upto, metadata: Any) -> None:
        """Write entries in one transaction; when the broker refuses a record, find out which, and bury its event."""
        try:
            self._transact(entries, upto, metadata)
        except Refused:
            try:
                entries = self._sift(entries, upto, metadata)
            finally:
                self._transactions = self._open(one_by_one=False)
        else:
            self._maker.accepted()
        outcomes = Counter(entry.outcome for entry in entries)
        emitted = Counter(write.topic for entry in entries if entry.outcome == "routed" for write in entry.writes)
        self._see("read", count=len(entries))
        for what in ("routed", "filtered", "unrouted"):
            if count := outcomes[what]:
                self._see(what, count=count)
        for topic, count in emitted.items():
            self._see("emitted", topic=topic, count=count)
        for event, why, kind in (entry.dead for entry in entries if entry.outcome == "dead"):
            self._see("dead", event=event, detail=why, outcome=kind)

    def _sift(self, entries: Sequence[Entry], upto: Upto, metadata: Any) -> Sequence[Entry]:
        """Write entries one by one in a transaction, with letters in place of those that are refused."""
        sifted = [*entries]
        while True:
            # A new one each time: librdkafka stumbles over the sequence number of a record that was refused.
            self._transactions = self._open(one_by_one=True)
            try:
                self._transact(sifted, upto, metadata)
            except Refused as refused:
                owners = [number for number, entry in enumerate(sifted) for _ in entry.writes]
                reasons = {owners[place]: why for place, why in refused.which.items()}
                if not reasons:
                    raise Unavailable(str(refused)) from None
                for number, why in reasons.items():
                    sifted[number] = self._maker.refuse(sifted[number], why)
            else:
                return sifted

    def _transact(self, entries: Sequence[Entry], upto: Upto, metadata: Any) -> None:
        writes = [write for entry in entries for write in entry.writes]
        transactions = self._transactions
        transactions.begin()
        try:
            self._see("begun")
            transactions.write(writes)
            self._see("produced", count=len(writes))
            offsets = {slot: offset for slot, (offset, _) in upto.items()}
            transactions.offer(offsets, metadata, lambda slot: upto[slot][1])
            self._see("offered")
            transactions.commit()
        except TrunklineError:
            transactions.abort()
            raise


def settled(future: "Future[Any]", seconds: float) -> bool:
    """Wait until a future has its end, at most so long; say whether it has."""
    wait([future], seconds)
    return future.done()
