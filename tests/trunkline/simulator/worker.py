"""One process around the real dispatcher: it does what `deliver.py` and `intake.py` do, await by await."""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.trunkline.simulator.agenda import Agenda, Step
from tests.trunkline.simulator.oracle import Broken, Calling, Oracle
from tests.trunkline.simulator.world import (
    MAIN,
    NO_ANSWER,
    REPLAY,
    Broker,
    Entry,
    Happening,
    Intent,
    Ledger,
    Outcome,
    Target,
)
from trunkline.deadletter import Origin
from trunkline.engine.delivery import Delivery, Stage
from trunkline.engine.dispatch import Call, Dispatcher, Later, Letter, Policy, Record, Withdraw
from trunkline.errors import Permanent, Poison, Retryable
from trunkline.event import Event
from trunkline.kafka.events import Slot
from trunkline.ledger.deliveries import Place, Row, State
from trunkline.ledger.intents import GO, Finished, Standing, Wait
from trunkline.verdict import Verdict

SESSION = 10.0
LEASE = SESSION / 2
CALL = 20.0
PATIENCE = CALL + 2.0
AGAIN = 1.0
AHEAD = 2
WALL = 1_700_000_000.0

TIME = datetime(2024, 1, 1, tzinfo=UTC)
EVENTS: list[Event[Any]] = [Event(f"e{number}", TIME, {}, source="simulator") for number in range(64)]
PLACES = [Place(19_723, number.to_bytes(4, "big")) for number in range(64)]
PAYLOADS = [number.to_bytes(2, "big") for number in range(64)]
NO_EVENT = Poison("no magic byte")


@dataclass(slots=True)
class World:
    """What the workers of a schedule share."""

    agenda: Agenda
    policy: Policy
    oracle: Oracle
    broker: Broker
    ledger: Ledger
    target: Target
    batch: int
    happenings: list[Happening] = field(default_factory=list)
    skips: dict[int, None] = field(default_factory=dict)
    calm: bool = False
    """Nothing goes wrong any more."""
    paused: bool = False
    ledger_trouble: float = 0.0
    ledger_down: bool = False
    orders: Callable[[], None] = lambda: None
    """Lets every worker hear of the orders that hold now."""
    parked: Callable[[Happening], None] = lambda _: None
    """Tells whoever replays parked keys of one more event."""
    stopped: Callable[["Worker"], None] = lambda _: None
    announced: Callable[[int], None] = lambda _: None
    """Tells whoever gives orders of a call that the ledger knows of."""
    joined: Callable[[], None] = lambda: None
    """Tells the coordinator of a member that has come back."""
    seen: set[tuple[str, str]] = field(default_factory=set)
    """Which inputs met which stages, and which answers which states."""

    def ledger_fails(self, share: float) -> bool:
        """Say whether the ledger fails now."""
        return self.ledger_down or (self.ledger_trouble > 0 and self.agenda.chance() < self.ledger_trouble * share)


@dataclass(slots=True, eq=False)
class Flight:
    """A request on its way to the target: a call for each of its events."""

    group: Sequence[Delivery]
    calls: Sequence[Calling]
    ended: bool = False


@dataclass(slots=True, eq=False)
class Drain:
    """Partitions that are left, and what follows when everything on them has ended, or patience."""

    slots: Sequence[Slot]
    then: Callable[[int], None]


Batch = tuple[int, list[Delivery], Mapping[Place, Row], Collection[str]]
Work = tuple[Callable[[], Any], Callable[[Any], None]]


class Durable(NamedTuple):
    """Offsets that the ledger knows, and when they were read from the watermarks, as the oracle counts."""

    offsets: Mapping[Slot, int]
    read: int


NOTHING = Durable({}, 0)
FAILED = object()
"""What a write gives whose commit has failed, as far as its writer can tell."""


