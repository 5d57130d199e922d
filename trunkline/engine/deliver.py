"""Topic to target: in order per key, effectively once, offsets committed only past finished events.

A thread owns the consumer: it fetches, looks every batch up in the ledger and commits. The asyncio loop makes the
calls. Between them go batches, one call_soon_threadsafe each (D1, D2).

    fetch ─▶ look up ─▶ lane ─▶ request ─▶ send ─▶ verdict ─▶ action ─▶ ledger ─▶ watermark ─▶ commit
                                    ▲                            │
                                    └───────── wait ◀────────────┤
                                                                 └─▶ dead letter ─▶ ledger ─▶ watermark
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_never

from trunkline import deadletter
from trunkline.adapters import Request
from trunkline.avro.codec import HEAD
from trunkline.deadletter import Failure, Origin
from trunkline.engine.lanes import Key, Lanes
from trunkline.engine.targets import Targets
from trunkline.engine.watermark import Watermark
from trunkline.errors import Halt, Permanent, Poison, Unavailable, Undeliverable
from trunkline.event import Event, from_headers, idempotency_key
from trunkline.flow.declare import Bus, Deliver, dead_letters_of, flow_name, group_of, replay_of
from trunkline.kafka.events import Member, Record, Sender, Slot
from trunkline.kafka.registry import Format
from trunkline.ledger import deliveries, runs, sqlite
from trunkline.ledger.deliveries import Outcome, Place, Row, State
from trunkline.observe import Observed, Observer
from trunkline.verdict import Again, Bury, Delivered, Done, Guard, Stop, Verdict, decide, of_exception

WIDTH = 256
"""Calls in flight at most, over all keys."""
FULL = 2_000
"""Events held of one partition at which it pauses, so that a key that waits stops no other partition (D6)."""
SPAN = 50_000
"""Offsets from a partition's watermark to its newest at which it pauses."""
HEAVY = 64 * 1024 * 1024
"""Bytes held of all partitions at which all of them pause. Each cap lets go at half of it."""
BATCH = 500
AHEAD = 4
"""Batches that may wait for the loop at most."""
COMMIT_EVERY = 0.5
COMMIT_ALL_EVERY = 30.0
"""Also what has not moved, so that the broker does not forget the offsets of a quiet replay topic."""
REVOKE_PATIENCE = 22.0


@dataclass(slots=True, eq=False)
class Delivery:
    """One event on its way to the target."""

    record: Record
    event: Event[Any]
    origin: Origin
    place: Place
    payload: bytes
    lane: Key
    watermark: Watermark
    poison: Poison | None = None
    request: Request | None = None
    attempts: int = 0
    began: float = 0.0
    busy: bool = False
    timer: asyncio.TimerHandle | None = None
    run: str = ""
    """The replay that sent it, if one did."""
    twins: list["Delivery"] = field(default_factory=list)
    """Copies of the same event that came while this one was under way."""


