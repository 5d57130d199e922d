"""What a worker says of its flows besides what it counts.

What the engine knows is read at every scrape; what only broker and ledger know, a thread asks them every few seconds,
with a number of questions that does not grow with topics, records or deliveries.
"""

import asyncio
import importlib.metadata
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Self, get_args

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trunkline.deadletter import Kind
from trunkline.engine.agents import Timekeeper
from trunkline.engine.deliver import Deliverer
from trunkline.engine.delivery import Stage
from trunkline.engine.process import Processor
from trunkline.engine.waiting import Letters, Waiting
from trunkline.engine.watermark import Position
from trunkline.engine.worker import Worker
from trunkline.errors import TrunklineError
from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Flow,
    Process,
    Publish,
    Target,
    dead_letters_of,
    identity_of,
    inputs_of,
    replay_of,
    sink_identity,
    targets_called,
    targets_of,
)
from trunkline.http.certificates import ends
from trunkline.kafka.cluster import Cluster, setting
from trunkline.kafka.control import Control
from trunkline.kafka.events import Slot
from trunkline.kafka.orders import Orders, running, topology_of
from trunkline.kafka.retention import kept_for
from trunkline.kafka.topics import replayed_of
from trunkline.ledger import deliveries, reach
from trunkline.ledger.database import Connection, Failure
from trunkline.observe import Metrics
from trunkline.settings import Settings

EVERY = 5.0
"""Seconds between two looks at the ends of the topics."""
SELDOM = 60.0
"""Seconds between two looks at dead letters, retention and what has expired."""
ENDING = 2.0
LASTING = 0.1
"""The share of its time that the thread may spend asking: when answers are slow it asks less often."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What broker and ledger said last."""

    at: float = 0.0
    """Epoch seconds; 0 before the first answer."""
    ends: Mapping[Slot, int] = field(default_factory=dict)
    since: Mapping[Slot, float] = field(default_factory=dict)
    """Of each partition that has something to read: when that was seen first, in epoch seconds."""
    starts: Mapping[Slot, int] = field(default_factory=dict)
    retention: Mapping[str, float] = field(default_factory=dict)
    """By topic, in seconds; one that keeps its records for ever is not there."""
    letters: Mapping[str, Letters] = field(default_factory=dict)
    """By flow."""
    free: int | None = None
    """Bytes that the disk of the ledger's file has left."""


