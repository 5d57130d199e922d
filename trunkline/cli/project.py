"""The project in the working directory, and how commands print."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from trunkline.cli.loading import load_bus
from trunkline.dev import broker
from trunkline.errors import UsageError
from trunkline.kafka.cluster import Cluster
from trunkline.ledger import reach
from trunkline.ledger.database import Connection
from trunkline.settings import Settings

__all__ = ["Json", "cluster_of", "load_bus", "looking", "no_ledger", "out", "print_json", "read_env", "safe", "talk"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
talk = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def safe(text: str) -> str:
    """Make text from outside harmless to a terminal: one line, nothing that moves the cursor or hides."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def read_env(path: Path) -> None:
    """Set the variables of a file of NAME=value lines; those already set win.

    Raises:
        UsageError: the file is missing, a line is no NAME=value, or a value is in quotes.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(f"--env {path}: {why}.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(f"{path}:{number}: no NAME=value line.")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            raise UsageError(f"{path}:{number}: the quotes would be part of {name.strip()}. Leave them out.")
        os.environ.setdefault(name.strip(), value)


def cluster_of(settings: Settings) -> Cluster:
    """Give the configured brokers, else the local one which is up.

    Raises:
        UsageError: there is neither.
    """
    if settings.kafka.bootstrap:
        return Cluster.of(settings.kafka)
    if found := broker.running(settings):
        return Cluster(found.bootstrap)
    raise UsageError("no broker: run `trunkline broker up` or set TRUNKLINE_KAFKA__BOOTSTRAP.")


@contextmanager
def looking(settings: Settings) -> Iterator[Connection | None]:
    """Open the ledger for looking; None when there is none yet, so that looking never makes one.

    Raises:
        UsageError: a newer Trunkline made it.
        Unavailable: it cannot be opened or is no ledger.
    """
    ledger = reach(settings.ledger)
    if not ledger.exists():
        yield None
        return
    with ledger.connect() as db:
        yield db


def no_ledger(settings: Settings, says: str) -> str:
    """Say that there is no ledger where it should be, what it would say, and what to do."""
    return (
        f"there is no {reach(settings.ledger).name.removeprefix('the ')}, which says {says}. Run this where the "
        "workers run, or set TRUNKLINE_LEDGER__PATH; if it is lost, run `trunkline ledger rebuild`."
    )


def print_json(value: Any) -> None:
    """Print data for programs, in a charset that has every character; what an iterator gives is an array.

    Of an iterator, alone or in an object, each item is printed before the next is made: there may be a million.
    """
    escaped = (sys.stdout.encoding or "utf-8").lower() != "utf-8"

    def text(one: Any, depth: int) -> str:
        return json.dumps(one, indent=2, default=str, ensure_ascii=escaped).replace("\n", "\n" + "  " * depth)

    def pieces(one: Any, depth: int) -> Iterator[str]:
        pad, between = "\n" + "  " * depth, ""
        if isinstance(one, Iterator):
            for item in one:
                yield f"{between or '['}{pad}  {text(item, depth + 1)}"
                between = ","
            yield f"{pad}]" if between else "[]"
        elif isinstance(one, dict) and any(isinstance(part, Iterator) for part in one.values()):
            for name, part in one.items():
                yield f"{between or '{'}{pad}  {text(name, 0)}: "
                yield from pieces(part, depth + 1)
                between = ","
            yield f"{pad}}}"
        else:
            yield text(one, depth)

    for piece in pieces(value, 0):
        sys.stdout.write(piece)
    sys.stdout.write("\n")
