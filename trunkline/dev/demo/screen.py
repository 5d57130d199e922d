"""The last screen: what both acts came to, and what to type next. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trunkline.dev.demo.report import Report

EFFECTS = ("effects", "duplicates", "lost")
WAITED = 1_000
"""Milliseconds above which half of the events have waited for the machine, and not for what the bus does."""


@dataclass(frozen=True, slots=True)
class Story:
    """What the last screen tells besides the reports."""

    incident: str
    rate: float
    first_seconds: float | None
    seconds: float
    folder: str
    stays: bool
    """Whether the bus stays up."""
    commands: Sequence[tuple[str, str]]
    """What to type next, and what it does."""


def told(first: Report, second: Report, story: Story) -> dict[str, Any]:
    """Give what the last screen tells, as JSON has it: a recorded one can be drawn again."""
    return {
        "events": sum(source["received"] for source in first.sources.values()),
        "act_one": [asdict(hop) for hop in first.hops],
        "act_two": asdict(second.hops[-1]),
        "calls_elsewhere": dict(second.replay["calls_elsewhere"]),
        "effects": {name: sum(sink[name] for sink in second.sinks.values()) for name in EFFECTS},
        "latency_ms": {"p50": first.latency(0.5), "p99": first.latency(0.99)},
        "reports": {
            file: {"balanced": report.balanced, "verdict": report.verdict, "differences": report.differences}
            for file, report in {"report.json": first, "report-replay.json": second}.items()
        },
        **asdict(story),
    }


def screen(told: Mapping[str, Any]) -> list[str]:
    """Write the last screen: every hop on a line that begins with ✓ or ✗, every difference, and what to type next."""
    width = max(len(hop["name"]) for hop in (*told["act_one"], told["act_two"]))
    elsewhere = ", ".join(
        f"{name} received {'nothing' if not calls else f'{calls:,}'}" for name, calls in told["calls_elsewhere"].items()
    )
    pace = f"at {told['rate']:g} events a second" if told["rate"] else "at full speed"
    lines = [
        f"Act one: {told['events']:,} events",
        *(line(hop, width) for hop in told["act_one"]),
        "",
        f"Act two: {told['incident']}",
        line(told["act_two"], width),
        *([f"  {elsewhere} meanwhile"] if elsewhere else []),
        "",
        "{effects:,} effects at the targets, {duplicates:,} duplicates, {lost:,} lost".format(**told["effects"]),
        "latency p50 {p50} ms, p99 {p99} ms".format(**told["latency_ms"])
        + f" {pace}, from the source's topic to the target",
        *(["  most of that is waiting: this machine is too slow, or too busy, for this pace"] if waited(told) else []),
        f"first delivered after {seconds(told['first_seconds'])}, both acts after {seconds(told['seconds'])}",
    ]
    for file, report in told["reports"].items():
        lines.append(f"{'✓' if report['balanced'] else '✗'} {told['folder']}/{file}: {report['verdict']}")
        lines += [f"✗   {difference}" for difference in report["differences"]]
    width = max(len(command) for command, _ in told["commands"])
    lines += ["", "Next, in another terminal:" if told["stays"] else "Run on a terminal, the bus stays up for these:"]
    return lines + [f"  {command:<{width}}  {why}" for command, why in told["commands"]]


def waited(told: Mapping[str, Any]) -> bool:
    """Say whether the machine did not keep up with the pace of the events."""
    return bool(told["rate"]) and (told["latency_ms"]["p50"] or 0) > WAITED


def line(hop: Mapping[str, Any], width: int) -> str:
    """Write one hop."""
    return f"{'✓' if hop['holds'] else '✗'} {hop['name']:<{width}}  {hop['counts']}"


def seconds(count: float | None) -> str:
    """Write a duration; a dash for what never came."""
    return "-" if count is None else f"{count:.1f} s"
