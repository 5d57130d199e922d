"""A small bus without any business, workers to run it with, and witnesses that are no part of what is tested.

Topics, groups, ledger and API are a test's own: all are named by the prefix of its stage.
"""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import httpx
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, MemberToRemove, OffsetSpec
from typing_extensions import TypedDict

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from trunkline import (
    Breaker,
    Bus,
    Deliver,
    Drop,
    Event,
    Limit,
    Permanent,
    Process,
    Publish,
    Retry,
    Secret,
    Target,
    Topic,
    env,
)
from trunkline.dev.target.running import RunningTarget
from trunkline.engine.worker import Worker
from trunkline.event import Headers, to_headers
from trunkline.flow.declare import dead_letters_of, group_of, schemas_of
from trunkline.flow.transform import stamp
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import BY_KEY, Sender, Written
from trunkline.kafka.registry import Format, Registry
from trunkline.kafka.topics import names, plan, reading
from trunkline.ledger.deliveries import State
from trunkline.observe import Every, Metrics, Observed, Observer, What
from trunkline.settings import Gateway, Kafka, Ledger, Settings, Targets
from trunkline.settings import Worker as WorkerSettings
from trunkline.sinks import HttpSink, Request
from trunkline.sources import StandardWebhooks, Webhook, WebhookRequest

ROOT = Path(__file__).parents[2]
SECRET = "whsec_dHJ1bmtsaW5lLXRlc3RzLXRydW5rbGluZS10ZXN0cw=="  # noqa: S105 - signs nothing but tests
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
"""Where the targets of the tests are."""
QUICK = Retry(give_up_after=timedelta(minutes=5), longest=timedelta(milliseconds=200), first=timedelta(milliseconds=50))
HASTY = Retry(give_up_after=timedelta(seconds=1), longest=timedelta(milliseconds=200), first=timedelta(milliseconds=50))


def note(number: int, box: str | None = "a", text: str = "", *, name: str = "") -> NoteWrittenV1:
    """Write a note; its id is made of box and number when it has no name."""
    return {
        "note_id": name or f"{box}-{number}",
        "box": box,
        "number": number,
        "text": text,
        "written_at": WHEN + timedelta(seconds=number),
    }


class Posted(TypedDict):
    """A note as a document of XML."""

    note: NoteWrittenV1


class Desk(Webhook):
    """Posts one note a request, in JSON or in XML."""

    name = "desk"

    def events(self, request: WebhookRequest) -> list[Event[NoteWrittenV1]]:
        if request.headers.get("content-type") == "application/xml":
            return [event_of(request.xml(Posted)["note"])]
        return [event_of(request.json(NoteWrittenV1))]


class Tray(Webhook):
    """Posts any number of notes a request."""

    name = "tray"

    def events(self, request: WebhookRequest) -> list[Event[NoteWrittenV1]]:
        return [event_of(item) for item in request.json(list[NoteWrittenV1])]


def event_of(data: NoteWrittenV1) -> Event[NoteWrittenV1]:
    return Event(id=data["note_id"], time=data["written_at"], data=data)


def stamped(bus: Bus, data: NoteWrittenV1) -> Event[Any]:
    """Give a note the place on the bus that the source `desk` would give it."""
    return stamp(bus, Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=bus.topics[0]), event_of(data))


def inspect(event: Event[NoteWrittenV1]) -> Event[NoteWrittenV1] | Drop:
    """Do what the note's text says; `wait:FILE` fails like a lost connection until there is such a file."""
    text = event.data["text"]
    if text.startswith("wait:") and not Path(text[5:]).exists():
        raise ConnectionError("nobody there")
    if text.startswith("raise"):
        raise ValueError(text)
    return Drop("asked for") if text == "drop" else event


def marks_of(event: Event[NoteWrittenV1]) -> Iterator[MarkV1]:
    """Make one mark, or what the note's text asks for."""
    data = event.data
    mark: MarkV1 = {"box": data["box"], "number": data["number"], "text": data["text"]}
    match data["text"]:
        case "nothing":
            return
        case "wrong field":
            yield mark | {"number": "many"}  # type: ignore[misc]  # wrong on purpose
        case "no record":
            yield "mark"  # type: ignore[misc]  # wrong on purpose
        case "large":
            yield mark | {"text": "x" * 1_200_000}
        case "large with its key":
            yield mark | {"text": "x" * 960_000}
        case _:
            yield mark


