"""One process: the flows it runs, what they share, and how they stop."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Self

from trunkline.engine.affinity import Affinity, keep_affinity
from trunkline.engine.agents import Timekeeper, window_of
from trunkline.engine.deliver import WIDTH, Deliverer
from trunkline.engine.process import Processor
from trunkline.engine.publish import Publisher
from trunkline.engine.tables import TableReader
from trunkline.engine.targets import Targets
from trunkline.engine.watchdog import Heart
from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Process,
    Publish,
    flow_name,
    inputs_of,
    results_of,
    schemas_of,
    tables_of,
    targets_called,
)
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import Sender, clock
from trunkline.kafka.orders import ControlReader, Fleet, Full, Orders, new_commands, this_worker
from trunkline.kafka.registry import Format, registry_of
from trunkline.kafka.topics import LETTERS_GONE, control_of
from trunkline.ledger import identity, reach
from trunkline.ledger.expiry import Keep, keep_sweeping
from trunkline.ledger.writer import Writer
from trunkline.observe import Every, Observed, Observer, What
from trunkline.redact import redact
from trunkline.settings import Settings

ORDERS_PATIENCE = 30.0
KEEP = Keep(rest=LETTERS_GONE, done=LETTERS_GONE)
"""What was delivered by a replay has a letter too."""
LATELY = 15.0
"""Seconds in which who tries again and again has said so at least once."""


class Waits:
    """Hears what flows and tables try again and again, and what keeps it from going on."""

    wants = frozenset[What]({"stuck"})

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, str]] = {}

    def __call__(self, seen: Observed) -> None:
        """Take note."""
        self._said[seen.flow] = clock(), seen.detail

    def lately(self) -> dict[str, str]:
        """Give what was said lately, by flow or table; may be asked from any thread."""
        since = clock() - LATELY
        return {name: redact(why) for name, (at, why) in self._said.copy().items() if at > since}


class Worker:
    """Runs some or all flows of a bus in this process; an async context manager. SIGTERM is the caller's matter."""

    def __init__(
        self, bus: Bus, settings: Settings, cluster: Cluster, *, observe: Observer, flows: Collection[str] = ()
    ) -> None:
        """Choose flows by name; none named means all.

        Raises:
            UsageError: a flow is not in the topology.
        """
        self._flows = bus.chosen(flows)
        self._bus = bus
        self._settings = settings
        self._cluster = cluster
        self._waits = Waits()
        self._observe = Every(observe, self._waits)
        self.registry = registry_of(settings.kafka, cluster, schemas_of(bus))
        self._sender: Sender | None = None
        self._writer: Writer | None = None
        self._obeyed: Orders | None = None
        self.publishers: dict[str, Publisher] = {}
        self._processors: list[Processor] = []
        self._timekeepers: list[Timekeeper] = []
        self._deliverers: list[Deliverer] = []
        self._tables: dict[str, TableReader] = {}
        self.drained = True
        """After the end: whether every call in flight had finished."""

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            UsageError: an address or secret is not set, or the ledger is another bus's.
            Unavailable: broker, ledger or a table cannot be reached.
        """
        for flow in self._flows:  # a missing secret stops the start, not the first event
            if isinstance(flow, Publish):
                flow.source.verify.sign("check", b"")
            if isinstance(flow, Agent):
                window_of(flow)
        self._targets = Targets(
            self._bus,
            [flow_name(flow) for flow in self._flows if targets_called(flow)],
            allow=self._settings.targets.allow,
            connections=WIDTH,
            observe=self._observe,
        )
        await self._targets.__aenter__()
        ledger = reach(self._settings.ledger)
        writer = self._writer = Writer(ledger)
        await writer.write(lambda db: identity.belong(db, self._bus.identity, ledger.name))
        sender = self._sender = Sender(self._cluster)
        fleet = Fleet()
        forms = await asyncio.to_thread(self._register)
        self._read_tables(forms)
        for flow in self._flows:
            match flow:
                case Publish():
                    self.publishers[flow.source.name] = Publisher(
                        self._bus,
                        flow,
                        form=forms[flow.to.name],
                        sender=sender,
                        writer=writer,
                        observe=self._observe,
                    )
                case Process():
                    self._processors.append(
                        Processor(
                            self._bus,
                            flow,
                            cluster=self._cluster,
                            forms=forms,
                            tables=self._tables,
                            slot=self._settings.worker.slot,
                            fleet=fleet,
                            targets=self._targets,
                            loop=asyncio.get_running_loop(),
                            observe=self._observe,
                        )
                    )
                case Agent():
                    self._timekeepers.append(
                        Timekeeper(
                            self._bus,
                            flow,
                            cluster=self._cluster,
                            forms=forms,
                            sender=sender,
                            fleet=fleet,
                            observe=self._observe,
                        )
                    )
                case Deliver():
                    self._deliverers.append(
                        Deliverer(
                            self._bus,
                            flow,
                            cluster=self._cluster,
                            forms=forms,
                            targets=self._targets,
                            sender=sender,
                            ledger=ledger,
                            writer=writer,
                            fleet=fleet,
                            observe=self._observe,
                        )
                    )
        self._loop = asyncio.get_running_loop()
        self._control = ControlReader(
            self._cluster,
            control_of(self._bus),
            this_worker(self._bus, [flow_name(flow) for flow in self._flows]),
            sender=sender,
            fleet=fleet,
            obey=self._obey,
            status=self._status,
            notices=self._targets.notices,
            targets=lambda: (self._targets.standing(), self._targets.paces()),
            observe=self._observe,
        )
        await asyncio.to_thread(self._control.wait, ORDERS_PATIENCE)
        self._sweeping = self._loop.create_task(keep_sweeping(writer, KEEP))
        for runner in self._threads:
            runner.start()
        for deliverer in self._deliverers:
            await deliverer.start()
        affinity = Affinity(
            self._settings.worker.slot, lambda: [one.thread for one in self._deliverers if one.thread is not None]
        )
        self._binding = self._loop.create_task(keep_affinity(affinity))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop: finish what is in flight, at most `drain_seconds`, commit, leave the groups, close."""
        seconds = self._settings.worker.drain_seconds
        ended = await asyncio.gather(
            *(asyncio.to_thread(runner.stop, seconds) for runner in self._threads),
            *(deliverer.stop(seconds) for deliverer in self._deliverers),
        )
        self.drained = all(ended)
        for processor in self._processors:
            await processor.close()
        self._sweeping.cancel()
        self._binding.cancel()
        await asyncio.to_thread(self._control.stop)
        for reader in self._tables.values():
            await asyncio.to_thread(reader.stop)
        if self._sender is not None:
            await asyncio.to_thread(self._sender.close)
        if self._writer is not None:
            await self._writer.close()
        await self._targets.__aexit__()
        self.registry.close()

    @property
    def hearts(self) -> Sequence[Heart]:
        """The signs of life of the flows that read."""
        return [flow.heart for flow in self.reading]

    @property
    def tables(self) -> Collection[TableReader]:
        """The tables that flows use here."""
        return self._tables.values()

    @property
    def reading(self) -> Sequence[Processor | Timekeeper | Deliverer]:
        """The flows that read, as they run here."""
        return [*self._processors, *self._timekeepers, *self._deliverers]

    @property
    def _threads(self) -> Sequence[Processor | Timekeeper]:
        """The flows that run in a thread of their own."""
        return [*self._processors, *self._timekeepers]

    @property
    def orders(self) -> Orders:
        """What holds, and what the workers of the bus said last."""
        return self._control.orders

    def stopped(self) -> Mapping[str, str]:
        """Name the flows that have halted, with the reason."""
        return {flow.name: flow.halted for flow in self.reading if flow.halted}

    @property
    def silence(self) -> float:
        """For how many seconds no broker has acknowledged anything: something is sent every few seconds."""
        return 0.0 if self._sender is None else self._sender.silence

    @property
    def unwritten(self) -> tuple[float, str]:
        """For how many seconds the ledger has taken nothing, and why; 0 while it does, or nothing is written."""
        failing = None if self._writer is None else self._writer.failing
        return (0.0, "") if failing is None else (time.monotonic() - failing[0], redact(failing[1]))

    def _obey(self, orders: Orders) -> None:
        """Bring orders into force, and say who gave them; called in a thread."""

        async def obey() -> None:
            self._targets.obey(orders)
            for deliverer in self._deliverers:
                deliverer.obey(orders)

        asyncio.run_coroutine_threadsafe(obey(), self._loop).result()
        # What somebody let go on before our time stands there for good, and is no news.
        before = replace(orders, paused={}, skipped={}) if self._obeyed is None else self._obeyed
        self._obeyed = orders
        for what, about, event, command in new_commands(before, orders):
            self._observe(Observed("ordered", about, event=event, detail=command.by, outcome=what))

    def _status(self) -> tuple[Mapping[str, str], Sequence[Full], Mapping[str, str]]:
        """Say how this worker stands, for the control topic; called in a thread."""
        full = [full for deliverer in self._deliverers for full in deliverer.filled()]
        waits = self._waits.lately()
        if why := self.unwritten[1]:
            waits |= {flow_name(flow): why for flow in self._flows if isinstance(flow, Publish | Deliver)}
        return self.stopped(), full, waits

    def _register(self) -> dict[str, Format]:
        """Register the schema of every topic and table that the flows touch."""
        used = {}
        for flow in self._flows:
            match flow:
                case Publish():
                    used[flow.to.name] = flow.to.schema
                case Process():
                    used.update({topic.name: topic.schema for topic in (flow.topic, *flow.to)})
                    used.update({table.name: table.schema for step in flow.steps for table in tables_of(step)})
                case Agent():
                    used.update({topic.name: topic.schema for topic in (*inputs_of(flow), flow.to)})
                case Deliver():
                    used.update(
                        {topic.name: topic.schema for topic in (flow.topic, results_of(flow.to)) if topic is not None}
                    )
        return {name: Format(self.registry, schema) for name, schema in used.items()}

    def _read_tables(self, forms: Mapping[str, Format]) -> None:
        """Begin to hold every table that a step uses; flows wait until theirs are read."""
        folder = self._settings.state / "tables" / self._bus.identity / str(self._settings.worker.slot)
        tables = {
            table.name: table
            for flow in self._flows
            if isinstance(flow, Process)
            for step in flow.steps
            for table in tables_of(step)
        }
        self._tables = {
            name: TableReader(table, forms[name], self._cluster, folder, self._observe)
            for name, table in tables.items()
        }
