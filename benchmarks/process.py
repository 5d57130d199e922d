"""Processing, measured beside its peers: `make bench-process`; `python -m benchmarks.process --quick` in three minutes.

Every contender is one process, or two, that reads the same topic in a new group, joins each event with a table and
writes the records that it makes to a topic of its own. They take turns (A B A B …); the median of the rounds is what
counts. Exit code 1 says that a bar was missed.
"""

import json
import signal
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from benchmarks import results
from benchmarks.process_cases import (
    CEILING,
    FAUST,
    HEADED,
    LARGE,
    MANY,
    OURS,
    PACED,
    PAIR,
    PEERS_IN_PYTHON,
    PLAIN,
    QUIX_EXACTLY,
    SMALL,
    Case,
    Contender,
)
from benchmarks.process_stage import ProcessStage, Seen
from benchmarks.report import Bar, conclude, kept, out, talk, versions
from benchmarks.stage import BUILD, FailedError, build_peers


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


@dataclass
class Bench:
    """The turns that were taken, and what each has shown."""

    stage: ProcessStage
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
        with ProcessStage() as stage:
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
