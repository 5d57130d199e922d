"""What the workers of a bus obey, and what each of them says of itself: the control topic (L5).

It is compacted and has one partition: the last record of a key holds, and one without a value ends it.

    pause/<sink>           start no call of this sink
    resume/<sink>          go on, after a Halt too; every command has an id of its own
    skip/<sink>/<event>    send this event to the dead letters instead of to the target
    worker/<worker>        what a worker says of itself, every few seconds
    ledger                 the id and epoch of the ledger that holds (L3)
    passed/<flow>/<partition>/<offset>   from there a flow has not read, and never will (L6)
"""

import hashlib
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

import orjson
from pydantic import AwareDatetime, TypeAdapter

from trunkline.errors import Unavailable
from trunkline.flow import draw
from trunkline.flow.declare import Bus
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import Follower, Record, Sender, Written, clock
from trunkline.observe import Observed, Observer

V = TypeVar("V")

EVERY = 5.0
"""Seconds between two announcements of a worker."""
LIVE = timedelta(seconds=15)
"""A worker that has said nothing for so long is not waited for."""
PATIENCE = 10.0
"""Seconds that reading all of it may take."""
FORGOTTEN = timedelta(hours=1)
"""What a worker said is taken off the topic by any other when it has been silent for so long."""

NEVER = datetime.fromtimestamp(0, UTC)
"""The time of what has not been said yet."""

Change = tuple[str, bytes | None]
"""A key of the topic and what stands there from now; None ends what stood there."""


@dataclass(frozen=True, slots=True)
class Command:
    """Who asked for something, when and why; no other command has the same `id`."""

    id: str
    who: str
    at: AwareDatetime
    why: str = ""

    @property
    def by(self) -> str:
        """Who asked, with the reason if there is one."""
        return f"{self.who} ({self.why})" if self.why else self.who


class Trusted(NamedTuple):
    """The ledger that holds."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that runs flows, for as long as it lives; `topology` identifies what it was told to run."""

    id: str
    host: str
    pid: int
    flows: tuple[str, ...]
    topology: str


@dataclass(frozen=True, slots=True)
class Full:
    """A partition that is not fetched from now, and the key whose events fill it (D6)."""

    flow: str
    topic: str
    partition: int
    key: str | None
    event: str | None = None
    """The first of them where it has failed, and is called again."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Offsets that a flow never reads: deleted unread (`expired`), or left out where a person let it begin."""

    flow: str
    """What it is known by."""
    partition: int
    begin: int
    end: int
    """The first one that is not of them."""
    expired: bool
    at: datetime = NEVER
    """When it was noted, by the broker's clock; it stands beside the record."""

    def has(self, offset: int) -> bool:
        """Say whether an offset is one of them."""
        return self.begin <= offset < self.end


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a worker says of itself."""

    worker: Worker
    applied: int
    """It obeys every record below this offset."""
    halted: Mapping[str, str]
    """The flows that stand still, each with the reason."""
    full: tuple[Full, ...]
    at: datetime = NEVER
    """When it was said, by the broker's clock; it stands beside the record."""
    notices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What targets announce of their APIs, by target."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """How targets stand that are not simply called: "down", "probing" or "asking us to wait"."""
    paces: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Calls a second, by target that has a limit, and flow."""
    waits: Mapping[str, str] = field(default_factory=dict)
    """What flows and tables try again and again, each with what keeps it from going on."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What holds: the records of the topic up to a position."""

    paused: Mapping[str, Command] = field(default_factory=dict)
    """By sink."""
    resumed: Mapping[str, Command] = field(default_factory=dict)
    """The last command to go on, by sink; one whose id was not known before ends a Halt."""
    skipped: Mapping[tuple[str, str], Command] = field(default_factory=dict)
    """By sink and event id."""
    ledger: Trusted | None = None
    workers: Mapping[str, Announcement] = field(default_factory=dict)
    position: int = 0
    passed: Mapping[str, Passed] = field(default_factory=dict)
    """By key."""

    def never_read(self, flow: str) -> list[Passed]:
        """Give the offsets that the flow known by this never reads."""
        return [one for one in self.passed.values() if one.flow == flow]

    def skips(self, sink: str) -> frozenset[str]:
        """Give the ids of the events that a sink skips."""
        return frozenset(event for name, event in self.skipped if name == sink)


