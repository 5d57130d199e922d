"""The worked example of CONTRIBUTING.md, followed to the letter in a copy of the project."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.trunkline.walk.desk import commit, git

BLOCK = re.compile(r"^( *)```(?:python|json|text)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
IMPORTS = """
from consumers.sinks.loyalty import Loyalty
from consumers.steps.points import points_earned
from schemas import PointsEarnedV1
"""


def test_a_sink_is_added_as_the_page_says(tmp_path: Path) -> None:
    page = Path("CONTRIBUTING.md").read_text()
    blocks = [textwrap.dedent(body) for _, body in BLOCK.findall(page)]
    schema, steps, sink, lines, walk_test = blocks
    for folder in ("consumers", "producers", "schemas"):
        shutil.copytree(folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy("topology.py", tmp_path)
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, "Before")
    (tmp_path / "schemas/points_earned.v1.avsc").write_text(schema)
    (tmp_path / "consumers/steps/points.py").write_text(steps)
    (tmp_path / "consumers/sinks/loyalty.py").write_text(sink)
    (tmp_path / "tests/consumers").mkdir(parents=True)
    (tmp_path / "tests/consumers/test_loyalty.py").write_text(walk_test)
    (tmp_path / "topology.py").write_text(changed(Path("topology.py").read_text(), lines))

    types = trunkline(tmp_path, "schema", "types")
    assert types.returncode == 0, types.stderr
    checked = trunkline(tmp_path, "check")
    assert (checked.returncode, checked.stdout) == (0, "ok: 8 flows, 7 topics, 3 sinks\n"), checked.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "--rootdir", str(tmp_path)]
    told = trunkline(tmp_path, "walk", "--diff", "HEAD")
    [recorded] = re.findall(r"```console\n\$ trunkline walk --diff HEAD\n(.*?)```\n", page, re.DOTALL)
    assert (told.returncode, told.stdout.partition("\n\n")[2]) == (1, recorded), told.stderr
    tested = subprocess.run([*command, "-o", "pythonpath=."], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in tested.stdout, tested.stdout + tested.stderr


def changed(topology: str, lines: str) -> str:
    """Put the page's lines where it says."""
    declared, rest = lines.split("\n\n# in the Process of sales\n")
    route, flow = rest.split("\n\n# at the end of the flows\n")
    before = re.search(r"to=\{movements.*\},", topology)
    assert before is not None
    topology = topology.replace(before[0], route.strip())
    topology = topology.replace("PATIENT = ", f"{declared}\n\nPATIENT = ")
    topology = topology.replace("    ],\n)\n", f"        {flow.strip()}\n    ],\n)\n")
    return topology.replace("from consumers.sinks.marketing", f"{IMPORTS}from consumers.sinks.marketing", 1)


def trunkline(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("trunkline")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
