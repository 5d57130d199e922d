"""docs/schemas.md, followed to the letter in a copy of the project."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.shared import made
from tests.trunkline.integration import hotel
from tests.trunkline.integration.project import run

PAGE = Path("docs/schemas.md")
BLOCK = re.compile(r"^```(?:python|json|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_a_schema_is_changed_as_the_page_says(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    newer, differs, faults, function = BLOCK.findall(PAGE.read_text())
    for folder in ("consumers", "producers", "schemas"):
        shutil.copytree(folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("topology.py", tmp_path)
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=n", "-c", "user.email=n@x", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)
    shutil.copytree(made(tmp_path_factory, "hotel", hotel.build) / ".mypy_cache", tmp_path / ".mypy_cache")
    (tmp_path / "schemas/stock_movement.v2.avsc").write_text(newer)
    assert said(tmp_path, "diff", "stock_movement") == (differs, 0)
    assert said(tmp_path, "check") == (faults, 1)
    (tmp_path / "schemas/stock_movement.py").write_text(function)
    mended = "".join(line for line in faults.splitlines(keepends=True) if ".avsc" not in line).replace("5 f", "4 f")
    assert said(tmp_path, "check") == (mended, 1)


def said(folder: Path, *arguments: str) -> tuple[str, int]:
    done = run(folder, "schema", *arguments)
    return done.stdout, done.code
