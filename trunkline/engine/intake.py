"""The thread that owns a flow's consumer: it fetches, looks every batch up in the ledger, and commits (D1, D2).

It never waits for a call. What it fetched goes to the loop in batches; offsets come back when the ledger knows them.
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, Protocol, TypeVar

from trunkline.engine.delivery import Delivery
from trunkline.engine.dispatch import Dispatcher
from trunkline.engine.watchdog import Heart
from trunkline.errors import Halt, Unavailable, defect
from trunkline.flow.declare import Topic
from trunkline.kafka import events
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import Member, Record, Slot
from trunkline.ledger import deliveries, runs
from trunkline.ledger.database import Connection, Failure, Ledger
from trunkline.ledger.deliveries import Place, Row
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.writer import Rewound

T = TypeVar("T")

BATCH = 500
AHEAD = 2
"""Batches that may wait for the loop at most."""
FEW = 50
PACE = 0.002
"""Seconds until the next batch after one of only a few: what comes often comes together, what comes alone at once."""
COMMIT_EVERY = 0.5
AGAIN = 1.0
"""Seconds until a session that ended in trouble is followed by another."""


LEDGER = 60.0
"""Seconds that the ledger may take to answer or to fail before the thread that asks it counts as one that stands still:
a lock is waited for 10 s, by what is written before and then by itself; a statement of PostgreSQL may take 30 s."""


class Desk(Protocol):
    """The loop's side: it is called on the loop only."""

    core: Dispatcher

    def read(self, record: Record) -> Delivery:
        """Make a delivery of a record; called on the thread."""
        ...

    async def take_over(self, slots: Sequence[Slot], committed: Mapping[Slot, int]) -> None:
        """Take partitions over whose next record comes after this.

        Raises:
            Unavailable: ledger or broker do not answer.
        """
        ...

    def arrived(
        self, number: int, batch: Sequence[Delivery], known: Mapping[Place, Row], live: Collection[str]
    ) -> None:
        """Take a batch in."""
        ...

    def barred(self, number: int, keys: set[bytes]) -> None:
        """Take all keys that are parked or blocked, as read after look-up `number` had begun."""
        ...

    def over(self, runs: Collection[str]) -> None:
        """Take note of replays that have ended."""
        ...

    async def give_back(self, slots: Sequence[Slot], seconds: float) -> Mapping[Slot, int]:
        """Finish what has begun, at most so long, forget the partitions, and give the offsets to commit."""
        ...

    async def advance(self) -> Mapping[Slot, int]:
        """Make the watermarks durable in the ledger and give them: they may be committed (L3)."""
        ...

    def renew(self, until: float) -> None:
        """Let calls begin until then."""
        ...

    def guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function; halt when it raises, for nobody else would hear of it."""
        ...

    def stuck(self, why: str) -> None:
        """Take note that the flow begins again at its committed offsets."""
        ...

    def stop_all(self, why: Halt) -> None:
        """Halt."""
        ...

    def go_on(self) -> None:
        """End a halt: nothing is held, and everything is fetched again from the committed offsets."""
        ...


class Intake:
    """Fetches for one flow until it is stopped."""

    def __init__(
        self,
        desk: Desk,
        *,
        cluster: Cluster,
        group: str,
        topic: Topic,
        replay: str,
        ledger: Ledger,
        sink: str,
        number: int | None,
        patience: float,
        heart: Heart,
    ) -> None:
        """Prepare.

        `number` is the sink's in the ledger, None if it neither parks nor blocks keys. `patience` is how long revoked
        partitions are kept until their calls have ended (D7).
        """
        self._desk = desk
        self._core = desk.core
        self._cluster = cluster
        self._group = group
        self._topic = topic
        self._replay = replay
        self._ledger = ledger
        self._sink = sink
        self._number = number
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._again = threading.Event()
        self._thread = threading.Thread(target=self._run, name=group, daemon=True)
        self._heart = heart
        self._durable: Mapping[Slot, int] = {}
        self._advancing = False
        self._handed = 0
        self._runs: set[str] = set()
        """Replays of which something was handed over while they were live."""
        self.met: Mapping[Slot, int] = {}
        """Where partitions began, or met their end last; may be read from any thread."""

    @property
    def thread(self) -> int | None:
        """The kernel's id of the thread that fetches, once it has begun."""
        return self._thread.native_id

    def start(self) -> None:
        """Join the group and begin."""
        self._thread.start()

    def begin_again(self) -> None:
        """End the session; the next one fetches from the committed offsets."""
        self._again.set()

    def leave(self) -> None:
        """Begin to stop: fetch nothing more."""
        self._stopping.set()
        self._again.set()

    async def ended(self, seconds: float) -> None:
        """Wait until the group is left."""
        await asyncio.to_thread(self._thread.join, seconds)

    def _run(self) -> None:
        """Run sessions: trouble with broker or ledger ends one, and the next begins at the committed offsets."""
        while not self._stopping.is_set():
            self._again.clear()
            try:
                self._session()
            except Halt as error:
                self._tell(self._desk.stop_all, error)
                self._rest()
            except Rewound as error:
                self._tell(self._desk.stop_all, error.halt())
                self._rest()
            except (Unavailable, Failure) as error:
                self._tell(self._desk.stuck, str(error))
                self._wait(AGAIN)
                continue
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be a stalled flow
                self._tell(self._desk.stop_all, defect(error))
                self._rest()
            if not self._stopping.is_set():
                self._tell(self._desk.go_on)
        self._heart.rest()

    def _session(self) -> None:
        with self._heart.within(LEDGER):
            connected = self._ledger.connect()
        with closing(connected) as db:
            member = Member(
                self._cluster,
                self._group,
                self._topic,
                beside={self._replay: events.AT_START},  # the ledger knows what is finished
                assigned=self._assigned,
                revoked=self._revoked,
                lost=self._lost,
                accepted=self._accepted,
            )
            self.met = member.met
            try:
                self._pump(db, member)
            finally:
                with self._heart.within(self._patience):
                    member.close()

    def _pump(self, db: Connection, member: Member) -> None:
        next_commit = 0.0
        paused: set[Slot] = set()
        while not self._again.is_set():
            self._heart.beat()
            paused = {slot for slot in member.slots if self._core.full(slot, paused=slot in paused)}
            member.pause(paused)
            if self._handed - self._core.arrivals > AHEAD:
                self._wait(0.002)
            elif records := member.fetch(BATCH, 0.05):
                number = self._core.looking()
                batch = [self._desk.read(record) for record in records]
                with self._heart.within(LEDGER):
                    known, live = self._look_up(db, batch)
                self._handed += 1
                self._tell(self._desk.arrived, number, batch, known, live)
                if len(records) < FEW:
                    self._wait(PACE)
            if (now := events.clock()) >= next_commit:
                next_commit = now + COMMIT_EVERY
                member.commit(self._durable)
                self._tell(self._advance)
                with self._heart.within(LEDGER):
                    if self._runs and (over := self._runs - runs.live(db, self._sink)):
                        self._runs -= over
                        self._tell(self._desk.over, over)
                    if self._number is not None:
                        number = self._core.looking()
                        self._tell(self._desk.barred, number, parked_keys(db, self._number))

    def _look_up(self, db: Connection, batch: Sequence[Delivery]) -> tuple[Mapping[Place, Row], Collection[str]]:
        """Ask the ledger what stands of a batch, and which replays are live where some of it is replayed."""
        known = deliveries.look_up(db, [delivery.place for delivery in batch])
        if others := [one for one in batch if one.place in known and known[one.place].payload != one.payload]:
            known |= deliveries.look_up(db, [self._core.apart(one) for one in others])
        live: set[str] = set()
        if replayed := [delivery for delivery in batch if delivery.run]:
            live = runs.live(db, self._sink)
            overwriting = runs.overwriting(db, self._sink)
            for delivery in replayed:
                delivery.overwrite = delivery.run in overwriting
            self._runs |= live & {delivery.run for delivery in replayed}
        return known, live

    # Callbacks of the member, on the thread.

    def _assigned(self, slots: list[Slot], committed: Mapping[Slot, int]) -> None:
        self._heart.joined = True
        with self._heart.within(LEDGER):
            self._ask(self._desk.take_over(slots, committed))

    def _revoked(self, slots: list[Slot]) -> Mapping[Slot, int]:
        """Finish what is in flight on these partitions and give the offsets to commit; nothing new begins (D7)."""
        with self._heart.within(self._patience + LEDGER):
            positions = self._ask(self._desk.give_back(slots, self._patience))
        self._durable = {}
        return positions

    def _lost(self, slots: list[Slot]) -> None:
        """The partitions are another's already: commit nothing, and let what is in flight end without effect here."""
        self._ask(self._desk.give_back(slots, 0.0))
        self._durable = {}

    def _accepted(self, sent: float) -> None:
        self._tell(self._desk.renew, sent + events.SESSION_SECONDS / 2)

    # Between thread and loop.

    def _advance(self) -> None:
        """Start to make the watermarks durable, unless that is under way; the next commit takes what came of it."""
        if not self._advancing:
            self._advancing = True
            self._loop.create_task(self._advanced())

    async def _advanced(self) -> None:
        with suppress(Unavailable):  # whoever waits for the ledger says so; nothing new is committed until it is back
            self._durable = await self._desk.advance()
        self._advancing = False

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(self._desk.guarded, function, *arguments)

    def _ask(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _wait(self, seconds: float) -> None:
        self._again.wait(seconds)

    def _rest(self) -> None:
        """Stand still until told to begin again, or to stop."""
        self._heart.rest()
        self._again.wait()
