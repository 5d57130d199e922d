"""Delivering, measured beside its peers: `make bench-deliver`; `python -m benchmarks.deliver --quick` in four minutes.

Every contender is a process that reads the same topic in a new group and posts each event to the same target. They
take turns (A B A B …) and the median of the rounds is what counts. Exit code 1 says that a bar was missed.
"""

import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from benchmarks import report
from benchmarks.deliver_stage import Contender, DeliverStage, Paced
from benchmarks.events import HOT, KEYS, evenly, with_a_hot_one
from benchmarks.report import Row, row_of
from benchmarks.stage import BUILD, PEERS, FailedError, build_java, build_peers
from benchmarks.target import Report

EVENTS = 160_000
"""So many that the window opens when several workers of a group have shared the partitions out."""
BACKLOG = 1_000_000
PACE = 1_000.0
EVENLY = "bench.evenly"
ONE_HOT = "bench.one-hot"
SWEEP = (64, 128, 256, 512, 1024)
PARTITIONS = 12


def python(module: str, interpreter: str = sys.executable, *arguments: str) -> tuple[str, ...]:
    """Say how a contender in Python is started."""
    return (interpreter, "-m", f"benchmarks.contenders.{module}", *arguments)


def java(project: str, *arguments: str) -> tuple[str, ...]:
    """Say how a contender in Java is started; it logs warnings, but not each call that it will make again."""
    out = BUILD / "java" / project
    logging = "-Dorg.slf4j.simpleLogger."
    quiet = (f"{logging}defaultLogLevel=warn", f"{logging}log.io.confluent.parallelconsumer=off")
    return ("java", "-Xmx1g", *quiet, "-cp", f"{out / 'classes'}:{out / 'lib'}/*", "Deliver", *arguments)


def parallel_consumer(client: str, concurrency: int, name: str = "Parallel Consumer") -> Contender:
    """Give Confluent's Parallel Consumer with this client and as many calls at once."""
    command = java("parallel-consumer", client)
    return Contender(name, command, "key", concurrency, f"{client}, {concurrency} at once")


