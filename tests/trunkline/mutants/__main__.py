"""Plant a defect, run the case that must notice it: `python -m tests.trunkline.mutants [NAME …]` (`make mutants`).

Each patch beside this file is one defect. It begins with the case that is run on a copy of the tree, and the invariants
of which one must be named by its failure: a case that crashes, times out or finds its fault without effect has noticed
nothing. A case that fails without the defect would prove nothing either; `make faults GROUP=deliver` sees to that.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.trunkline.support import say
from trunkline.dev.broker import LocalKafka

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
COPIED = ("trunkline", "tests", "schemas", "producers", "consumers", "topology.py", "pyproject.toml")
PATIENCE = 150.0
"""Seconds that one case may take."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect."""

    name: str
    case: str
    invariants: frozenset[str]
    patch: Path


def read(patch: Path) -> Mutant:
    """Read what a patch says about itself, on lines before the first file."""
    head = dict(re.findall(r"^(Case|Invariant): (.+)$", patch.read_text().partition("\n--- ")[0], re.MULTILINE))
    return Mutant(patch.stem, head["Case"], frozenset(head["Invariant"].split(" or ")), patch)


def plant(mutant: Mutant, tree: Path) -> None:
    """Copy the tree and change it."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    applied = subprocess.run(
        ["git", "apply", "-C1", mutant.patch], cwd=tree, capture_output=True, text=True, check=False
    )
    if applied.returncode:
        sys.exit(f"{mutant.patch.relative_to(ROOT)} does not fit the tree any more: {applied.stderr.strip()}")


def noticed(mutant: Mutant, tree: Path, broker: str) -> tuple[bool, str]:
    """Run the case on the changed tree; say whether the defect was noticed, and what was said."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "--tb=short", mutant.case]
    environment = {**os.environ, "TEST_BOOTSTRAP": broker, "PYTHONDONTWRITEBYTECODE": "1"}
    with (tree / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return False, "it did not end in time"
        output.seek(0)
        text = output.read()
    if code == 0:
        return False, "SURVIVED: the case passed"
    found = re.findall(r"^E +AssertionError: (invariant (\w+):? .*)$", text, re.MULTILINE)
    if code == 1 and found and found[-1][1] in mutant.invariants:
        return True, found[-1][0][:120]
    errors = re.findall(r"^E +(.*)$", text, re.MULTILINE)
    return False, f"failed otherwise: {(errors or text.splitlines() or ['it says nothing'])[-1][:300]}"


@contextmanager
def broker() -> Iterator[str]:
    """Give a broker that all cases share."""
    if given := os.environ.get("TEST_BOOTSTRAP"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="mutants-broker-") as folder:
        kafka = LocalKafka(Path(folder))
        try:
            yield kafka.start().bootstrap
        finally:
            kafka.stop()


def main(names: list[str]) -> int:
    """Run the mutants of these names, or all; the number of those that nobody noticed is the exit code."""
    mutants = [read(patch) for patch in sorted(HERE.glob("*.patch"))]
    if unknown := set(names) - {mutant.name for mutant in mutants}:
        sys.exit(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(one.name for one in mutants)}")
    unnoticed = 0
    with broker() as address:
        for mutant in mutants:
            if names and mutant.name not in names:
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix=f"mutant-{mutant.name}-") as folder:
                plant(mutant, Path(folder))
                caught, said = noticed(mutant, Path(folder), address)
            unnoticed += not caught
            verdict = "noticed" if caught else "NOT NOTICED"
            say(f"{verdict:<12} {mutant.name:<24} {time.monotonic() - began:5.1f} s  {said}")
    say(f"{unnoticed} were not noticed" if unnoticed else "every defect was noticed, by its invariant")
    return min(unnoticed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