class Deliverer:
    """Runs one Deliver flow until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        flow: Deliver,
        *,
        bootstrap: str,
        form: Format,
        targets: Targets,
        sender: Sender,
        ledger: Path,
        writer: sqlite.Writer,
        observe: Observer,
    ) -> None:
        self.name = flow_name(flow)
        self.halted = ""
        """Why the flow stands still; empty while it runs."""
        self._bus = bus
        self._flow = flow
        self._sink = flow.to
        self._replay = replay_of(self.name)
        self._bootstrap = bootstrap
        self._form = form
        self._targets = targets
        self._sender = sender
        self._ledger = ledger
        self._writer = writer
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._lanes: Lanes[Delivery] = Lanes(WIDTH)
        self._watermarks: dict[Slot, Watermark] = {}
        self._open: dict[Place, Delivery] = {}
        self._held: Counter[Slot] = Counter()
        self._bytes = 0
        self._settled: dict[Place, tuple[int, Row]] = {}
        self._looked_up = 0
        self._dispatched = 0
        self._outcomes: list[tuple[Delivery, Outcome]] = []
        self._recording = False
        self._guard = Guard()
        self._stopping = threading.Event()
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[Slot] = set()
        self._number = 0
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    async def start(self) -> None:
        """Join the group and begin."""
        self._number = await self._writer.write(lambda db: deliveries.number_of(db, self._sink.name))
        self._thread.start()

    async def stop(self, seconds: float) -> bool:
        """Finish the calls in flight, at most so long, commit and leave the group; say whether all finished."""
        self._stopping.set()
        drained = await self._drain(list(self._watermarks), seconds)
        await asyncio.to_thread(self._thread.join, 30)
        for task in self._tasks:
            task.cancel()
        return drained

    # The consumer's thread.

    def _run(self) -> None:
        """Run sessions: trouble with broker or ledger ends one, and the next begins at the committed offsets."""
        while not self._stopping.is_set():
            try:
                self._session()
            except Halt as error:
                self._loop.call_soon_threadsafe(self._halt, str(error))
                return
            except (Unavailable, sqlite.Failure) as error:
                self._see("stuck", detail=f"the flow begins again at its committed offsets: {error}")
                self._stopping.wait(1.0)
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be a stalled flow
                self._loop.call_soon_threadsafe(self._halt, f"bug in Trunkline: {type(error).__name__}: {error}")
                return

    def _session(self) -> None:
        with closing(sqlite.connect(self._ledger)) as db:
            member = Member(
                self._bootstrap,
                group_of(self._bus, self.name),
                self._flow.topic.name,
                replay=self._replay,
                revoked=self._revoked,
                lost=self._lost,
            )
            with closing(member):
                self._pump(db, member)

    def _pump(self, db: sqlite.Connection, member: Member) -> None:
        committed: dict[Slot, int] = {}
        next_commit = next_all = 0.0
        paused: set[Slot] = set()
        while not self._stopping.is_set():
            paused = {slot for slot in member.slots if self._full(slot, 0.5 if slot in paused else 1.0)}
            member.pause(paused)
            while self._looked_up - self._dispatched > AHEAD and not self._stopping.is_set():
                self._stopping.wait(0.002)
            if records := member.fetch(BATCH, 0.05):
                self._looked_up += 1
                batch = [self._read(record) for record in records]
                known = deliveries.look_up(db, [delivery.place for delivery in batch])
                live = runs.live(db, self._sink.name) if any(delivery.run for delivery in batch) else set()
                self._loop.call_soon_threadsafe(self._dispatch, self._looked_up, batch, known, live)
            now = time.monotonic()
            if now >= next_commit:
                positions = self._positions()
                if now >= next_all:
                    committed.clear()
                    next_all = now + COMMIT_ALL_EVERY
                moved = {slot: offset for slot, offset in positions.items() if committed.get(slot) != offset}
                member.commit(moved)
                committed.update(moved)
                next_commit = now + COMMIT_EVERY

    def _full(self, slot: Slot, share: float) -> bool:
        """Say whether a partition must not be fetched from now; `share` of a cap is enough once it is paused."""
        watermark = self._watermarks.get(slot)
        return (
            bool(self.halted)
            or self._held[slot] >= FULL * share
            or self._bytes >= HEAVY * share
            or (watermark is not None and watermark.unfinished >= SPAN * share)
        )

    def _read(self, record: Record) -> Delivery:
        """Make a delivery of a record; one that is no event becomes a poisoned delivery with an identity of its own.

        Not with the one that its headers may name: what is wrong with it must not befall that event.
        """
        origin, run = Origin(*record.slot, record.offset), ""
        if record.slot.topic == self._replay:
            origin, run = deadletter.sent_again(record.headers, origin)
        poison: Poison | None = None
        try:
            event: Event[Any] = from_headers(record.headers, record.key)
            event = event.having(self._form.decode(record.value))
        except Poison as error:
            event, poison = deadletter.stray(origin), error
        return Delivery(
            record=record,
            event=event,
            origin=origin,
            place=deliveries.place_of(self._sink.name, event),
            payload=deliveries.payload_of((record.value or b"")[HEAD:]),
            lane=(record.slot, record.offset) if record.key is None else record.key,
            watermark=UNSET,
            poison=poison,
            run=run,
        )

    def _positions(self) -> dict[Slot, int]:
        return {
            slot: position
            for slot, watermark in self._watermarks.copy().items()
            if (position := watermark.position) is not None
        }

    def _revoked(self, slots: list[Slot]) -> Mapping[Slot, int]:
        """Finish what is in flight on these partitions and give the offsets to commit; nothing new begins (D7)."""
        asyncio.run_coroutine_threadsafe(self._drain(slots, REVOKE_PATIENCE), self._loop).result()
        positions = {slot: offset for slot, offset in self._positions().items() if slot in slots}
        self._forget(slots)
        return positions

    def _lost(self, slots: list[Slot]) -> None:
        """The partitions are another's already: commit nothing, and let what is in flight end without effect here."""
        asyncio.run_coroutine_threadsafe(self._drain(slots, 0.0), self._loop).result()
        self._forget(slots)

    def _forget(self, slots: list[Slot]) -> None:
        for slot in slots:
            self._watermarks.pop(slot, None)
        self._leaving.difference_update(slots)

    # The loop.

    def _dispatch(self, number: int, batch: list[Delivery], known: Mapping[Place, Row], live: set[str]) -> None:
        self._dispatched = number
        if self.halted:
            return
        for delivery in batch:
            slot, offset = delivery.record.slot, delivery.record.offset
            watermark = self._watermarks.get(slot)
            if watermark is None:
                watermark = self._watermarks[slot] = Watermark()
            delivery.watermark = watermark
            watermark.begin(offset)
            row = known.get(delivery.place)
            if (late := self._settled.get(delivery.place)) is not None and late[0] >= number:
                row = late[1]
            first = self._open.get(delivery.place)
            if any(before is not None and before.payload != delivery.payload for before in (row, first)):
                self._halt(
                    f"event {delivery.event.id} came with another content than before ({slot.topic} partition "
                    f"{slot.partition} offset {offset}); sending it would hide one of the two. Nothing was sent."
                )
                return
            self._admit(delivery, None if row is None else row.state, live)
        self._settled = {place: entry for place, entry in self._settled.items() if entry[0] > number}
        self._fill()

    def _admit(self, delivery: Delivery, state: State | None, live: set[str]) -> None:
        """Queue a delivery, unless its event is finished: for ever when DONE, for all but a live replay when DEAD."""
        reopened = state is State.DEAD and delivery.run in live
        stale = bool(delivery.run) and delivery.run not in live
        if (state is not None and not reopened) or (stale and state is None):
            delivery.watermark.finish(delivery.record.offset)
            self._see("repeat")
        elif (first := self._open.get(delivery.place)) is not None:
            first.twins.append(delivery)
        else:
            self._see("read")
            self._hold(delivery)
            self._lanes.add(delivery.lane, delivery)

    def _hold(self, delivery: Delivery) -> None:
        self._open[delivery.place] = delivery
        self._held[delivery.record.slot] += 1
        self._bytes += len(delivery.record.value or b"")

    def _let_go(self, delivery: Delivery) -> None:
        del self._open[delivery.place]
        self._held[delivery.record.slot] -= 1
        self._bytes -= len(delivery.record.value or b"")

    def _fill(self) -> None:
        """Start as many calls as may run now."""
        if self.halted or self._stopping.is_set():
            return
        for delivery in self._lanes.start():
            task = self._loop.create_task(self._call(delivery))
            self._tasks.add(task)
            task.add_done_callback(self._called)

    def _called(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._halt(f"bug in Trunkline: {type(error).__name__}: {error}")

    async def _call(self, delivery: Delivery) -> None:
        """Make one attempt and do what follows from it; none when the flow or the partition has stopped by its turn."""
        if delivery.poison is None:
            await self._targets.turn(self._sink.target)
        if self._open.get(delivery.place) is not delivery:
            self._lanes.answered()
            self._fill()
            return
        if self.halted or self._stopping.is_set():
            self._lanes.answered()
            self._lanes.again(delivery.lane)
            return
        delivery.busy = True
        delivery.attempts += 1
        now = time.monotonic()
        delivery.began = delivery.began or now
        verdict = self._guard.consider(await self._attempt(delivery), delivery.record.key)
        self._lanes.answered()
        action = decide(
            verdict,
            attempt=delivery.attempts,
            elapsed=time.monotonic() - delivery.began,
            retry=self._flow.retry,
            random=random.random,
        )
        match action:
            case Done():
                self._see("answered", delivery)
                self._settle(delivery, State.DONE)
            case Again(seconds) if self._keeps(delivery):
                delivery.busy = False
                delivery.timer = self._loop.call_later(seconds, self._again, delivery)
                self._fill()
            case Bury(kind) if self._owns(delivery):
                await self._bury(delivery, kind, verdict)
            case Again() | Bury():
                self._drop(delivery)
            case Stop(reason):
                delivery.busy = False
                self._lanes.again(delivery.lane)
                self._idle.set()
                self._halt(reason)
            case _:
                assert_never(action)

    async def _attempt(self, delivery: Delivery) -> Verdict:
        """sink.request → targets.send → sink.verdict."""
        if delivery.poison is not None:
            return delivery.poison
        began = 0.0
        status = None
        try:
            if delivery.request is None:
                delivery.request = self._sink.request(delivery.event)
            began = time.monotonic()
            self._see("calling", delivery)
            key = idempotency_key(self._bus.name, self._sink.name, delivery.event.source, delivery.event.id)
            response = await self._targets.send(self._sink.target, delivery.request, key)
            status = response.status
            return self._sink.verdict(response)
        except Exception as error:  # noqa: BLE001 - whatever an adapter or a call raises has a verdict
            return of_exception(error)
        finally:
            if began:
                self._see("attempt", delivery, status=status, seconds=time.monotonic() - began)

    def _again(self, delivery: Delivery) -> None:
        delivery.timer = None
        self._lanes.again(delivery.lane)
        self._fill()

    async def _bury(self, delivery: Delivery, kind: str, verdict: Verdict) -> None:
        """Write the dead letter, acknowledged, before the ledger hears of it (D5); until then its key waits."""
        if isinstance(verdict, Delivered):
            raise TypeError("a delivered event is not buried")
        failure = Failure(
            flow=self.name,
            kind=kind,
            stage="decode" if delivery.poison is not None else "deliver",
            error=type(verdict).__name__,
            message=str(verdict),
            attempts=delivery.attempts,
            status=verdict.status if isinstance(verdict, Undeliverable) else None,
            at=datetime.now(UTC),
        )
        record = delivery.record
        headers = deadletter.write(record.headers, delivery.origin, failure)
        value = record.value
        while True:
            letter = self._sender.send(
                dead_letters_of(self.name), record.key, value, headers, partition=record.slot.partition
            )
            try:
                await asyncio.wrap_future(letter)
                break
            except (Permanent, Unavailable) as error:
                if isinstance(error, Permanent) and value is not None:
                    value, headers = None, deadletter.by_reference(headers, record.value)
                    continue
                self._see("stuck", delivery, detail=f"its dead letter cannot be written, so its key waits: {error}")
                await asyncio.sleep(1.0)
            if not self._owns(delivery):
                self._drop(delivery)
                return
        self._see("dead", delivery, detail=str(verdict))
        self._settle(delivery, State.DEAD)

    def _settle(self, delivery: Delivery, state: State) -> None:
        """Record an outcome; the next group begins when the last one is durable (D3)."""
        outcome = Outcome(
            place=delivery.place,
            sink=self._number,
            state=state,
            key=delivery.record.key and deliveries.payload_of(delivery.record.key),
            partition=delivery.origin.partition,
            offset=delivery.origin.offset,
            payload=delivery.payload,
            attempts=delivery.attempts,
            at=datetime.now(UTC),
        )
        self._outcomes.append((delivery, outcome))
        if not self._recording:
            self._record()

    def _record(self) -> None:
        group, self._outcomes = self._outcomes, []
        self._recording = True
        rows = [outcome for _, outcome in group]
        future = self._writer.write(lambda db: deliveries.record(db, rows))
        future.add_done_callback(lambda done: self._recorded(group, done))

    def _recorded(self, group: list[tuple[Delivery, Outcome]], done: "asyncio.Future[None]") -> None:
        if (error := done.exception()) is not None:
            self._see("stuck", detail=f"outcomes wait to be recorded: {error}")
            self._outcomes = group + self._outcomes
            self._loop.call_later(1.0, self._record)
            return
        self._recording = False
        for delivery, outcome in group:
            self._see("recorded", delivery)
            if outcome.state is State.DONE:
                self._see("delivered", delivery)
            self._end(delivery, outcome.state)
        if self._outcomes:
            self._record()
        self._fill()

    def _end(self, delivery: Delivery, state: State) -> None:
        """Let the next of its key begin and the watermark move; copies that waited are repeats now."""
        delivery.busy = False
        self._lanes.finish(delivery.lane)
        self._let_go(delivery)
        self._settled[delivery.place] = (self._looked_up, Row(state, delivery.payload, delivery.attempts))
        delivery.watermark.finish(delivery.record.offset)
        self._admit_twins(delivery, state)
        self._idle.set()

    def _drop(self, delivery: Delivery) -> None:
        """Forget a delivery that is not finished: its partition goes to another worker, or has gone."""
        delivery.busy = False
        self._lanes.finish(delivery.lane)
        self._let_go(delivery)
        self._admit_twins(delivery, None)
        self._idle.set()
        self._fill()

    def _admit_twins(self, first: Delivery, state: State | None) -> None:
        """Admit the copies that waited for the first, now that it has ended or gone."""
        for twin in first.twins:
            if self._keeps(twin):
                self._admit(twin, state, {twin.run} if twin.run else set())

    def _owns(self, delivery: Delivery) -> bool:
        """Say whether a delivery's partition has been ours ever since it was fetched."""
        return self._watermarks.get(delivery.record.slot) is delivery.watermark

    def _keeps(self, delivery: Delivery) -> bool:
        """Say whether a delivery's partition is ours and will stay so."""
        return self._owns(delivery) and delivery.record.slot not in self._leaving

    async def _drain(self, slots: list[Slot], seconds: float) -> bool:
        """Drop what has not begun on these partitions and wait for what has; say whether all of it ended."""
        leaving = set(slots)
        self._leaving |= leaving
        self._lanes.discard(lambda delivery: delivery.record.slot in leaving, lambda delivery: delivery.busy)
        waiting = [one for one in self._open.values() if one.record.slot in leaving and not one.busy]
        for delivery in waiting:
            if delivery.timer is not None:
                delivery.timer.cancel()
            self._let_go(delivery)
        for delivery in waiting:
            self._admit_twins(delivery, None)
        self._fill()
        until = time.monotonic() + seconds
        while any(delivery.busy and delivery.record.slot in leaving for delivery in self._open.values()):
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                return False
        return True

    def _halt(self, reason: str) -> None:
        if not self.halted:
            self.halted = reason
            self._see("halted", detail=reason)

    def _see(self, what: Any, delivery: Delivery | None = None, **more: Any) -> None:
        event = "" if delivery is None else delivery.event.id
        self._observe(Observed(what, self.name, sink=self._sink.name, event=event, **more))


UNSET = Watermark()
"""Stands in a delivery until the loop has given it its partition's."""
