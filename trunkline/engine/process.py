"""Topic to topics in transactions: what a batch writes, its dead letters and its offsets appear together or not at all.

    fetch ─▶ decode ─▶ steps ─▶ routes ─▶ encode ─▶ [ begin ─▶ produce ─▶ offsets ─▶ commit ]
    └────────── the next batch is gathered ────────┘       while the last one is committed

Everything that can wait or fail for one event happens before the transaction begins (P2, P5). A batch is what was
gathered during the last commit: some milliseconds' worth at low load, 2,000 records when more are waiting.

What is here starts and stops a flow and holds sessions; `session` fetches and gathers, `passing` takes events through
steps that wait, `making` decides what each becomes, `committing` ends transactions.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from trunkline.engine.elsewhere import Elsewhere
from trunkline.engine.lookups import askers_of
from trunkline.engine.making import Maker
from trunkline.engine.session import Session
from trunkline.engine.tables import TableReader
from trunkline.engine.targets import Targets
from trunkline.engine.timing import timed
from trunkline.engine.watchdog import Heart
from trunkline.engine.watermark import Position
from trunkline.errors import Halt, Unavailable, UnknownSchema, defect
from trunkline.flow.declare import Bus, Process, Wait, flow_name, group_of, identity_of, replay_of, tables_of
from trunkline.flow.rows import Given
from trunkline.flow.transform import waits
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import AT_END, Member, Slot
from trunkline.kafka.orders import Fleet
from trunkline.kafka.registry import Format
from trunkline.kafka.transactions import Transactions
from trunkline.observe import Observed, Observer, What
from trunkline.redact import redact


class Processor:
    """Runs one Process flow until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        flow: Process,
        *,
        cluster: Cluster,
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
        self.stopping = threading.Event()
        self._elsewhere = Elsewhere(fleet, self.heart, self.stopping)
        self._topic = flow.topic
        self._replay = replay_of(identity_of(flow))
        self._cluster = cluster
        self._group = group_of(bus, identity_of(flow))
        self._id = f"{self._group}.{socket.gethostname()}.{slot}"
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
            bus, timed(flow, observe), forms=forms, tables=rows, elsewhere=self._elsewhere.may_know
        )
        self._session: Session | None = None
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
            share = min(1.0, slots / (2 * self._partitions))  # each comes with its partition of the replay topic
            self._loop.call_soon_threadsafe(self._targets.divide, self.name, share)

    def positions(self) -> dict[Slot, Position]:
        """Say how far each partition is finished; may be asked from any thread."""
        return {} if self._session is None else self._session.positions()

    def see(self, what: What, **more: Any) -> None:
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
                self._elsewhere.leave_to_others()
            except Halt as error:
                self._halt(error)
                break
            except Unavailable as error:
                self.see("stuck", detail=f"the batch is tried again: {error}")
                self.stopping.wait(1.0)
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be a stalled flow
                self._halt(defect(error))
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
        return Transactions(self._cluster, self._id, one_by_one=one_by_one)

    def join(
        self,
        revoked: Callable[[list[Slot]], Mapping[Slot, int]],
        lost: Callable[[list[Slot]], None],
        begin: Callable[[Slot, int, str], int],
    ) -> Member:
        """Join the group."""
        return Member(
            self._cluster,
            self._group,
            self._topic,
            beside={self._replay: AT_END},  # who sent it can see that it was passed over, and sends it again
            assigned=self._joined,
            revoked=revoked,
            lost=lost,
            begin=begin,
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

    def _halt(self, why: Halt) -> None:
        self.halted = redact(why.told())
        self.see("halted", detail=self.halted)
