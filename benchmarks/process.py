"""Processing, measured beside its peers: `make bench-process`; `python -m benchmarks.process --quick` in three minutes.

Every contender is one process, or two, that reads the same topic in a new group, joins each event with a table and
writes the records that it makes to a topic of its own. They take turns (A B A B …); the median of the rounds is what
counts. Exit code 1 says that a bar was missed.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Self

import fastavro
import typer
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition, admin
from confluent_kafka.admin import AdminClient
from rich.table import Table

from benchmarks import processes, results
from benchmarks.events import Writer
from benchmarks.report import Bar, conclude, kept, out, talk, versions
from benchmarks.stage import BUILD, PEERS, ROOT, FailedError, begun, build_peers, log_of, started
from benchmarks.topology import PARTITIONS, products
from trunkline.dev.broker import LocalKafka

EVENTS = 400_000
ROWS = 100_000
ABSENT = 0.2
START_SECONDS = 60.0
STILL_SECONDS = 15.0
"""How long nothing may come before what has not come is lost."""
WARM_SECONDS = 8.0
LONGEST_SECONDS = 25.0
"""How long one is watched; one that is not done by then is measured by what it has done."""
PACE = 1_000.0
LATEST: Any = admin.OffsetSpec.latest()  # type: ignore[attr-defined,no-untyped-call]  # the library tells no types
PRICED = fastavro.parse_schema(json.loads((ROOT / "benchmarks" / "schemas" / "sale_priced.v1.avsc").read_text()))


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who processes: how its process is started, and what it promises."""

    name: str
    command: tuple[str, ...]
    promise: str
    note: str = ""


def python(module: str, *arguments: str, interpreter: str = sys.executable) -> tuple[str, ...]:
    """Say how a contender is started."""
    return (interpreter, "-m", f"benchmarks.contenders.{module}", *arguments)


OURS = Contender(
    "Trunkline", python("process_worker"), "exactly once", "the real worker; it has no mode without transactions"
)
CEILING = Contender(
    "bare loop, transactions",
    python("route", "txn"),
    "exactly once",
    "no ids, headers, letters or metrics: the ceiling",
)
HEADED = Contender(
    "bare loop, transactions, headers",
    python("route", "txn", "headers"),
    "exactly once",
    "writes the bytes that we write",
)
PLAIN = Contender("bare loop", python("route", "no"), "at most once", "commits nothing")
QUIX_EXACTLY = Contender(
    "Quix Streams, exactly once",
    python("with_quix_process", "exactly-once", interpreter=str(PEERS)),
    "exactly once",
    "a dictionary for a table",
)
QUIX = Contender(
    "Quix Streams",
    python("with_quix_process", "at-least-once", interpreter=str(PEERS)),
    "at least once",
    "a dictionary for a table",
)
FAUST = Contender(
    "Faust",
    python("with_faust_process", "worker", "-l", "warn", "--without-web", interpreter=str(PEERS)),
    "at least once",
    "a dictionary for a table",
)
FASTSTREAM = Contender(
    "FastStream",
    python("with_faststream_process", interpreter=str(PEERS)),
    "at least once",
    "batches on aiokafka; a dictionary for a table",
)
PEERS_IN_PYTHON = (QUIX_EXACTLY, QUIX, FAUST, FASTSTREAM)


@dataclass(frozen=True, slots=True)
class Case:
    """What is processed: events of this topic, by so many processes."""

    name: str
    topic: str
    events: int
    pieces: int
    """Records that are made of one event at most; it is one to so many, evenly."""
    payload: int
    """Bytes of a note that each event has beside the hundred that all have."""
    workers: int = 1

    @property
    def records(self) -> int:
        """How many records are due."""
        return sum(number % self.pieces + 1 for number in range(self.events))