class Shelf(HttpSink):
    """One POST per event; the path says whose turn it was."""

    name = "shelf"

    def request(self, event: Event[Any]) -> Request:
        if event.data["text"] == "unsayable":
            raise Permanent("this cannot be said")
        where = {"box": event.key or "none", "number": event.data["number"]}
        return Request.post("/{box}/{number}", path=where, json={"text": event.data["text"]})


def notes(prefix: str, partitions: int, record: type = NoteWrittenV1) -> Topic:
    return Topic(f"{prefix}.notes", record, key="box", partitions=partitions)


def shelf(limit: float | None = None, breaker: Breaker | None = None) -> Shelf:
    """Give a sink whose target has no breaker unless asked for: most tests let it fail, and want to see just that."""
    return Shelf(Target("shelf", env("SHELF_URL"), limit=None if limit is None else Limit(limit), breaker=breaker))


def publish_bus(prefix: str, partitions: int = 3) -> Bus:
    topic = notes(prefix, partitions)
    verify = StandardWebhooks(Secret("DESK_SECRET"))
    return Bus(prefix, [Publish(Desk(verify), to=topic), Publish(Tray(verify), to=topic)])


def process_bus(prefix: str, partitions: int = 3) -> Bus:
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=partitions)
    return Bus(prefix, [Process(notes(prefix, partitions), [inspect], to={marks: marks_of})])


def deliver_bus(
    prefix: str,
    partitions: int = 3,
    retry: Retry = QUICK,
    limit: float | None = None,
    breaker: Breaker | None = None,
) -> Bus:
    return Bus(prefix, [Deliver(notes(prefix, partitions), to=shelf(limit, breaker), retry=retry)])


def whole_bus(prefix: str, partitions: int = 3) -> Bus:
    topic = notes(prefix, partitions)
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=partitions)
    return Bus(
        prefix,
        [
            Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=topic),
            Process(topic, [inspect], to={marks: marks_of}),
            Deliver(marks, to=shelf(), retry=QUICK),
        ],
    )


FIRST_APPLICATIONS = """
SELECT seq, attempts.key, attempts.path, status, attempts.at FROM attempts
JOIN effects ON effects.name = attempts.name AND first_seq = seq WHERE attempts.name = ? ORDER BY seq
"""


def say(text: str) -> None:
    """Tell whoever watches a test (`pytest -s`) what it has met."""
    sys.stderr.write(f"{text}\n")


class Attempt(NamedTuple):
    """One call as the target saw it."""

    seq: int
    key: str
    path: str
    status: int | None
    at: float

    @property
    def box(self) -> str:
        return self.path.split("/")[1]

    @property
    def number(self) -> int:
        return int(self.path.split("/")[2])


def wait_for(condition: Callable[[], object], *, seconds: float = 60, why: Callable[[], object] = lambda: "") -> None:
    """Return when it holds; fail with what is the case instead when it does not in this time.

    Looking takes a fifth of the time at most: what costs much, like reading a topic, is looked at more rarely.
    """
    began = looked = time.monotonic()
    while not condition():
        now = time.monotonic()
        assert now < began + seconds, f"it never came to hold: {why()}"
        time.sleep(max(0.02, 4 * (now - looked)))
        looked = time.monotonic()


class Child:
    """A worker in a process of its own; killed at the end when it still runs."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self._process.stdout is not None
        self._out: IO[str] = self._process.stdout
        self.pid = self._process.pid
        self.url = self._out.readline().strip()

    def __enter__(self) -> Self:
        if not self.url:
            self._out.close()
            raise AssertionError(f"the worker did not start: {self.wait()} {self.log}")
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._out.close()

    @property
    def log(self) -> str:
        """What all workers of this name have said on stderr."""
        return self._log.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        """Ask it to end and give its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds: float = 60) -> int:
        return self._process.wait(seconds)


@dataclass
class Running:
    """A worker in a thread of this process."""

    worker: Worker
    seen: list[Observed]
    metrics: Metrics
    drained: bool | None = None
    """After the end: whether everything in flight had ended."""

    def counted(self, flow: str) -> Counter[What]:
        """Count what was observed of a flow; of a word that nobody says the type checker would tell."""
        found: Counter[What] = Counter()
        for seen in list(self.seen):
            if seen.flow == flow:
                found[seen.what] += seen.count
        return found

    def details(self, what: What) -> list[str]:
        return [seen.detail for seen in list(self.seen) if seen.what == what]


