"""Targets: pause one with everything that calls it, let it go on, see what is declared of them."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from trunkline.cli.command import Wait, Why, give
from trunkline.cli.project import Json, cluster_of, load_bus, out, print_json
from trunkline.cli.show import many, moment, print_table
from trunkline.flow.declare import Bus, Target
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.operate import targets
from trunkline.operate.control import topic_of
from trunkline.operate.targets import Standing, target_of
from trunkline.settings import load

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TARGET", help="A target's name.")]


@app.command()
def pause(target: Name, *, why: Why = "", wait: Wait = 20, as_json: Json = False) -> None:
    """Let no sink call a target; what is in flight ends, offsets are kept, and no event loses patience."""
    bus = load_bus()
    named = target_of(bus, target).name
    give(bus, "target", named, "paused", targets.pause, why=why, wait=wait, as_json=as_json)


@app.command()
def resume(target: Name, *, why: Why = "", wait: Wait = 20, as_json: Json = False) -> None:
    """Let a target be called again: after a pause, a wish to wait that was too long, or when you know that it is up."""
    bus = load_bus()
    named = target_of(bus, target).name
    give(bus, "target", named, "running", targets.resume, why=why, wait=wait, as_json=as_json)


@app.command("ls")
def list_targets(*, as_json: Json = False) -> None:
    """Print every target: whether it is paused or down, its limit, and the share that each flow has of it."""
    found = look(load_bus())
    if as_json:
        print_json([data_of(one) for one in found])
        return
    print_table(("target", "state", "limit", "flows", "why"), [row(one) for one in found])


@app.command()
def show(target: Name, *, as_json: Json = False) -> None:
    """Print what is declared of one target, and what each flow may do there."""
    bus = load_bus()
    target_of(bus, target)
    [one] = [one for one in look(bus) if one.target.name == target]
    data = data_of(one)
    if as_json:
        print_json(data)
        return
    for name, value in data.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())  # noqa: PLW2901 - as it is printed
        out.print(
            f"{name.replace('_', ' ')}: {'-' if value in (None, '', []) else value}", markup=False, highlight=False
        )


def look(bus: Bus) -> list[Standing]:
    """Ask how the targets stand."""
    cluster = cluster_of(load())
    with Control(cluster) as control:
        held = orders.current(cluster, topic_of(bus, control))
    return targets.standings(bus, held, datetime.now(UTC))


def row(one: Standing) -> tuple[str, ...]:
    """Give a target's row of the table."""
    flows = ", ".join(f"{flow} {share:.0%}{unused(one, flow)}" for flow, share in one.shares.items())
    return (
        one.target.name,
        state_of(one),
        limit_of(one.target),
        flows,
        one.paused.why if one.paused and one.paused.why else "-",
    )


def state_of(one: Standing) -> str:
    """Say whether a target is called."""
    if one.paused:
        return f"paused by {one.paused.who} since {moment(one.paused.at)}"
    if not one.workers:
        return "called by no worker"
    told = ", ".join(f"{word} at {number} of {many(one.workers, 'worker')}" for word, number in one.told.items())
    return told or "may be called"


def unused(one: Standing, flow: str) -> str:
    """Say how much of its share of the limit a flow leaves, which is nobody else's (D13)."""
    limit = one.target.limit
    if limit is None or not one.workers:
        return ""
    left, share = one.left(flow)
    return f" ({left:,.0f} of {share:,.0f} a {limit.per} unused)"


def limit_of(target: Target) -> str:
    """Write a limit."""
    limit = target.limit
    return "-" if limit is None else f"{limit.events:g} a {limit.per}"


def data_of(one: Standing) -> dict[str, Any]:
    """Give how a target stands for programs; nothing here is the value of a setting."""
    target, breaker = one.target, one.target.breaker
    return {
        "target": target.name,
        "state": state_of(one),
        "address": target.url.name,
        "paused": one.paused and {"who": one.paused.who, "at": moment(one.paused.at), "why": one.paused.why},
        "limit": None if target.limit is None else limit_of(target),
        "shares": {flow: round(share, 4) for flow, share in one.shares.items()},
        "calls_per_second": dict(one.paces),
        "breaker": breaker
        and {"failures": breaker.failures, "pause": breaker.pause.total_seconds(), "probes": breaker.probes},
        "allow": list(target.allow),
    }