SMALL = Case("100 bytes", "bench.small", EVENTS, 1, 0)
LARGE = Case("1 KiB", "bench.large", EVENTS // 2, 1, 924)
MANY = Case("100 bytes, 1 to 10 records", "bench.many", EVENTS // 3, 10, 0)
PACED = Case("1,000/s", "bench.paced-sales", 12_000, 1, 0)
PAIR = replace(SMALL, name="100 bytes, 2 processes", workers=2)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run has shown."""

    events_per_s: float
    records_per_s: float
    cpu_us_per_event: float
    rss_mib: float
    read: int
    written: int
    lost: int | None
    twice: int
    strangers: float
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in one case, the median of its rounds; fields as DESIGN §8 has them."""

    case: str
    contender: str
    events_per_s: float
    records_per_s: float
    cpu_us_per_event: float
    p50_ms: float | None
    p99_ms: float | None
    rss_mib: float
    order: str
    lost: int | None
    twice: int
    read: int
    written: int
    strangers: float
    rounds: int
    note: str


class Stage:
    """The broker, a context manager; everything lies in build/bench."""

    def __init__(self) -> None:
        self._kafka = LocalKafka(BUILD / "broker")
        self._ours = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            FailedError: another benchmark runs here.
        """
        self.bootstrap = begun(self._kafka, self._ours)
        self.writer = Writer(self.bootstrap)
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        self.writer.fill_products(ROWS)
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()

    def run(self, contender: Contender, case: Case) -> Seen:
        """Let a contender process a topic from its beginning and give what came of it.

        Raises:
            FailedError: its process ended, or nothing came.
        """
        with self._contending(contender, case) as (pids, ended, written):
            strangers = Strangers([*pids, os.getpid(), self._kafka.pid or 0])
            return self._watch(case, pids, ended, written, strangers)

    def pace(self, contender: Contender, case: Case) -> Seen:
        """Write a topic at a steady rate while a contender processes it, and give the times from end to end."""
        self.writer.make(case.topic)
        with self._contending(contender, case) as (pids, ended, written):
            arrivals = Arrivals(self.bootstrap, written, case.events)
            arrivals.start()
            first = 300
            self.writer.pace_sales(case.topic, 0, first, PACE)
            wait_until(lambda: arrivals.count >= first or ended(), START_SECONDS, "the first events did not come")
            strangers = Strangers([*pids, os.getpid(), self._kafka.pid or 0])
            began, cpu = time.perf_counter(), sum(map(processes.seconds, pids))
            self.writer.pace_sales(case.topic, first, case.events - first, PACE)
            with contextlib.suppress(FailedError):
                wait_until(lambda: arrivals.count >= case.events or ended(), 10, "")
            spent, cpu = time.perf_counter() - began, sum(map(processes.seconds, pids)) - cpu
            arrivals.stop()
            late = sorted(1e3 * one for one in arrivals.times[first:])
            if not late:
                raise FailedError(f"{contender.name} stood still; see {log_of(contender.name)}")
            return Seen(
                events_per_s=(arrivals.count - first) / spent,
                records_per_s=(arrivals.count - first) / spent,
                cpu_us_per_event=1e6 * cpu / (case.events - first),
                rss_mib=sum(map(processes.memory_mib, pids)),
                read=len(arrivals.ids),
                written=arrivals.count,
                lost=case.events - len(arrivals.ids),
                twice=arrivals.count - len(arrivals.ids),
                strangers=strangers.share(),
                p50_ms=statistics.median(late),
                p99_ms=late[int(len(late) * 0.99)],
            )

    @contextlib.contextmanager
    def _contending(self, contender: Contender, case: Case) -> Iterator[tuple[list[int], Any, str]]:
        group = f"bench-{uuid.uuid4().hex[:8]}"
        written = f"{group}.priced"
        self.writer.make(written)
        with contextlib.ExitStack() as stack:
            running: list[subprocess.Popen[bytes]] = []
            for slot in range(case.workers):
                environment = {
                    "BOOTSTRAP": self.bootstrap,
                    "TOPIC": case.topic,
                    "TABLE": products.name,
                    "OUT": written,
                    "GROUP": group,
                    "SLOT": str(slot),
                    "STATE": str(BUILD / group / str(slot)),
                }
                (BUILD / group / str(slot)).mkdir(parents=True)
                running.append(stack.enter_context(started(contender.command, environment, contender.name)))

            def ended() -> bool:
                return any(one.poll() is not None for one in running)

            yield [one.pid for one in running], ended, written
            if ended():
                raise FailedError(f"{contender.name} ended by itself; see {log_of(contender.name)}")
        self.writer.drop(group)
        shutil.rmtree(BUILD / group, ignore_errors=True)

    def _watch(self, case: Case, pids: Sequence[int], ended: Any, written: str, strangers: "Strangers") -> Seen:
        """Look at the ends of the topic until nothing comes any more; the window opens when all are warm."""
        due = case.records
        wait_until(lambda: self._end(written) > 0 or ended(), START_SECONDS, f"nothing came to {written}")
        with contextlib.suppress(FailedError):
            wait_until(lambda: self._end(written) >= due / 3 or ended(), WARM_SECONDS, "")
        strangers.begin()
        began, at_first, cpu = time.perf_counter(), self._end(written), sum(map(processes.seconds, pids))
        moved, at, spent = began, at_first, 0.0
        while (now := time.perf_counter()) < moved + STILL_SECONDS and now < began + LONGEST_SECONDS and not ended():
            if (end := self._end(written)) > at:
                moved, at, spent = now, end, sum(map(processes.seconds, pids)) - cpu
                share = strangers.share()
            elif at >= due and now > moved + 1.0:
                break
            time.sleep(0.05)
        cut = now >= began + LONGEST_SECONDS
        rss = sum(map(processes.memory_mib, pids))
        count, distinct, ids = self._count(written)
        # Of a transactional writer the ends also count its marks: shares of them are right, numbers are not.
        share_seen = (at - at_first) / max(at, 1)
        seconds = max(moved - began, 1e-9)
        events = case.events * count / due
        return Seen(
            events_per_s=events * share_seen / seconds,
            records_per_s=count * share_seen / seconds,
            cpu_us_per_event=1e6 * spent / max(events * share_seen, 1),
            rss_mib=rss,
            read=ids,
            written=count,
            lost=None if cut else due - distinct,
            twice=count - distinct,
            strangers=share if moved > began else 0.0,
        )

    def _end(self, topic: str) -> int:
        asked: Any = {TopicPartition(topic, number): LATEST for number in range(PARTITIONS)}
        try:
            return sum(found.result().offset for found in self._admin.list_offsets(asked).values())
        except KafkaException:  # the topic has just been made
            return 0

    def _count(self, topic: str) -> tuple[int, int, int]:
        """Read what was committed: records, different ones, and the events that they were made of."""
        count, distinct, ids = 0, set(), set()
        for event, piece, _ in committed(self.bootstrap, topic):
            count += 1
            distinct.add((event, piece))
            ids.add(event)
        return count, len(distinct), len(ids)


class Strangers:
    """The share of the machine that processes use which take no part."""

    def __init__(self, ours: Sequence[int]) -> None:
        self._ours = [pid for pid in ours if pid]
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._at, self._busy, self._used = time.perf_counter(), processes.busy(), self._sum()

    def share(self) -> float:
        """Give the share since then."""
        spent = max(time.perf_counter() - self._at, 1e-9) * (os.cpu_count() or 1)
        return max(0.0, processes.busy() - self._busy - (self._sum() - self._used)) / spent

    def _sum(self) -> float:
        return sum(map(processes.seconds, self._ours))


class Arrivals(threading.Thread):
    """Reads what is committed to a topic as it comes, and notes how long after its beginning each event came."""

    def __init__(self, bootstrap: str, topic: str, events: int) -> None:
        super().__init__(daemon=True)
        self._consumer = reader(bootstrap, topic)
        self._events = events
        self._stopping = threading.Event()
        self.times: list[float] = []
        self.ids: set[str] = set()
        self.count = 0

    def run(self) -> None:
        """Read until there is no more, or no longer."""
        while not self._stopping.is_set() and self.count < self._events:
            for message in self._consumer.consume(1_000, 0.05):
                if message.error() is None:
                    now = time.time()
                    event, _, at = identity(message.value())
                    self.times.append(now - at)
                    self.ids.add(event)
                    self.count += 1

    def stop(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self.join()
        self._consumer.close()


def reader(bootstrap: str, topic: str) -> Consumer:
    """Give a reader of what is committed, from the beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 5,
            "log_level": 0,
        }
    )
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(PARTITIONS)])
    return consumer


