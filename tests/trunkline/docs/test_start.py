"""docs/start.md, followed to the letter in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path("docs/start.md").absolute()
FILE = re.compile(r"^`(\S+)`, [^`]*(?:`[^`\n]+`[^`]*)*?:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_a_project_begins_as_the_page_says(tmp_path: Path) -> None:
    folders = re.findall(r"^\$ ((?:mkdir -p|touch) .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(folders) == 2
    for line in folders:
        subprocess.run(line.split(), cwd=tmp_path, check=True)
    files = FILE.findall(PAGE.read_text())
    assert len(files) == 8
    for name, text in files:
        (tmp_path / name).write_text(text)
    trunkline, python = str(Path(sys.executable).with_name("trunkline")), [sys.executable, "-m"]
    for command, said in (
        ([trunkline, "schema", "types"], "written from 1 schema file"),
        ([trunkline, "check"], "ok: 2 flows, 1 topic, 1 sink"),
        ([trunkline, "walk", "desk"], "PUT $CRM_URL/customers/c7/tickets/T-1"),
        ([*python, "pytest", "-p", "no:cacheprovider", "--rootdir", "."], "2 passed"),
        ([trunkline, "schema", "check"], "ok: nothing proposed"),
    ):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TRUNKLINE"))}
        done = subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False, timeout=120
        )
        assert said in done.stdout + done.stderr, done.stdout + done.stderr
