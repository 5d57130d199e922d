"""What was measured, as rows: the median of the rounds; and the bars that Trunkline must clear."""

import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.deliver_stage import Contender
from benchmarks.stage import BUILD, PINNED, ROOT
from benchmarks.target import Report

out = Console(highlight=False, emoji=False, width=150)
talk = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

QUIET = 0.05
"""The share of the machine that others may use while figures are taken."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in one case. `lost` is None when the run was cut before every event could come."""

    case: str
    contender: str
    events_per_s: float
    cpu_us_per_event: float
    p50_ms: float | None
    p99_ms: float | None
    rss_mib: float
    order: str
    lost: int | None
    duplicates: int
    inversions: int
    """Events that came after a later one of their key."""
    grown_mib: float
    peak_mib: float
    target_cpu_us: float
    broker_cpu_us: float
    strangers: float
    """Share of all processor time that went to processes which take no part."""
    rounds: int
    note: str


def row_of(case: str, contender: Contender, reports: Sequence[Report]) -> Row:
    """Join the rounds of one contender in one case."""

    def median(value: Callable[[Report], float]) -> float:
        return statistics.median(value(report) for report in reports)

    def latency(values: Sequence[float | None]) -> float | None:
        return statistics.median(known) if (known := [value for value in values if value is not None]) else None

    def each(value: Callable[[Report], float]) -> float:
        return median(lambda report: 1e6 * value(report) / max(1, report.window_effects))

    return Row(
        case=case,
        contender=contender.name,
        events_per_s=median(lambda report: report.window_effects / max(report.window_s, 1e-9)),
        cpu_us_per_event=each(lambda report: report.cpu_s),
        p50_ms=latency([report.p50_ms for report in reports]),
        p99_ms=latency([report.p99_ms for report in reports]),
        rss_mib=median(lambda report: report.rss_mib),
        order=contender.order,
        lost=max(report.lost for report in reports) if all(report.ended for report in reports) else None,
        duplicates=max(report.duplicates for report in reports),
        inversions=max(report.inversions for report in reports),
        grown_mib=median(lambda report: report.grown_mib),
        peak_mib=max(report.peak_mib for report in reports),
        target_cpu_us=each(lambda report: report.target_cpu_s),
        broker_cpu_us=each(lambda report: report.broker_cpu_s),
        strangers=median(lambda report: report.strangers_cpu_s / max(report.window_s, 1e-9) / (os.cpu_count() or 1)),
        rounds=len(reports),
        note=contender.note,
    )


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that must hold."""

    name: str
    wanted: str
    measured: float
    met: bool


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Check what Trunkline must reach, as far as it was measured."""
    found = {(row.case, row.contender): row for row in rows}
    ours, bare, peer = (found.get(("20 ms", name)) for name in ("Trunkline", "bare loop", "Parallel Consumer"))
    twice = found.get(("20 ms", "Trunkline, 2 processes"))
    checked: list[Bar] = []

    def at_least(name: str, least: float, aim: str, measured: float) -> None:
        checked.append(Bar(name, f"≥ {least:g}{aim}", measured, measured >= least))

    def at_most(name: str, most: float, unit: str, measured: float) -> None:
        checked.append(Bar(name, f"≤ {most:g} {unit}", measured, measured <= most))

    # Parallel Consumer's one process has threads for all processors: we may have a process for each.
    if peer and (best := max(filter(None, (ours, twice)), key=lambda row: row.events_per_s, default=None)):
        at_least("20 ms: wall, times Parallel Consumer", 2, " (aim 3)", best.events_per_s / peer.events_per_s)
        saved = peer.cpu_us_per_event / best.cpu_us_per_event
        at_least("20 ms: per CPU second, times Parallel Consumer", 3, "", saved)
    if ours and bare:
        at_least("20 ms: share of the bare loop", 0.75, " (aim 0.9)", ours.events_per_s / bare.events_per_s)
    for case in ("20 ms, 10 % failing", "20 ms, a hot key"):
        if ours and (hurt := found.get((case, "Trunkline"))):
            at_most(f"{case}: others slowed", 10, "%", 100 * (1 - hurt.events_per_s / ours.events_per_s))
    if (paced := found.get(("1,000/s", "Trunkline"))) and paced.p99_ms is not None:
        at_most("1,000/s: added latency, p99", 15, "ms", paced.p99_ms)
    if waiting := found.get(("backlog of 1,000,000", "Trunkline")):
        at_most("backlog of 1,000,000: memory", 200, "MiB", waiting.peak_mib)
    wrong = sum((row.lost or 0) + row.inversions for row in rows if row.contender.startswith("Trunkline"))
    at_most("lost or out of order, by Trunkline in all cases", 0, "events", wrong)
    return checked


