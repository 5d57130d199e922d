"""Sinks: pause one, let it go on, skip one of its events, and see how all of them stand."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from trunkline.cli import contract
from trunkline.cli.command import Wait, Why, give
from trunkline.cli.project import Json, cluster_of, load_bus, looking, print_json, talk
from trunkline.cli.show import curtain_of, many, moment, print_table, typed
from trunkline.errors import Unavailable, UsageError
from trunkline.flow.declare import Bus
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.kafka.orders import Command, Full, Orders
from trunkline.operate.control import Answer, Desk, Standing, flows_of, sink_of, standings, topic_of
from trunkline.operate.trace import Node, Stands, Trace, Tracer
from trunkline.settings import load

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="SINK", help="A sink's name, or its flow's.")]


ENDED: Collection[Stands] = ("delivered", "dead", "superseded", "discarded")
"""How an event stands that no skipping reaches any more."""


app.command("check")(contract.check)


@app.command()
def pause(sink: Name, *, why: Why = "", wait: Wait = 20, as_json: Json = False) -> None:
    """Let a sink start no more calls; what is in flight ends, and its offsets are kept."""
    bus = load_bus()
    give(bus, "sink", sink_of(bus, sink), "paused", Desk.pause, why=why, wait=wait, as_json=as_json)


@app.command()
def resume(sink: Name, *, why: Why = "", wait: Wait = 20, as_json: Json = False) -> None:
    """Let a sink go on that was paused or has halted."""
    bus = load_bus()
    give(bus, "sink", sink_of(bus, sink), "running", Desk.resume, why=why, wait=wait, as_json=as_json)


@app.command()
def skip(
    sink: Name,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's id.")],
    *,
    why: Why = "",
    wait: Wait = 20,
    as_json: Json = False,
) -> None:
    """Send one event of a sink to its dead letters instead of to the target: it may be replayed later."""
    if not event:
        raise UsageError("say which event: its id is empty.")

    def order(desk: Desk, name: str, command: Command) -> Answer:
        return desk.skip(name, event, command)

    bus = load_bus()
    identity = sink_of(bus, sink)
    known = None
    with suppress(UsageError, Unavailable):  # the command is given, whatever is known of the event
        known = told_of(bus, identity, event)  # not afterwards: it may be skipped by then
    give(bus, "sink", identity, f"skipping {event}", order, why=why, wait=wait, as_json=as_json)
    if known is not None:
        talk.print(f"trunkline: {known}", markup=False)


def told_of(bus: Bus, sink: str, event: str) -> str | None:
    """Say why skipping an event may come to nothing; None where it waits for the sink, or nobody can tell.

    Raises:
        UsageError, Unavailable: broker or ledger do not answer.
    """
    settings = load()
    with Control(cluster_of(settings)) as control, looking(settings) as db:
        if db is None:
            return None
        return hint(Tracer(bus, control, db).trace(event), flows_of(bus, sink), sink, event)


def hint(found: Sequence[Trace], flows: Collection[str], sink: str, event: str) -> str | None:
    """Say of what is known of an event why skipping it at a sink may come to nothing."""
    if here := [one for trace in found for one in trace.node.deliveries if one.flow in flows]:
        if all(one.stands in ENDED for one in here):
            return f"event {event} is {here[0].stands} at {sink} already: nothing is skipped."
        return None
    said = f"no event {event} has come to {sink} so far; should one come, it is skipped."
    made = [(one, at) for trace in found for one in below(trace.node) for at in one.deliveries if at.flow in flows]
    if waiting := [one.id for one, at in made if at.stands not in ENDED]:
        more = f", one of {len(waiting)}" if len(waiting) > 1 else ""
        command = typed("sink", "skip", sink, ids=waiting[:1])
        return f"{said} What came of it and waits there is {waiting[0]}{more}: {command}"
    if made:
        return f"{said} What came of it there, {made[0][0].id}, is {made[0][1].stands} already."
    return f"{said} Is the id right?"


def below(node: Node) -> Iterator[Node]:
    """Give the events that were made of one, and of those."""
    for step in node.steps:
        for made in step.made:
            yield made
            yield from below(made)


@app.command("ls")
def list_sinks(*, as_json: Json = False) -> None:
    """Print how every sink stands: running, paused by whom, halted and why, and the keys that hold partitions up."""
    bus, cluster = load_bus(), cluster_of(load())
    with Control(cluster) as control:
        held = orders.current(cluster, topic_of(bus, control))
    found = [replace(one, full=veiled(one.full, bus)) for one in standings(bus, held, datetime.now(UTC))]
    if as_json:
        print_json([data_of(one) for one in found])
    else:
        headings = ("sink", "state", "workers", "held up", "to be skipped", "why")
        print_table(headings, [row(one) for one in found])
    tell_mixed(held)


def tell_mixed(held: Orders) -> None:
    """Say that the live workers run different topologies, if they do."""
    if orders.mixed(held, datetime.now(UTC)):
        talk.print("Workers run different topologies: what one of them cannot read waits until all run the same.")


def row(one: Standing) -> tuple[str, ...]:
    """Give a sink's row of the table."""
    full = ", ".join(f"{part.topic} partition {part.partition} by {holder(part)}" for part in one.full)
    halts = [reason for _, reason in one.halted]
    why = [*([one.paused.why] if one.paused and one.paused.why else []), *dict.fromkeys(halts)]
    return (
        one.sink,
        state(one),
        str(len(one.workers)),
        full or "-",
        ", ".join(one.skips) or "-",
        "; ".join(why) or "-",
    )


def veiled(found: Iterable[Full], bus: Bus) -> tuple[Full, ...]:
    """Give what holds partitions up with keys as they may be shown."""
    return tuple(
        replace(full, key=curtain_of(bus, full.topic).key_of(None if full.key is None else full.key.encode()))
        for full in found
    )


def holder(full: Full) -> str:
    """Name what holds a partition up."""
    return "events without a key" if full.key is None else f"key {full.key}"


def state(one: Standing) -> str:
    """Say in a few words what a sink does."""
    words = []
    if one.paused is not None:
        words.append(f"paused by {one.paused.who} since {moment(one.paused.at)}")
    if one.halted:
        words.append(f"halted at {len(one.halted)} of {many(len(one.workers), 'worker')}")
    return ", ".join(words) or ("running" if one.workers else "no worker")


def data_of(one: Standing) -> dict[str, Any]:
    """Give how a sink stands for programs."""
    paused = one.paused
    return {
        "sink": one.sink,
        "flows": one.flows,
        "state": "paused" if paused else "halted" if one.halted else "running" if one.workers else "no worker",
        "paused": paused and {"who": paused.who, "at": moment(paused.at), "why": paused.why},
        "halted": [{"worker": worker, "reason": reason} for worker, reason in one.halted],
        "full": [asdict(full) for full in one.full],
        "skips": one.skips,
        "workers": [
            {
                "id": said.worker.id,
                "host": said.worker.host,
                "pid": said.worker.pid,
                "topology": said.worker.topology,
                "at": moment(said.at),
            }
            for said in one.workers
        ],
    }
