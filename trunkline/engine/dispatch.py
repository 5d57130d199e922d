"""What becomes of every delivery of one flow: decisions only. It has no I/O, no clock and no chance of its own.

    arrive ─▶ QUEUED ─turn─▶ STARTED ─begin─▶ (PREPARING) ─▶ CALLING ─answered─▶ RECORDING ─recorded─▶ gone
                 ▲                                              ├────▶ BURYING ─buried─▶ RECORDING
                 └───────────────── due ◀─ WAITING ◀────────────┘

Whoever drives it tells it what has happened and does what `take` gives: the engine with a broker, a ledger and a
target (`deliver.py`), the tests with a simulator of all three. Times are seconds of one clock.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from trunkline.deadletter import Kind, stray
from trunkline.engine.breaker import ANY
from trunkline.engine.delivery import Delivery, Key, Stage
from trunkline.engine.lanes import Lanes, untried
from trunkline.engine.watermark import Watermark
from trunkline.errors import Halt, Permanent, Poison, Undeliverable, Unknown, UnknownSchema
from trunkline.kafka.events import Slot
from trunkline.ledger.deliveries import REOPENED, Place, Row, State, may_reopen, place_of
from trunkline.ledger.intents import Ambiguous, Finished, Go, Parked, Standing, Superseded, Wait
from trunkline.verdict import Again, Bury, Done, Guard, Retry, Stop, Supersede, Verdict, decide

LOOK_AGAIN = 1.0
"""Seconds after which an event of an unknown schema is looked at again."""


@dataclass(frozen=True, slots=True)
class Caps:
    """How much is held at most (D6). What is full pauses, and goes on at half of it."""

    lane_events: int = 1_000
    lane_bytes: int = 8 * 1024 * 1024
    slot_events: int = 2_000
    bytes: int = 64 * 1024 * 1024
    """Of all partitions together; an event counts with what it costs in memory."""
    span: int = 200_000
    """Records from a partition's watermark to the newest one fetched."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a flow declares about its deliveries."""

    retry: Retry
    sink: str = ""
    """What the ledger knows the sink by."""
    keyed: bool = True
    """The target honours our idempotency key."""
    latest: bool = False
    """The target keeps the last state of a key, so an older event must not follow a newer one (R2)."""
    after_dead: Literal["continue", "park_key", "block"] = "continue"
    replay: str = ""
    """The topic of the flow's replays. No other event's bytes hold them up: they may be what frees the others."""
    width: int = 256
    together: int = 1
    """Events that one call may carry."""
    patience: float = 22.0
    """Seconds after which a call that was announced has certainly ended."""
    caps: Caps = Caps()


@dataclass(frozen=True, slots=True)
class Call:
    """Wait for the target's limit, `begin` each, and make one call of those that may; then `answered` for each."""

    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class Later:
    """Tell `due` after so many seconds."""

    delivery: Delivery
    seconds: float


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take an announced call back: it certainly had no effect. Nobody waits for it."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Letter:
    """Write the dead letter and its entry in the audit trail; then `buried`, or `unburied` when the partition goes."""

    delivery: Delivery
    verdict: Undeliverable
    state: State
    """What the delivery will be recorded as."""


@dataclass(frozen=True, slots=True)
class Record:
    """Make an outcome durable in the ledger, together with the parking of its key if asked; then `recorded`."""

    delivery: Delivery
    state: State
    park: bool


Effect = Call | Later | Withdraw | Letter | Record