def pausing(sink: str, command: Command) -> list[Change]:
    """Let a sink start no more calls."""
    return [(f"pause/{sink}", orjson.dumps(command))]


def resuming(sink: str, command: Command) -> list[Change]:
    """Let a sink go on."""
    return [(f"pause/{sink}", None), (f"resume/{sink}", orjson.dumps(command))]


def skipping(sink: str, event: str, command: Command) -> list[Change]:
    """Let a sink send an event to the dead letters."""
    return [(f"skip/{sink}/{event}", orjson.dumps(command))]


def skipped(sink: str, event: str) -> list[Change]:
    """End a skip: the event is in the dead letters, and a replay of it is another matter."""
    return [(f"skip/{sink}/{event}", None)]


def trusting(ledger: Trusted) -> list[Change]:
    """Name the ledger that holds."""
    return [("ledger", orjson.dumps(ledger._asdict()))]


def passing(gap: Passed) -> list[Change]:
    """Note that a flow never reads these."""
    return [(f"passed/{gap.flow}/{gap.partition}/{gap.begin}", undated(gap))]


def announcing(said: Announcement) -> list[Change]:
    """Say how a worker stands; the broker adds the time."""
    return [(f"worker/{said.worker.id}", undated(said))]


def undated(said: Announcement | Passed) -> bytes:
    """Write what stands in a record, beside which the time stands."""
    return orjson.dumps({name: value for name, value in asdict(said).items() if name != "at"})


def leaving(worker: str) -> list[Change]:
    """Take a worker off the topic."""
    return [(f"worker/{worker}", None)]


def applied(orders: Orders, records: Iterable[Record]) -> Orders:
    """Give what holds after further records; what cannot be read changes nothing."""
    paused, resumed, skips = dict(orders.paused), dict(orders.resumed), dict(orders.skipped)
    workers, ledger, position = dict(orders.workers), orders.ledger, orders.position
    passed = dict(orders.passed)
    for record in records:
        position = record.offset + 1
        what, _, about = (record.key or b"").decode(errors="replace").partition("/")
        try:
            at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
            match what:
                case "pause":
                    put(paused, about, read(record.value, COMMAND))
                case "resume":
                    put(resumed, about, read(record.value, COMMAND))
                case "skip":
                    sink, _, event = about.partition("/")
                    put(skips, (sink, event), read(record.value, COMMAND))
                case "worker":
                    said = read(record.value, ANNOUNCEMENT)
                    put(workers, about, said and replace(said, at=at))
                case "ledger":
                    ledger = read(record.value, LEDGER)
                case "passed":
                    gap = read(record.value, PASSED)
                    put(passed, about, gap and replace(gap, at=at))
                case _:
                    pass
        except (ValueError, OverflowError):
            continue
    return Orders(paused, resumed, skips, ledger, workers, position, passed)


K = TypeVar("K")


def put(kept: dict[K, V], key: K, value: V | None) -> None:
    """Keep a value under its key, or forget the key."""
    if value is None:
        kept.pop(key, None)
    else:
        kept[key] = value


def read(value: bytes | None, form: "TypeAdapter[V]") -> V | None:
    """Read a record's JSON object; None when it has no value.

    Raises:
        ValueError: it is none of this form: anybody who may write to the topic can have written it.
    """
    return None if value is None else form.validate_json(value, strict=True)


COMMAND, LEDGER = TypeAdapter(Command), TypeAdapter(Trusted)
PASSED, ANNOUNCEMENT = TypeAdapter(Passed), TypeAdapter(Announcement)


def live(orders: Orders, now: datetime) -> list[Announcement]:
    """Give what the workers say that have spoken lately."""
    return [said for said in orders.workers.values() if now - said.at <= LIVE]


def running(orders: Orders, flows: Collection[str], now: datetime) -> list[Announcement]:
    """Give the live workers that run any of these flows."""
    return [said for said in live(orders, now) if any(flow in flows for flow in said.worker.flows)]


