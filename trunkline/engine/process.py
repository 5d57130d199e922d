"""Topic to topics in transactions: what a batch writes, its dead letters and its offsets appear together or not at all.

    fetch ─▶ decode ─▶ steps ─▶ routes ─▶ encode ─▶ [ begin ─▶ produce ─▶ flush ─▶ offsets ─▶ commit ]

Everything that can wait or fail for one event happens before the transaction begins (P2, P5). One thread runs a flow.
"""

import socket
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from trunkline import deadletter
from trunkline.deadletter import Failure, Origin
from trunkline.engine import spans
from trunkline.engine.tables import TableReader
from trunkline.engine.timing import timed
from trunkline.engine.watchdog import Heart
from trunkline.engine.watermark import Position
from trunkline.errors import Halt, Permanent, Poison, Retryable, TrunklineError, Unavailable, UnknownSchema
from trunkline.event import Headers, from_headers, to_headers, to_parent
from trunkline.flow.declare import Bus, Process, dead_letters_of, flow_name, group_of, identity_of, source_of, tables_of
from trunkline.flow.rows import Rows
from trunkline.flow.transform import Filtered, Routed, Unrouted, transform
from trunkline.kafka.events import BY_KEY, Member, Record, Slot, Transactions, clock
from trunkline.kafka.orders import Fleet
from trunkline.kafka.registry import Format
from trunkline.kafka.topics import RECORD_BYTES, size_of
from trunkline.observe import Observed, Observer
from trunkline.redact import marked, redact
from trunkline.verdict import Guard, of_exception

BATCH = 2_000
OPENING = 60.0
"""Seconds that taking a transactional id over may take."""
COMMITTING = 60.0
"""Seconds that a transaction's end, or leaving the group, may take."""
ASKING = 2.0
"""Seconds in which the fleet must have answered, else the flow is left to others."""


