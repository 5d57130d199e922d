"""`trunkline`: every command, and the one place where an error becomes a line and an exit code."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trunkline import __version__
from trunkline.cli import (
    broker,
    declared,
    demo,
    dlq,
    ledger,
    run,
    schema,
    send,
    sink,
    status,
    tail,
    target,
    topics,
    trace,
    walk,
)
from trunkline.cli.project import read_env, talk
from trunkline.errors import TopologyError, TrunklineError, UsageError
from trunkline.redact import redact

commands = typer.Typer(
    name="trunkline",
    help="An event-driven integration bus: change events in, idempotent API calls out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
commands.command()(declared.show)
commands.command()(declared.check)
commands.add_typer(schema.app, name="schema")
commands.add_typer(broker.app, name="broker")
commands.add_typer(topics.app, name="topics")
commands.command()(run.run)
commands.command()(send.send)
commands.command()(walk.walk)
commands.command()(tail.tail)
commands.command()(trace.trace)
commands.command()(status.status)
commands.add_typer(dlq.app, name="dlq")
commands.add_typer(sink.app, name="sink")
commands.add_typer(target.app, name="target")
commands.add_typer(ledger.app, name="ledger")
commands.add_typer(demo.app, name="demo")


def show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback shape
    """Print the version and stop."""
    if wanted:
        typer.echo(f"trunkline {__version__}")
        raise typer.Exit


@commands.callback()
def main(
    env: Annotated[Path | None, typer.Option(help="Read NAME=value lines first; variables already set win.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True)] = False,  # noqa: ARG001, FBT002
) -> None:
    """Run with --help for the commands."""
    if env is not None:
        read_env(env)


def app() -> None:
    """Run the command line; exits 0, 1 (failed) or 2 (wrong use or declaration)."""
    try:
        commands()
    except TopologyError as error:
        talk.print(redact(str(error)), markup=False)
        sys.exit(2)
    except UsageError as error:
        talk.print(redact(f"trunkline: {error}"), markup=False)
        sys.exit(2)
    except TrunklineError as error:
        talk.print(redact(f"trunkline: {error}"), markup=False)
        sys.exit(1)
