"""What is declared: show the topology, check it."""

from typing import Annotated

import typer
from rich.console import Console

from trunkline.cli.project import Json, load_bus, print_json, talk
from trunkline.errors import TopologyError, UsageError
from trunkline.flow import draw
from trunkline.flow.kits import warnings
from trunkline.kafka.topics import LETTERS_KEPT

ENDLESS = 1_000
"""Columns: rich cuts off what is longer than the terminal is wide, a terminal does not."""


def show(
    *,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,
    as_json: Json = False,
) -> None:
    """Print the topology: what follows what, from the sources to the targets."""
    if mermaid and as_json:
        raise UsageError("--mermaid and --json are two forms of one answer. Give one of them.")
    bus = load_bus()
    if as_json:
        print_json(draw.data(bus))
    elif mermaid:
        typer.echo(draw.mermaid(bus))
    else:
        Console(width=ENDLESS, highlight=False, emoji=False).print(draw.tree(bus))


def check(*, as_json: Json = False) -> None:
    """Name every fault of topology.py at once; nothing is started or connected to."""
    try:
        bus = load_bus()
    except TopologyError as error:
        if not as_json:
            raise
        print_json({"faults": [{"where": fault.where, "message": fault.message} for fault in error.faults]})
        raise typer.Exit(2) from None
    surprising = warnings(bus, LETTERS_KEPT)
    found = {"flows": len(bus.flows), "topics": len(bus.topics), "sinks": len(bus.sinks)}
    if as_json:
        told = [{"where": warning.where, "message": warning.message} for warning in surprising]
        print_json(found | {"faults": [], "warnings": told})
    else:
        for warning in surprising:
            talk.print(f"warning: {warning}", markup=False, soft_wrap=True)
        counted = ", ".join(f"{count} {noun if count != 1 else noun[:-1]}" for noun, count in found.items())
        typer.echo(f"ok: {counted}")
