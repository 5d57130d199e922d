"""Tells the ledger: of calls before they are made, and of how deliveries ended, many in one commit (D3, D4)."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count

from trunkline.engine.delivery import Delivery
from trunkline.engine.dispatch import Dispatcher
from trunkline.errors import Unavailable
from trunkline.flow.declare import Deliver
from trunkline.http import transport
from trunkline.kafka import events
from trunkline.ledger import deliveries
from trunkline.ledger.attempts import Attempt, tried
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import Outcome, Place, Recorded, State, owner_of
from trunkline.ledger.intents import Intent, Standing, Wait, intend, withdraw
from trunkline.ledger.writer import Rewound, Writer

SPARE = 2.0
"""Seconds beyond the deadline of a call after which it has certainly ended (D7, D4)."""
AGAIN = 1.0
"""Seconds until the ledger is asked again after it did not answer."""
GATHER = 0.01
"""Seconds that outcomes are gathered at most, while nothing waits for any of them."""
NOTES = 10_000
"""Attempts that wait to be kept at most; while the ledger does not answer, more of them are not kept."""


class Recorder:
    """Records for one flow; used from the loop."""

    def __init__(
        self,
        flow: Deliver,
        *,
        core: Dispatcher,
        writer: Writer,
        keyed: bool,
        begin: Callable[[], None],
        obeyed: Callable[[str], None],
        act: Callable[[], None],
        see: Callable[..., None],
    ) -> None:
        """Prepare.

        `keyed` says whether the target honours our idempotency key. `begin` spawns `commit`. That calls `obeyed` with
        an event that was skipped by order, `act` when the dispatcher has heard of a group, `see` with what is seen.
        """
        self._core = core
        self._writer = writer
        self._keyed = keyed
        self._latest = flow.to.writes == "latest"
        self._begin = begin
        self._obeyed = obeyed
        self._act = act
        self._see = see
        self._me = secrets.token_hex(8)
        self._calls = count()
        self._outcomes: list[tuple[Delivery, State, bool]] = []
        self._failed: list[Attempt] = []
        self._committing = False
        self._awaited = asyncio.Event()
        """Whether something waits for one of the outcomes."""
        self.refused = False
        """Whether the ledger does not take what is to be recorded, which it is asked again and again."""
        self.number = 0
        """The sink's in the ledger."""

    async def announce(self, asking: Sequence[Delivery]) -> Collection[Delivery]:
        """Announce calls and give those that must not be made (D4)."""
        wall = time.time()
        intents = []
        for delivery in asking:
            if not delivery.owner:
                delivery.owner = owner_of(self._me, next(self._calls), delivery.run if delivery.live else "")
            intents.append(
                Intent(
                    place=delivery.place,
                    sink=self.number,
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
                    latest=self._latest,
                    topic=delivery.origin.topic,
                    awaited=delivery.awaited,
                )
            )
        found: Mapping[Place, Standing]
        try:
            found = await self._writer.write(lambda db: intend(db, intents))
        except Unavailable as error:
            if isinstance(error, Rewound):
                self._core.halt(error.halt())
            self._see("stuck", detail=f"calls wait for the ledger: {error}")
            found = {delivery.place: Wait(wall + AGAIN) for delivery in asking}
        for delivery in asking:
            self._see("prepared", delivery)
        now, wall = events.clock(), time.time()
        return [delivery for delivery in asking if not self._core.prepared(delivery, found[delivery.place], now, wall)]

    def withdraw(self, delivery: Delivery) -> None:
        """Take back what was announced and will not be called; where that is lost, it counts as perhaps applied."""
        work = partial(withdraw, place=delivery.place, owner=delivery.owner)
        self._writer.write(work).add_done_callback(asyncio.Future.exception)

    def failed(self, attempt: Attempt) -> None:
        """Keep an attempt that did not deliver, with the next outcomes."""
        if len(self._failed) < NOTES:
            self._failed.append(attempt)
        self._commit_soon()

    def record(self, delivery: Delivery, state: State, *, park: bool) -> None:
        """Record an outcome; the next group begins when the last one is durable (D3)."""
        self._outcomes.append((delivery, state, park))
        if self._core.holds_up(delivery):
            self._awaited.set()
        self._commit_soon()

    def _commit_soon(self) -> None:
        if not self._committing:
            self._committing = True
            self._begin()

    async def commit(self) -> None:
        """Record group after group; whatever comes while one is made durable, or gathered, is the next (D3).

        Raises:
            Rewound: the ledger has lost commits, so nothing is recorded any more, and nothing is committed.
        """
        while self._outcomes or self._failed:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER):
                    await self._awaited.wait()
            self._awaited.clear()
            group, self._outcomes = self._outcomes, []
            failed, self._failed = self._failed, []
            at = datetime.now(UTC)
            rows = [self._outcome(delivery, state, at, park=park) for delivery, state, park in group]
            work = partial(write, outcomes=rows, failed=failed)
            while True:
                try:
                    freed, against = await self._writer.write(work)
                    self.refused = False
                    break
                except Rewound:
                    raise
                except Unavailable as error:
                    self.refused = True
                    self._see("stuck", detail=f"outcomes wait to be recorded: {error}")
                    await asyncio.sleep(AGAIN)
            self._tell(group, [row for row in rows if row.place not in against], at)
            wall = time.time()
            for delivery, _, _ in group:
                self._core.recorded(delivery, freed, against.get(delivery.place), wall)
                if delivery.skipped:
                    self._obeyed(delivery.skipped)
            self._act()
        self._committing = False

    def _tell(self, group: Sequence[tuple[Delivery, State, bool]], rows: Sequence[Outcome], at: datetime) -> None:
        """Say what is durable now; `rows` are those that count."""
        if group:
            self._see("recorded", count=len(group))
        now = at.timestamp()
        ages = [now - delivery.event.time.timestamp() for delivery, state, _ in group if state is State.DONE]
        for state, many in Counter(row.state for row in rows).items():
            if (word := WORDS.get(state)) is not None:
                self._see(word, count=many, ages=ages if state is State.DONE else ())
        for state, many in Counter(row.state for row in rows if row.run).items():
            self._see("replayed", count=many, outcome=state.name.lower())

    def _outcome(self, delivery: Delivery, state: State, at: datetime, *, park: bool) -> Outcome:
        origin = delivery.origin
        if state is State.AMBIGUOUS and delivery.awaited:  # by its clock, the call that is given up may go on
            at = max(at, datetime.fromtimestamp(delivery.awaited + 0.001, UTC))
        return Outcome(
            delivery.place,
            self.number,
            state,
            delivery.key,
            origin.partition,
            origin.offset,
            delivery.payload,
            delivery.attempts,
            at,
            delivery.owner,
            park,
            self._latest,
            delivery.run if delivery.live else "",
            origin.topic,
        )


WORDS: Mapping[State, str] = {
    State.DONE: "delivered",
    State.PARKED: "parked",
    State.AMBIGUOUS: "ambiguous",
    State.SUPERSEDED: "superseded",
}


def write(db: Connection, outcomes: Sequence[Outcome], failed: Sequence[Attempt]) -> Recorded:
    """Keep attempts that did not deliver, record outcomes, and give what stands after that."""
    if failed:
        tried(db, failed)
    return deliveries.record(db, outcomes) if outcomes else Recorded(set(), {})
