"""The project in the working directory, and how commands print."""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from trunkline.dev import broker
from trunkline.errors import UsageError
from trunkline.flow.check import check
from trunkline.flow.declare import Bus
from trunkline.ledger import reach
from trunkline.ledger.database import Connection
from trunkline.settings import Settings

out = Console(highlight=False, emoji=False, soft_wrap=True)
talk = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def load_bus() -> Bus:
    """Load `topology:bus` from the working directory and check it.

    Raises:
        UsageError: there is no topology.py, it cannot be imported, or it defines no bus.
        TopologyError: the declaration is wrong; every fault is named.
    """
    if not Path("topology.py").is_file():
        raise UsageError("there is no topology.py here. Change to the project's folder.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        bus = getattr(importlib.import_module("topology"), "bus", None)
    except Exception as error:
        raise UsageError(f"topology.py cannot be loaded: {told(error)}") from error
    if not isinstance(bus, Bus):
        raise UsageError("topology.py defines no bus. Add: bus = Bus(name, [flows]).")
    check(bus)
    return bus


def told(error: Exception) -> str:
    """Say in one line what the import of a project's file raised, and at which of the project's own lines."""
    here = Path.cwd()
    lines = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename is not None:
        lines.append((Path(error.filename), error.lineno))
        message = f"{type(error).__name__}: {error.msg}"
    elsewhere = (Path(__file__).parent.parent, Path(sys.prefix))
    own = [
        (path, line)
        for path, line in lines
        if path.is_relative_to(here) and not any(path.is_relative_to(folder) for folder in elsewhere)
    ]
    path, line = own[-1] if own else (here / "topology.py", 1)
    return f"{path.relative_to(here)}:{line}: {' '.join(message.split())}"


def read_env(path: Path) -> None:
    """Set the variables of a file of NAME=value lines; those already set win.

    Raises:
        UsageError: the file is missing, or a line is no NAME=value.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UsageError(f"--env {path}: {error.strerror}.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(f"{path}:{number}: no NAME=value line.")
        os.environ.setdefault(name.strip(), value.strip())


def bootstrap(settings: Settings) -> str:
    """Give the broker's address: the configured one, else that of the local broker which is up.

    Raises:
        UsageError: there is neither.
    """
    if settings.kafka.bootstrap:
        return settings.kafka.bootstrap
    if found := broker.running(settings):
        return found.bootstrap
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


def print_json(value: Any) -> None:
    """Print data for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")
