"""A git revision of the project, beside the working tree: its files in a folder of their own, walked in a process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from trunkline.errors import UsageError

SEED = {"PYTHONHASHSEED": "0"}
"""Two versions that go through a set do so in the same order."""


@dataclass(frozen=True)
class Revision:
    """A commit, and where its files of this project are."""

    commit: str
    title: str
    folder: Path


@contextmanager
def checked_out(name: str) -> Iterator[Revision]:
    """Write out the files of a revision below a temporary folder; repository, index and working tree stay as they are.

    Raises:
        UsageError: this is no git repository, has no such revision, or git cannot be run.
    """
    prefix = git("rev-parse", "--show-prefix").rstrip("\n")
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", wrong=name).strip()
    title = git("log", "-1", "--format=%h %s", commit).strip()
    with TemporaryDirectory(prefix="trunkline-walk-") as place:
        index, tree = {"GIT_INDEX_FILE": f"{place}/index"}, Path(place) / "tree"
        git("read-tree", f"{commit}:{prefix}", more=index)
        tree.mkdir()
        # With an index of our own and a work tree elsewhere nothing of the repository is written to.
        top = git("rev-parse", "--absolute-git-dir").strip()
        git(f"--git-dir={top}", f"--work-tree={tree}", "checkout-index", "--all", "--force", more=index, at=tree)
        yield Revision(commit, title, tree)


def git(
    *arguments: str,
    wrong: str = "",
    more: dict[str, str] | None = None,
    at: Path | None = None,
    option: str = "--diff",
) -> str:
    """Run git, and give what it says; `option` is what messages call the comparison.

    Raises:
        UsageError: it cannot.
    """
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and a revision is never taken for an option
            ["git", *arguments],  # noqa: S607 - the one on the path, as a person would run it
            capture_output=True,
            text=True,
            check=False,
            cwd=at,
            env={**os.environ, **(more or {})},
        )
    except OSError as error:
        raise UsageError(f"git cannot be run: {error.strerror}.") from None
    if done.returncode:
        said = f"there is no revision {wrong} here" if wrong else " ".join(done.stderr.split()) or "git failed"
        raise UsageError(f"{option} compares with a git revision, and {said}.")
    return done.stdout


class Beside:
    """A version of the project that is being walked in a process of its own; a context manager."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self._place = TemporaryDirectory(prefix="trunkline-walk-")
        task, self._result = Path(self._place.name) / "job.json", Path(self._place.name) / "result.json"
        task.write_text(json.dumps(job))
        command: list[str | Path] = [sys.executable, "-P", "-m", "trunkline.cli.beside", task, self._result, Path.cwd()]
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            cwd=folder,
            env={**os.environ, **SEED},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()
        self._place.cleanup()

    def result(self, name: str) -> dict[str, Any]:
        """Wait for what came of it; `name` is what messages call this version.

        Raises:
            UsageError: its files cannot be loaded.
        """
        _, said = self._process.communicate()
        if self._process.returncode or not self._result.exists():
            last = said.strip().splitlines()[-1:] or [f"exit code {self._process.returncode}"]
            raise UsageError(f"{name} cannot be walked: {last[0]}")
        found: dict[str, Any] = json.loads(self._result.read_text())
        if "failure" in found:
            raise UsageError(f"{name} cannot be walked: {found['failure']}")
        return found