def committed(bootstrap: str, topic: str) -> Iterator[tuple[str, int, float]]:
    """Yield of every committed record its event, its piece, and when the event was published."""
    consumer = reader(bootstrap, topic)
    ends: set[int | None] = set()
    while len(ends) < PARTITIONS:
        for message in consumer.consume(10_000, 0.1):
            if message.error() is None:
                yield identity(message.value())
            else:
                ends.add(message.partition())
    consumer.close()


def identity(value: Any) -> tuple[str, int, float]:
    """Read of a record its event, its piece, and when the event was published; by fastavro alone."""
    found: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), PRICED, None)
    return found["event_id"], found["piece"], found["occurred_at"].timestamp()


def wait_until(condition: Any, seconds: float, why: str) -> None:
    """Return when it holds.

    Raises:
        FailedError: it does not in this time.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise FailedError(why)
        time.sleep(0.05)


@dataclass
class Bench:
    """The turns that were taken, and what each has shown."""

    stage: Stage
    rounds: int
    seen: dict[tuple[str, Contender], list[Seen]] = field(default_factory=lambda: defaultdict(list))

    def take(self, case: Case, contenders: Sequence[Contender], *, paced: bool = False) -> None:
        """Let these take turns, as often as there are rounds."""
        for _ in range(self.rounds):
            for contender in contenders:
                try:
                    found = (self.stage.pace if paced else self.stage.run)(contender, case)
                except FailedError as error:
                    talk.print(f"  {case.name}: {contender.name}: {error}", style="red")
                    continue
                self.seen[case.name, contender].append(found)
                row = row_of(case.name, contender, [found])
                talk.print(f"  {' '.join(f'{cell:>10}' for cell in cells(row))}  strangers {row.strangers:.0%}")

    def rows(self) -> list[Row]:
        """Give what there is, the median of the rounds of each."""
        return [row_of(case, contender, found) for (case, contender), found in self.seen.items()]


def row_of(case: str, contender: Contender, found: Sequence[Seen]) -> Row:
    """Join the rounds of one contender in one case."""

    def median(name: str) -> Any:
        values = [value for one in found if (value := getattr(one, name)) is not None]
        return statistics.median(values) if values else None

    return Row(
        case=case,
        contender=contender.name,
        events_per_s=median("events_per_s"),
        records_per_s=median("records_per_s"),
        cpu_us_per_event=median("cpu_us_per_event"),
        p50_ms=median("p50_ms"),
        p99_ms=median("p99_ms"),
        rss_mib=median("rss_mib"),
        order="partition",
        lost=max(one.lost for one in found if one.lost is not None)
        if any(one.lost is not None for one in found)
        else None,
        twice=max(one.twice for one in found),
        read=found[-1].read,
        written=found[-1].written,
        strangers=median("strangers"),
        rounds=len(found),
        note=f"{contender.promise}; {contender.note}",
    )


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Check what Trunkline must reach, as far as it was measured."""
    found = {(row.case, row.contender): row for row in rows}
    checked: list[Bar] = []
    for case in (SMALL.name, LARGE.name, MANY.name, PAIR.name):
        if (ours := found.get((case, OURS.name))) is None:
            continue
        for other, least in ((CEILING, 0.8), (QUIX_EXACTLY, 1.8), (FAUST, 10.0)):
            if (theirs := found.get((case, other.name))) is not None:
                share = ours.events_per_s / theirs.events_per_s
                checked.append(Bar(f"{case}: times {other.name}", f"≥ {least:g}", share, share >= least))
    if (paced := found.get((PACED.name, OURS.name))) is not None and paced.p99_ms is not None:
        checked.append(
            Bar(f"{PACED.name}: p99 from publishing to reading, ms", "≤ 50", paced.p99_ms, paced.p99_ms <= 50)
        )
    wrong = sum((row.lost or 0) + row.twice for row in rows if row.contender == OURS.name)
    checked.append(Bar("lost or twice, by Trunkline in all cases", "≤ 0", wrong, wrong == 0))
    return checked


