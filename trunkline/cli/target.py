"""Targets: pause one with everything that calls it, let it go on, see what is declared of them."""

import getpass
import secrets
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from trunkline.cli.project import bootstrap, load_bus, out, print_json, talk
from trunkline.cli.show import moment, print_table
from trunkline.cli.sink import as_data, many
from trunkline.flow.declare import Target
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.orders import Command
from trunkline.operate import targets
from trunkline.operate.control import Answer, Desk, topic_of
from trunkline.operate.targets import Standing, target_of
from trunkline.settings import load

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TARGET", help="A target's name.")]
Why = Annotated[str, typer.Option(help="The reason, for whoever looks later.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait until every worker obeys.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def pause(target: Name, *, why: Why = "", wait: Wait = 20, as_json: Json = False) -> None:
    """Let no sink call a target; what is in flight ends, offsets are kept, and no event loses patience."""
    give(target, "paused", why, wait, targets.pause, as_json=as_json)


@app.command()
def resume(target: Name, *, why: Why = "", wait: Wait = 20, as_json: Json = False) -> None:
    """Let a target be called again: after a pause, a wish to wait that was too long, or when you know that it is up."""
    give(target, "running", why, wait, targets.resume, as_json=as_json)


def give(
    name: str, now: str, why: str, wait: float, order: Callable[[Desk, str, Command], Answer], *, as_json: bool
) -> None:
    """Give a command and say who obeys; exit with 1 when a worker has not said that it does."""
    bus, address = load_bus(), bootstrap(load())
    target_of(bus, name)
    command = Command(secrets.token_hex(8), f"{getpass.getuser()}@{socket.gethostname()}", datetime.now(UTC), why)
    with Control(address) as control, closing(Sender(address)) as sender:
        answer = order(Desk(bus, address, control, sender, wait), name, command)
    if as_json:
        print_json({"target": name, "now": now, "command": command.id, "who": command.who, **as_data(answer)})
    elif not answer.obeying and answer.complete:
        out.print(f"{name}: {now} as soon as a worker calls it; none does at present.", markup=False)
    else:
        out.print(f"{name}: {now} at {many(len(answer.obeying))}.", markup=False)
    if not answer.complete:
        talk.print(
            f"trunkline: the command stands, but after {wait:g} s it is not obeyed by "
            f"{many(len(answer.silent) + answer.unknown)}. See `trunkline sink ls`.",
            markup=False,
        )
        raise typer.Exit(1)


@app.command("ls")
def list_targets(*, as_json: Json = False) -> None:
    """Print every target: whether it is paused or down, its limit, and the share that each flow has of it."""
    found = look()
    if as_json:
        print_json([data_of(one) for one in found])
        return
    print_table(("target", "state", "limit", "flows", "why"), [row(one) for one in found])


@app.command()
def show(target: Name, *, as_json: Json = False) -> None:
    """Print what is declared of one target, and what each flow may do there."""
    target_of(load_bus(), target)
    [one] = [one for one in look() if one.target.name == target]
    data = data_of(one)
    if as_json:
        print_json(data)
        return
    for name, value in data.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())  # noqa: PLW2901 - as it is printed
        out.print(f"{name}: {'-' if value in (None, '', []) else value}", markup=False, highlight=False)


def look() -> list[Standing]:
    """Ask how the targets stand."""
    bus, address = load_bus(), bootstrap(load())
    with Control(address) as control:
        held = orders.current(address, topic_of(bus, control))
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
    told = ", ".join(f"{word} at {number} of {many(one.workers)}" for word, number in one.told.items())
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
