"""Topic to target: in order per key, effectively once, offsets committed only past finished events.

    intake ─▶ dispatch ─▶ request ─▶ send ─▶ verdict ─▶ dispatch ─▶ (dead letter ─▶) ledger ─▶ dispatch ─▶ commit
     thread     decides    └────── effects, here ──────┘  decides    └── effects, here ──┘      decides     thread

Everything here runs on one asyncio loop; `dispatch.py` decides, this makes the calls and writes what came of them.
"""

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, assert_never

from trunkline import deadletter
from trunkline.adapters import Item, Response, judged
from trunkline.avro.codec import HEAD
from trunkline.deadletter import Failure, Origin
from trunkline.engine import calling, spans
from trunkline.engine.composer import Composer
from trunkline.engine.delivery import Delivery, Stage
from trunkline.engine.dispatch import Call, Caps, Dispatcher, Later, Letter, Policy, Record, Withdraw
from trunkline.engine.intake import Intake
from trunkline.engine.targets import Begun, Targets
from trunkline.engine.watchdog import Heart
from trunkline.engine.watermark import Position
from trunkline.errors import Halt, Permanent, Poison, Retryable, Unavailable, Undeliverable, Unknown, UnknownSchema
from trunkline.event import Event, batch_key, from_headers, idempotency_key
from trunkline.flow.declare import (
    Bus,
    Deliver,
    dead_letters_of,
    flow_name,
    group_of,
    identity_of,
    replay_of,
    sink_identity,
)
from trunkline.http import transport
from trunkline.kafka import audit, events
from trunkline.kafka.events import Sender, Slot
from trunkline.kafka.orders import Fleet, Full, Orders, Trusted, skipped, trusting
from trunkline.kafka.registry import Format
from trunkline.kafka.topics import control_of, outcomes_of
from trunkline.ledger import deliveries, identity, progress
from trunkline.ledger.attempts import Attempt, tried
from trunkline.ledger.database import Connection, Ledger
from trunkline.ledger.deliveries import Outcome, Place, Row, State
from trunkline.ledger.identity import Identity
from trunkline.ledger.intents import Intent, Standing, Wait, intend, withdraw
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.trust import Create, Fine, state_of_ledger
from trunkline.ledger.writer import Rewound, Writer
from trunkline.observe import CALLED, Observed, Observer, wanted
from trunkline.redact import hashed, marked, redact
from trunkline.sinks.composite import CompositeSink
from trunkline.sinks.http import Deletes, HttpSink, Written
from trunkline.verdict import Delivered, Verdict, of_exception

WIDTH = 512
"""Calls in flight at most, over all keys."""
CAPS = Caps()
OVERHEAD = 6_144
"""Bytes that an event costs in memory besides its value."""
SPARE = 2.0
"""Seconds beyond the deadline of a call after which it has certainly ended (D7, D4)."""
AGAIN = 1.0
GATHER = 0.01
"""Seconds that outcomes are gathered while more lanes are ready than may be called: none of them waits for it."""


Way = Callable[[Begun, Sequence[Delivery]], Awaitable[Sequence[Verdict | None]]]
"""Makes one call of what may be called; no verdict where none could be made now."""


