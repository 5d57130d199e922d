"""Sinks: pause one, let it go on, skip one of its events, and see how all of them stand."""

import getpass
import secrets
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from trunkline.cli import contract
from trunkline.cli.project import bootstrap, load_bus, out, print_json, talk
from trunkline.cli.show import moment, print_table
from trunkline.kafka import orders
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.orders import Command, Full
from trunkline.operate.control import Answer, Desk, Standing, sink_of, standings, topic_of
from trunkline.settings import load

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="SINK", help="A sink's name, or its flow's.")]
Why = Annotated[str, typer.Option(help="The reason, for whoever looks later.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait until every worker obeys.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


app.command("check")(contract.check)


@app.command()
def pause(sink: Name, *, why: Why = "", wait: Wait = 20, as_json: Json = False) -> None:
    """Let a sink start no more calls; what is in flight ends, and its offsets are kept."""
    give(sink, "paused", why, wait, Desk.pause, as_json=as_json)


@app.command()
def resume(sink: Name, *, why: Why = "", wait: Wait = 20, as_json: Json = False) -> None:
    """Let a sink go on that was paused or has halted."""
    give(sink, "running", why, wait, Desk.resume, as_json=as_json)


@app.command()
def skip(
    sink: Name,
    event: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The event's id.")],
    *,
    why: Why = "",
    wait: Wait = 20,
    as_json: Json = False,
) -> None:
    """Send one event of a sink to its dead letters instead of to the target: it may be replayed later."""

    def order(desk: Desk, name: str, command: Command) -> Answer:
        return desk.skip(name, event, command)

    give(sink, f"skipping {event}", why, wait, order, as_json=as_json)


def give(
    sink: str, now: str, why: str, wait: float, order: Callable[[Desk, str, Command], Answer], *, as_json: bool
) -> None:
    """Give a command and say who obeys; exit with 1 when a worker has not said that it does."""
    bus, settings = load_bus(), load()
    name, address = sink_of(bus, sink), bootstrap(settings)
    command = Command(secrets.token_hex(8), f"{getpass.getuser()}@{socket.gethostname()}", datetime.now(UTC), why)
    with Control(address) as control, closing(Sender(address)) as sender:
        answer = order(Desk(bus, address, control, sender, wait), name, command)
    if as_json:
        print_json({"sink": name, "now": now, "command": command.id, "who": command.who, **as_data(answer)})
    elif not answer.obeying and answer.complete:
        out.print(f"{name}: {now} as soon as a worker runs it; none does at present.", markup=False)
    else:
        out.print(f"{name}: {now} at {many(len(answer.obeying))}.", markup=False)
    if not answer.complete:
        names = ", ".join(f"{one.worker.id} (last heard of {moment(one.at)})" for one in answer.silent)
        more = f"{many(answer.unknown)} that never said a word" if answer.unknown else ""
        talk.print(
            f"trunkline: the command stands, but after {wait:g} s it is not obeyed by "
            f"{' and '.join(part for part in (names, more) if part)}. A worker that has ended without a word is "
            "forgotten after 15 s; see `trunkline sink ls`.",
            markup=False,
        )
        raise typer.Exit(1)


def many(count: int) -> str:
    """Count workers."""
    return f"{count} worker{'' if count == 1 else 's'}"


def as_data(answer: Answer) -> dict[str, Any]:
    """Give who obeys for programs."""
    return {
        "obeying": [one.worker.id for one in answer.obeying],
        "silent": [one.worker.id for one in answer.silent],
        "unknown": answer.unknown,
    }


@app.command("ls")
def list_sinks(*, as_json: Json = False) -> None:
    """Print how every sink stands: running, paused by whom, halted and why, and the keys that hold partitions up."""
    bus, address = load_bus(), bootstrap(load())
    with Control(address) as control:
        held = orders.current(address, topic_of(bus, control))
    found = standings(bus, held, datetime.now(UTC))
    if as_json:
        print_json([data_of(one) for one in found])
    else:
        headings = ("sink", "state", "workers", "held up", "to be skipped", "why")
        print_table(headings, [row(one) for one in found])
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


def holder(full: Full) -> str:
    """Name what holds a partition up."""
    return "events without a key" if full.key is None else f"key {full.key}"


def state(one: Standing) -> str:
    """Say in a few words what a sink does."""
    words = []
    if one.paused is not None:
        words.append(f"paused by {one.paused.who} since {moment(one.paused.at)}")
    if one.halted:
        words.append(f"halted at {len(one.halted)} of {many(len(one.workers))}")
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
        "full": [
            {"flow": full.flow, "topic": full.topic, "partition": full.partition, "key": full.key} for full in one.full
        ],
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
