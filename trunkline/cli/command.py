"""A command to all workers, as somebody at a terminal gives it: who gives it, who obeys, who has not answered."""

import getpass
import secrets
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from trunkline.cli.project import cluster_of, out, print_json, talk
from trunkline.cli.show import many, moment
from trunkline.flow.declare import Bus
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.orders import Command
from trunkline.operate.control import Answer, Desk
from trunkline.settings import load

Why = Annotated[str, typer.Option(help="The reason, for whoever looks later.")]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait until every worker obeys.")]


def give(
    bus: Bus,
    kind: Literal["sink", "target"],
    name: str,
    now: str,
    order: Callable[[Desk, str, Command], Answer],
    *,
    why: str,
    wait: float,
    as_json: bool,
) -> None:
    """Give a command about a sink or target, which is `now` how it is told, and say who obeys.

    Raises:
        typer.Exit: 1, a worker has not said that it obeys.
    """
    cluster = cluster_of(load())
    command = Command(secrets.token_hex(8), person(), datetime.now(UTC), why)
    with Control(cluster) as control, closing(Sender(cluster)) as sender:
        answer = order(Desk(bus, cluster, control, sender, wait), name, command)
    if as_json:
        print_json({kind: name, "now": now, "command": command.id, "who": command.who, **as_data(answer)})
    elif not answer.obeying and answer.complete:
        use = "runs" if kind == "sink" else "calls"
        out.print(f"{name}: {now} as soon as a worker {use} it; none does at present.", markup=False)
    else:
        out.print(f"{name}: {now} at {many(len(answer.obeying), 'worker')}.", markup=False)
    if not answer.complete:
        names = ", ".join(f"{one.worker.id} (last heard of {moment(one.at)})" for one in answer.silent)
        more = f"{many(answer.unknown, 'worker')} that never said a word" if answer.unknown else ""
        talk.print(
            f"trunkline: the command stands, but after {wait:g} s it is not obeyed by "
            f"{' and '.join(part for part in (names, more) if part)}. A worker that has ended without a word is "
            "forgotten after 15 s; see `trunkline sink ls`.",
            markup=False,
        )
        raise typer.Exit(1)


def person() -> str:
    """Name who gives a command."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def as_data(answer: Answer) -> dict[str, Any]:
    """Give who obeys for programs."""
    return {
        "obeying": [one.worker.id for one in answer.obeying],
        "silent": [one.worker.id for one in answer.silent],
        "unknown": answer.unknown,
    }