OURS = Contender(
    "Trunkline", python("worker", sys.executable, "1"), "key", note="ledger, look-ups, retries, metrics and logs on"
)
OURS_TWICE = Contender(
    "Trunkline, 2 processes",
    python("worker", sys.executable, "2"),
    "key",
    note="the same with a worker for each processor, which share the ledger",
)
BARE = Contender("bare loop", python("bare"), "key", 512, "neither commits nor records: the ceiling")
OTHERS = (
    Contender("plain httpx loop", python("plain_httpx"), "key", 16, "neither commits nor records"),
    Contender("Apache Camel", java("camel"), "partition", PARTITIONS, f"{PARTITIONS} consumers"),
    Contender(
        "FastStream", python("with_faststream", str(PEERS)), "partition", PARTITIONS, f"{PARTITIONS} workers, aiohttp"
    ),
    Contender(
        "FastStream, acknowledging first",
        python("with_faststream", str(PEERS)),
        "none",
        256,
        "256 workers, aiohttp; loses what is in flight when killed",
    ),
    Contender("Quix Streams", python("with_quix", str(PEERS)), "key", 256, "batching sink of ours, aiohttp"),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender in one case."""

    case: str
    contender: Contender
    topic: str
    plan: dict[str, Any]
    paced: bool = False


@dataclass
class Bench:
    """The turns that were taken, and what each has shown."""

    stage: DeliverStage
    rounds: int
    seen: dict[tuple[str, Contender], list[Report]] = field(default_factory=lambda: defaultdict(list))

    def take(self, turns: Sequence[Turn], rounds: int = 0) -> None:
        """Take these turns one after the other, and all of them again."""
        for _ in range(rounds or self.rounds):
            for turn in turns:
                try:
                    found = self._run(turn)
                except FailedError as error:
                    report.talk.print(f"  {turn.case}: {error}", style="red")
                    continue
                self.seen[turn.case, turn.contender].append(found)
                report.say(row_of(turn.case, turn.contender, [found]))

    def _run(self, turn: Turn) -> Report:
        if not turn.paced:
            return self.stage.run(turn.contender, turn.topic, **turn.plan)
        self.stage.writer.make(turn.topic)
        return self.stage.run(turn.contender, turn.topic, Paced(turn.plan["events"], PACE), **turn.plan)

    def best(self, case: str, contenders: Iterable[Contender]) -> Contender:
        """Give the one that was fastest in a case."""
        tried = [contender for contender in contenders if self.seen.get((case, contender))]
        return max(tried, key=lambda one: row_of(case, one, self.seen[case, one]).events_per_s)

    def rows(self) -> list[Row]:
        """Give what there is, the median of the rounds of each."""
        return [row_of(case, contender, found) for (case, contender), found in self.seen.items()]


def plain(latency_ms: float, contenders: Iterable[Contender]) -> list[Turn]:
    """Even keys and a target that answers after this time."""
    plan = {"events": EVENTS, "others": EVENTS, "latency_ms": latency_ms}
    return [Turn(f"{latency_ms:.0f} ms", contender, EVENLY, plan) for contender in contenders]


def failing(every: int, contenders: Iterable[Contender]) -> list[Turn]:
    """The target answers every `every`-th key's events with 503 the first time."""
    apart = [evenly(number) for number in range(0, KEYS, every)]
    counts = Counter(evenly(number) for number in range(EVENTS))
    others = EVENTS - sum(counts[key] for key in apart)
    plan = {"events": EVENTS, "others": others, "latency_ms": 20.0, "apart": apart, "failing": True}
    return [Turn(f"20 ms, {100 // every} % failing", contender, EVENLY, plan) for contender in contenders]


def one_hot(partitions: dict[str, int], contenders: Iterable[Contender]) -> list[Turn]:
    """One key has a fifth of the events and a target five times as slow; those behind it share its partition."""
    behind = [key for key, partition in partitions.items() if partition == partitions[HOT] and key != HOT]
    counts = Counter(with_a_hot_one(number) for number in range(EVENTS))
    others = EVENTS - sum(counts[key] for key in (HOT, *behind))
    plan = {"events": EVENTS, "others": others, "latency_ms": 20.0, "apart": [HOT], "behind": behind, "slow_ms": 100.0}
    return [Turn("20 ms, a hot key", contender, ONE_HOT, plan) for contender in contenders]


def steady(contenders: Iterable[Contender]) -> list[Turn]:
    """A thousand events a second, each timed from publishing to the target."""
    events = 16_000
    plan = {"events": events, "others": events, "latency_ms": 20.0, "timed": True, "window_s": 30.0}
    return [Turn("1,000/s", contender, "bench.paced", plan, paced=True) for contender in contenders]


def backlog() -> list[Turn]:
    """A million events wait; what counts is the worker's memory."""
    plan = {"events": BACKLOG, "others": BACKLOG, "latency_ms": 0.0, "window_s": 60.0}
    return [Turn("backlog of 1,000,000", OURS, "bench.backlog", plan)]


def whole(bench: Bench) -> None:
    """Everything, in about half an hour."""
    writer = bench.stage.writer
    writer.fill(EVENLY, EVENTS, evenly)
    partitions = writer.fill(ONE_HOT, EVENTS, with_a_hot_one)
    chosen: dict[float, Contender] = {}
    for latency in (0.0, 20.0, 100.0):
        sweep = list(sweep_of(latency))
        bench.take(sweep, rounds=1)
        best = bench.best(sweep[0].case, [turn.contender for turn in sweep])
        chosen[latency] = parallel_consumer(best.note.split(",")[0], best.concurrency)
    peer = chosen[20.0]
    for latency, found in chosen.items():
        turns = plain(latency, (OURS, OURS_TWICE, BARE, found, *OTHERS))
        if found is peer:
            both = (OURS, peer)
            turns += failing(100, both) + failing(10, both) + one_hot(partitions, both)
        bench.take(turns)
    # What is slowed is a difference of two rates, each of which differs by a fifth from round to round.
    bench.take(plain(20.0, (OURS,)) + failing(10, (OURS,)) + one_hot(partitions, (OURS,)), rounds=5)
    bench.take(steady((OURS, peer)))
    writer.fill("bench.backlog", BACKLOG, evenly)
    bench.take(backlog(), rounds=1)


def sweep_of(latency: float) -> Iterator[Turn]:
    """Try Parallel Consumer with different numbers of calls at once, and with the JDK's client at one of them."""
    for concurrency in SWEEP:
        yield from plain(latency, [parallel_consumer("vertx", concurrency, f"Parallel Consumer vertx/{concurrency}")])
    yield from plain(latency, [parallel_consumer("jdk", 256, "Parallel Consumer jdk/256")])


def quick(bench: Bench) -> None:
    """Trunkline, the ceiling and the fastest peer at 20 ms."""
    bench.stage.writer.fill(EVENLY, EVENTS, evenly)
    bench.take(plain(20.0, (OURS, OURS_TWICE, BARE, parallel_consumer("vertx", 512))))


def main(
    *,
    short: Annotated[bool, typer.Option("--quick", help="Only the main figure, in four minutes.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often each takes its turn.")] = 2,
) -> None:
    """Measure, print a table, write build/bench/deliver.json and say whether every bar is met."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing started here is left behind
    try:
        build_java("parallel-consumer")
        if not short:
            build_java("camel")
            build_peers()
        with DeliverStage() as stage:
            bench = Bench(stage, rounds)
            (quick if short else whole)(bench)
    except FailedError as error:
        report.talk.print(f"{error}", style="red")
        raise typer.Exit(1) from None
    rows = bench.rows()
    bars = report.bars(rows)
    report.show(rows, bars)
    report.write(rows, bars, short=short)
    if not all(bar.met for bar in bars):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