def mixed(orders: Orders, now: datetime) -> bool:
    """Tell whether live workers run different topologies: what one of them does not know yet may be another's."""
    return len({said.worker.topology for said in live(orders, now)}) > 1


def commands_differ(before: Orders, after: Orders) -> bool:
    """Tell whether there is anything new to obey; what workers say of themselves is not."""
    return replace(before, workers={}, position=0, passed={}) != replace(after, workers={}, position=0, passed={})


def new_commands(before: Orders, after: Orders) -> Iterator[tuple[str, str, str, Command]]:
    """Give the commands that did not hold before: what, of which sink or target, of which event, by whom."""
    for what, was, holds in (("pause", before.paused, after.paused), ("resume", before.resumed, after.resumed)):
        yield from ((what, about, "", command) for about, command in holds.items() if command != was.get(about))
    for (sink, event), command in after.skipped.items():
        if command != before.skipped.get((sink, event)):
            yield "skip", sink, event, command


def topology_of(bus: Bus) -> str:
    """Identify what a bus declares: two workers with the same one know the same flows, topics and schemas."""
    declared = draw.data(bus)
    for flow in declared["flows"]:
        del flow["where"]
    schemas = [*(topic.schema.text for topic in bus.topics), *(table.schema.text for table in bus.tables)]
    return hashlib.sha256(orjson.dumps([declared, schemas], option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def this_worker(bus: Bus, flows: Iterable[str]) -> Worker:
    """Describe this process."""
    host, pid = socket.gethostname(), os.getpid()
    return Worker(f"{host}.{pid}.{secrets.token_hex(3)}", host, pid, tuple(flows), topology_of(bus))


def send(sender: Sender, topic: str, changes: Iterable[Change]) -> list[Written]:
    """Write changes, each acknowledged by all in-sync replicas.

    Raises:
        Unavailable: one was not acknowledged, or the topic is missing.
    """
    sent = [sender.send(topic, key.encode(), value, ()) for key, value in changes]
    return [future.result() for future in sent]


def current(cluster: Cluster, topic: str) -> Orders:
    """Read what holds now.

    Raises:
        Unavailable: the topic was not read to its end within ten seconds.
    """
    until = time.monotonic() + PATIENCE
    orders = Orders()
    with closing(Follower(cluster, topic)) as follower:
        while not follower.caught_up:
            orders = applied(orders, follower.fetch(0.2))
            if time.monotonic() > until:
                raise Unavailable(f"{topic} cannot be read to its end: no answer")
    return orders


class Fleet:
    """Whether the live workers of the bus run one topology, as one of them knows it; asked from any thread (L5).

    A worker announces itself before it writes anything. So who fetches a record, and then reads the control topic to
    its end, has heard of the topology that the record comes from. Times are seconds by `events.clock`.
    """

    def __init__(self) -> None:
        self.looked = -math.inf
        """As of when it was known last what the workers run."""
        self.uniform = -math.inf
        """As of when it was known last that all of them run the same."""
        self.asked = threading.Event()
        """Somebody wants to know it as of now."""

    def saw(self, at: float, *, mixed: bool) -> None:
        """Take what was known as of a time."""
        if not mixed:
            self.uniform = at
        self.looked = at


class ControlReader:
    """Follows the orders for one worker, and says how the worker stands.

    `obey` gets everything that holds: once before `wait` returns, then whenever a command has changed. What it returns
    from is announced as applied, so it returns when the orders are in force. It, `status` (the halted flows with their
    reasons, the partitions that are full, and what is tried again and again), `notices` (what targets announce) and
    `targets` (how they stand, and how fast they are called) are called in a thread of the reader's own. `fleet` is
    kept: as of each announcement that has come back, every few seconds and when it is asked.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        worker: Worker,
        *,
        sender: Sender,
        fleet: Fleet,
        obey: Callable[[Orders], None],
        status: Callable[[], tuple[Mapping[str, str], Sequence[Full], Mapping[str, str]]],
        observe: Observer,
        notices: Callable[[], Mapping[str, Sequence[str]]] = dict,
        targets: Callable[[], tuple[Mapping[str, str], Mapping[str, Mapping[str, float]]]] = lambda: ({}, {}),
    ) -> None:
        self.orders = Orders()
        """What holds, and what the workers said last; may be read from any thread."""
        self._cluster = cluster
        self._topic = topic
        self._worker = worker
        self._sender = sender
        self._fleet = fleet
        self._obey = obey
        self._status = status
        self._notices = notices
        self._targets = targets
        self._observe = observe
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure = "not read to its end"
        self._halted: Mapping[str, str] = {}
        self._noticed: Mapping[str, Sequence[str]] = {}
        self._waiting: Collection[str] = {}.keys()
        self._echo: tuple[float, Future[Written]] | None = None
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Return when the worker obeys what held at its start.

        Raises:
            Unavailable: it does not, in this time.
        """
        if not self._ready.wait(seconds):
            raise Unavailable(f"{self._topic} cannot be read: {self._failure}")

    def stop(self) -> None:
        """Take the worker off the topic and stop following."""
        self._stopping.set()
        self._thread.join(5)
        for key, value in leaving(self._worker.id):
            self._sender.send(self._topic, key.encode(), value, ())

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 - whatever it is, a worker that obeys nobody must be seen, and tries again
                self._failure = str(error) or type(error).__name__
                self._observe(Observed("stuck", self._topic, detail=f"no orders are read: {self._failure}"))
                self._stopping.wait(1.0)

    def _follow(self) -> None:
        """Announce this worker first, then read past that: who gives an order either sees us, or is read by us now."""
        orders = Orders()
        [here] = send(self._sender, self._topic, announcing(self._now(0)))
        with closing(Follower(self._cluster, self._topic)) as follower:
            while orders.position <= here.offset:
                if self._stopping.is_set():
                    return
                orders = applied(orders, follower.fetch(0.2))
            self._take(orders)
            self._ready.set()
            due = time.monotonic() + EVERY
            while not self._stopping.is_set():
                records = follower.fetch(0.2)
                before, self.orders = self.orders, applied(self.orders, records)
                self._look()
                if commands_differ(before, self.orders):
                    self._take(self.orders)
                elif self._fleet.asked.is_set() and self._echo is None:
                    self._fleet.asked.clear()
                    self._announce()
                elif time.monotonic() >= due:
                    self._announce()
                    self._forget()
                elif self._differs():
                    self._announce()
                else:
                    continue
                due = time.monotonic() + EVERY

    def _take(self, orders: Orders) -> None:
        """Obey and say so."""
        self.orders = orders
        self._obey(orders)
        self._announce()

    def _announce(self) -> None:
        at = clock()
        for key, value in announcing(self._now(self.orders.position)):
            future = self._sender.send(self._topic, key.encode(), value, ())
            if self._echo is None:
                self._echo = at, future

    def _look(self) -> None:
        """See who lives once an announcement has come back: as of when it was sent, by the clock that dated it."""
        if self._echo is None or not self._echo[1].done():
            return
        at, written = self._echo
        if written.exception() is not None:
            self._echo = None
        elif written.result().offset < self.orders.position:
            self._echo = None
            if (ours := self.orders.workers.get(self._worker.id)) is not None:
                self._fleet.saw(at, mixed=mixed(self.orders, ours.at))

    def _now(self, position: int) -> Announcement:
        halted, full, waits = self._status()
        self._halted, self._waiting = dict(halted), waits.keys()
        self._noticed = self._notices()
        standing, paces = self._targets()
        said = self._halted, tuple(full), NEVER, self._noticed, standing, paces, waits
        return Announcement(self._worker, position, *said)

    def _differs(self) -> bool:
        """Say whether there is something to announce at once."""
        halted, _, waits = self._status()
        return halted != self._halted or waits.keys() != self._waiting or self._notices() != self._noticed

    def _forget(self) -> None:
        """Take workers off the topic that ended without a word long ago, by the clock that dated our own words."""
        ours = self.orders.workers.get(self._worker.id)
        for said in self.orders.workers.values():
            if ours is not None and ours.at - said.at > FORGOTTEN:
                for key, value in leaving(said.worker.id):
                    self._sender.send(self._topic, key.encode(), value, ())