@dataclass(frozen=True)
class Stage:
    """Everything that one test has to itself on the shared broker and target."""

    prefix: str
    bootstrap: str
    folder: Path
    target: RunningTarget
    database: Path
    environment: dict[str, str] = field(default_factory=dict)
    kafka: Kafka = field(default_factory=Kafka)
    """How the topics of its buses are made."""
    senders: Mapping[Cluster, Sender] = field(default_factory=dict)
    """By brokers that nobody harms: one that is connected, which takes half a second."""
    controls: Mapping[Cluster, Control] = field(default_factory=dict)
    """By brokers that nobody harms: one that is connected."""
    readers: Mapping[Cluster, "Reader"] = field(default_factory=dict)
    """By brokers that nobody harms: one that is connected, which takes a fifth of a second each time."""

    def __post_init__(self) -> None:
        self.environment.update(DESK_SECRET=SECRET, SHELF_URL=f"{self.target.url}/{self.prefix}")
        self.environment["TRUNKLINE_TARGETS__ALLOW"] = "127.0.0.0/8"

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.bootstrap)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.db"

    @contextmanager
    def control(self) -> Iterator[Control]:
        """Give what asks the broker."""
        with ExitStack() as until:
            yield self.controls.get(self.cluster) or until.enter_context(Control(self.cluster))

    # A bus and its workers.

    def make(self, bus: Bus) -> Bus:
        """Make the bus's topics and let its flows begin with what is written from now on."""
        with self.control() as control:
            control.apply(plan(bus, {}, self.kafka))
            control.start_offsets(bus, list(reading(bus)), None)
        return bus

    def settings(self, *, slot: int = 0, drain_seconds: float = 25.0) -> Settings:
        return Settings(
            kafka=Kafka(bootstrap=self.bootstrap),
            ledger=Ledger(path=self.ledger),
            gateway=Gateway(port=0),
            state=self.folder / "state",
            targets=Targets(allow=LOOPBACK),
            worker=WorkerSettings(slot=slot, drain_seconds=drain_seconds),
        )

    @contextmanager
    def running(
        self,
        bus: Bus,
        *flows: str,
        slot: int = 0,
        drain_seconds: float = 25.0,
        observe: Observer = lambda _: None,
    ) -> Iterator[Running]:
        """Run a worker in a thread."""
        seen: list[Observed] = []
        metrics = Metrics()
        loop = asyncio.new_event_loop()
        started: list[Running] = []
        failures: list[BaseException] = []
        ready = threading.Event()
        stopping = asyncio.Event()

        async def serve() -> None:
            watch = Every(seen.append, metrics, observe)
            settings = self.settings(slot=slot, drain_seconds=drain_seconds)
            async with Worker(bus, settings, self.cluster, observe=watch, flows=flows) as worker:
                started.append(Running(worker, seen, metrics))
                ready.set()
                await stopping.wait()
            started[0].drained = worker.drained

        def run() -> None:
            try:
                loop.run_until_complete(serve())
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                failures.append(error)
            finally:
                ready.set()
                loop.close()

        thread = threading.Thread(target=run, name="worker")
        thread.start()
        ready.wait(60)
        try:
            if started:
                yield started[0]
        finally:
            if started and not loop.is_closed():
                loop.call_soon_threadsafe(stopping.set)
            thread.join(90)
            assert not thread.is_alive(), "the worker did not end"
            if failures:
                raise failures[0]

    def child(
        self,
        bus: str,
        *flows: str,
        slot: int = 0,
        die: str = "",
        after: int = 1,
        by: signal.Signals = signal.SIGKILL,
        name: str = "worker",
        drain_seconds: float = 25.0,
        options: Mapping[str, Any] | None = None,
        constants: Mapping[str, Any] | None = None,
        bootstrap: str = "",
        ledger: str = "",
        registry: str = "",
        clock: float = 0.0,
        start: str = "",
    ) -> Child:
        """Run a worker of `bus` (a function of this module, or MODULE:FUNCTION) as a process.

        `die` names a moment of `trunkline.observe` at whose `after`-th time it kills itself, or sends itself `by`.
        `constants` gives constants of Trunkline, by MODULE.NAME, other values: what takes minutes in earnest takes
        seconds in a test.
        `bootstrap` is another way to the same broker, `ledger` the address of a ledger that is not the stage's own
        file, `registry` that of one that is not embedded, `clock` the seconds by which the wall clock of the worker
        is fast, and `start` where a person has said that it begins.
        """
        asked = {
            "bus": bus,
            "options": dict(options or {}),
            "constants": dict(constants or {}),
            "prefix": self.prefix,
            "bootstrap": bootstrap or self.bootstrap,
            "ledger": {"url": ledger} if ledger else {"path": str(self.ledger)},
            "registry": registry,
            "state": str(self.folder / "state"),
            "clock": clock,
            "start": start,
            "flows": flows,
            "slot": slot,
            "drain_seconds": drain_seconds,
            "die": die,
            "after": after,
            "by": by,
        }
        command = [sys.executable, "-m", "tests.trunkline.child", json.dumps(asked)]
        return Child(command, {**os.environ, **self.environment}, self.folder / f"{name}.log")

    def freeze(self, child: Child) -> None:
        """Stop a worker, but not inside a commit: SQLite's lock, and with it the ledger, would be frozen too."""
        while True:
            os.kill(child.pid, signal.SIGSTOP)
            with closing(sqlite3.connect(self.ledger, isolation_level=None, timeout=0.5)) as db:
                try:
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("ROLLBACK")
                except sqlite3.OperationalError:
                    os.kill(child.pid, signal.SIGCONT)
                else:
                    return

    # What goes in.

    def encoder(self, bus: Bus, topic: str) -> Format:
        """Give the format of a topic's values; its registry is closed at once, for writing needs none."""
        registry = Registry(self.cluster, schemas_of(bus))
        try:
            return Format(registry, next(found for found in bus.topics if found.name == topic).schema)
        finally:
            registry.close()

    def write(self, bus: Bus, data: Iterable[NoteWrittenV1], form: Format | None = None) -> list[Written]:
        """Put notes on the bus's topic, as the source `desk` would, each with the id that it names.

        Who gives the format asks no broker for the schema, which one that has just gone could not answer.
        """
        topic = bus.topics[0]
        form = form or self.encoder(bus, topic.name)
        events = [stamped(bus, item) for item in data]
        return self.send(
            [
                (topic.name, None if event.key is None else event.key.encode(), form.encode(event.data),
                 to_headers(event), BY_KEY)
                for event in events
            ]
        )  # fmt: skip

    def send(self, records: Iterable[tuple[str, bytes | None, bytes | None, Headers, int]]) -> list[Written]:
        """Write records as they are and give their places."""
        with ExitStack() as until:
            sender = self.senders.get(self.cluster) or until.enter_context(closing(Sender(self.cluster)))
            sent = [
                sender.send(topic, key, value, headers, partition=partition)
                for topic, key, value, headers, partition in records
            ]
            return [future.result() for future in sent]

    # What came out.

    def read(self, topic: str, *, isolation: str = "read_committed") -> list[Any]:
        """Read a topic to its end with kafka-python."""
        reader = self.readers.get(self.cluster)
        return read(self.bootstrap, topic, isolation=isolation) if reader is None else reader.read(topic, isolation)

    def letters(self, flow: str) -> list[Any]:
        return self.read(dead_letters_of(flow))

    def committed(self, bus: Bus, flow: str) -> dict[int, int]:
        """Give the group's offsets of the flow's own topic, by partition."""
        topic = reading(bus)[flow].topic.name
        with self.control() as control:
            found = control.committed(group_of(bus, flow))
        return {slot.partition: offset for slot, (offset, _) in found.items() if slot.topic == topic}

    def forget_members(self, bus: Bus, flow: str) -> None:
        """Let the group go on without killed members at once, as it would when their sessions end."""
        group = group_of(bus, flow)
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            members = [MemberToRemove(one["member_id"]) for one in admin.describe_groups([group])[group]["members"]]
            if members:
                admin.remove_group_members(group, members)

    def ends(self, topic: str) -> dict[int, int]:
        with self.control() as control:
            return {slot.partition: offset for slot, offset in control.ends([topic]).items()}

    def make_anew(self, bus: Bus, topic: str) -> None:
        """Delete a topic of a bus and make it again, as fast as that can be."""
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin, self.control() as control:
            admin.delete_topics([topic])
            wait_for(lambda: topic not in control.existing([topic]))
            control.apply(plan(bus, control.existing(names(bus)), self.kafka))

    def attempts(self) -> list[Attempt]:
        """Give every call to this test's API, in order of arrival."""
        rows = self._rows("SELECT seq, key, path, status, at FROM attempts WHERE name = ? ORDER BY seq")
        return [Attempt(*row) for row in rows]

    def first_applications(self) -> list[Attempt]:
        """Give the calls that had an effect, each at its first time, in order of arrival."""
        return [Attempt(*row) for row in self._rows(FIRST_APPLICATIONS)]

    def effects(self) -> Counter[str]:
        """Give how often each path had an effect at this test's API."""
        rows = self._rows("SELECT path, sum(times) FROM effects WHERE name = ? GROUP BY path")
        return Counter(dict(rows))

    def _rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as file:
            return file.execute(query, (self.prefix,)).fetchall()

    def rows(self) -> Counter[State]:
        """Count the ledger's deliveries by state."""
        with closing(sqlite3.connect(self.ledger)) as db:
            found = db.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall()
        return Counter({State(state): count for state, count in found})

    def in_flight(self) -> int:
        stats = self.target.control.stats().get(self.prefix)
        return 0 if stats is None else stats.in_flight


