"""docs/schemas.md, followed to the letter in a copy of the project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

PAGE = Path("docs/schemas.md")
BLOCK = re.compile(r"^```(?:python|json|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_a_schema_is_changed_as_the_page_says(tmp_path: Path) -> None:
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
    (tmp_path / "schemas/stock_movement.v2.avsc").write_text(newer)
    assert said(tmp_path, "diff", "stock_movement") == (differs, 0)
    assert said(tmp_path, "check") == (faults, 1)
    (tmp_path / "schemas/stock_movement.py").write_text(function)
    mended = "".join(line for line in faults.splitlines(keepends=True) if ".avsc" not in line).replace("5 f", "4 f")
    assert said(tmp_path, "check") == (mended, 1)


def said(folder: Path, *arguments: str) -> tuple[str, int]:
    command = [str(Path(sys.executable).with_name("trunkline")), "schema", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout, done.returncode
