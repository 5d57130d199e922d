"""Wrong topologies, each with exactly what `trunkline check` says of it."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trunkline.cli.main import app

ROOT = Path(__file__).parents[2]
WRONG = sorted(path.parent for path in (Path(__file__).parent / "wrong").glob("*/topology.py"))
PROJECT = ("topology", "schemas", "helpers", "producers", "consumers")


def forget() -> dict[str, object]:
    """Take the project's modules out of the interpreter: each folder has its own."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in PROJECT]
    return {name: sys.modules.pop(name) for name in loaded}


@pytest.fixture
def folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path: Path = request.param
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = forget()
    importlib.invalidate_caches()
    yield path
    forget()
    sys.modules.update(before)  # type: ignore[arg-type]  # what was taken out


@pytest.mark.parametrize("folder", WRONG, ids=lambda path: path.name, indirect=True)
def test_every_fault_is_named_with_its_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trunkline", "check"])
    with pytest.raises(SystemExit) as stopped:
        app()
    said = capsys.readouterr()
    assert said.err == (folder / "expected.txt").read_text()
    assert said.out == ""
    assert stopped.value.code == 2
    assert "hush" not in said.err


@pytest.mark.parametrize("name", ["03_five_faults", "20_does_not_load"])
def test_the_command_says_the_same(name: str) -> None:
    folder = Path(__file__).parent / "wrong" / name
    done = subprocess.run(
        [sys.executable, "-B", "-c", "from trunkline.cli.main import app; app()", "check"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", (folder / "expected.txt").read_text(), 2)


def test_there_are_enough_of_them() -> None:
    assert len(WRONG) >= 20
    assert "5 faults" in (Path(__file__).parent / "wrong" / "03_five_faults" / "expected.txt").read_text()
