"""The development broker: start it, stop it, ask for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from trunkline.cli.project import out, print_json, talk
from trunkline.dev import broker
from trunkline.errors import Unavailable
from trunkline.settings import load

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def up(*, as_json: Json = False) -> None:
    """Start the broker, unless one is configured or up; it is ready when this returns."""
    settings = load()
    if found := broker.running(settings):
        news = "used as it is" if found.kind == "configured" else "already up"
    else:
        with _talk("Starting the broker") as say:
            found, news = broker.up(settings, progress=say), "up"
    _print(found, news, as_json=as_json)


@app.command()
def down() -> None:
    """Stop the broker that `up` started. Its data are kept; a configured broker is left alone."""
    settings = load()
    with _talk("Stopping the broker") as say:
        say("The broker is down; its data are kept." if broker.down(settings) else "No local broker was up.")


@app.command()
def status(*, as_json: Json = False) -> None:
    """Print what the broker is and where; `down` and exit code 1 when none answers."""
    why = {}
    try:
        if found := broker.running(load()):
            _print(found, "up", as_json=as_json)
            return
    except Unavailable as error:
        why = {"why": str(error)}
    if as_json:
        print_json({"state": "down", **why})
    else:
        out.print(": ".join(["down", *why.values()]), markup=False)
    raise typer.Exit(1)


def _print(found: broker.Running, news: str, *, as_json: bool) -> None:
    seconds = (datetime.now(UTC) - found.started) // timedelta(seconds=1) if found.started else None
    if as_json:
        started = found.started.isoformat() if found.started else None
        print_json({"state": "up", **asdict(found), "started": started, "uptime_seconds": seconds})
        return
    uptime = None if seconds is None else timedelta(seconds=seconds)
    facts = {found.kind: found.bootstrap, "Apache Kafka": found.version, "pid": found.pid, "for": uptime}
    known = ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
    out.print(f"{news}: {known}", markup=False)


@contextmanager
def _talk(doing: str) -> Iterator[broker.Progress]:
    with talk.status(doing):
        yield lambda line: talk.print(line, markup=False)
