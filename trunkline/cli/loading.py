"""The project in the working directory, loaded; it imports no more than a topology does."""

import importlib
import sys
import traceback
from pathlib import Path

from trunkline.avro.files import SCHEMAS
from trunkline.errors import UsageError
from trunkline.flow.check import check
from trunkline.flow.declare import Bus


def load_bus() -> Bus:
    """Load `topology:bus` from the working directory and check it.

    Raises:
        UsageError: there is no topology.py, it cannot be imported, or it defines no bus.
        TopologyError: the declaration is wrong; every fault is named.
    """
    bus = load_unchecked()
    check(bus)
    return bus


def load_unchecked() -> Bus:
    """Load `topology:bus` from the working directory.

    Raises:
        UsageError: there is no topology.py, it cannot be imported, or it defines no bus.
    """
    if not Path("topology.py").is_file():
        above = next((folder for folder in Path.cwd().parents if (folder / "topology.py").is_file()), None)
        where = f"the project's folder{f', {above}' if above else ''}"
        raise UsageError(f"there is no topology.py here. Change to {where}.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        bus = getattr(importlib.import_module("topology"), "bus", None)
    except Exception as error:
        raise UsageError(f"topology.py cannot be loaded: {told(error)}") from error
    if not isinstance(bus, Bus):
        raise UsageError("topology.py defines no bus. Add: bus = Bus(name, [flows]).")
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
    stale = isinstance(error, ImportError) and error.name == SCHEMAS.name and SCHEMAS.is_dir()
    hint = ". The types are written by `trunkline schema types`." if stale else ""
    return f"{path.relative_to(here)}:{line}: {' '.join(message.split())}{hint}"