class Reader:
    """Reads topics to their ends with kafka-python; by one thread."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self._consumers: dict[str, Any] = {}
        """By what they take for committed."""

    def close(self) -> None:
        """Leave the broker."""
        for one in (self._admin, *self._consumers.values()):
            one.close()

    def read(self, topic: str, isolation: str) -> list[Any]:
        """Read a topic, in order per partition."""
        [told] = self._admin.describe_topics([topic])  # the consumer would take ten times as long to say it
        numbers = sorted(one["partition_index"] for one in told["partitions"])
        places = [TopicPartition(topic, number) for number in numbers]
        consumer = self._consumer(isolation)
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        if isolation == "read_committed":
            self._settle(places)
        ends = consumer.end_offsets(places)
        found: list[Any] = []
        until = time.monotonic() + 60
        while any(consumer.position(place) < ends[place] for place in places):
            for records in consumer.poll(timeout_ms=200).values():
                found += records
            assert time.monotonic() < until, f"{topic} cannot be read to its end"
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def _settle(self, places: Sequence[TopicPartition]) -> None:
        """Let what is being committed come to its end: who has committed is told so before all can read it.

        A transaction that was left open stays open for ten seconds and more; that is not waited for.
        """

        def ends(isolation: str) -> dict[TopicPartition, int]:
            wanted = dict.fromkeys(places, OffsetSpec.LATEST)
            found = self._admin.list_partition_offsets(wanted, isolation_level=isolation)
            return {place: found[place].offset for place in places}

        until, written = time.monotonic() + 2, ends("read_uncommitted")
        while ends("read_committed") != written and time.monotonic() < until:
            time.sleep(0.02)

    def _consumer(self, isolation: str) -> Any:
        if isolation not in self._consumers:
            self._consumers[isolation] = KafkaConsumer(
                bootstrap_servers=self._bootstrap,
                isolation_level=isolation,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
            )
        return self._consumers[isolation]


def read(bootstrap: str, topic: str, *, isolation: str = "read_committed") -> list[Any]:
    """Read a topic to its end with kafka-python, in order per partition."""
    with closing(Reader(bootstrap)) as reader:
        return reader.read(topic, isolation)


def header(record: Any, name: str) -> str:
    """Give a header of a record that kafka-python has read."""
    value: bytes = dict(record.headers)[name]
    return value.decode()


def first_calls(attempts: Iterable[Attempt]) -> dict[str, list[int]]:
    """Give the numbers of each box in the order in which they were first called."""
    found: dict[str, dict[int, None]] = {}
    for attempt in attempts:
        found.setdefault(attempt.box, {})[attempt.number] = None
    return {box: list(numbers) for box, numbers in found.items()}


def overlaps(attempts: Collection[Attempt], seconds: float) -> list[tuple[Attempt, Attempt]]:
    """Find calls of one box that began before the answer to another event of it, at a target that takes `seconds`."""
    last: dict[str, Attempt] = {}
    found = []
    for attempt in attempts:
        before = last.get(attempt.box)
        if before is not None and before.key != attempt.key and attempt.at < before.at + seconds:
            found.append((before, attempt))
        last[attempt.box] = attempt
    return found


@contextmanager
def load(stage: Stage, bus: Bus, boxes: int) -> Iterator[list[int]]:
    """Write one note a box again and again until the end; gives how many rounds there were."""
    rounds = [0]
    stopping = threading.Event()

    form = stage.encoder(bus, bus.topics[0].name)

    def write() -> None:
        while not stopping.wait(0.15):
            stage.write(bus, [note(rounds[0], f"k{key}") for key in range(boxes)], form)
            rounds[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield rounds
    finally:
        stopping.set()
        thread.join()


def ask(url: str) -> httpx.Response:
    """Ask a worker for a page; it may be slow on a busy machine."""
    return httpx.get(url, timeout=60)


def counts(child: Child, outcome: str) -> bool:
    """Say whether a worker has counted any event with this outcome."""
    metrics = ask(f"{child.url}/metrics").text
    return any(f'outcome="{outcome}"' in line and not line.endswith(" 0.0") for line in metrics.splitlines())