class Dispatcher:
    """The deliveries of one flow in one worker."""

    def __init__(self, policy: Policy) -> None:
        self.halted: Halt | None = None
        """Why nothing begins any more; None while all is well."""
        self.paused = False
        self.stopping = False
        self.lease = 0.0
        """Until when calls may begin (D8)."""
        self.stood = 0.0
        """Seconds for which the target has stood still so far; they count towards no event's patience."""
        self.uniform = math.inf
        """As of when all workers were known to run our topology; what was fetched later may be of another's (L5)."""
        self.epoch = 0
        """How often partitions have come or gone."""
        self.arrivals = 0
        """Batches that have arrived."""
        self.accepted = 0
        """Events taken in to be delivered."""
        self.ended = 0
        """Those of them that are finished, durably."""
        self.given_up = 0
        """Those of them that went unfinished to whoever has their partition next, or whose replay was over."""
        self.repeats = 0
        """Events that came again after they had been finished, or that no live replay sent."""
        self._policy = policy
        self._caps = policy.caps
        self._lanes = Lanes(policy.width, events=policy.caps.lane_events, size=policy.caps.lane_bytes)
        self._watermarks: dict[Slot, Watermark] = {}
        self._leaving: set[Slot] = set()
        self._open: dict[Place, Delivery] = {}
        self._held: Counter[Slot] = Counter()
        self._bytes = 0
        self._settled: dict[Place, tuple[int, Row]] = {}
        self._looked_up = 0
        self._barred: dict[Key, int] = {}
        """Keys that are parked or blocked, with the look-up after which it was known."""
        self._freed: dict[Key, int] = {}
        self._skips: set[str] = set()
        self._skipped: set[str] = set()
        self._guard = Guard()
        self._unwritten: dict[Place, Slot] = {}
        """Events that were refused, and whose partition went before their letters were written."""
        self._effects: list[Effect] = []

    # Partitions.

    def assign(self, slots: Iterable[Slot], barred: Iterable[Key]) -> None:
        """Take partitions over before their first record; `barred` are all keys that are parked or blocked now."""
        self.epoch += 1
        for slot in slots:
            self._watermarks[slot] = Watermark()
        self._unwritten = {place: slot for place, slot in self._unwritten.items() if slot in self._watermarks}
        self.bars(self.looking(), barred)

    def bars(self, number: int, keys: Iterable[Key]) -> None:
        """Take all keys that are parked or blocked, as read after look-up `number` had begun.

        Other workers and people park and free keys too; what happened here since then is newer.
        """
        found = set(keys)
        for key, since in list(self._barred.items()):
            if key not in found and since < number:
                self._free(key)
        for key in found:
            if key not in self._barred and self._freed.get(key, -1) < number:
                self._bar(key, number)
        self._freed = {key: at for key, at in self._freed.items() if at >= number}

    def leave(self, slots: Collection[Slot]) -> None:
        """Begin nothing more on partitions and give up what has not begun there (D7)."""
        leaving = set(slots)
        self._leaving |= leaving
        self._lanes.discard(lambda delivery: delivery.record.slot in leaving)
        given_up = [one for one in self._open.values() if one.record.slot in leaving and not one.busy]
        for delivery in given_up:
            self._give_up(delivery)
        for delivery in given_up:
            self._admit_all(delivery.twins, None)

    @property
    def slots(self) -> set[Slot]:
        """The partitions that are ours."""
        return set(self._watermarks)

    def busy(self, slots: Collection[Slot]) -> int:
        """Count what has begun on partitions and not ended."""
        return sum(delivery.busy and delivery.record.slot in slots for delivery in self._open.values())

    def forget(self, slots: Collection[Slot]) -> None:
        """Give partitions up: what still ends there commits nothing, and only a delivery is still recorded (D4)."""
        self.epoch += 1
        for slot in slots:
            self._watermarks.pop(slot, None)
        self._leaving.difference_update(slots)

    def positions(self) -> dict[Slot, int]:
        """Give the offsets to commit, of partitions that have any."""
        return {
            slot: position
            for slot, watermark in self._watermarks.copy().items()
            if (position := watermark.position) is not None
        }

    def oldest(self) -> dict[Slot, int]:
        """Give when the oldest unfinished record of each partition was published; may be asked from any thread."""
        found: dict[Slot, int] = {}
        for first in list(self._open.values()):
            for delivery in (first, *first.twins):
                slot, at = delivery.record.slot, delivery.record.timestamp
                found[slot] = min(at, found.get(slot, at))
        return found

    def gap(self) -> int:
        """Count the events taken in of which nobody knows any more: none, unless there is a bug."""
        return self.accepted - self.ended - self.given_up - len(self._open)

    def full(self, slot: Slot, *, paused: bool) -> bool:
        """Say whether a partition must not be fetched from now; once it is `paused`, half of a cap is enough (D6)."""
        share = 0.5 if paused else 1.0
        watermark = self._watermarks.get(slot)
        return (
            bool(self.halted)
            or self._lanes.full(slot)
            or self._held[slot] >= self._caps.slot_events * share
            or (self._bytes >= self._caps.bytes * share and slot.topic != self._policy.replay)
            or (watermark is not None and watermark.unfinished >= self._caps.span * share)
        )

    def filled(self, slot: Slot) -> Delivery | None:
        """Give the head of a lane that fills a partition up; may be asked from any thread."""
        key = self._lanes.filled(slot)
        return None if key is None else self._lanes.head(key)

    def holds_up(self, delivery: Delivery) -> bool:
        """Say whether the next of its key waits for nothing but that a delivery's outcome is durable."""
        return self._lanes.followed(delivery.lane) and not self._lanes.crowded

    # Arrival.

    def looking(self) -> int:
        """Number a look-up that is about to be made: what is recorded from now on, it may have missed."""
        self._looked_up += 1
        return self._looked_up

    def arrive(self, number: int, batch: Iterable[Delivery], known: Mapping[Place, Row], live: Collection[str]) -> None:
        """Take a fetched batch in, with what look-up `number` found and the replays that were live then (D2)."""
        self.arrivals += 1
        for delivery in batch:
            if self.halted:
                return
            if (watermark := self._watermarks.get(delivery.record.slot)) is None:
                continue
            delivery.watermark = watermark
            watermark.begin(delivery.record.offset)
            place = delivery.place
            row = known.get(place)
            if (late := self._settled.get(place)) is not None and late[0] >= number:
                row = late[1]
            first = self._open.get(place)
            if row is None and first is None and not delivery.run:  # as nearly all are
                self._hold(delivery)
                self._queue(delivery)
                continue
            if any(before is not None and before.payload != delivery.payload for before in (row, first)):
                row = known.get(self.apart(delivery))
                if row is None and delivery.event.id not in self._skips | self._skipped:
                    self.halt(conflict(delivery))
                    return
                self._estrange(delivery)
            dead = row is not None and row.state in REOPENED and self._policy.after_dead != "continue"
            if dead and delivery.key is not None:
                self._bar(delivery.key, number)  # another worker's last outcome may be newer than the keys we know
            self._admit(delivery, row, live)
        self._settled = {place: entry for place, entry in self._settled.items() if entry[0] > number}

    def _admit(self, delivery: Delivery, row: Row | None, live: Collection[str]) -> None:
        """Queue a delivery, unless its event is finished: some states for ever, others for all but a live replay."""
        delivery.live = delivery.run in live
        if row is None:
            wanted = delivery.live or not delivery.run
        elif row.state is State.INTENT:
            wanted = delivery.doubtful = True  # whoever announced it, and whether the replay is over or not
        else:
            wanted = delivery.live and may_reopen(row, delivery.run)
        if not wanted:
            delivery.stage = Stage.GONE
            delivery.watermark.finish(delivery.record.offset)
            self.repeats += 1
            return
        self._hold(delivery)
        first = self._open.get(delivery.place)
        if first is None:
            self._queue(delivery)
        elif delivery.run and untried(first) and first.lane == delivery.lane:
            # The first may wait for the very letter that this replay brings back.
            self._open[delivery.place] = delivery
            self._lanes.supplant(first, delivery)
            delivery.twins, first.twins = (first, *first.twins), ()
        else:
            first.twins = (*first.twins, delivery)

    def _hold(self, delivery: Delivery) -> None:
        """Count what a delivery weighs, until it is let go."""
        self._held[delivery.record.slot] += 1
        self._bytes += delivery.size

    def _queue(self, delivery: Delivery) -> None:
        """Put the only delivery of its event in its lane."""
        self._open[delivery.place] = delivery
        self.accepted += 1
        self._lanes.add(delivery)

    def over(self, runs: Collection[str]) -> None:
        """Take note of replays that have ended: what they sent and nobody has called yet is not called any more."""
        for first in self._open.values():
            for delivery in (first, *first.twins):
                if delivery.run in runs and not delivery.attempts and not delivery.busy:
                    delivery.live = False

    # Calls.

    def turn(self, now: float, room: int = ANY) -> None:
        """Choose what is called next, as much as may run at once, in at most `room` calls."""
        if room <= 0 or not self._open_for_calls(now):
            return
        together = self._policy.together
        groups: dict[Hashable, list[Delivery]] = {}
        for delivery in self._lanes.start():
            if lapsed(delivery):
                self._lanes.answered()
                self._lapse(delivery)
                continue
            unknown = delivery.newer or isinstance(delivery.poison, UnknownSchema)
            if unknown and self._to_wait_for_fleet(delivery):
                self._lanes.answered()
                self._wait(delivery, LOOK_AGAIN)
                continue
            if (why := self._unsendable(delivery)) is not None:
                self._lanes.answered()
                if self._to_skip(delivery):
                    self._note_skip(delivery)
                self._bury(delivery, *why)
                continue
            delivery.stage = Stage.STARTED
            if together == 1 or delivery.alone:
                self._effects.append(Call([delivery]))
                room -= 1
                if len(groups) > room or room <= 0:
                    break
                continue
            # All of a call begin at one moment: none waits, under its lease, until the ledger has been asked of others.
            company = self._asks(delivery)
            group = groups.setdefault(company, [])
            group.append(delivery)
            if len(group) == together:
                self._effects.append(Call(groups.pop(company)))
                room -= 1
            if len(groups) > room or room <= 0:
                break
        self._effects += map(Call, groups.values())

    def begin(self, delivery: Delivery, now: float) -> bool:
        """Say whether a chosen delivery may be called after all; its stage says whether to ask the ledger before."""
        if delivery.stage is not Stage.STARTED:
            self._lanes.answered()
            return False
        if not self._open_for_calls(now) or lapsed(delivery):
            self._put_back(delivery)
            return False
        asking = self._asks(delivery)
        delivery.stage = Stage.PREPARING if asking else Stage.CALLING
        if not asking:
            self._count(delivery, now)
        return True

    def may_call(self, delivery: Delivery, now: float) -> bool:
        """Say whether another call may begin for a delivery that is being made."""
        return self._open_for_calls(now) and self._keeps(delivery)

    def prepared(self, delivery: Delivery, standing: Standing, now: float, wall: float) -> bool:
        """Take what the ledger said of a call about to be made; say whether to make it. `wall` is epoch seconds."""
        match standing:
            case Go():
                delivery.doubtful = False
                sendable = self._unsendable(delivery) is None
                if sendable and self._keeps(delivery) and self._open_for_calls(now):
                    delivery.stage = Stage.CALLING
                    self._count(delivery, now)
                    return True
                self._withdraw(delivery)
                if self._keeps(delivery):
                    self._put_back(delivery)
                    return False
                self._drop(delivery)
            case Finished(state):
                self._end(delivery, state)
                self.repeats += 1
            case _ if not self.owns(delivery):
                self._drop(delivery)
            case Wait(deadline):
                self._doubt(delivery, deadline, wall)
            case Ambiguous():
                why = "another worker had begun to send it and ended without telling how; it may have been applied"
                self._bury(delivery, "unknown", Unknown(why))
            case Superseded():
                self._record(delivery, State.SUPERSEDED)
            case Parked():
                self._bury(delivery, "parked", Permanent("an earlier event of its key is still dead"))
            case _:
                assert_never(standing)
        self._lanes.answered()
        return False

    def unmade(self, delivery: Delivery) -> None:
        """Take a call back that was not made, for its target stands still: it counts as no attempt."""
        delivery.attempts -= 1
        self._withdraw(delivery)
        if self._keeps(delivery):
            self._put_back(delivery)
        else:
            self._lanes.answered()
            self._drop(delivery)

    def answered(
        self, delivery: Delivery, verdict: Verdict, now: float, random: Callable[[], float], *, down: bool = False
    ) -> None:
        """Take the end of a call. While its target is `down` no failure brings an event nearer to being given up."""
        self._lanes.answered()
        counted = self._unwritten.pop(delivery.place, None) is not None
        if not (counted and isinstance(verdict, Permanent)):
            verdict = self._guard.consider(verdict, delivery.key)
        action = decide(
            verdict,
            attempt=delivery.attempts,
            elapsed=None if down else now - self.stood - delivery.began,
            retry=self._policy.retry,
            keyed=self._policy.keyed,
            random=random,
        )
        match action:
            case Done():
                self._record(delivery, State.DONE)
            case Supersede() if self.owns(delivery):
                self._record(delivery, State.SUPERSEDED)
            case Again(seconds) if self._keeps(delivery):
                self._withdraw(delivery)
                self._wait(delivery, seconds)
            case Bury(kind) if self.owns(delivery) and isinstance(verdict, Undeliverable):
                self._bury(delivery, kind, verdict)
            case Stop(reason) if self._keeps(delivery):
                self._withdraw(delivery)
                delivery.stage = Stage.QUEUED
                self._lanes.again(delivery.lane)
                self.halt(reason)
            case Again() | Bury() | Stop() | Supersede():
                self._drop(delivery)
            case _:
                assert_never(action)

    def refused(self, group: Iterable[Delivery]) -> None:
        """Take it that a call for several was refused as a whole, without effect.

        Each is called alone from now on, so that one bad event condemns none of its neighbours (D10).
        """
        for delivery in group:
            delivery.alone = True
            if self._keeps(delivery):
                self._withdraw(delivery)
                self._put_back(delivery)
            else:
                self._lanes.answered()
                self._drop(delivery)

    def due(self, delivery: Delivery) -> None:
        """Let a delivery whose wait has ended be called again; of one that has gone meanwhile nothing is left."""
        if delivery.stage is Stage.WAITING:
            delivery.stage = Stage.QUEUED
            self._lanes.again(delivery.lane)

    def buried(self, delivery: Delivery) -> None:
        """Take note that the dead letter is acknowledged; the ledger hears of it next (D5)."""
        if not self.owns(delivery):
            self._drop(delivery)
            return
        if delivery.outcome is not None:
            self._record(delivery, delivery.outcome, park=True)

    def unburied(self, delivery: Delivery) -> None:
        """Give up writing a dead letter: its partition has gone.

        When that comes back the event is called again, in a row with others of its kind, as what was delivered between
        them is not; a refusal then says of the target nothing that was not counted the first time.
        """
        if delivery.kind == "permanent":
            self._unwritten[delivery.place] = delivery.record.slot
        self._drop(delivery)

    def recorded(
        self, delivery: Delivery, freed: Collection[Key], against: Row | None = None, wall: float = 0.0
    ) -> State | None:
        """Take note that an outcome is durable: the next of its key may begin and the watermark move (D3).

        One that did not count has what the ledger holds `against` it: then the event has ended so. Give how; None when
        another worker has announced a call of it meanwhile, whose end must be awaited (D4). `wall` is epoch seconds.
        """
        state = delivery.outcome if against is None else against.state
        if state is None:
            raise ValueError("a delivery without an outcome was recorded")
        if against is not None and state is State.INTENT:
            self._doubt(delivery, against.deadline, wall)
            return None
        if state in REOPENED and self._policy.after_dead != "continue" and delivery.key is not None:
            self._bar(delivery.key, self._looked_up)
        self._end(delivery, state)
        for key in freed:
            self._free(key)
        return state

    # Orders.

    def renew(self, until: float) -> None:
        """Let calls begin until then: the coordinator has accepted a commit of this member (D8)."""
        self.lease = until

    def halt(self, reason: Halt) -> None:
        """Begin nothing more until a person has looked; the first reason stays."""
        self.halted = self.halted or reason

    def go_on(self) -> None:
        """End a halt; every partition has been given back, so that all is fetched again."""
        self.halted = None
        self._guard = Guard()

    def working(self) -> bool:
        """Say whether there are deliveries that wait for nothing but being done (D9)."""
        return any(
            delivery.stage in (Stage.PREPARING, Stage.CALLING, Stage.RECORDING) for delivery in self._open.values()
        )

    def counts(self) -> dict[str, int]:
        """Count deliveries by stage, lanes and bytes: how it stands."""
        return {**self.stages(), "lanes": len(self._lanes), "in flight": self._lanes.calling, "bytes": self._bytes}

    def stages(self) -> Counter[str]:
        """Count deliveries by stage."""
        return Counter(delivery.stage.value for delivery in self._open.values())

    def skip(self, wanted: Collection[str]) -> None:
        """Let these events become dead letters instead of being called, even while the sink is halted (D11).

        They are all that are to be skipped now: one that is no longer among them may be skipped again.
        """
        self._skipped &= set(wanted)
        self._skips = set(wanted) - self._skipped
        for delivery in list(self._open.values()) if self._skips else ():
            waiting = delivery.stage is Stage.WAITING
            if not self._to_skip(delivery) or self._lanes.head(delivery.lane) is not delivery:
                continue
            if waiting or (delivery.stage is Stage.QUEUED and self._keeps(delivery)):
                if not waiting:
                    self._lanes.withdraw(delivery.lane)
                self._skip(delivery)

    # Parts of the above.

    def take(self) -> list[Effect]:
        """Give what is to be done, in order."""
        effects, self._effects = self._effects, []
        return effects

    def _open_for_calls(self, now: float) -> bool:
        return not (self.halted or self.paused or self.stopping) and now < self.lease

    def _asks(self, delivery: Delivery) -> bool:
        """Say whether the ledger is asked before a call."""
        policy = self._policy
        replay = delivery.live and (policy.latest or policy.after_dead != "continue")
        return not policy.keyed or delivery.doubtful or replay

    def _unsendable(self, delivery: Delivery) -> tuple[Kind, Undeliverable] | None:
        """Say why a delivery becomes a dead letter without a call; of one in doubt the ledger is asked first (D4)."""
        if delivery.doubtful:
            return None
        if delivery.poison is not None:
            kind: Kind = "poison" if isinstance(delivery.poison, Poison) else "permanent"
            return "skipped" if delivery.skipped else kind, delivery.poison
        if self._to_skip(delivery):
            return "skipped", Permanent("it was skipped by order")
        fresh = not (delivery.run or delivery.attempts)
        if fresh and self._policy.after_dead == "park_key" and delivery.key in self._barred:
            return "parked", Permanent("an earlier event of its key is dead")
        return None

    def _to_wait_for_fleet(self, delivery: Delivery) -> bool:
        return delivery.fetched > self.uniform and not self._to_skip(delivery)

    def _to_skip(self, delivery: Delivery) -> bool:
        """Say whether a delivery is to be skipped.

        One in doubt is not: it becomes a letter anyway, or is finished. Nor is a replay: its run can be ended.
        """
        return delivery.event.id in self._skips and not (delivery.doubtful or delivery.run)

    def _estrange(self, delivery: Delivery) -> None:
        """Let a record with another event's id be a dead letter with an identity of its own."""
        self._note_skip(delivery)
        delivery.poison = Poison("it came with another content than before, and was skipped by order")
        delivery.place = self.apart(delivery)
        delivery.event = stray(delivery.origin)

    def apart(self, delivery: Delivery) -> Place:
        """Give the place in the ledger of a record that came under another event's id, if it was skipped."""
        return place_of(self._policy.sink, stray(delivery.origin))

    def _note_skip(self, delivery: Delivery) -> None:
        delivery.skipped = delivery.event.id
        self._skipped.add(delivery.skipped)
        self._skips.discard(delivery.skipped)

    def _unskip(self, delivery: Delivery) -> None:
        """Let an order that was begun to be obeyed be obeyed again."""
        if delivery.skipped:
            self._skipped.discard(delivery.skipped)
            self._skips.add(delivery.skipped)
            delivery.skipped = ""

    def _skip(self, delivery: Delivery) -> None:
        self._note_skip(delivery)
        self._bury(delivery, "skipped", Permanent("it was skipped by order"))

    def _count(self, delivery: Delivery, now: float) -> None:
        delivery.attempts += 1
        delivery.began = delivery.began or now - self.stood

    def _put_back(self, delivery: Delivery) -> None:
        """Let a delivery be chosen again."""
        self._lanes.answered()
        delivery.stage = Stage.QUEUED
        self._lanes.again(delivery.lane)

    def _wait(self, delivery: Delivery, seconds: float) -> None:
        if not self._keeps(delivery):
            self._drop(delivery)
            return
        delivery.stage = Stage.WAITING
        self._effects.append(Later(delivery, seconds))

    def _doubt(self, delivery: Delivery, deadline: float, wall: float) -> None:
        """Let a delivery wait until another worker's call of it has ended, whatever was to become of it here.

        No longer than a call lasts: it has begun by now, and a clock that was put back must not keep its key waiting.
        """
        self._unskip(delivery)
        delivery.doubtful, delivery.kind, delivery.outcome = True, None, None
        delivery.awaited = deadline
        self._wait(delivery, max(0.0, min(deadline - wall, self._policy.patience)))

    def _withdraw(self, delivery: Delivery) -> None:
        if not self._policy.keyed:
            self._effects.append(Withdraw(delivery))

    def _bury(self, delivery: Delivery, kind: Kind, verdict: Undeliverable) -> None:
        state = State.DEAD
        if kind == "parked":
            state = State.PARKED
        elif kind == "unknown" and not self._policy.keyed:
            state = State.AMBIGUOUS
        delivery.stage, delivery.kind, delivery.outcome = Stage.BURYING, kind, state
        self._effects.append(Letter(delivery, verdict, state))

    def _record(self, delivery: Delivery, state: State, *, park: bool = False) -> None:
        delivery.stage, delivery.outcome = Stage.RECORDING, state
        park = park and self._policy.after_dead != "continue" and delivery.key is not None
        self._effects.append(Record(delivery, state, park))

    def _free(self, key: Key) -> None:
        self._barred.pop(key, None)
        self._freed[key] = self._looked_up
        self._lanes.unblock(key)

    def _bar(self, key: Key, number: int) -> None:
        self._barred[key] = max(number, self._barred.get(key, -1))
        if self._policy.after_dead == "block":
            self._lanes.block(key)

    def _end(self, delivery: Delivery, state: State) -> None:
        """Let a delivery go that is finished; copies that waited for it are repeats now."""
        self._lanes.finish(delivery.lane)
        self._let_go(delivery)
        self.ended += 1
        row = Row(state, delivery.payload, delivery.attempts, runs=delivery.run if delivery.live else "")
        self._settled[delivery.place] = (self._looked_up, row)
        delivery.watermark.finish(delivery.record.offset)
        self._admit_all(delivery.twins, row)

    def _drop(self, delivery: Delivery) -> None:
        """Forget a delivery that is not finished: its partition goes to another worker, or has gone.

        A copy that waited for it takes its place, before what came later.
        """
        self._give_up(delivery)
        heirs = [twin for twin in delivery.twins if self._keeps(twin)]
        if heirs and heirs[0].lane == delivery.lane:
            heir, *others = heirs
            heir.stage, heir.twins = Stage.QUEUED, tuple(others)
            self._open[heir.place] = heir
            self.accepted += 1
            self._lanes.replace(heir)
            gone = tuple(twin for twin in delivery.twins if twin not in heirs)
        else:
            self._lanes.finish(delivery.lane)
            gone = delivery.twins
        self._admit_all(gone, None)

    def _lapse(self, delivery: Delivery) -> None:
        """Forget the head of a lane whose replay is over; copies that waited for it are looked at by themselves."""
        self._lanes.finish(delivery.lane)
        self._give_up(delivery)
        self.repeats += 1
        delivery.watermark.finish(delivery.record.offset)
        self._admit_all(delivery.twins, None)

    def _give_up(self, delivery: Delivery) -> None:
        self._let_go(delivery)
        self.given_up += 1
        self._unskip(delivery)

    def _let_go(self, delivery: Delivery) -> None:
        delivery.stage = Stage.GONE
        del self._open[delivery.place]
        self._weigh_less(delivery)

    def _weigh_less(self, delivery: Delivery) -> None:
        self._held[delivery.record.slot] -= 1
        self._bytes -= delivery.size

    def _admit_all(self, twins: Iterable[Delivery], row: Row | None) -> None:
        """Admit copies that waited for another, now that it has ended or gone."""
        for twin in twins:
            self._weigh_less(twin)
            if self._keeps(twin):
                self._admit(twin, row, {twin.run} if twin.live else ())

    def owns(self, delivery: Delivery) -> bool:
        """Say whether a delivery's partition has been ours ever since it was fetched."""
        return self._watermarks.get(delivery.record.slot) is delivery.watermark

    def _keeps(self, delivery: Delivery) -> bool:
        """Say whether a delivery's partition is ours and will stay so."""
        return self.owns(delivery) and delivery.record.slot not in self._leaving


def lapsed(delivery: Delivery) -> bool:
    """Say whether a delivery is of a replay that was over before anybody called it."""
    return bool(delivery.run) and not (delivery.live or delivery.doubtful or delivery.attempts)


def conflict(delivery: Delivery) -> Halt:
    """Say that an event has come with another content than before (L1)."""
    slot = delivery.record.slot
    return Halt(
        f"event {delivery.event.id} came with another content than before ({slot.topic} partition {slot.partition} "
        f"offset {delivery.record.offset}); sending it would hide one of the two. Nothing was sent. Look at both with "
        "`trunkline tail`; `trunkline sink skip` makes this one a dead letter."
    )
