"""The type checker, asked about the project's code as it would be with other schemas; the project stays as it is."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trunkline.avro.files import SCHEMAS, Schema
from trunkline.errors import UsageError
from trunkline.flow.proposals import Gone, without
from trunkline.flow.readers import FOLDERS, Reading, plainly, readings, sources

CACHE = Path(".mypy_cache/trunkline")
CHECKED = """[mypy]
ignore_missing_imports = True
follow_imports = silent
check_untyped_defs = True
explicit_package_bases = True
"""
"""How the type checker is asked: for what does not fit, and not for the project's own rules."""


def typed(found: Sequence[Schema], gone: Sequence[Gone]) -> list[Reading]:
    """Ask the type checker about the project's code with types that lack what is gone.

    Raises:
        UsageError: it cannot be run, or the code cannot be read.
    """
    seen = list(readings(checked(without(found, gone), gone), gone))
    if any(one.gone is None for one in seen):  # some of it may have been there before
        usual = {(one.path, one.line, one.what) for one in readings(checked(without(found, ()), gone), ())}
        seen = [one for one in seen if one.gone is not None or (one.path, one.line, one.what) not in usual]
    return seen


def checked(types: str, gone: Sequence[Gone]) -> list[dict[str, Any]]:
    """Run mypy over the project's code with these types, and give its errors."""
    with TemporaryDirectory(prefix="trunkline-check-") as place:
        config = Path(place) / "mypy.ini"
        config.write_text(CHECKED)
        shadows: list[str] = []
        texts = {SCHEMAS / "__init__.py": types}
        texts |= {path: plainly(path.read_text(), [one.field for one in gone]) for path in sources()}
        for number, (path, text) in enumerate(texts.items()):
            shadow = Path(place) / f"{number}.py"
            shadow.write_text(text)
            shadows += ["--shadow-file", str(path), str(shadow)]
        code = [name for name in FOLDERS if Path(name).exists()]
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(config),
            "--cache-dir",
            str(CACHE),
            "--output=json",
        ]
        done = subprocess.run([*command, *shadows, *code], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode not in (0, 1):
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[:1]
            raise UsageError(f"mypy cannot check the project: {said[0] if said else 'it says nothing'}.")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