class Survey(Collector):
    """Figures of the flows of one worker, for Prometheus; an async context manager that runs the thread."""

    def __init__(self, bus: Bus, worker: Worker, settings: Settings, cluster: Cluster, metrics: Metrics) -> None:
        self._bus = bus
        self._flows = dict(bus.named())
        self._worker = worker
        self._reading = worker.reading
        here = {flow.name: self._flows[flow.name] for flow in self._reading}
        self._ends = certificates_of([target for flow in here.values() for target in targets_called(flow)], cluster)
        self._unrecorded = {name: flow for name, flow in here.items() if isinstance(flow, Process | Agent)}
        """Those that run here: who runs none need not read their letters, nor have the right to."""
        self._cluster = cluster
        self._ledger = reach(settings.ledger)
        self._metrics = metrics
        self._version = importlib.metadata.version("trunkline")
        self._topology = topology_of(bus)
        self._seen = Seen()
        self._waiting: Waiting | None = None
        """The letters of steps and agents, while their topics are read."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="survey", daemon=True)

    async def __aenter__(self) -> Self:
        for flow in self._reading:
            self._metrics.progressed(flow.name)
            self._metrics.halted.labels(flow.name)
            begin(self._metrics, flow.name, self._flows[flow.name])
        for source in self._worker.publishers:
            for outcome in ("received", "published", "rejected", "duplicate"):
                self._metrics.sources.labels(source, outcome)
        for name in sorted(self._bus.targets):
            self._metrics.circuits.labels(name)
            self._metrics.waits.labels(name)
        self._metrics.registry.register(self)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._metrics.registry.unregister(self)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, ENDING)  # it may wait for a broker that does not answer

    # At every scrape, on the loop.

    def describe(self) -> Iterator[Metric]:
        """Give nothing: what is collected is known only while the flows run."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Give what is known now."""
        seen, orders, now = self._seen, self._worker.orders, time.time()
        yield from self._constants(seen)
        yield from self._by_partition(seen, now)
        yield from self._by_flow(orders, now)
        yield from self._dead(seen, orders, now)
        yield from self._tables()

    def _constants(self, seen: Seen) -> Iterator[Metric]:
        build = family("build_info", "What runs here; workers of one bus with two topologies are a mixed fleet.")
        build.add(1, bus=self._bus.name, version=self._version, topology=self._topology)
        yield build
        info = family("flow_info", "Every flow of the bus: what it reads or writes, where it ends.")
        for name, flow in self._flows.items():
            for labels in described(flow):
                info.add(1, flow=name, **labels)
        yield info
        asked = family("survey_timestamp_seconds", "When broker and ledger were last asked for what is shown here.")
        asked.add(seen.at)
        yield asked
        silence = family("broker_silence_seconds", "For how long no broker has acknowledged anything; 0 while they do.")
        silence.add(self._worker.silence)
        yield silence
        if seen.free is not None:
            free = family("ledger_free_bytes", "What the disk of the ledger's file has left.")
            free.add(seen.free)
            yield free
        failing = family("ledger_failing_seconds", "For how long the ledger has taken nothing; 0 while it does.")
        failing.add(self._worker.unwritten[0])
        yield failing
        certificates = family(
            "certificate_end_timestamp_seconds", "When a certificate of ours, or an authority's, ends."
        )
        for name, at in self._ends.items():
            certificates.add(at, setting=name)
        yield certificates
        kept = family("topic_retention_seconds", "For how long a topic keeps its records.")
        for topic, seconds in sorted(seen.retention.items()):
            kept.add(seconds, topic=topic)
        yield kept

    def _by_partition(self, seen: Seen, now: float) -> Iterator[Metric]:
        records = family("flow_lag_records", "Offsets from where a flow is to the end of the partition.")
        seconds = family("flow_lag_seconds", "Age of the oldest record of the partition that is not finished.")
        blocker = family("flow_blocker_offset", "The oldest unfinished record: no offset beyond it is committed.")
        for flow in self._reading:
            for slot, position in sorted(flow.positions().items()):
                where = {"flow": flow.name, "topic": slot.topic, "partition": str(slot.partition)}
                if slot not in seen.ends:
                    continue
                records.add(lag := behind(position, seen.ends[slot]), **where)
                seconds.add(age(position, lag, seen.since.get(slot, now), now), **where)
                if position.published is not None:
                    blocker.add(position.offset, **where)
        yield from (records, seconds, blocker)

    def _by_flow(self, orders: Orders, now: float) -> Iterator[Metric]:
        workers = family("flow_workers", "Live workers of the bus that run the flow.")
        paused = family("flow_paused", "1 while the flow's sink is paused by order.")
        alive = datetime.fromtimestamp(now, UTC)
        for name, flow in self._flows.items():
            workers.add(len(running(orders, [name], alive)), flow=name)
            if isinstance(flow, Deliver):
                paused.add(sink_identity(flow.to) in orders.paused, flow=name)
        yield from (workers, paused)
        stages = family("flow_deliveries", "Events held by the worker, by how far they are.")
        flying = family("delivery_in_flight", "Deliveries whose call has no answer yet.")
        full = family("flow_full_partitions", "Partitions that are not read from, because one key fills them up.")
        gap = family("flow_accounting_gap", "Events of which nobody knows any more; anything but 0 is a bug.")
        for reader in self._reading:
            name = reader.name
            match reader:
                case Deliverer():
                    held = reader.core.stages()
                    for stage in STAGES:
                        stages.add(held.get(stage, 0), flow=name, stage=stage)
                    flying.add(held.get("calling", 0), flow=name, sink=reader.sink)
                    full.add(len(reader.filled()), flow=name)
                    gap.add(reader.core.gap(), flow=name)
                case Processor() | Timekeeper():
                    gap.add(self._lost(name), flow=name)
        yield from (stages, flying, full, gap)

    def _lost(self, flow: str) -> int:
        """Count the input events of a process flow that came to no end."""
        samples = (sample for found in self._metrics.process.collect() for sample in found.samples)
        counts = {one.labels["outcome"]: one.value for one in samples if one.labels["flow"] == flow}
        return round(counts.pop("read", 0) - sum(counts.values()))

    def _dead(self, seen: Seen, orders: Orders, now: float) -> Iterator[Metric]:
        many = family("deadletter_open", "Dead letters that wait for a person.")
        oldest = family("deadletter_oldest_timestamp_seconds", "When the oldest of them was written.")
        kept = family("deadletter_retention_seconds", "For how long dead letters are kept.")
        gone = family("flow_expired_records", "Offsets that a topic deleted before the flow had read them.")
        lately = family(
            "flow_expired_timestamp_seconds", "When somebody decided about the last of them; until then now; 0: none."
        )
        for name, letters in seen.letters.items():
            many.add(letters.open, flow=name)
            if letters.oldest is not None:
                oldest.add(letters.oldest.timestamp(), flow=name)
            topic = dead_letters_of(identity_of(self._flows[name]))
            if topic in seen.retention:
                kept.add(seen.retention[topic], flow=name)
        for flow in self._reading:
            unread = (seen.starts.get(slot, 0) - position.offset for slot, position in flow.positions().items())
            undecided = sum(count for count in unread if count > 0)
            passed = [gap for gap in orders.never_read(identity_of(self._flows[flow.name])) if gap.expired]
            gone.add(undecided + sum(gap.end - gap.begin for gap in passed), flow=flow.name)
            at = now if undecided else max((gap.at.timestamp() for gap in passed), default=0)
            lately.add(at, flow=flow.name)
        yield from (many, oldest, kept, gone, lately)

    def _tables(self) -> Iterator[Metric]:
        rows = family("table_rows", "Rows of a table that the worker holds.")
        size = family("table_size_bytes", "What they take on disk, about.")
        lag = family("table_lag_records", "Records of the table's topic that the worker has not read yet.")
        ready = family("table_ready", "1 while the rows are those of the topic; flows wait while they are not.")
        for reader in self._worker.tables:
            rows.add(reader.count, table=reader.name)
            size.add(reader.size, table=reader.name)
            lag.add(reader.lag, table=reader.name)
            ready.add(reader.ready.is_set(), table=reader.name)
        yield from (rows, size, lag, ready)

    # On the thread.

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TrunklineError, Failure), ExitStack() as stack:  # what is shown grows old, and says so
                control = stack.enter_context(Control(self._cluster))
                db = stack.enter_context(self._ledger.connect())
                stack.callback(self._unfollow)
                seldom = 0.0
                while not self._stopping.is_set():
                    began = time.monotonic()
                    if began >= seldom:
                        seldom = began + SELDOM
                        self._seen = self._look_closely(control, db)
                    self._seen = self._look(control)
                    took = time.monotonic() - began
                    self._stopping.wait(max(EVERY, took / LASTING))
            self._stopping.wait(EVERY)

    def _look(self, control: Control) -> Seen:
        """Ask for the ends of the partitions that are ours, and see who has nothing left to do."""
        before = self._seen
        ends = control.ends_of({slot for flow in self._reading for slot in flow.positions()})
        now = time.time()
        since: dict[Slot, float] = {}
        for flow in self._reading:
            left = {slot: behind(position, ends[slot]) for slot, position in flow.positions().items() if slot in ends}
            since |= {slot: before.since.get(slot, now) for slot, lag in left.items() if lag}
            if left and not any(left.values()):
                self._metrics.progressed(flow.name)
        return replace(before, at=now, ends=ends, since=since, letters={**before.letters, **self._followed()})

    def _look_closely(self, control: Control, db: Connection) -> Seen:
        """Ask for what changes slowly."""
        topics = control.existing({topic for flow in self._flows.values() for topic in touched(flow)})
        keep = {
            name: kept.total_seconds() for name, found in topics.items() if (kept := kept_for(found.config)) is not None
        }
        starts = control.beginnings([name for flow in self._flows.values() for name in touched(flow) if name in topics])
        self._follow({name: found.partitions for name, found in topics.items()}, starts)
        waiting = deliveries.letters(db)
        letters = {
            name: Letters(*waiting.get(sink_identity(flow.to), (0, None)))
            for name, flow in self._flows.items()
            if isinstance(flow, Deliver)
        }
        letters = {**self._seen.letters, **letters}
        return replace(self._seen, starts=starts, retention=keep, letters=letters, free=self._ledger.free())

    def _follow(self, topics: Mapping[str, int], starts: Mapping[Slot, int]) -> None:
        """Follow the letters of flows without a ledger, where there are such topics; forget what has expired."""
        flows = {dead_letters_of(own): own for own in map(identity_of, self._unrecorded.values())}
        flows = {topic: own for topic, own in flows.items() if topic in topics}
        slots = [Slot(topic, number) for topic in flows for number in range(topics[topic])]
        if self._waiting is not None and not self._waiting.follows(slots):
            self._unfollow()
        if self._waiting is None and flows:
            self._waiting = Waiting(self._cluster, flows, replayed_of(self._bus))
        elif self._waiting is not None:
            self._waiting.expire(starts)

    def _unfollow(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _followed(self) -> dict[str, Letters]:
        """Give the letters that wait, by flow; of flows without a ledger."""
        found = {} if self._waiting is None else self._waiting.look()
        return {name: found[own] for name, flow in self._unrecorded.items() if (own := identity_of(flow)) in found}


class Family(GaugeMetricFamily):
    """A gauge whose samples name their labels."""

    def add(self, value: float, **labels: str) -> None:
        """Add a sample."""
        self.add_sample(self.name, labels, value)


def family(name: str, text: str) -> Family:
    """Begin a gauge of ours."""
    return Family(f"trunkline_{name}", text)


STAGES = tuple(stage.value for stage in Stage if stage is not Stage.GONE)


def certificates_of(targets: Iterable[Target], cluster: Cluster) -> dict[str, float]:
    """Say by setting when what it holds ends, as this process has read it: of several authorities the last."""
    who = {setting("certificate"): cluster.certificate}
    trusted = {setting("ca"): cluster.ca}
    for target in targets:
        if target.tls is not None and target.tls.certificate is not None:
            who[target.tls.certificate.name] = target.tls.certificate.read()
        if target.tls is not None and target.tls.ca is not None:
            trusted[target.tls.ca.name] = target.tls.ca.read()
    found = {name: ends(pem)[:1] for name, pem in who.items()} | {name: ends(pem) for name, pem in trusted.items()}
    return {name: max(at).timestamp() for name, at in found.items() if at}


def behind(position: Position, end: int) -> int:
    """Count the offsets from where a flow is to the end of a partition."""
    return max(0, end - position.offset)


def age(position: Position, lag: int, since: float, now: float) -> float:
    """Say in seconds how old the oldest unfinished record is: since when it was seen, where it is not fetched yet."""
    if position.published is not None:
        return max(0.0, now - position.published / 1000)
    return max(0.0, now - since) if lag else 0.0


def begin(metrics: Metrics, name: str, flow: Flow) -> None:
    """Let what a flow counts begin at 0: of a counter that begins with its first events no increase is seen."""
    outcomes: Collection[str] = ()
    topics: Collection[str] = ()
    reasons: Collection[str] = ("poison", "permanent")
    ends: Collection[str] = ("done", "dead")
    match flow:
        case Publish():
            return
        case Process():
            outcomes, topics = ("read", "routed", "filtered", "unrouted", "dead"), [topic.name for topic in flow.to]
        case Agent():
            outcomes, topics = ("read", "taken", "dead"), [flow.to.name]
        case Deliver():
            sink = flow.to.name
            for outcome in ("read", "delivered", "dead", "parked", "ambiguous", "superseded"):
                metrics.sinks.labels(name, sink, outcome)
            metrics.repeats.labels(name, sink)
            metrics.ages.labels(name, sink)
            for target in targets_of(flow.to):
                metrics.attempts.labels(name, sink, target.name, "delivered", "2xx")
                metrics.duration.labels(name, sink, target.name)
            reasons, ends = get_args(Kind), ("done", "dead", "parked", "ambiguous", "superseded")
    for outcome in outcomes:
        metrics.process.labels(name, outcome)
    for topic in topics:
        metrics.emitted.labels(name, topic)
    for reason in reasons:
        metrics.letters.labels(name, reason)
    for end in ends:
        metrics.replays.labels(name, end)


def described(flow: Flow) -> Iterator[dict[str, str]]:
    """Give the labels that tell flows apart, once for each target of one that delivers."""
    match flow:
        case Publish():
            yield {"kind": "publish", "topic": flow.to.name, "sink": "", "target": ""}
        case Process():
            yield {"kind": "process", "topic": flow.topic.name, "sink": "", "target": ""}
        case Agent():
            yield {"kind": "agent", "topic": flow.topic.name, "sink": "", "target": ""}
        case Deliver():
            for target in targets_of(flow.to):
                yield {"kind": "deliver", "topic": flow.topic.name, "sink": flow.to.name, "target": target.name}


def read_by(flow: Flow) -> Collection[str]:
    """Name the topics that a flow reads."""
    if isinstance(flow, Publish):
        return ()
    return [*(topic.name for topic in inputs_of(flow)), replay_of(identity_of(flow))]


def touched(flow: Flow) -> Collection[str]:
    """Name the topics of which it matters how long they keep their records."""
    return () if isinstance(flow, Publish) else (*read_by(flow), dead_letters_of(identity_of(flow)))