HEADS = (
    *("case", "contender", "events/s", "records/s", "CPU µs/event", "p50 ms", "p99 ms", "RSS MiB", "read", "written"),
    *("lost", "twice"),
)


def cells(row: Row) -> list[str]:
    """Give a row as text."""
    return [
        row.case,
        row.contender,
        f"{row.events_per_s:,.0f}",
        f"{row.records_per_s:,.0f}",
        f"{row.cpu_us_per_event:,.1f}",
        "" if row.p50_ms is None else f"{row.p50_ms:.1f}",
        "" if row.p99_ms is None else f"{row.p99_ms:.1f}",
        f"{row.rss_mib:,.0f}",
        f"{row.read}",
        f"{row.written}",
        "" if row.lost is None else f"{row.lost}",
        f"{row.twice}",
    ]


INTRODUCTION = """\
Broker and one contender share the machine. Every contender reads the same topic (12 partitions, keys uniform over
125,000 products) in a new group, joins each event with a table of 100,000 rows (every fifth product is absent) and
writes one record of another schema for each piece of the sale: one, or one to ten. The window opens after a third of
the records or eight seconds, and closes with the last one or 25 s later, for all alike; CPU is the contender's own in
that window. *read* counts the events of which something was written, *written* the committed records; *lost* is empty
where a run was cut. At 1,000/s *p50* and *p99* run from publishing to a reader of what is committed. The peers have the
table as a dictionary: nothing is faster."""