class Worker:
    """A dispatcher, the thread that fetches for it, and the writer of its ledger."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.core = Dispatcher(world.policy)
        self.dead = self.frozen = self.cut = False
        self.stash: list[Step] = []
        self.slots: list[Slot] = []
        """Of which partitions its thread fetches."""
        self.at: dict[Slot, int] = {}
        self.paused: set[Slot] = set()
        self.thread_waits = False
        """The thread is in a callback of a rebalance, or looks something up."""
        self.in_session = True
        self.member = True
        """The coordinator has not given it up."""
        self.heard = world.agenda.now
        """When the coordinator heard of it last."""
        self.handed = 0
        self.durable = NOTHING
        self.advancing = False
        self.inbox: deque[tuple[Callable[[Any], None], Any]] = deque()
        self.writes: deque[Work] = deque()
        self.results: deque[list[tuple[Callable[[Any], None], Any]]] = deque()
        self.outcomes: list[tuple[Delivery, Outcome]] = []
        self.recording = False
        self.flights: list[Flight] = []
        self.drains: list[Drain] = []
        self.announced = 0
        self.parking = world.policy.after_dead != "continue"
        self.live: set[Delivery] = set()
        """Deliveries whose replay was live when it was looked up."""
        self.over: set[Delivery] = set()
        """Deliveries that nobody had called when it was heard here that their replay was over."""
        self.heard_over: set[str] = set()
        self.recorded = self.found_finished = self.dropped = 0
        self.stand()
        self.core.skip([EVENTS[number].id for number in world.skips])
        self.core.paused = world.paused

    @property
    def ready(self) -> bool:
        """Whether its thread may do something."""
        return not (self.dead or self.frozen or self.thread_waits)

    def stand(self) -> None:
        """Let the oracle know whether calls may begin here."""
        core = self.core
        still = bool(core.halted) or core.paused or core.stopping
        (self.world.oracle.still.add if still else self.world.oracle.still.discard)(self.number)

    def say(self, what: str) -> None:
        """Add to the trace."""
        if self.world.agenda.told is not None:
            self.world.agenda.say(f"w{self.number} {what}")

    # The thread: fetching and committing.

    def fetch(self, *, all_of_it: bool = False) -> None:
        """Fetch a batch from what is not paused, and begin to look it up."""
        if not self.ready or self.handed - self.core.arrivals > AHEAD:
            return
        agenda, broker = self.world.agenda, self.world.broker
        entries: list[Entry] = []
        for slot in self.slots:
            log, at = broker.logs[slot], self.at[slot]
            if at == len(log):
                continue
            if self.full(slot):
                self.paused.add(slot)
                continue
            self.paused.discard(slot)
            if all_of_it or agenda.chance() < 0.7:
                batch = log[at : at + 1 + agenda.below(self.world.batch)]
                self.at[slot] = at + len(batch)
                entries += batch
        if entries:
            self.thread_waits = True
            number = self.core.looking()
            if agenda.told is not None:
                self.say(f"fetches {', '.join(map(named, entries))} for look-up {number}")
            agenda.soon(self.look_up, self, (number, [self.read(entry) for entry in entries]))

    def full(self, slot: Slot) -> bool:
        """Ask whether a partition is paused, which needs a reason of its own."""
        core = self.core
        if not core.full(slot, paused=slot in self.paused):
            return False
        caps = core._caps
        spans = slot in core._watermarks and core._watermarks[slot].unfinished >= caps.span / 2
        if not (core.halted or core._held[slot] or spans):
            if slot.topic == REPLAY:
                raise Broken(f"replay-paused: w{self.number} {slot} is full and holds nothing")
            if core._bytes < caps.bytes / 2 and not core._lanes.full(slot):
                raise Broken(f"paused-without-reason: w{self.number} {slot} is full and holds nothing")
        return True

    def read(self, entry: Entry) -> Delivery:
        """Make a delivery of a record."""
        record, happening = entry.record, entry.happening
        identity = happening.number if happening.claims < 0 else happening.claims
        return Delivery(
            record=record,
            event=EVENTS[identity],
            origin=Origin(MAIN, happening.partition, happening.offset),
            place=PLACES[identity],
            payload=PAYLOADS[happening.number],
            lane=(record.slot, record.offset) if record.key is None else record.key,
            key=record.key,
            size=happening.size,
            poison=NO_EVENT if happening.poison else None,
            run=entry.run,
        )

    def look_up(self, given: tuple[int, list[Delivery]]) -> None:
        """Take what the ledger knows now; it arrives later."""
        world = self.world
        self.thread_waits = False
        if world.ledger_fails(0.7):
            self.end_session("the look-up failed")
            return
        number, batch = given
        rows = world.ledger.rows
        known = {one.place: row for one in batch if (row := rows.get(int(one.event.id[1:]))) is not None}
        for one in batch:
            if one.place in known and known[one.place].payload != one.payload and number_of(one) in rows:
                known[self.core.apart(one)] = rows[number_of(one)]
        live: list[str] = []
        for one in batch:
            if one.run:
                live = list(world.ledger.runs)
                one.overwrite = world.ledger.runs.get(one.run, False)
        self.handed += 1
        self.tell(self.arrive, (number, batch, known, live))

    def tell(self, function: Callable[[Any], None], argument: Any) -> None:
        """Hand something to the loop, which takes it up in order."""
        self.inbox.append((function, argument))
        self.world.agenda.soon(self.listen, self)

    def listen(self, _: Any) -> None:
        """Take the oldest of what was handed over."""
        function, argument = self.inbox.popleft()
        function(argument)

    def commit(self, *, parks: float = 0.5) -> None:
        """Commit what is durable, and begin to make the watermarks durable; read the park rows with that chance."""
        if not self.ready or not self.slots:
            return
        self.commit_now(self.durable)
        if not self.advancing and (positions := self.core.positions()) != self.durable.offsets:
            self.advancing = True
            self.advance(self.advanced, positions)
        if self.parking and self.world.agenda.chance() < parks:
            self.read_parks()

    def ask_runs(self, _: object) -> None:
        """Read which replays are over."""
        if self.ready and (over := self.world.oracle.over - self.heard_over):
            self.heard_over |= over
            self.tell(self.overs, over)

    def overs(self, runs: set[str]) -> None:
        """Hear which replays are over."""
        self.note("over")
        for first in self.core._open.values():
            uncalled = (one for one in (first, *first.twins) if one.run in runs and not one.attempts and not one.busy)
            self.over.update(one for one in uncalled if not one.doubtful)
        self.core.over(runs)
        self.act()

    def read_parks(self) -> None:
        """Let the dispatcher hear which keys are parked, by whomever."""
        if self.ready:
            self.thread_waits = True
            self.world.agenda.soon(self.parks_read, self, self.core.looking())

    def parks_read(self, number: int) -> None:
        """Take the park rows of now; they arrive later."""
        self.thread_waits = False
        if self.world.ledger_fails(0.5):
            self.end_session("the parked keys cannot be read")
        else:
            self.tell(self.bars, (number, self.world.ledger.parked()))

    def bars(self, given: tuple[int, list[bytes]]) -> None:
        """Hear which keys were parked."""
        self.note("bars")
        self.core.bars(*given)
        self.act()

    def commit_now(self, durable: Durable) -> None:
        """Send offsets to the coordinator, which takes them from members only."""
        world = self.world
        for slot, offset in durable.offsets.items():
            if world.oracle.owner.get(slot) == self.number and self.member and not self.cut:
                if world.broker.committed[slot] != offset:
                    self.say(f"commits {place(slot, offset)}")
                if world.ledger.progress.get(slot, -1) < offset:
                    raise Broken(f"commit-before-progress: w{self.number} {place(slot, offset)}")
                world.broker.committed[slot] = offset
                world.oracle.committed(slot, offset, durable.read)

    def advance(self, then: Callable[[Durable], None], positions: Mapping[Slot, int]) -> None:
        """Make the watermarks durable in the ledger; nothing may be committed when partitions have come or gone."""
        epoch = self.core.epoch
        if not positions:
            then(NOTHING)
            return
        durable = Durable(positions, self.world.oracle.taken)
        progress = self.world.ledger.progress

        def write() -> None:
            progress.update({slot: max(offset, progress.get(slot, 0)) for slot, offset in positions.items()})

        self.write(write, lambda result: then(durable if result is None and self.core.epoch == epoch else NOTHING))

    def advanced(self, durable: Durable) -> None:
        """Let the next commit take what is durable."""
        self.durable = durable
        self.advancing = False

    # The thread: partitions that come and go.

    def assign(self, slots: list[Slot]) -> None:
        """Take partitions over: their parked keys come through the writer, after whatever it recorded before."""
        world = self.world
        self.thread_waits = True
        self.heard = world.agenda.now
        begins = {slot: world.broker.committed[slot] for slot in slots}

        def take_over(parked: Any) -> None:
            self.thread_waits = False
            if parked is FAILED:
                for slot in slots:
                    world.oracle.left(self.number, slot, clean=True)
                self.end_session("the parked keys cannot be read")
                return
            self.note("assign")
            self.core.assign(slots, parked)
            self.say(f"is assigned {list(map(slot_name, slots))}, parked are {parked}")
            for slot in slots:
                log = world.broker.logs[slot]
                self.slots.append(slot)
                self.at[slot] = next((n for n, one in enumerate(log) if one.record.offset >= begins[slot]), len(log))
            self.find_out(None)
            self.act()

        self.write(world.ledger.parked, take_over)

    def revoke(self, slots: list[Slot], then: Callable[[int], None]) -> None:
        """Ask for partitions back; `then` hears how much on them had not ended."""
        self.thread_waits = True
        self.tell(self.give_back, (slots, PATIENCE, then))

    def wake(self, _: Any) -> None:
        """Go on after a while in which no poll was answered: a commit is due before the next."""
        self.commit()
        self.find_out(None)

    def find_out(self, _: Any) -> None:
        """Learn that the coordinator has given this member up, once it is heard of again."""
        if self.member:
            return
        if self.thread_waits or self.cut:
            self.world.agenda.later(0.5, self.find_out, self)
        elif self.slots:
            self.thread_waits = True
            self.tell(self.give_back, (list(self.slots), 0.0, lambda _: self.rejoin()))
        else:
            self.rejoin()

    def rejoin(self) -> None:
        """Be a member again, which wants its share."""
        self.member = True
        self.heard = self.world.agenda.now
        self.world.joined()

    def give_back(self, given: tuple[list[Slot], float, Callable[[int], None]]) -> None:
        """Finish what has begun on partitions, forget them and commit."""
        slots, seconds, then = given

        def drained(open_still: int) -> None:
            if seconds > 0:
                self.advance(lambda durable: finish(open_still, durable), self.core.positions())
            else:
                finish(open_still, NOTHING)

        def finish(open_still: int, durable: Durable) -> None:
            self.note("forget")
            self.core.forget(slots)
            self.act()
            offsets = {slot: offset for slot, offset in durable.offsets.items() if slot in slots}
            self.commit_now(Durable(offsets, durable.read))
            self.durable = NOTHING
            for slot in slots:
                self.slots.remove(slot)
                self.paused.discard(slot)
            self.thread_waits = False
            self.say(f"has given back {list(map(slot_name, slots))}{' before all had ended' if open_still else ''}")
            then(open_still)

        self.drain(slots, 0.0 if self.core.stopping else seconds, drained)

    def drain(self, slots: Sequence[Slot], seconds: float, then: Callable[[int], None]) -> None:
        """Begin nothing more on partitions and wait for what has begun."""
        oracle = self.world.oracle
        self.note("leave")
        idle = [one for one in self.core._open.values() if not one.busy]
        self.core.leave(slots)
        self.dropped += sum(one.stage is Stage.GONE for one in idle)
        self.say(f"leaves {list(map(slot_name, slots))}")
        for slot in slots:
            if oracle.owner.get(slot) == self.number:
                oracle.asked_back(self.number, slot)
        drain = Drain(slots, then)
        self.drains.append(drain)
        self.act()
        if self.core.busy(slots) == 0 or seconds == 0:
            self.drain_ends(drain)
        else:
            self.world.agenda.later(seconds, self.drain_ends, self, drain)

    def drain_ends(self, drain: Drain) -> None:
        """Go on: everything has ended, or patience has."""
        if drain in self.drains:
            self.drains.remove(drain)
            drain.then(self.core.busy(drain.slots))

    def end_session(self, why: str) -> None:
        """Close the member: everything is given back, and a new session begins."""
        self.in_session = False
        self.say(f"ends its session: {why}")
        slots = list(self.slots)

        def ended(open_still: int) -> None:
            for slot in slots:
                self.world.oracle.left(self.number, slot, clean=not open_still)
            if self.core.stopping:
                self.say("has stopped")
                self.world.stopped(self)
                return
            if self.core.halted:
                self.core.go_on()
                self.stand()
                self.say("goes on")
            self.in_session = True

        self.revoke(slots, ended)

    def stop(self, seconds: float) -> None:
        """End in order: finish what has begun, at most so long, and leave the group."""
        self.say("is told to stop")
        self.core.stopping = True
        self.stand()
        self.drain(sorted(self.core.slots), seconds, lambda _: self.leave_group(None))

    def leave_group(self, _: Any) -> None:
        """Close the member as soon as the thread may."""
        if self.thread_waits or not self.in_session:
            self.world.agenda.later(0.5, self.leave_group, self)
        else:
            self.end_session("it stops")

    # The loop: what goes into the dispatcher and what comes out.

    def arrive(self, given: Batch) -> None:
        """Take a batch in."""
        number, batch, known, live = given
        core, seen = self.core, self.world.seen
        if self.world.agenda.told is not None:
            found = [
                f"{one.event.id}{' ' + known[one.place].state.name if one.place in known else ''}" for one in batch
            ]
            self.say(f"takes in look-up {number}: {', '.join(found)}{f'; live are {live}' if live else ''}")
        for one in batch:
            row = known.get(one.place)
            if one.run in live:
                self.live.add(one)
            kind = "main" if not one.run else "live" if one.run in live else "stale"
            seen.add((f"arrive {kind}", "nothing" if row is None else row.state.name))
        halted = core.halted
        core.arrive(number, batch, known, live)
        if core.halted and not halted:
            self.halts()
        self.bounded()
        self.act()

    def bounded(self) -> None:
        """Check that nothing grows beyond its cap and what was in the pipe."""
        core = self.core
        caps, batch = core._caps, self.world.batch
        pipe = (AHEAD + 2) * batch
        slots = max(1, len(core._held))
        for slot, held in core._held.items():
            if not 0 <= held <= caps.slot_events + pipe:
                raise Broken(f"unbounded: w{self.number} holds {held} events of {slot}")
        if not 0 <= core._bytes <= caps.bytes + slots * pipe * 10 + slots * caps.slot_events * 10:
            raise Broken(f"unbounded: w{self.number} holds {core._bytes} bytes")
        if len(core._settled) > slots * (caps.slot_events + pipe):
            raise Broken(f"unbounded: w{self.number} remembers {len(core._settled)} settled events")
        for slot, watermark in core._watermarks.items():
            if watermark.unfinished > caps.span + pipe:
                raise Broken(f"unbounded: w{self.number} spans {watermark.unfinished} offsets of {slot}")

    def act(self) -> None:
        """Let the dispatcher choose, and do what it has decided."""
        core, agenda = self.core, self.world.agenda
        if core._lanes._ready:
            lapsing = [one for one in core._open.values() if one in self.over] if self.over else []
            core.turn(agenda.now)
            self.dropped += sum(one.stage is Stage.GONE for one in lapsing)
        for effect in core.take() if core._effects else ():
            match effect:
                case Call(chosen):
                    agenda.soon(self.call, self, chosen)
                case Record(delivery, state, _):
                    told_before = (delivery.run and delivery.kind is None) or state is State.SUPERSEDED
                    (self.tell_and_record if told_before else self.record)(effect)
                case Letter():
                    agenda.soon(self.bury, self, effect)
                case Later(delivery, seconds):
                    agenda.later(seconds, self.due, self, delivery)
                case Withdraw(delivery):
                    self.withdraw(delivery)
        for drain in self.drains:
            if core.busy(drain.slots) == 0:
                agenda.soon(self.drain_ends, self, drain)

    def note(self, what: str, delivery: Delivery | None = None) -> None:
        """Note which stages an input meets: one delivery's, or those of all that are open."""
        if delivery is None:
            self.world.seen.update((what, one.stage._value_) for one in self.core._open.values())
            return
        self.world.seen.add((what, delivery.stage._value_))
        if self.world.agenda.told is not None:
            self.say(f"{what} {delivery.event.id}{' of ' + delivery.run if delivery.run else ''}")

    def ended(self, delivery: Delivery) -> None:
        """Count a delivery that an input has made an end of without an outcome."""
        self.dropped += delivery.stage is Stage.GONE

    def due(self, delivery: Delivery) -> None:
        """End a wait."""
        self.note("due", delivery)
        self.core.due(delivery)
        self.act()

    def call(self, chosen: Sequence[Delivery]) -> None:
        """Make a call, or ask the ledger before."""
        ready = []
        for delivery in chosen:
            self.note("begin", delivery)
            if self.core.begin(delivery, self.world.agenda.now):
                ready.append(delivery)
        if asking := [one for one in ready if one.stage is Stage.PREPARING]:
            self.prepare(asking, ready)
        elif ready:
            self.send(ready)
        self.act()

    def prepare(self, asking: list[Delivery], ready: list[Delivery]) -> None:
        """Announce calls in the ledger, and make the call of all that stays `ready`."""
        world, agenda = self.world, self.world.agenda
        wall = WALL + agenda.now
        intents = []
        for one in asking:
            if not one.owner:
                self.announced += 1
                one.owner = f"{self.number}:{self.announced}:{run_of(one)}"
            happening = world.happenings[number_of(one)]
            intents.append(Intent(happening, one.owner, wall, wall + PATIENCE, run_of(one), one.overwrite, one.payload))

        def intended(standings: Any) -> None:
            found: list[Standing] = standings
            if standings is FAILED:
                found = [Wait(WALL + agenda.now + AGAIN)] * len(asking)
            for one, standing in zip(asking, found, strict=True):
                if standing is GO and not world.policy.keyed:
                    world.announced(number_of(one))
                self.note(f"prepared {type(standing).__name__}", one)
                if self.core.prepared(one, standing, agenda.now, WALL + agenda.now):
                    continue
                ready.remove(one)
                if isinstance(standing, Finished):
                    self.found_finished += 1
                else:
                    self.ended(one)
            if ready:
                self.send(ready)
            self.act()

        self.write(lambda: [world.ledger.intend(intent) for intent in intents], intended)

    def send(self, group: Sequence[Delivery]) -> None:
        """Send the request; it reaches the target at once, late, or after nobody waits for it any more."""
        agenda, oracle = self.world.agenda, self.world.oracle
        if agenda.told is not None:
            self.say(f"calls {', '.join(one.event.id + (' of ' + one.run if one.run else '') for one in group)}")
        calls = [
            Calling(self.number, number_of(one), one.record.slot, one.run, one.overwrite, one, one in self.live)
            for one in group
        ]
        if late := [one for one in group if one in self.over]:
            raise Broken(f"called-after-all: w{self.number} {late[0].event.id} of {late[0].run}, heard to be over")
        oracle.called(calls)
        flight = Flight(group, calls)
        self.flights.append(flight)
        if agenda.chance() < 0.7:
            agenda.soon(self.reach, None, flight)
        else:
            agenda.later(agenda.chance() * 1.2 * CALL, self.reach, None, flight)
        agenda.later(CALL, self.give_up, self, flight)

    def reach(self, flight: Flight) -> None:
        """Let the target handle a request, whatever has become of its sender."""
        happenings = self.world.happenings
        given = [(happenings[call.event], call.run, flight.ended or call.orphan) for call in flight.calls]
        verdicts = self.world.target.handle(given)
        if self.world.agenda.told is not None:
            named = ", ".join(f"e{happening.number}" for happening, _, _ in given)
            self.world.agenda.say(f"target handles {named} from w{self.number}: {verdicts or 'refused as a whole'}")
        self.world.agenda.soon(self.answer, self, (flight, verdicts))

    def give_up(self, flight: Flight) -> None:
        """Wait no longer for an answer."""
        self.answer((flight, [NO_ANSWER] * len(flight.group)))

    def answer(self, given: tuple[Flight, Sequence[Verdict]]) -> None:
        """Take the answer, or give up waiting for it; none means that several were refused as a whole."""
        flight, verdicts = given
        if flight.ended:
            return
        flight.ended = True
        self.flights.remove(flight)
        if verdicts:
            for delivery, call, verdict in zip(flight.group, flight.calls, verdicts, strict=True):
                self.answered(delivery, call, verdict)
        else:
            self.world.oracle.refused_together(flight.calls)
            for delivery in flight.group:
                self.note("refused", delivery)
            self.core.refused(flight.group)
            for delivery in flight.group:
                self.ended(delivery)
        self.act()

    def answered(self, delivery: Delivery, call: Calling, verdict: Verdict) -> None:
        """Take what an answer says of one event."""
        core, agenda = self.core, self.world.agenda
        left = self.world.policy.retry.give_up_after.total_seconds() - (agenda.now - delivery.began)
        wait = verdict.after if isinstance(verdict, Retryable) and verdict.after and verdict.after <= left else None
        refused = isinstance(verdict, Permanent)
        self.world.oracle.ended(call, known=verdict is not NO_ANSWER, refused=refused, wait=wait)
        self.note("answered", delivery)
        owned = "gone" if not core.owns(delivery) else "ours" if core._keeps(delivery) else "leaving"
        self.world.seen.add((f"answered {type(verdict).__name__}", owned))
        if agenda.told is not None:
            agenda.say(f"   with {verdict!r}")
        halted = core.halted
        core.answered(delivery, verdict, agenda.now, agenda.chance)
        self.ended(delivery)
        if core.halted and not halted:
            self.halts()

    def halts(self) -> None:
        """Stand still."""
        self.note("halt")
        self.stand()
        self.say(f"halts: {self.core.halted}")

    def bury(self, effect: Letter) -> None:
        """Write the dead letter, again and again while it is refused and the partition is ours."""
        core, delivery = self.core, effect.delivery
        if not core.owns(delivery):
            self.note("unburied", delivery)
            core.unburied(delivery)
            self.ended(delivery)
            self.act()
        elif self.world.broker.refuses_letters:
            self.world.agenda.later(AGAIN, self.bury, self, effect)
        else:
            kind = delivery.kind or ""
            ordered = int(delivery.skipped[1:]) if delivery.skipped else None
            condemned = delivery if kind == "permanent" else None
            number = number_of(delivery)
            self.world.oracle.lettered(self.number, number, effect.state, delivery.run, ordered, condemned)
            self.world.seen.add((f"letter {effect.state.name}", kind))
            self.say(f"writes the letter of {delivery.event.id}: {effect.state.name}, {kind}")
            self.world.agenda.soon(self.buried, self, delivery)

    def buried(self, delivery: Delivery) -> None:
        """Take the acknowledgement of the letter."""
        self.note("buried", delivery)
        self.core.buried(delivery)
        self.ended(delivery)
        self.act()

    def tell_and_record(self, effect: Record) -> None:
        """Record what the audit trail hears of first."""
        if self.world.broker.refuses_letters:
            self.world.agenda.later(AGAIN, self.tell_and_record, self, effect)
        else:
            self.record(effect)

    def record(self, effect: Record) -> None:
        """Let an outcome wait for the next group."""
        one = effect.delivery
        happening = self.world.happenings[number_of(one)]
        at = WALL + self.world.agenda.now
        outcome = Outcome(
            self.number, happening, effect.state, one.owner, one.attempts, effect.park, one.payload, run_of(one), at
        )
        self.outcomes.append((one, outcome))
        if not self.recording:
            self.recording = True
            self.world.agenda.soon(self.record_group, self, None)

    def record_group(self, again: list[tuple[Delivery, Outcome]] | None) -> None:
        """Record all that wait together; what fails is recorded again."""
        world = self.world
        group = again or self.outcomes
        if again is None:
            self.outcomes = []

        def recorded(result: Any) -> None:
            if result is FAILED:
                world.agenda.later(AGAIN, self.record_group, self, group)
                return
            freed, against = result
            for delivery, outcome in group:
                row = against.get(outcome.happening.number)
                self.note(f"recorded {outcome.state.name}", delivery)
                if row is not None:
                    self.note(f"against {row.state.name}", delivery)
                if self.core.recorded(delivery, freed, row, WALL + world.agenda.now) is None:
                    self.ended(delivery)
                    continue
                self.recorded += 1
                if outcome.state is State.PARKED:
                    world.parked(outcome.happening)
                if delivery.skipped and world.skips.pop(int(delivery.skipped[1:]), 0) is None:
                    world.oracle.order_ended(outcome.happening.number)
                    world.orders()
            self.act()
            self.recording = bool(self.outcomes)
            if self.recording:
                self.record_group(None)

        rows = [outcome for _, outcome in group]
        self.write(lambda: world.ledger.record(rows), recorded)

    def withdraw(self, delivery: Delivery) -> None:
        """Take an announced call back; nobody waits for it."""
        ledger, happening, owner = self.world.ledger, self.world.happenings[number_of(delivery)], delivery.owner
        self.write(lambda: ledger.withdraw(happening, owner), lambda _: None)

    def obey(self, _: Any) -> None:
        """Bring the orders that hold into force."""
        world, core = self.world, self.core
        if core.paused != world.paused:
            self.note("pause")
        if world.skips:
            self.note("skip")
        core.paused = world.paused
        self.stand()
        core.skip([EVENTS[number].id for number in world.skips])
        self.act()

    # The writer.

    def write(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Let something be committed with the next group."""
        self.writes.append((work, done))
        if len(self.writes) == 1:
            self.world.agenda.soon(self.commit_group, self)

    def commit_group(self, _: Any) -> None:
        """Commit what is queued: it fails as a whole, and sometimes only its answer is lost."""
        world, group = self.world, list(self.writes)
        self.writes.clear()
        results: list[Any] = [FAILED] * len(group)
        if not world.ledger_fails(0.5):
            results = [work() for work, _ in group]
            if world.ledger_fails(0.3):
                self.say("does not hear of its commit")
                results = [FAILED] * len(group)
        else:
            self.say("cannot commit")
        self.results.append([(done, result) for (_, done), result in zip(group, results, strict=True)])
        if world.calm and len(self.results) == 1:
            self.settle(None)
        else:
            world.agenda.soon(self.settle, self)

    def settle(self, _: Any) -> None:
        """Let the loop hear of a commit."""
        for done, result in self.results.popleft():
            done(result)


def number_of(delivery: Delivery) -> int:
    """Give the number of a delivery's event, which the simulator keeps as its record's timestamp."""
    return delivery.record.timestamp


def run_of(delivery: Delivery) -> str:
    """Give the live replay that a delivery is of; empty when there is none."""
    return delivery.run if delivery.live else ""


def slot_name(slot: Slot) -> str:
    """Name a slot shortly."""
    return f"{slot.topic}/{slot.partition}"


def place(slot: Slot, offset: int) -> str:
    """Name a place in a log shortly."""
    return f"{slot_name(slot)}@{offset}"


def named(entry: Entry) -> str:
    """Name a record shortly."""
    return f"e{entry.happening.number}={place(entry.record.slot, entry.record.offset)}"
