"""The project in the working directory, and how commands print."""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from trunkline.errors import UsageError
from trunkline.flow.check import check
from trunkline.flow.declare import Bus

out = Console(highlight=False, soft_wrap=True)
talk = Console(stderr=True, highlight=False, soft_wrap=True)


def load_bus() -> Bus:
    """Load `topology:bus` from the working directory and check it.

    Raises:
        UsageError: there is no topology.py, or it defines no bus.
        TopologyError: the declaration is wrong; every fault is named.
    """
    if not Path("topology.py").is_file():
        raise UsageError("there is no topology.py here. Change to the project's folder.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    bus = getattr(importlib.import_module("topology"), "bus", None)
    if not isinstance(bus, Bus):
        raise UsageError("topology.py defines no bus. Add: bus = Bus(name, [flows]).")
    check(bus)
    return bus


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


def print_json(value: Any) -> None:
    """Print data for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")