def show(rows: Sequence[Row], checked: Sequence[Bar]) -> None:
    """Print the table and the bars."""
    table = Table(box=None, header_style="bold")
    for head in HEADS:
        table.add_column(head, justify="left" if head in {"case", "contender"} else "right")
    for row in rows:
        table.add_row(*cells(row))
    out.print(table)
    conclude(max((row.strangers for row in rows), default=0.0), checked)


def write(rows: Sequence[Row], checked: Sequence[Bar], *, short: bool) -> None:
    """Write build/bench/process.json and, after a whole run, the section of benchmarks/RESULTS.md."""
    (BUILD / "process.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if short:
        return
    lines = [HEADS, ("---",) * len(HEADS), *(cells(row) for row in rows)]
    worst = max(row.strangers for row in rows)
    body = [
        f"{datetime.now(UTC):%Y-%m-%d}. {results.machine()}. {versions()}.",
        "",
        f"Processes that take no part used up to {worst:.0%} of the machine. {INTRODUCTION}",
        "",
        *(f"| {' | '.join(line)} |" for line in lines),
        "",
        *(f"- **{name}**: {note}." for name, note in {row.contender: row.note for row in rows}.items()),
        "",
        *kept(checked),
    ]
    results.keep("Processing beside its peers (`make bench-process`)", body)


def main(
    *,
    short: Annotated[bool, typer.Option("--quick", help="Only the main figure, in three minutes.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each takes its turn.")] = 2,
) -> None:
    """Measure, print a table, write build/bench/process.json and say whether every bar is met."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing started here is left behind
    try:
        if not short:
            build_peers()
        with Stage() as stage:
            bench = Bench(stage, rounds)
            cases = [SMALL] if short else [SMALL, LARGE, MANY]
            for case in cases:
                stage.writer.fill_sales(case.topic, case.events, pieces=case.pieces, payload=case.payload)
                bench.take(case, (OURS, CEILING) if short else (OURS, CEILING, HEADED, PLAIN, *PEERS_IN_PYTHON))
            if not short:
                bench.take(PAIR, (OURS, CEILING, *PEERS_IN_PYTHON))
            bench.take(PACED, (OURS,) if short else (OURS, CEILING, QUIX_EXACTLY), paced=True)
    except FailedError as error:
        talk.print(f"{error}", style="red")
        raise typer.Exit(1) from None
    rows = bench.rows()
    checked = bars(rows)
    show(rows, checked)
    write(rows, checked, short=short)
    if not all(bar.met for bar in checked):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
