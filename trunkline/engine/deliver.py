"""Topic to target: in order per key, effectively once, offsets committed only past finished events.

    intake ─▶ dispatch ─▶ request ─▶ send ─▶ verdict ─▶ dispatch ─▶ (dead letter ─▶) ledger ─▶ dispatch ─▶ commit
     thread     decides    └────── effects, here ──────┘  decides    └── effects, here ──┘      decides     thread

Everything here runs on one asyncio loop; `dispatch.py` decides, this makes the calls and writes what came of them.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, assert_never

from trunkline.engine.calls import Calls
from trunkline.engine.composer import Composer
from trunkline.engine.delivery import Delivery, Stage
from trunkline.engine.dispatch import Call, Caps, Dispatcher, Later, Letter, Policy, Record, Withdraw
from trunkline.engine.intake import Intake
from trunkline.engine.letters import Letters
from trunkline.engine.reader import Reader
from trunkline.engine.recorder import SPARE, Recorder
from trunkline.engine.targets import Begun, Targets
from trunkline.engine.watchdog import Heart
from trunkline.engine.watermark import Position
from trunkline.errors import Halt, Unavailable, Undeliverable, defect
from trunkline.event import idempotency_key
from trunkline.flow.declare import Bus, Deliver, flow_name, group_of, identity_of, replay_of, sink_identity
from trunkline.http import transport
from trunkline.kafka import events
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import Sender, Slot
from trunkline.kafka.orders import Fleet, Full, Orders, Trusted, skipped, trusting
from trunkline.kafka.registry import Format
from trunkline.kafka.topics import control_of
from trunkline.ledger import deliveries, identity, progress
from trunkline.ledger.database import Connection, Ledger
from trunkline.ledger.deliveries import Place, Row, State
from trunkline.ledger.identity import Identity
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.trust import Create, Fine, state_of_ledger
from trunkline.ledger.writer import Rewound, Writer
from trunkline.observe import CALLED, Observed, Observer, What, wanted
from trunkline.redact import has_marks, marked, redact
from trunkline.sinks.composite import CompositeSink
from trunkline.sinks.http import Deletes

WIDTH = 512
"""Calls in flight at most, over all keys."""
CAPS = Caps()


class Deliverer:
    """Runs one Deliver flow until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        flow: Deliver,
        *,
        cluster: Cluster,
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
        self._cluster = cluster
        self._targets = targets
        self._gate = targets.gate(self.name, flow.to.target)
        self._gate.wake = partial(self.guarded, self._act)
        self._sender = sender
        self._ledger = ledger
        self._writer = writer
        self._fleet = fleet
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        # Where one key stands for a whole request, a call that is lost cannot be made again with other events in it.
        one_for_all = self._sink.together > 1 and self._sink.idempotency is not None and self._sink.idempotency.header
        keyed = self._sink.idempotency is not None and not one_for_all
        self.core = Dispatcher(
            Policy(
                retry=flow.retry,
                sink=self._known_as,
                keyed=keyed,
                latest=self._sink.writes == "latest",
                after_dead=flow.after_dead,
                replay=self._replay,
                width=WIDTH,
                together=self._sink.together,
                patience=transport.DEADLINE + SPARE,
                caps=CAPS,
            )
        )
        self.heart = Heart(self.name, runnable=self._working, tell=self._tell)
        self.sink = self._sink.name
        self._seen = (0, 0)
        self._halted = False
        self._acting = False
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: Orders | None = None
        self._ledger_id: Identity | None = None
        self._intake: Intake | None = None
        self._moments = CALLED & wanted(observe)
        self._hides = has_marks(flow.topic.schema.definition)
        composer = None
        if isinstance(self._sink, CompositeSink):
            composer = Composer(bus, flow, self._sink, forms, targets, sender, writer, observe)
        self._letters = Letters(bus, flow, sender=sender, owns=self.core.owns, told=self._told, see=self._see)
        self._recorder = Recorder(
            flow,
            core=self.core,
            writer=writer,
            keyed=keyed,
            begin=lambda: self._spawn(self._commit()),
            obeyed=self._obeyed,
            act=self._moved,
            see=self._see,
        )
        self._calls = Calls(
            bus,
            flow,
            targets=targets,
            gate=self._gate,
            composer=composer,
            may_call=lambda delivery: self.core.may_call(delivery, events.clock()),
            told=self._told,
            failed=self._recorder.failed,
            see=self._see,
            moments=self._moments,
        )
        self.read = Reader(
            self.core,
            forms[flow.topic.name],
            sink=self._known_as,
            replay=self._replay,
            call_key=None if flow.to.idempotency is None else partial(idempotency_key, bus.identity, self._known_as),
            deletes=isinstance(self._sink, Deletes),
            newer=fleet.asked.set,  # whoever wrote it may run another topology
        ).read

    @property
    def halted(self) -> str:
        """Why the flow stands still; empty while it runs."""
        if (why := self.core.halted) is None:
            return ""
        resume = f"`trunkline sink resume {self.sink}`"
        return redact(why.told(f"When that is mended: {resume}; when a setting is, start its workers again."))

    @property
    def thread(self) -> int | None:
        """The kernel's id of the thread that fetches, while there is one."""
        return None if self._intake is None else self._intake.thread

    async def start(self) -> None:
        """Join the group and begin."""
        number = await self._writer.write(lambda db: deliveries.number_of(db, self._known_as))
        self._recorder.number = number
        self._intake = Intake(
            self,
            cluster=self._cluster,
            group=group_of(self._bus, self._identity),
            topic=self._flow.topic,
            replay=self._replay,
            ledger=self._ledger,
            sink=self._known_as,
            number=number if self._flow.after_dead != "continue" else None,
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
        self._letters.orders = orders
        name = self._known_as
        self.core.paused = name in orders.paused
        resumed = orders.resumed.get(name)
        if before is not None and resumed is not None and resumed != before.resumed.get(name):
            self._begin_again()
        self.core.skip(orders.skips(name))
        ours, named = self._ledger_id, orders.ledger
        if ours is not None and named is not None and (ours.id, ours.epoch) != named:
            self.core.halt(Halt("the bus has another ledger now, and this worker's is not used any more"))
        self._act()

    def filled(self) -> list[Full]:
        """Name the partitions that a key fills up, with the key, and its event that fails."""
        found = ((slot, self.core.filled(slot)) for slot in self.core.slots)
        return [
            Full(self.name, slot.topic, slot.partition, one.event.key, one.event.id if one.attempts > 1 else None)
            for slot, one in found
            if one is not None
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
                self.core.halt(reason)
        self.core.assign(slots, barred)
        self._divide()
        self._act()

    def _standing(self, db: Connection) -> tuple[Identity | None, dict[tuple[str, int], int], set[bytes]]:
        """Read whose ledger it is, how far it has got, and the keys that are parked."""
        return identity.read(db), progress.read(db, self._known_as), parked_keys(db, self._recorder.number)

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

    def over(self, runs: Collection[str]) -> None:
        """Take note of replays that have ended."""
        self.core.over(runs)
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

    def stop_all(self, why: Halt) -> None:
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
        self._calls.tell()
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
                        self._recorder.record(delivery, state, park=park)
                case Later(delivery, seconds):
                    self._loop.call_later(seconds, self.guarded, self._due, delivery)
                case Letter(delivery, verdict, state):
                    self._spawn(self._bury(delivery, verdict, state))
                case Withdraw(delivery):
                    self._recorder.withdraw(delivery)
                case _:
                    assert_never(effect)
        if room <= 0:
            self._gate.rest(now)
        self._idle.set()
        self._count()

    def _act_soon(self) -> None:
        """Act once for all calls that end, and all waits, in one turn of the loop."""
        if not self._acting:
            self._acting = True
            self._loop.call_soon(self.guarded, self._acted)

    def _acted(self) -> None:
        self._acting = False
        self._act()

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
        self._act_soon()

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
            refused = await self._recorder.announce(asking)
            ready = [delivery for delivery in ready if delivery not in refused]
        if ready:
            verdicts = await self._calls.attempt(call, ready)
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

    async def _bury(self, delivery: Delivery, verdict: Undeliverable, state: State) -> None:
        if await self._letters.bury(delivery, verdict, state):
            self.core.buried(delivery)
        else:
            self.core.unburied(delivery)
        self._act()

    async def _tell_and_record(self, delivery: Delivery, state: State, *, park: bool) -> None:
        """Record what the audit trail hears of first."""
        await self._letters.tell(delivery, state)
        self._recorder.record(delivery, state, park=park)

    async def _commit(self) -> None:
        try:
            await self._recorder.commit()
        except Rewound as error:
            self.stop_all(error.halt())

    def _obeyed(self, event: str) -> None:
        """Say that an order to skip an event is obeyed, now that the ledger has it."""
        for key, value in skipped(self._known_as, event):
            self._sender.send(control_of(self._bus), key.encode(), value, ())

    def _working(self) -> bool:
        """Say whether there is work that waits for nothing but being done.

        While the ledger takes none it waits for that: a worker that ended then would take with it what it knows of
        calls that were answered.
        """
        return self.core.working() and not self._recorder.refused

    def _moved(self) -> None:
        self.heart.done()
        self._act()

    def _told(self, delivery: Delivery, words: str) -> str:
        """Give a verdict's words without secrets, and without what the schema marks as sensitive."""
        hidden = marked(self._flow.topic.schema.definition, delivery.event.data) if self._hides else ()
        return redact(words, hidden)

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
        self.stop_all(defect(error))

    def _tell(self) -> Mapping[str, object]:
        """Say how it stands, for the dump of a process that is given up."""
        return {
            "positions": {f"{slot.topic}/{slot.partition}": at for slot, at in self.core.positions().items()},
            "halted": self.halted,
            "lease": self.core.lease - events.clock(),
            **self.core.counts(),
        }

    def _see(self, what: What, delivery: Delivery | None = None, **more: Any) -> None:
        event = "" if delivery is None else delivery.event.id
        self._observe(Observed(what, self.name, sink=self._sink.name, event=event, **more))
