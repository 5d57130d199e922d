"""`trunkline`: every command, and the one place where an error becomes a line and an exit code."""

import importlib
import inspect
import io
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from trunkline import __version__
from trunkline.cli.project import read_env, safe, talk
from trunkline.errors import TopologyError, TrunklineError, UsageError
from trunkline.redact import redact

COMMANDS = {
    "show": ("declared:show", "Print the topology: what follows what, from the sources to the targets."),
    "check": ("declared:check", "Name every fault of topology.py at once; nothing is started or connected to."),
    "run": ("run:run", "Run flows: receive, process, deliver, until SIGTERM; then finish what is in flight."),
    "send": ("send:send", "Validate, sign and post one request; its bytes are sent as they are."),
    "walk": (
        "walk:walk",
        "Print what the bus would do with a request, without doing it: steps, routes, requests, what answers mean.",
    ),
    "tail": ("tail:tail", "Print the newest records of a topic, oldest first, decoded by the schemas of this bus."),
    "trace": (
        "trace:trace",
        "Print every hop and attempt of an event: what it came of, what came of it, and where that stands now.",
    ),
    "status": (
        "status:status",
        "Print how every flow stands, what needs a person first: workers, lag, last progress, dead letters.",
    ),
    "schema": ("schema:app", "The records on the topics: schema files and what is made from them."),
    "broker": ("broker:app", "The development broker: configured, in Docker, or on the local JVM."),
    "topics": ("topics:app", "The topics that the bus needs. Nothing is ever deleted."),
    "dlq": ("dlq:app", "Dead letters: what could not be delivered, why, and its replay."),
    "sink": ("sink:app", "Sinks: pause one, let it go on, skip one event, see how they stand."),
    "target": ("target:app", "Targets: pause one, let it go on, see how they stand."),
    "ledger": ("ledger:app", "The ledger: what was delivered, and what was not."),
    "demo": ("demo:app", "A whole bus on this machine: run it, break its targets, heal them."),
    "run-worker": ("worker:run_worker", ""),
}
"""Where each command is and what the list of commands says of it, which loads none; one without words is not listed."""


class Commands(TyperGroup):
    """Load the module of a command when it is the one that was asked for: all of them take half a second."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find a command by its name in the table, then load it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else loaded(name), rest


def loaded(name: str) -> Any:
    """Give a command of the table, or a group of commands."""
    place, told = COMMANDS[name]
    found = command_at(place)
    alone = typer.Typer()
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name, help=told)
    else:
        alone.command(name)(found)
    return joined(get_group(alone).commands[name])


def joined(command: Any) -> Any:
    """Make one line of each paragraph of a command's help: a terminal breaks it, and typer joins the first alone."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(one.split()) for one in paragraphs)
    for below in getattr(command, "commands", {}).values():
        joined(below)
    return command


def command_at(place: str) -> Any:
    """Load the module of a command."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(f"trunkline.cli.{module}"), attribute)


commands = typer.Typer(
    cls=Commands,
    name="trunkline",
    help="An event-driven integration bus: change events in, idempotent API calls out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command, (_, summary) in COMMANDS.items():
    commands.command(command, help=summary, hidden=not summary)(lambda: None)


def show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback shape
    """Print the version and stop."""
    if wanted:
        typer.echo(f"trunkline {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")]


@commands.callback()
def main(
    env: Annotated[Path | None, typer.Option(help="Read NAME=value lines first; variables already set win.")] = None,
    version: Version = False,  # noqa: ARG001, FBT002
) -> None:
    """Run with --help for the commands."""
    sys.excepthook = tell_bug  # not sooner: typer would put its own in its place
    if env is not None:
        read_env(env)


def app() -> None:
    """Run the command line; exits 0, 1 (failed) or 2 (wrong use or declaration)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another charset shows "?" for what it has not
    try:
        commands()
    except TopologyError as error:
        for line in redact(str(error)).splitlines():
            talk.print(safe(line), markup=False)
        sys.exit(2)
    except UsageError as error:
        talk.print(safe(redact(f"trunkline: {error}")), markup=False)
        sys.exit(2)
    except TrunklineError as error:
        talk.print(safe(redact(f"trunkline: {error}")), markup=False)
        sys.exit(1)
    except OSError as error:  # a full disk below `> file`, a file that nobody may read
        what = f"{error.filename}: " if error.filename else "what it says cannot be written: "
        talk.print(safe(redact(f"trunkline: {what}{error.strerror or error}.")), markup=False)
        sys.exit(1)


def tell_bug(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print what nobody has caught as Python does, but without secrets."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
