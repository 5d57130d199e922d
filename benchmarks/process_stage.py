"""What every contender that processes meets: a broker with the same topics, and somebody who watches what it writes."""

import contextlib
import os
import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from confluent_kafka import KafkaException, TopicPartition, admin
from confluent_kafka.admin import AdminClient

from benchmarks import processes
from benchmarks.process_cases import Case, Contender
from benchmarks.stage import BUILD, START_SECONDS, FailedError, Stage, log_of, started
from benchmarks.topology import PARTITIONS, products
from benchmarks.written import Arrivals, committed

ROWS = 100_000
STILL_SECONDS = 15.0
"""How long nothing may come before what has not come is lost."""
WARM_SECONDS = 8.0
LONGEST_SECONDS = 25.0
"""How long one is watched; one that is not done by then is measured by what it has done."""
PACE = 1_000.0
LATEST: Any = admin.OffsetSpec.latest()  # type: ignore[attr-defined,no-untyped-call]  # the library tells no types


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


class ProcessStage(Stage):
    """The table that contenders join with besides, and who watches what they write."""

    def __enter__(self) -> Self:
        """Start the broker and fill the table.

        Raises:
            FailedError: another benchmark runs here.
        """
        super().__enter__()
        self._admin = self._ask_anew()
        self.writer.fill_products(ROWS)
        return self

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
        try:
            wait_until(lambda: self._end(written) > 0 or ended(), START_SECONDS, f"nothing came to {written}")
        except FailedError as error:
            raise FailedError(f"{error}{self._unseen}") from None
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
        while not cut and distinct < due and time.perf_counter() < moved + STILL_SECONDS:
            time.sleep(1.0)  # its last transaction may still be open
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
        except KafkaException as error:  # the topic has just been made: a client remembers that it was not there
            self._admin, self._unseen = self._ask_anew(), f"; its ends cannot be read: {error.args[0].str()}"
            return 0

    def _ask_anew(self) -> AdminClient:
        self._unseen = ""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

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
