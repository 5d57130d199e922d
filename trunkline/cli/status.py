"""How every flow stands, at one glance."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from trunkline.cli.project import bootstrap, load_bus, looking, print_json
from trunkline.cli.show import moment, print_table, span
from trunkline.kafka.control import Control
from trunkline.operate.status import Standing, standings
from trunkline.settings import load


def status(*, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False) -> None:
    """Print how every flow stands, what needs a person first: workers, lag, last progress, dead letters."""
    bus, settings = load_bus(), load()
    with Control(bootstrap(settings)) as control, looking(settings) as db:
        found = standings(bus, control, db, datetime.now(UTC))
    if as_json:
        print_json([{**asdict(one), "progress": one.progress and one.progress.isoformat()} for one in found])
    else:
        headings = ("flow", "kind", "state", "lag", "behind", "last progress", "delivered", "dead letters")
        print_table(headings, [row(one) for one in found])


def row(one: Standing) -> tuple[str, ...]:
    """Give a flow's row of the table."""
    reads = one.workers is not None
    return (
        one.flow,
        one.kind,
        state(one),
        f"{one.lag}" if reads else "-",
        span(one.behind) if reads else "-",
        moment(one.progress),
        "-" if one.delivered is None else f"{one.delivered}",
        "-" if one.dead is None else f"{one.dead}",
    )


def state(one: Standing) -> str:
    """Say in a few words what a flow does, and what to do when it does nothing."""
    if one.missing:
        return f"{len(one.missing)} topics missing: trunkline topics apply"
    if one.workers is None:
        return "-"
    if not one.started:
        return "not started: trunkline run --start"
    return f"{one.workers} worker{'s' if one.workers != 1 else ''}" if one.workers else "no worker"
