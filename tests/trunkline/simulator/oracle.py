"""What must hold, said once more and independently: the whole history in simple lists, and no import of the engine.

The simulator tells it what really happens at broker, ledger and target, in the order in which it happens. Each method
checks the rules that bear on it and raises `Broken` with the rule's name.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from trunkline.ledger.deliveries import State

LETTERS = frozenset({State.DEAD, State.AMBIGUOUS, State.PARKED})
UNFINISHED = LETTERS | {State.INTENT}
FINAL = frozenset({State.DONE, State.SUPERSEDED, State.DISCARDED})
PERSON = 0
"""Who records what a person has decided; the workers' numbers begin at 1."""

Slot = tuple[str, int]


class Broken(AssertionError):  # noqa: N818 - what has happened to a rule, not what went wrong here
    """A rule does not hold; the message begins with its name."""


@dataclass(slots=True, eq=False)
class Calling:
    """A call in flight. It is an orphan when its worker has lost the partition and cannot know."""

    worker: int
    event: int
    slot: Slot
    run: str
    overwrite: bool
    delivery: object
    """Which of the worker's deliveries it is of."""
    live: bool
    """Its replay was live when it was looked up."""
    orphan: bool = False


@dataclass(slots=True)
class Known:
    """What is true of one event."""

    key: int | None
    changed: bool
    """It has another event's id, and must not be sent (L1)."""
    main: set[Slot] = field(default_factory=set)
    """The partitions of the main topic that it stands in; several are possible without a key only."""
    rank: int = 0
    """How many events of its key stand before it."""
    row: State | None = None
    owner: str = ""
    """Who announced a call of it last."""
    again: bool = False
    """A letter that is being sent again: its row says INTENT."""
    by: int = 0
    """Who recorded that."""
    outcomes: int = 0
    """Outcomes that were ever recorded."""
    letters: set[tuple[int, State]] = field(default_factory=set)
    """Letters written and not yet recorded, with their writers."""
    lettered: bool = False
    applied: int = 0
    runs: set[str] = field(default_factory=set)
    """Those that have sent it again."""
    ended_by: set[str] = field(default_factory=set)
    """Runs that have brought it to an end."""
    unsure: bool = False
    """A call of it may still have its effect although nobody waits for it."""
    unknown_to: set[str] = field(default_factory=set)
    """Runs of which a call of it ended so that nobody knows how."""


@dataclass(slots=True)
class Standpoint:
    """A record in a log, and the outcomes that its event had when it was written."""

    offset: int
    event: int
    run: str
    outcomes: int