@dataclass(slots=True)
class Batch:
    """What one transaction will write, and what to count when it is committed."""

    fetched: float
    """When its records had been fetched, by `clock`."""
    writes: list[tuple[str, bytes | None, bytes | None, Headers, int]] = field(default_factory=list)
    offsets: dict[Slot, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    emitted: Counter[str] = field(default_factory=Counter)
    dead: list[tuple[str, str, str]] = field(default_factory=list)
    """Of each event that goes dead its id, why, and the class of the letter."""


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
        observe: Observer,
    ) -> None:
        """Prepare; `forms` holds the format of every topic of the flow by name, `tables` each table by name."""
        self.name = flow_name(flow)
        self.heart = Heart(self.name)
        self.halted = ""
        """Why the flow stands still; empty while it runs."""
        self._flow = timed(flow, observe)
        self._source = source_of(bus, flow)
        self._bootstrap = bootstrap
        self._group = group_of(bus, identity_of(flow))
        self._id = f"{self._group}.{socket.gethostname()}.{slot}"
        self._forms = forms
        self._readers = [tables[table.name] for step in flow.steps for table in tables_of(step)]
        self._tables: Mapping[str, Rows] = {reader.name: reader.rows for reader in self._readers}
        self._fleet = fleet
        self._observe = observe
        self._guard = Guard()
        self._met: Mapping[Slot, int] = {}
        self._finished: dict[Slot, int] = {}
        self._held: Mapping[Slot, Record] = {}
        """The first record of each partition that is fetched and not committed."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Join the group and begin."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Commit the batch under way, at most so long, and leave the group; say whether that was in time."""
        self._stopping.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def positions(self) -> dict[Slot, Position]:
        """Say how far each partition is finished; may be asked from any thread."""
        met, finished, held = dict(self._met), self._finished.copy(), self._held
        return {
            slot: Position(held[slot].offset, held[slot].timestamp)
            if slot in held
            else Position(max(at, finished.get(slot, at)), None)
            for slot, at in met.items()
        }

    def _run(self) -> None:
        """Run sessions: a transaction that fails ends one, and the next begins at the committed offsets."""
        while not self._stopping.is_set():
            try:
                if self._tables_read():
                    self._session()
            except UnknownSchema as error:
                self._see("stuck", detail=f"left to workers of another topology: {error}")
                self._leave_to_others()
            except Halt as error:
                self._halt(str(error))
                break
            except Unavailable as error:
                self._see("stuck", detail=f"the batch is tried again: {error}")
                self._stopping.wait(1.0)
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be a stalled flow
                self._halt(f"bug in Trunkline: {type(error).__name__}: {error}")
                break
        self.heart.rest()

    def _tables_read(self) -> bool:
        """Wait for the tables to be read to the ends that they had at the start (P4), unless stopped before."""
        while not (read := all(reader.ready.is_set() for reader in self._readers)) and not self._stopping.wait(0.02):
            self.heart.beat()
        return read

    def _session(self) -> None:
        self._guard = Guard()  # what the last session did not commit comes again
        with self.heart.within(OPENING):
            transactions = Transactions(self._bootstrap, self._id)
        member = Member(self._bootstrap, self._group, self._flow.topic.name, assigned=self._joined)
        self._met, self._finished, self._held = member.met, {}, {}
        try:
            while not self._stopping.is_set():
                self.heart.beat()
                if records := member.fetch(BATCH, 0.1):
                    batch = self._prepare(records)
                    with self.heart.within(COMMITTING):
                        self._commit(batch, transactions, member)
        finally:
            with self.heart.within(COMMITTING):
                member.close()

    def _joined(self, _slots: list[Slot], _committed: Mapping[Slot, int]) -> None:
        self.heart.joined = True

    def _prepare(self, records: list[Record]) -> Batch:
        batch = Batch(clock())
        self._held = {record.slot: record for record in reversed(records)}
        for record in records:
            while not self._stopping.is_set():
                self.heart.beat()
                try:
                    self._apply(record, batch)
                    break
                except (Retryable, OSError, TimeoutError, Unavailable) as error:
                    self._see(
                        "stuck",
                        detail=f"{record.slot.topic} waits at offset {record.offset}: {self._told(record, error)}",
                    )
                    self._stopping.wait(1.0)
            else:
                break  # stopped: what was not applied stays uncommitted
            batch.offsets[record.slot] = record.offset + 1
            batch.counts["read"] += 1
        return batch

    def _apply(self, record: Record, batch: Batch) -> None:
        """Run one record through the flow into the batch; nothing of it is added when it fails."""
        span = None
        try:
            form = self._forms[record.slot.topic]
            event = from_headers(record.headers, record.key, form.decode(record.value))
            if spans.Exporting.tracer is not None:
                event, span = spans.carried("process", self.name, event, {"trunkline.event": event.id})
            outcome = transform(self._flow, self._source, event, self._tables)
            match outcome:
                case Routed(made):
                    parent = to_parent(event, record.slot.partition, record.offset)
                    writes = [self._write(topic.name, out, parent) for topic, out in made]
                    batch.writes += writes
                    batch.counts["routed"] += 1
                    batch.emitted.update(write[0] for write in writes)
                case Filtered():
                    batch.counts["filtered"] += 1
                case Unrouted():
                    self._consider_unrouted(record, form, batch.fetched)
                    batch.counts["unrouted"] += 1
            if self._guard.count:
                self._guard = Guard()
        except UnknownSchema as error:
            if self._known_elsewhere(batch.fetched):
                raise
            self._bury(record, error, batch)
        except (Permanent, Poison) as error:
            self._bury(record, error, batch)
        finally:
            if span is not None:
                span.end()

    def _consider_unrouted(self, record: Record, form: Format, fetched: float) -> None:
        """Make sure that no other topology may have a route for what ours has none for.

        Raises:
            UnknownSchema: one may.
        """
        if not form.is_own(record.value) and self._known_elsewhere(fetched):
            raise UnknownSchema("no route here takes an event with another schema than ours")

    def _known_elsewhere(self, fetched: float) -> bool:
        """Say whether another worker may know what this one does not, of a record fetched by then (L5)."""
        until = clock() + ASKING
        while self._fleet.looked < fetched and clock() < until and not self._stopping.is_set():
            self._fleet.asked.set()
            self.heart.beat()
            self._stopping.wait(0.02)
        return self._fleet.uniform < fetched

    def _leave_to_others(self) -> None:
        """Be no member of the group until all workers run one topology: who may know what is unknown here is one."""
        self.heart.rest()
        since = clock()
        while self._fleet.uniform < since and not self._stopping.wait(0.2):
            pass

    def _write(
        self, topic: str, event: Any, parent: tuple[str, bytes]
    ) -> tuple[str, bytes | None, bytes | None, Headers, int]:
        key = None if event.key is None else event.key.encode()
        value, headers = self._forms[topic].encode(event.data), (*to_headers(event), parent)
        if (size := size_of(key, value, headers)) > RECORD_BYTES:
            raise Permanent(f"the record for {topic} has {size} bytes with key and headers; {RECORD_BYTES} are allowed")
        return topic, key, value, headers, BY_KEY

    def _bury(self, record: Record, error: Permanent | Poison, batch: Batch) -> None:
        verdict = self._guard.consider(of_exception(error), record.key)
        if isinstance(verdict, Halt):
            raise verdict
        origin = Origin(*record.slot, record.offset)
        failure = Failure(
            flow=self.name,
            kind="poison" if isinstance(error, Poison) else "permanent",
            stage="decode" if isinstance(error, Poison) else "process",
            error=type(error).__name__,
            message=self._told(record, error),
            attempts=1,
            status=None,
            at=datetime.now(UTC),
        )
        headers = deadletter.write(record.headers, origin, failure)
        batch.writes.append(
            (dead_letters_of(identity_of(self._flow)), record.key, record.value, headers, record.slot.partition)
        )
        poison = isinstance(error, Poison)
        event = deadletter.stray(origin) if poison else from_headers(record.headers, record.key)
        batch.dead.append((event.id, failure.message, failure.kind))

    def _told(self, record: Record, error: Exception) -> str:
        """Give an error's words without secrets, and without what the schema marks as sensitive."""
        try:
            data = self._forms[record.slot.topic].decode(record.value)
        except (Poison, Unavailable):
            data = {}
        return redact(str(error), marked(self._flow.topic.schema.definition, data))

    def _commit(self, batch: Batch, transactions: Transactions, member: Member) -> None:
        if not batch.offsets:
            return
        transactions.begin()
        try:
            for write in batch.writes:
                transactions.write(*write)
            transactions.flush()
            self._see("produced", count=len(batch.writes))
            transactions.commit(batch.offsets, member)
        except TrunklineError:
            transactions.abort()
            raise
        self._finished.update(batch.offsets)
        self._held = {}
        for what in ("read", "routed", "filtered", "unrouted"):
            if count := batch.counts[what]:
                self._see(what, count=count)
        for topic, count in batch.emitted.items():
            self._see("emitted", topic=topic, count=count)
        for event, why, kind in batch.dead:
            self._see("dead", event=event, detail=why, outcome=kind)

    def _halt(self, reason: str) -> None:
        self.halted = redact(reason)
        self._see("halted", detail=self.halted)

    def _see(self, what: Any, **more: Any) -> None:
        self._observe(Observed(what, self.name, **more))
