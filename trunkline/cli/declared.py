"""What is declared: show the topology, check it, write and list the types of its records."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from trunkline.avro.files import Schema, released
from trunkline.avro.types import module
from trunkline.cli.project import load_bus, print_json, talk
from trunkline.cli.show import print_table
from trunkline.errors import TopologyError, TrunklineError, UsageError
from trunkline.flow import draw
from trunkline.flow.declare import Bus, Table, Topic
from trunkline.flow.kits import warnings
from trunkline.kafka.topics import LETTERS_KEPT

SCHEMAS = Path("schemas")
ENDLESS = 1_000
"""Columns: rich cuts off what is longer than the terminal is wide, a terminal does not."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

schema = typer.Typer(help="The records on the topics: schema files and the types made from them.", no_args_is_help=True)


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


@schema.command()
def types(
    *, only_check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 when it would.")] = False
) -> None:
    """Write schemas/__init__.py: one type for every record of the schema files."""
    found = files()
    text = module(found)
    path = SCHEMAS / "__init__.py"
    is_stale = not path.exists() or path.read_text() != text
    if is_stale and only_check:
        raise TrunklineError(f"{path} is not what the schema files say. Run: trunkline schema types.")
    if is_stale:
        path.write_text(text)
    state = "written from" if is_stale else "up to date with"
    talk.print(f"{path}: {state} {len(found)} schema file{'' if len(found) == 1 else 's'}.", markup=False)


@schema.command("ls")
def list_schemas(*, as_json: Json = False) -> None:
    """List the schema files: name, version, type of event, fields, and the topics they are used on."""
    bus = load_bus()
    rows = [row(one, bus) for one in files()]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("schema", "event", "fields", "topics"),
        [
            (f"{one['name']}.v{one['version']}", one["event_type"], ", ".join(one["fields"]), ", ".join(one["topics"]))
            for one in rows
        ],
    )


def files() -> list[Schema]:
    """Read the project's schema files.

    Raises:
        UsageError: there are none, or one of them is no schema.
    """
    if not (found := released(SCHEMAS)):
        raise UsageError(f"there is no schema file in {SCHEMAS}/. Add one: {SCHEMAS}/<name>.v1.avsc.")
    return found


def row(one: Schema, bus: Bus) -> dict[str, Any]:
    """Describe one schema."""
    path = one.path.resolve()
    stored: list[Table | Topic] = [*bus.topics, *bus.tables]
    return {
        "name": one.name,
        "version": one.version,
        "event_type": one.event_type,
        "fields": [field["name"] for field in one.definition["fields"]],
        "topics": [part.name for part in stored if part.schema.path.resolve() == path],
    }