class Oracle:
    """The history of one schedule, and its rules."""

    def __init__(self, *, keyed: bool, latest: bool, after_dead: str, width: int, together: int) -> None:
        self.keyed = keyed
        self.latest = latest
        self.parks = after_dead != "continue"
        self.parks_replays = after_dead == "park_key"
        self.width = width
        self.together = together
        self.now = 0.0
        self.events: dict[int, Known] = {}
        self.of_key: dict[int, list[int]] = defaultdict(list)
        self.concluded: dict[int, int] = defaultdict(int)
        """Of each key, how many of its first events have had an outcome."""
        self.logs: dict[Slot, list[Standpoint]] = defaultdict(list)
        self.passed: dict[Slot, int] = defaultdict(int)
        self.position: dict[Slot, int] = {}
        self.owner: dict[Slot, int] = {}
        self.taken = 0
        """How often a partition was taken over."""
        self.since: dict[Slot, int] = {}
        """Of each partition, which time of these was the last."""
        self.leaving: set[tuple[int, Slot]] = set()
        self.unaware: set[int] = {PERSON}
        """Whose outcomes others hear of late: workers that have lost a partition early, processes that have ended."""
        self.lease: dict[int, float] = {}
        self.still: set[int] = set()
        """Workers that are halted, paused or stopping."""
        self.calls: list[Calling] = []
        self.parked: set[int] = set()
        self.not_before: dict[object, float] = {}
        """Until when the target wants a delivery to wait."""
        self.apart: set[object] = set()
        """Deliveries whose call was refused together with others."""
        self.refused: set[object] = set()
        """Deliveries that were refused for themselves."""
        self.order = 0
        self.began: dict[str, int] = {}
        self.over: set[str] = set()
        self.skips: dict[int, int] = {}

    # The logs.

    def appended(self, slot: Slot, offset: int, event: int, key: int | None, run: str, *, changed: bool) -> None:
        """A record is written; `changed`: with the id of another event and another content."""
        one = self.events.get(event)
        if one is None:
            one = self.events[event] = Known(key, changed)
            if key is not None:
                one.rank = len(self.of_key[key])
                self.of_key[key].append(event)
        if run:
            one.runs.add(run)
        else:
            one.main.add(slot)
        self.logs[slot].append(Standpoint(offset, event, run, one.outcomes))

    def committed(self, slot: Slot, offset: int, read: int) -> None:
        """Nothing goes back, nothing unfinished is passed, and nothing is from before its worker took the partition.

        `read` is what `taken` was when the offset was the watermark (D7).
        A record of the main topic is finished when its event has had an outcome; one of the replay topic when its event
        has had one since or by this run, can have none any more, or the run is over. A copy in another partition may
        be under way, if the event has no key: then that one's record holds it.
        """
        if read < self.since[slot]:
            raise Broken(f"old-epoch: {slot} is committed to {offset} as it was before it went and came back")
        if offset < self.position.get(slot, 0):
            raise Broken(f"commit-goes-back: {slot} from {self.position[slot]} to {offset}")
        self.position[slot] = offset
        log, at = self.logs[slot], self.passed[slot]
        while at < len(log) and log[at].offset < offset:
            record = log[at]
            one = self.events[record.event]
            finished = one.outcomes > record.outcomes or one.row in FINAL
            needless = record.run in self.over or record.run in one.ended_by if record.run else one.outcomes > 0
            elsewhere = len(one.main) > 1 and one.row is State.INTENT
            if not (finished or needless or elsewhere):
                raise Broken(f"unfinished-passed: {slot} to {offset}, and e{record.event}@{record.offset} is open")
            at += 1
        self.passed[slot] = at

    # The group.

    def owned(self, worker: int, slot: Slot) -> None:
        """A partition is a worker's from now."""
        self.taken += 1
        self.since[slot] = self.taken
        self.owner[slot] = worker
        self.leaving.discard((worker, slot))

    def asked_back(self, worker: int, slot: Slot) -> None:
        """A worker has been told to give a partition back, or stops."""
        self.leaving.add((worker, slot))

    def left(self, worker: int, slot: Slot, *, clean: bool) -> None:
        """A partition is a worker's no more; unless `clean`, what it has begun goes on without anybody's knowing."""
        if self.owner.get(slot) == worker:
            del self.owner[slot]
        self.leaving.discard((worker, slot))
        if not clean:
            self.unaware.add(worker)
            for call in self.calls:
                if call.worker == worker and call.slot == slot:
                    call.orphan = True
                    self.events[call.event].unsure = True

    def leased(self, worker: int, until: float) -> None:
        """A worker may begin calls until then."""
        self.lease[worker] = until

    # The target.

    def called(self, calls: Sequence[Calling]) -> None:
        """A request goes out: no more events than it may carry, and no two of a key (D10), which `_alone` finds too."""
        keys = [key for call in calls if (key := self.events[call.event].key) is not None]
        names = ", ".join(f"e{call.event}" for call in calls)
        if len(calls) > self.together:
            raise Broken(f"too-many-together: {names}, and one call takes {self.together}")
        if len(set(keys)) < len(keys):
            raise Broken(f"two-of-a-key: {names} in one call")
        if len(calls) > 1 and any(call.delivery in self.apart for call in calls):
            raise Broken(f"not-alone: {names} in one call, although one was refused with others before")
        for call in calls:
            self._called(call)

    def _called(self, call: Calling) -> None:
        """A call begins: everything that must hold then.

        A later event of a key may begin only when all earlier ones of the main topic have had an outcome.
        """
        worker, slot, one = call.worker, call.slot, self.events[call.event]
        name = f"w{worker} calls e{call.event}{' of ' + call.run if call.run else ''}"
        if self.now >= self.lease.get(worker, 0.0):
            raise Broken(f"no-lease: {name} at {self.now:.2f}, its lease ended at {self.lease.get(worker, 0.0):.2f}")
        if self.owner.get(slot) != worker:
            raise Broken(f"not-ours: {name}, and {slot} is w{self.owner.get(slot)}'s")
        if (worker, slot) in self.leaving:
            raise Broken(f"begun-while-leaving: {name} although {slot} is asked back")
        if worker in self.still:
            raise Broken(f"begun-while-still: {name} although it is halted, paused or stopping")
        if self.now < self.not_before.get(call.delivery, 0.0):
            raise Broken(f"too-soon: {name}, and the target asked to wait longer")
        if one.changed:
            raise Broken(f"another-content: {name}, which has another event's id")
        self._alone(call, one, name)
        self._due(call, one, name)
        if one.key is not None:
            self._in_turn(call, one, name)
        self.calls.append(call)

    def _alone(self, call: Calling, one: Known, name: str) -> None:
        """No two calls of a key are in flight, except with orphans of other workers; nobody is wider than allowed."""
        flying = 0
        for other in self.calls:
            flying += other.worker == call.worker
            alike = other.event == call.event or (one.key is not None and self.events[other.event].key == one.key)
            apart = other.worker != call.worker and (other.orphan or (self.keyed and len(one.main) > 1))
            if alike and not apart:
                raise Broken(f"two-of-a-key: {name} while w{other.worker} calls e{other.event}")
        if flying >= self.width:
            raise Broken(f"too-wide: {name}, the {flying + 1}th at once of {self.width}")

    def _due(self, call: Calling, one: Known, name: str) -> None:
        """What is finished is never called again, what is a letter only for a live replay, and INTENT comes first."""
        unknowing = self.keyed and self._unheard(call.event, call.worker)
        if one.row in FINAL and not unknowing:
            raise Broken(f"finished-called: {name}, which is {one.row}")
        if one.row in LETTERS and not call.run and not unknowing:
            raise Broken(f"letter-called: {name}, which is {one.row}")
        if call.run and not call.live:
            raise Broken(f"stale-replay: {name}, a run that was over")
        if not self.keyed and call.run and call.run in one.unknown_to:
            raise Broken(f"unknown-called-again: {name}, and how that one's last call ended nobody knows")
        if not self.keyed and one.row is not State.INTENT:
            raise Broken(f"unannounced: {name}, and its row is {one.row}")

    def _in_turn(self, call: Calling, one: Known, name: str) -> None:
        """Nothing of its key is overtaken."""
        key, worker = one.key or 0, call.worker
        of_key = self.of_key[key]
        if not call.run:
            if self.concluded[key] < one.rank:
                raise Broken(f"overtaken: {name} before e{of_key[self.concluded[key]]} of its key has an outcome")
            letters = [other for other in of_key if self.events[other].row in LETTERS]
            if key in self.parked and not all(self._unheard(other, worker) for other in letters):
                raise Broken(f"parked-called: {name} although its key {key} is parked")
            return
        if self.parks_replays and key in self.parked:
            for other in of_key[: one.rank]:
                if self.events[other].row in UNFINISHED:
                    raise Broken(f"replay-overtakes: {name} before e{other}, and their key {key} is parked")
        if self.latest and not call.overwrite:
            for other in of_key[one.rank + 1 :]:
                if self.events[other].row is State.DONE and not self._unheard(other, worker):
                    raise Broken(f"brings-back: {name} after e{other} was delivered")

    def _unheard(self, event: int, worker: int) -> bool:
        """Say whether an outcome is another worker's of which this one may not have heard, because it came late."""
        one = self.events[event]
        return one.by != worker and (one.by in self.unaware or len(one.main) > 1)

    def applied(self, event: int, run: str, *, late: bool) -> None:
        """An effect. `late`: nobody waits for the call any more, so its order is nobody's."""
        one = self.events[event]
        one.applied += 1
        if not self.keyed and one.applied > 1 + len(one.runs):
            raise Broken(f"two-effects: e{event} has had {one.applied} effects and {len(one.runs)} replays")
        if one.applied == 1 and one.key is not None and not run and not late and not one.unsure:
            for other in self.of_key[one.key][one.rank + 1 :]:
                two = self.events[other]
                if two.applied and not two.runs and not two.unsure:
                    raise Broken(f"out-of-order: e{event} has its effect after e{other}")

    def refused_together(self, calls: Sequence[Calling]) -> None:
        """Several have been refused as a whole: which of them is at fault, nobody knows."""
        for call in calls:
            self.calls.remove(call)
            self.apart.add(call.delivery)

    def ended(self, call: Calling, *, known: bool, refused: bool = False, wait: float | None = None) -> None:
        """A call has ended; unless it is `known` how, its effect may still come. The target may ask to `wait`."""
        self.calls.remove(call)
        if refused:
            self.refused.add(call.delivery)
        if wait is not None:
            self.not_before[call.delivery] = self.now + wait
        if not known:
            self.events[call.event].unsure = True
            self.events[call.event].unknown_to.add(call.run)

    # Letters, orders and the ledger.

    def run_began(self, run: str) -> None:
        """A replay has begun."""
        self.order += 1
        self.began[run] = self.order

    def skip_ordered(self, event: int) -> None:
        """A person wants an event skipped."""
        self.order += 1
        self.skips[event] = self.order

    def lettered(
        self, worker: int, event: int, state: State, run: str, ordered: int | None, condemned: object | None
    ) -> None:
        """A dead letter is acknowledged; `ordered` is the event of the order to skip it, if one was obeyed.

        `condemned` is the delivery that ends so because the target refuses it: then it has been refused for itself. No
        replay obeys an order that is older than itself, unless it is of a letter with another event's id.
        """
        one = self.events[event]
        one.letters.add((worker, state))
        one.lettered = True
        if condemned is not None and condemned not in self.refused:
            raise Broken(f"condemned: e{event} was refused together with others only")
        since = 0 if one.changed else self.began.get(run, 0)
        if ordered is not None and self.skips.get(ordered, -1) < since:
            raise Broken(f"skipped-without-order: e{event}{' of ' + run if run else ''}")
        if state is State.PARKED and one.key is None:
            raise Broken(f"parked-without-key: e{event}")

    def order_ended(self, event: int) -> None:
        """An order to skip an event holds no more: then it is a letter, or has ended otherwise."""
        if self.events[event].row in (None, State.INTENT):
            raise Broken(f"order-lost: e{event} was to be skipped and is {self.events[event].row}")

    def intended(self, event: int, owner: str) -> None:
        """An INTENT is durable."""
        one = self.events[event]
        one.owner = owner
        one.again = one.again or one.row in LETTERS
        one.row = State.INTENT

    def withdrawn(self, event: int, row: State | None) -> None:
        """An INTENT is taken back."""
        one = self.events[event]
        one.again, one.row = False, row

    def recorded(self, worker: int, event: int, state: State, run: str, owner: str) -> None:
        """An outcome is durable, and changes the row. `owner` is that of the call that it is the end of, if it is."""
        one = self.events[event]
        if one.row is State.INTENT and owner != one.owner and state not in (State.DONE, State.AMBIGUOUS):
            raise Broken(
                f"doubt-forgotten: a call of e{event} was announced by {one.owner}, and it becomes {state.name}"
            )
        if state in LETTERS:
            if (worker, state) not in one.letters:
                raise Broken(f"no-letter: e{event} becomes {state.name} without a letter of w{worker}")
            one.letters.discard((worker, state))
        if one.row in FINAL and state is not State.DONE:
            raise Broken(f"taken-back: e{event} was {one.row} and becomes {state.name}")
        if state is State.DONE and not one.applied:
            raise Broken(f"not-applied: e{event} becomes DONE")
        if state is State.SUPERSEDED:
            later = self.of_key[one.key][one.rank + 1 :] if one.key is not None else []
            if not any(self.events[other].row is State.DONE or self.events[other].applied for other in later):
                raise Broken(f"superseded-by-nothing: e{event}")
        if state is State.PARKED and not (one.outcomes or self._behind(one)):
            raise Broken(f"parked-for-nothing: e{event}, and nothing before it is a letter")
        one.row, one.by, one.again = state, worker, False
        one.outcomes += 1
        if run and state is not State.PARKED:
            one.ended_by.add(run)
        if one.key is not None:
            of_key = self.of_key[one.key]
            while (n := self.concluded[one.key]) < len(of_key) and self.events[of_key[n]].outcomes:
                self.concluded[one.key] += 1

    def _behind(self, one: Known) -> bool:
        """Say whether an event of a key has had a letter before this one."""
        return one.key is not None and any(self.events[other].lettered for other in self.of_key[one.key][: one.rank])

    def parked_now(self, key: int) -> None:
        """A key's park row is durable."""
        self.parked.add(key)

    def freed(self, key: int) -> None:
        """A key's park row has gone."""
        self.parked.discard(key)

    def stands(self) -> None:
        """After each commit: a key is parked while one of its events is a letter or sent again, and no longer."""
        if not self.parks:
            return
        for key, events in self.of_key.items():
            held = any(one.again or one.row in LETTERS for one in map(self.events.__getitem__, events))
            if held and key not in self.parked:
                raise Broken(f"row-went-early: key {key} has letters and is not parked")
            if key in self.parked and not held:
                raise Broken(f"row-stays: key {key} is parked and has no letter")

    # The end.

    def settled(self, ends: dict[Slot, int]) -> None:
        """Nothing is lost: every event has one final outcome; what is DONE was applied; everything is committed."""
        if self.calls:
            raise Broken(f"call-left: {self.calls[0]}")
        for event, one in self.events.items():
            if one.row is None or one.row is State.INTENT:
                raise Broken(f"lost: e{event} is {one.row}")
            if one.row is State.DONE and not one.applied:
                raise Broken(f"lost: e{event} is DONE and was never applied")
            if one.row in LETTERS and not one.lettered:
                raise Broken(f"lost: e{event} is {one.row} without a letter")
        for slot, end in ends.items():
            if self.logs[slot] and self.position.get(slot, 0) < end:
                raise Broken(f"stalled: {slot} is committed up to {self.position.get(slot)} of {end}")