class Deliverer:
    """Runs one Deliver flow until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        flow: Deliver,
        *,
        bootstrap: str,
        forms: Mapping[str, Format],
        targets: Targets,
        sender: Sender,
        ledger: Ledger,
        writer: Writer,
        fleet: Fleet,
        observe: Observer,
    ) -> None:
        """Prepare; `forms` has the form of the flow's topic and of the one that a composite sink publishes to."""
        self.name = flow_name(flow)
        self._bus = bus
        self._flow = flow
        self._sink = flow.to
        self._identity = identity_of(flow)
        self._known_as = sink_identity(flow.to)
        self._replay = replay_of(self._identity)
        self._bootstrap = bootstrap
        self._form = forms[flow.topic.name]
        self._newer: dict[bytes, float] = {}
        """When a schema that is no version of ours was first met, by the head of its values."""
        self._targets = targets
        self._gate = targets.gate(self.name, flow.to.target)
        self._gate.wake = partial(self.guarded, self._act)
        self._sender = sender
        self._ledger = ledger
        self._writer = writer
        self._fleet = fleet
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._composer: Composer | None = None
        if isinstance(self._sink, CompositeSink):
            self._composer = Composer(bus, flow, self._sink, forms, targets, sender, writer, observe)
        # Where one key stands for a whole request, a call that is lost cannot be made again with other events in it.
        one_for_all = self._sink.together > 1 and self._sink.idempotency is not None and self._sink.idempotency.header
        self._keyed = self._sink.idempotency is not None and not one_for_all
        self.core = Dispatcher(
            Policy(
                retry=flow.retry,
                sink=self._known_as,
                keyed=self._keyed,
                latest=self._sink.writes == "latest",
                after_dead=flow.after_dead,
                replay=self._replay,
                width=WIDTH,
                together=self._sink.together,
                caps=CAPS,
            )
        )
        self.heart = Heart(self.name, runnable=self.core.working, tell=self._tell)
        self.sink = self._sink.name
        self._deletes = self._sink.delete if isinstance(self._sink, Deletes) else None
        self._attempt = self._way()
        self._moments = CALLED & wanted(observe)
        self._took: dict[int | None, list[float]] = {}
        """Seconds that each call took which delivered, by status, since they were told last."""
        self._me = secrets.token_hex(8)
        self._calls = count()
        self._seen = (0, 0)
        self._halted = False
        self._number = 0
        self._outcomes: list[tuple[Delivery, State, bool]] = []
        self._recording = False
        self._acting = False
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: Orders | None = None
        self._ledger_id: Identity | None = None
        self._intake: Intake | None = None

    def _way(self) -> Way:
        """Choose how calls are made, by what the sink is."""
        sink = self._sink
        if self._composer is not None:
            return partial(self._attempt_composite, self._composer)
        if isinstance(sink, Written) and isinstance(sink, HttpSink):
            return partial(self._attempt_written, sink, sink)
        return self._attempt_single if sink.together == 1 else self._attempt_together

    @property
    def halted(self) -> str:
        """Why the flow stands still; empty while it runs."""
        return redact(self.core.halted)

    async def start(self) -> None:
        """Join the group and begin."""
        self._number = await self._writer.write(lambda db: deliveries.number_of(db, self._known_as))
        self._intake = Intake(
            self,
            bootstrap=self._bootstrap,
            group=group_of(self._bus, self._identity),
            topic=self._flow.topic.name,
            replay=self._replay,
            ledger=self._ledger,
            sink=self._known_as,
            number=self._number if self._flow.after_dead != "continue" else None,
            patience=transport.DEADLINE + SPARE,
            heart=self.heart,
        )
        self._intake.start()

    async def stop(self, seconds: float) -> bool:
        """Finish the calls in flight, at most so long, commit and leave the group; say whether all finished."""
        self.core.stopping = True
        if self._intake is None:
            return True
        slots = list(self.core.slots)
        drained = await self._drain(slots, seconds)
        self._intake.leave()
        await self._intake.ended(30)
        for task in self._tasks:
            task.cancel()
        return drained

    def obey(self, orders: Orders) -> None:
        """Bring the orders that hold into force (L5)."""
        before, self._orders = self._orders, orders
        name = self._known_as
        self.core.paused = name in orders.paused
        resumed = orders.resumed.get(name)
        if before is not None and resumed is not None and resumed != before.resumed.get(name):
            self._begin_again()
        self.core.skip(orders.skips(name))
        ours, named = self._ledger_id, orders.ledger
        if ours is not None and named is not None and (ours.id, ours.epoch) != named:
            self.core.halt("the bus has another ledger now; this worker's is not used any more. Start it again.")
        self._act()

    def filled(self) -> list[Full]:
        """Name the partitions that a key fills up, with the key."""
        found = ((slot, self.core.filled(slot)) for slot in self.core.slots)
        return [
            Full(self.name, slot.topic, slot.partition, delivery.event.key)
            for slot, delivery in found
            if delivery is not None
        ]

    def positions(self) -> dict[Slot, Position]:
        """Say how far each partition is finished; may be asked from any thread."""
        met = {} if self._intake is None else dict(self._intake.met)
        oldest = self.core.oldest()
        finished = self.core.positions()
        return {
            slot: Position(finished.get(slot, at) if slot in oldest else max(finished.get(slot, at), at), published)
            for slot, at in met.items()
            for published in [oldest.get(slot)]
        }

    # For the intake.

    def read(self, record: events.Record) -> Delivery:
        """Make a delivery of a record; one that is no event becomes a poisoned delivery with an identity of its own.

        Not with the one that its headers may name: what is wrong with it must not befall that event.
        """
        origin, run = Origin(*record.slot, record.offset), ""
        if record.slot.topic == self._replay:
            origin, run = deadletter.sent_again(record.headers, origin)
        poison: Undeliverable | None = None
        try:
            gone = record.value is None and self._deletes is not None
            data, poison = ({}, None) if gone else self._decode(record)
            event: Event[Any] = from_headers(record.headers, record.key, data)
        except Poison as error:
            event, poison = deadletter.stray(origin), error
        newer = poison is None and record.value is not None and self._is_newer(record)
        if newer or isinstance(poison, UnknownSchema):
            self._fleet.asked.set()  # whoever wrote it may run another topology
        key = None if record.key is None else deliveries.key_of(record.key)
        return Delivery(
            record=record,
            event=event,
            origin=origin,
            place=deliveries.place_of(self._known_as, event),
            payload=deliveries.payload_of((record.value or b"")[HEAD:]),
            lane=(record.slot, record.offset) if key is None else key,
            key=key,
            size=OVERHEAD + len(record.value or b""),
            poison=poison,
            newer=newer,
            fetched=events.clock() if newer or poison is not None else 0.0,
            run=run,
        )

    def _decode(self, record: events.Record) -> tuple[dict[str, Any], Permanent | None]:
        """Decode a record's value; what a function from one version to the next makes impossible is the event's end."""
        try:
            return self._form.decode(record.value), None
        except Permanent as error:
            return {}, error

    def _is_newer(self, record: events.Record) -> bool:
        """Say whether another topology may have the version of a record's schema that ours has not (L5)."""
        if self._form.knows(record.value):
            return False
        since = self._newer.setdefault((record.value or b"")[:HEAD], events.clock())
        if self.core.uniform > since:
            self._form.accept(record.value)
            return False
        return True

    async def take_over(self, slots: Sequence[Slot], committed: Mapping[Slot, int]) -> None:
        """Take partitions over whose next record comes after this; halt when the ledger cannot be trusted with them.

        It asks through the writer: whatever that recorded before is in, and the dispatcher has heard of it.

        Raises:
            Unavailable: ledger or broker do not answer.
        """
        here, reached, barred = await self._writer.write(self._standing)
        known = None if self._orders is None else self._orders.ledger
        match state_of_ledger(here, known, reached, committed):
            case Fine():
                self._ledger_id = here
            case Create():
                self._ledger_id = here = await self._writer.write(identity.create)
                for key, value in trusting(Trusted(here.id, here.epoch)):
                    await asyncio.wrap_future(self._sender.send(control_of(self._bus), key.encode(), value, ()))
            case Halt() as reason:
                self.core.halt(str(reason))
        self.core.assign(slots, barred)
        self._divide()
        self._act()

    def _standing(self, db: Connection) -> tuple[Identity | None, dict[tuple[str, int], int], set[bytes]]:
        """Read whose ledger it is, how far it has got, and the keys that are parked."""
        return identity.read(db), progress.read(db, self._known_as), parked_keys(db, self._number)

    def arrived(
        self, number: int, batch: Sequence[Delivery], known: Mapping[Place, Row], live: Collection[str]
    ) -> None:
        """Take a batch in."""
        self.core.arrive(number, batch, known, live)
        self._act()

    def barred(self, number: int, keys: set[bytes]) -> None:
        """Take all keys that are parked or blocked, as read after look-up `number` had begun."""
        self.core.bars(number, keys)
        self._act()

    async def give_back(self, slots: Sequence[Slot], seconds: float) -> Mapping[Slot, int]:
        """Finish what has begun, at most so long, forget the partitions, and give the offsets to commit."""
        positions: Mapping[Slot, int] = {}
        try:
            await self._drain(slots, 0.0 if self.core.stopping else seconds)
            if seconds > 0:
                positions = {slot: offset for slot, offset in (await self.advance()).items() if slot in slots}
        except Unavailable:
            pass  # without the ledger nothing is committed: it comes again
        finally:
            self.core.forget(slots)
            self._divide()
            self._act()
        return positions

    def _divide(self, leaving: Collection[Slot] = ()) -> None:
        """Have the share of a limit that goes with our partitions (D13), without those that we leave."""
        topic = self._flow.topic
        owned = sum(slot.topic == topic.name and slot not in leaving for slot in self.core.slots)
        self._targets.divide(self.name, min(1.0, owned / topic.partitions))

    async def advance(self) -> Mapping[Slot, int]:
        """Make the watermarks durable in the ledger and give them: they may be committed (L3).

        Raises:
            Unavailable: the ledger cannot be written.
        """
        epoch, positions = self.core.epoch, self.core.positions()
        if positions:
            await self._writer.write(lambda db: progress.advance(db, self._known_as, positions))
        return positions if self.core.epoch == epoch else {}

    def renew(self, until: float) -> None:
        """Let calls begin until then."""
        had = self.core.lease
        self.core.renew(until)
        if had < events.clock():
            self._act()

    def guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function; halt when it raises, for nobody else would hear of it."""
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - a loop's callback that dies in silence would be a stalled flow
            self._bug(error)

    def stuck(self, why: str) -> None:
        """Take note that the flow begins again at its committed offsets."""
        self._see("stuck", detail=f"the flow begins again at its committed offsets: {why}")

    def stop_all(self, why: str) -> None:
        """Halt."""
        self.core.halt(why)
        self._act()

    def go_on(self) -> None:
        """End a halt: nothing is held, and everything is fetched again from the committed offsets."""
        if self.core.halted:
            self.core.go_on()
            self._see("resumed")

    def _begin_again(self) -> None:
        if self.core.halted and self._intake is not None:
            self._intake.begin_again()

    # Effects.

    def _act(self) -> None:
        """Do what the dispatcher has decided, and let it choose what is called next."""
        now = events.clock()
        self._tell_calls()
        room = self._gate.room(now)
        self.core.stood = self._gate.access.stood(now)
        self.core.uniform = self._fleet.uniform
        self.core.turn(now, room)
        for effect in self.core.take():
            match effect:
                case Call(chosen):
                    room -= 1
                    self._tasks.add(self._loop.create_task(self._call(self._gate.begin(now), chosen)))
                case Record(delivery, state, park):
                    if delivery.kind is None and (delivery.live or state is State.SUPERSEDED):
                        self._spawn(self._tell_and_record(delivery, state, park=park))
                    else:
                        self._record(delivery, state, park=park)
                case Later(delivery, seconds):
                    self._loop.call_later(seconds, self.guarded, self._due, delivery)
                case Letter(delivery, verdict, state):
                    self._spawn(self._bury(delivery, verdict, state))
                case Withdraw(delivery):
                    self._withdraw(delivery)
                case _:
                    assert_never(effect)
        if room <= 0:
            self._gate.rest(now)
        self._idle.set()
        self._count()

    def _act_soon(self) -> None:
        """Act once for all calls that end in one turn of the loop."""
        if not self._acting:
            self._acting = True
            self._loop.call_soon(self.guarded, self._acted)

    def _acted(self) -> None:
        self._acting = False
        self._act()

    def _tell_calls(self) -> None:
        """Say of the calls that delivered how long they took, all together."""
        took, self._took = self._took, {}
        for status, seconds in took.items():
            target = self._sink.target.name
            self._see("attempt", count=len(seconds), status=status, took=seconds, target=target)

    def _count(self) -> None:
        """Say what has changed since the last time."""
        accepted, repeats = self._seen
        self._seen = (self.core.accepted, self.core.repeats)
        if self.core.accepted > accepted:
            self._see("read", count=self.core.accepted - accepted)
        if self.core.repeats > repeats:
            self._see("repeat", count=self.core.repeats - repeats)
        if self.core.halted and not self._halted:
            self._see("halted", detail=self.halted)
        self._halted = bool(self.core.halted)

    def _due(self, delivery: Delivery) -> None:
        self.core.due(delivery)
        self._act()

    async def _call(self, call: Begun, chosen: Sequence[Delivery]) -> None:
        """Make one call and do what follows from it; none when flow or partition have stopped by its turn."""
        try:
            await self._make(call, chosen)
        except Exception as error:  # noqa: BLE001 - as `_ended`, which would cost each call another turn of the loop
            self._bug(error)
        self._tasks.discard(asyncio.current_task())

    async def _make(self, call: Begun, chosen: Sequence[Delivery]) -> None:
        now = events.clock()
        ready = [delivery for delivery in chosen if self.core.begin(delivery, now)]
        if asking := [delivery for delivery in ready if delivery.stage is Stage.PREPARING]:
            refused = await self._prepare(asking)
            ready = [delivery for delivery in ready if delivery not in refused]
        if ready:
            verdicts = await self._attempt(call, ready)
            now = events.clock()
            self.core.stood = self._gate.access.stood(now)
            if not verdicts:
                self.core.refused(ready)
            for delivery, verdict in zip(ready, verdicts, strict=False):
                if verdict is None:
                    self.core.unmade(delivery)
                    continue
                if "answered" in self._moments:
                    self._see("answered", delivery)
                down = self._gate.access.is_down(delivery.began)
                self.core.answered(delivery, verdict, now, random.random, down=down)
            self.heart.done()
        else:
            self._targets.unmade(self._gate, call)
        self._act_soon()

    async def _prepare(self, asking: Sequence[Delivery]) -> Collection[Delivery]:
        """Announce calls in the ledger and give those that must not be made (D4)."""
        wall = time.time()
        intents = []
        for delivery in asking:
            if not delivery.owner:
                delivery.owner = f"{self._me}:{next(self._calls)}"
            intents.append(
                Intent(
                    place=delivery.place,
                    sink=self._number,
                    key=delivery.key,
                    partition=delivery.origin.partition,
                    offset=delivery.origin.offset,
                    payload=delivery.payload,
                    owner=delivery.owner,
                    deadline=wall + transport.DEADLINE + SPARE,
                    now=wall,
                    run=delivery.run if delivery.live else "",
                    overwrite=delivery.overwrite,
                    keyed=self._keyed,
                    latest=self._sink.writes == "latest",
                )
            )
        found: Mapping[Place, Standing]
        try:
            found = await self._writer.write(lambda db: intend(db, intents))
        except Unavailable as error:
            self._see("stuck", detail=f"calls wait for the ledger: {error}")
            found = {delivery.place: Wait(wall + AGAIN) for delivery in asking}
        for delivery in asking:
            self._see("prepared", delivery)
        now, wall = events.clock(), time.time()
        return [delivery for delivery in asking if not self.core.prepared(delivery, found[delivery.place], now, wall)]

    async def _attempt_single(self, call: Begun, ready: Sequence[Delivery]) -> list[Verdict | None]:
        """sink.request → target.send → sink.verdict; no verdict when no call can be made now."""
        [delivery] = ready
        event = delivery.event
        began = 0.0
        response = None
        verdict: Verdict
        sink = self._sink
        span = None
        try:
            if delivery.record.value is None and self._deletes is not None:
                request = self._deletes(event)
            else:
                request = sink.request(event)
            span = spans.calling(sink.name, self.name, sink.target.name, [event], replayed=bool(delivery.run))
            began = time.monotonic()
            if "calling" in self._moments:
                self._see("calling", delivery)
            response = await self._targets.send(
                sink.target, request, self._key(delivery), sink.idempotency, again=delivery.attempts > 1
            )
            verdict = sink.verdict(response)
        except Unavailable as error:
            spans.ended(span, None, [])
            self._not_sent(call, [delivery], error)
            return [None]
        except Exception as error:  # noqa: BLE001 - whatever an adapter or a call raises has a verdict
            verdict = of_exception(error)
        if began:
            self._targets.ended(self._gate, call, verdict, response)
        else:
            self._targets.unmade(self._gate, call)
        status = None if response is None else response.status
        spans.ended(span, status, [verdict])
        seconds = time.monotonic() - began
        if isinstance(verdict, Delivered):
            self._took.setdefault(status, []).append(seconds)
        elif began:
            self._failed(delivery, verdict, status, seconds)
        return [verdict]

    async def _attempt_composite(self, composer: Composer, call: Begun, ready: Sequence[Delivery]) -> list[Verdict]:
        """Make as many of a composite's calls as can be made now."""
        [delivery] = ready
        self._targets.unmade(self._gate, call)  # each of its calls is begun by itself
        began = time.monotonic()
        verdict = await composer.attempt(
            delivery,
            lambda: self.core.may_call(delivery, events.clock()),
            lambda words: self._told(delivery, words),
        )
        if not isinstance(verdict, Delivered):
            self._keep_attempt(delivery, verdict, None, time.monotonic() - began)
        return [verdict]

    async def _attempt_written(
        self, sink: HttpSink, deliver: Written, begun: Begun, ready: Sequence[Delivery]
    ) -> list[Verdict | None]:
        """Let a hand-written sink make its calls."""
        [delivery] = ready
        event = delivery.event
        call = calling.Calling(
            self._targets.client(sink.target),
            partial(idempotency_key, self._bus.identity, self._known_as, event.source, event.id),
        )
        target = sink.target.name
        span = spans.calling(sink.name, self.name, target, [event], replayed=bool(delivery.run))
        began = time.monotonic()
        if "calling" in self._moments:
            self._see("calling", delivery, target=target)
        try:
            verdict, status = await calling.attempt(sink, deliver, event, call)
        except Unavailable as error:
            spans.ended(span, None, [])
            self._not_sent(begun, [delivery], error)
            return [None]
        response = None if status is None else Response(status)
        self._targets.ended(self._gate, begun, verdict, response)
        spans.ended(span, status, [verdict])
        seconds = time.monotonic() - began
        if isinstance(verdict, Delivered):
            self._took.setdefault(status, []).append(seconds)
        else:
            self._failed(delivery, verdict, status, seconds)
        return [verdict]

    async def _attempt_together(self, call: Begun, group: Sequence[Delivery]) -> Sequence[Verdict | None]:
        """sink.batch → target.send → sink.verdicts, for at most one event of a key (D10).

        Empty, when sink or target have refused several as a whole, so that none had its effect. Verdicts on an answer
        that says yes, or a bug in them, are no such refusal: the target may have applied what it was sent.
        """
        sent: Sequence[Event[Any]] = ()
        response = None
        sink = self._sink
        keys = [self._key(delivery) for delivery in group]
        items = [Item(delivery.event, key) for delivery, key in zip(group, keys, strict=True)]
        began = time.monotonic()
        verdicts: Sequence[Verdict]
        span = None
        try:
            request = sink.batch(items)
            replayed = any(delivery.run for delivery in group)
            sent = [delivery.event for delivery in group]
            span = spans.calling(sink.name, self.name, sink.target.name, sent, replayed=replayed)
            for delivery in group if "calling" in self._moments else ():
                self._see("calling", delivery)
            again = any(delivery.attempts > 1 for delivery in group)
            response = await self._targets.send(sink.target, request, batch_key(keys), sink.idempotency, again=again)
            verdicts = judged(sink, response, items)
        except Unavailable as error:
            spans.ended(span, None, [])
            self._not_sent(call, group, error)
            return [None] * len(group)
        except Exception as error:  # noqa: BLE001 - whatever an adapter or a call raises has a verdict
            verdicts = [of_exception(error)] * len(group)
        if sent:
            self._targets.ended(self._gate, call, worst(verdicts), response)
        else:
            self._targets.unmade(self._gate, call)
        status = None if response is None else response.status
        spans.ended(span, status, verdicts)
        seconds = time.monotonic() - began
        for delivery, verdict in zip(group, verdicts, strict=True):
            if isinstance(verdict, Delivered):
                self._took.setdefault(status, []).append(seconds)
            else:
                self._failed(delivery, verdict, status, seconds)
        refused = all(isinstance(verdict, Permanent) for verdict in verdicts) and (status is None or status >= 400)
        return [] if refused and len(group) > 1 else verdicts

    def _not_sent(self, call: Begun, group: Sequence[Delivery], error: Unavailable) -> None:
        """Take a call back for which there are no credentials now."""
        self._targets.unmade(self._gate, call)
        for delivery in group:
            self._see("attempt", delivery, target=self._sink.target.name, detail=f"not sent: {error}")

    def _key(self, delivery: Delivery) -> str:
        if self._sink.idempotency is None:
            return ""
        event = delivery.event
        return idempotency_key(self._bus.identity, self._known_as, event.source, event.id)

    def _failed(self, delivery: Delivery, verdict: Verdict, status: int | None, seconds: float) -> None:
        """Say that a call failed, and keep it for whoever asks what happened to the event."""
        words = self._told(delivery, str(verdict))
        self._see(
            "attempt",
            delivery,
            status=status,
            seconds=seconds,
            detail=words,
            attempt=delivery.attempts,
            lane=hashed(delivery.record.key),
            target=self._sink.target.name,
            outcome=type(verdict).__name__.lower(),
        )
        self._keep_attempt(delivery, verdict, status, seconds)

    def _keep_attempt(self, delivery: Delivery, verdict: Verdict, status: int | None, seconds: float) -> None:
        words = self._told(delivery, str(verdict))
        attempt = Attempt(delivery.place, datetime.now(UTC), status, seconds, words)
        self._writer.write(lambda db: tried(db, [attempt])).add_done_callback(ignored)

    def _withdraw(self, delivery: Delivery) -> None:
        work = partial(withdraw, place=delivery.place, owner=delivery.owner)
        self._writer.write(work).add_done_callback(ignored)

    async def _bury(self, delivery: Delivery, verdict: Undeliverable, state: State) -> None:
        """Write the dead letter and its entry in the audit trail, both acknowledged, before the ledger hears of it.

        Until then its key waits (D5, L4).
        """
        if delivery.kind is None:
            raise ValueError("a dead letter without a class")
        at = datetime.now(UTC)
        record = delivery.record
        failure = Failure(
            flow=self.name,
            kind=delivery.kind,
            stage="decode" if delivery.kind == "poison" else "deliver",
            error=type(verdict).__name__,
            message=self._told(delivery, str(verdict)),
            attempts=delivery.attempts,
            status=verdict.status,
            at=at,
        )
        headers = deadletter.write(record.headers, delivery.origin, failure)
        value = record.value
        while self.core.owns(delivery):
            letter = self._sender.send(
                dead_letters_of(self._identity), record.key, value, headers, partition=record.slot.partition
            )
            try:
                await asyncio.wrap_future(letter)
                await self._say(delivery, state, at)
            except Permanent as error:
                if value is not None:
                    value, headers = None, deadletter.by_reference(headers, record.value)
                    continue
                await self._wait_for_broker(delivery, error)
            except Unavailable as error:
                await self._wait_for_broker(delivery, error)
            else:
                if state is not State.PARKED:
                    self._see("dead", delivery, detail=failure.message, outcome=failure.kind)
                self._see("buried", delivery)
                self.core.buried(delivery)
                self._act()
                return
        self.core.unburied(delivery)
        self._act()

    def _told(self, delivery: Delivery, words: str) -> str:
        """Give a verdict's words without secrets, and without what the schema marks as sensitive."""
        return redact(words, marked(self._flow.topic.schema.definition, delivery.event.data))

    async def _wait_for_broker(self, delivery: Delivery, error: Exception) -> None:
        self._see("stuck", delivery, detail=f"what became of it cannot be written, so its key waits: {error}")
        await asyncio.sleep(AGAIN)

    async def _say(self, delivery: Delivery, state: State, at: datetime) -> None:
        """Append to the audit trail, acknowledged."""
        order = None
        if delivery.skipped and self._orders is not None:
            order = self._orders.skipped.get((self._known_as, delivery.skipped))
        entry = audit.Entry(
            at=at,
            flow=self._identity,
            sink=self._known_as,
            source=delivery.event.source,
            event=delivery.event.id,
            time=delivery.event.time,
            origin=delivery.origin,
            key=None if delivery.key is None else delivery.key.hex(),
            payload=delivery.payload.hex(),
            state=state.name,
            attempts=delivery.attempts,
            run=delivery.run if delivery.live else "",
            kind=delivery.kind or "",
            who="" if order is None else order.who,
            why="" if order is None else order.why,
        )
        await asyncio.wrap_future(self._sender.send(*audit.record_of(outcomes_of(self._bus), entry)))

    async def _tell_and_record(self, delivery: Delivery, state: State, *, park: bool) -> None:
        """Record what the audit trail hears of first."""
        while True:
            try:
                await self._say(delivery, state, datetime.now(UTC))
                break
            except (Unavailable, Permanent) as error:
                await self._wait_for_broker(delivery, error)
        self._record(delivery, state, park=park)

    def _record(self, delivery: Delivery, state: State, *, park: bool) -> None:
        """Record an outcome; the next group begins when the last one is durable (D3)."""
        self._outcomes.append((delivery, state, park))
        if not self._recording:
            self._recording = True
            self._spawn(self._commit())

    async def _commit(self) -> None:
        """Record group after group; whatever comes while one is made durable is the next (D3)."""
        while self._outcomes:
            if self.core.crowded:
                await asyncio.sleep(GATHER)
            group, self._outcomes = self._outcomes, []
            at = datetime.now(UTC)
            rows = [self._outcome(delivery, state, at, park=park) for delivery, state, park in group]
            while True:
                try:
                    freed = await self._writer.write(partial(deliveries.record, outcomes=rows))
                    break
                except Rewound as error:
                    self.stop_all(str(error))
                    return  # nothing is recorded any more, so nothing is committed
                except Unavailable as error:
                    self._see("stuck", detail=f"outcomes wait to be recorded: {error}")
                    await asyncio.sleep(AGAIN)
            self._see("recorded", count=len(group))
            now = at.timestamp()
            ages = [now - delivery.event.time.timestamp() for delivery, state, _ in group if state is State.DONE]
            for state, many in Counter(state for _, state, _ in group).items():
                if (word := WORDS.get(state)) is not None:
                    self._see(word, count=many, ages=ages if state is State.DONE else ())
            for state, many in Counter(outcome.state for outcome in rows if outcome.run).items():
                self._see("replayed", count=many, outcome=state.name.lower())
            for delivery, _, _ in group:
                self.core.recorded(delivery, freed)
                if delivery.skipped:
                    for key, value in skipped(self._known_as, delivery.skipped):
                        self._sender.send(control_of(self._bus), key.encode(), value, ())
            self.heart.done()
            self._act()
        self._recording = False

    def _outcome(self, delivery: Delivery, state: State, at: datetime, *, park: bool) -> Outcome:
        origin = delivery.origin
        return Outcome(
            delivery.place,
            self._number,
            state,
            delivery.key,
            origin.partition,
            origin.offset,
            delivery.payload,
            delivery.attempts,
            at,
            delivery.owner,
            park,
            self._sink.writes == "latest",
            delivery.run if delivery.live else "",
        )

    async def _drain(self, slots: Collection[Slot], seconds: float) -> bool:
        """Drop what has not begun on these partitions and wait for what has; say whether all of it ended."""
        self.core.leave(slots)
        self._divide(slots)
        self._act()
        until = time.monotonic() + seconds
        while self.core.busy(slots):
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                return False
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug(error)

    def _bug(self, error: BaseException) -> None:
        self.stop_all(f"bug in Trunkline: {type(error).__name__}: {error}")

    def _tell(self) -> Mapping[str, object]:
        """Say how it stands, for the dump of a process that is given up."""
        return {
            "positions": {f"{slot.topic}/{slot.partition}": at for slot, at in self.core.positions().items()},
            "halted": self.halted,
            "lease": self.core.lease - events.clock(),
            **self.core.counts(),
        }

    def _see(self, what: Any, delivery: Delivery | None = None, **more: Any) -> None:
        event = "" if delivery is None else delivery.event.id
        self._observe(Observed(what, self.name, sink=self._sink.name, event=event, **more))


WORDS: Mapping[State, str] = {
    State.DONE: "delivered",
    State.PARKED: "parked",
    State.AMBIGUOUS: "ambiguous",
    State.SUPERSEDED: "superseded",
}


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Give the verdict of a call for many events that says most of its target."""
    return next((verdict for verdict in verdicts if isinstance(verdict, Retryable | Unknown)), verdicts[0])


def ignored(done: "asyncio.Future[Any]") -> None:
    """Take a failure that changes nothing: what was not withdrawn counts as perhaps applied, a note is lost."""
    done.exception()