def say(row: Row) -> None:
    """Tell whoever waits."""
    talk.print(
        f"  {row.case:22} {row.contender:32} {row.events_per_s:7,.0f}/s {row.cpu_us_per_event:6.0f} µs"
        + ("" if row.p99_ms is None else f"  p50 {row.p50_ms:.1f} p99 {row.p99_ms:.1f} ms")
    )


HEADS = ("case", "contender", "events/s", "CPU µs", "p50 ms", "p99 ms", "RSS MiB", "order", "lost", "twice", "inverted")


def cells(row: Row) -> list[str]:
    """Give a row as text."""
    kept = row.order if not row.inversions or row.order == "none" else f"{row.order}, BROKEN"
    return [
        row.case,
        row.contender,
        f"{row.events_per_s:,.0f}",
        f"{row.cpu_us_per_event:,.0f}",
        "" if row.p50_ms is None else f"{row.p50_ms:.1f}",
        "" if row.p99_ms is None else f"{row.p99_ms:.1f}",
        f"{row.rss_mib:,.0f}",
        kept,
        "" if row.lost is None else f"{row.lost}",
        f"{row.duplicates}",
        f"{row.inversions}",
    ]


def show(rows: Sequence[Row], checked: Sequence[Bar]) -> None:
    """Print the table and the bars."""
    table = Table(box=None, header_style="bold")
    for head in HEADS:
        table.add_column(head, justify="left" if head in {"case", "contender", "order"} else "right")
    last = ""
    for row in rows:
        if last and row.case != last:
            table.add_row()
        table.add_row(*cells(row))
        last = row.case
    out.print(table)
    conclude(max((row.strangers for row in rows), default=0.0), checked)


def conclude(strangers: float, checked: Sequence[Bar]) -> None:
    """Print whether the machine was quiet, by the share that strangers used of it, and whether each bar is met."""
    if strangers > QUIET:
        out.print(
            f"[yellow]not quiet[/] others used up to {strangers:.0%} of the machine: measure again for figures to keep"
        )
    for bar in checked:
        mark = "[green]met[/]   " if bar.met else "[red]missed[/]"
        out.print(f"{mark} {bar.name}: {bar.measured:.2f} ({bar.wanted})")


def kept(checked: Sequence[Bar]) -> list[str]:
    """Write the bars as a table of the page that is committed."""
    lines = (f"| {b.name} | {b.wanted} | {b.measured:.2f} | {'met' if b.met else '**missed**'} |" for b in checked)
    return ["| bar | wanted | measured | |", "| --- | --- | --- | --- |", *lines]


def write(rows: Sequence[Row], checked: Sequence[Bar], *, short: bool) -> None:
    """Write build/bench/deliver.json and, after a whole run, a section of benchmarks/RESULTS.md."""
    (BUILD / "deliver.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if not short:
        results.keep("Delivering beside its peers (`make bench-deliver`)", section(rows, checked))


def section(rows: Sequence[Row], checked: Sequence[Bar]) -> list[str]:
    """Write what is committed."""
    notes = {row.contender: row.note for row in rows if row.note}
    return [
        f"{datetime.now(UTC):%Y-%m-%d}. {results.machine()}. {versions()}.",
        f"Processes that take no part used up to {max(row.strangers for row in rows):.0%} of the machine.",
        "",
        INTRODUCTION,
        "",
        *results.table(HEADS, map(cells, rows)),
        "",
        *(f"- **{name}**: {note}." for name, note in notes.items()),
        "",
        *kept(checked),
    ]


INTRODUCTION = """\
Broker, target and one contender share the machine. Every contender is a process that reads the same topic (Avro
events of about a hundred bytes, 5,000 keys, 12 partitions) in a new group, decodes each value and posts it as JSON;
the target answers 200 after a fixed time and counts what comes. Contenders take turns; figures are medians of the
rounds. The window opens after a quarter of the events or 5 s, closes with the last one or 10 s later, for all alike;
CPU is the contender's own in that window, user and system, per event. *Lost* is empty where a run was cut. Where some
keys fail or are slow, events/s are all effects while the other keys are under way: at a hot key, the keys of other
partitions. *p50* and *p99* run from publishing to the arrival at the target."""


def versions() -> str:
    """Say with what."""
    ours = (f"{name} {version(name)}" for name in ("trunkline", "confluent-kafka", "pyreqwest", "fastavro", "httpx"))
    poms = (path.read_text() for path in sorted((ROOT / "benchmarks" / "java").glob("*/pom.xml")))
    java = (" ".join(found) for pom in poms for found in re.findall(r"<([a-z-]+)[.]version>(.*?)<", pom))
    peers = (line.replace("==", " ") for line in PINNED.read_text().split() if "==" in line)
    return ", ".join([f"Python {platform.python_version()}", *ours, *java, *peers])
