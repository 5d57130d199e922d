"""What `show`, `check` and `schema` print of this repository's topology; golden/ holds it, made by these commands."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from trunkline.cli.main import app

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Command":
    monkeypatch.chdir(ROOT)
    return Command(monkeypatch, capsys)


class Command:
    """Runs `trunkline` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def __call__(self, *arguments: str) -> tuple[object, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["trunkline", *arguments])
        with pytest.raises(SystemExit) as stopped:
            app()
        out, err = self.capsys.readouterr()
        return stopped.value.code, out, err


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ("show", "tree.txt"),
        ("show --mermaid", "chart.mmd"),
        ("show --json", "topology.json"),
        ("schema ls --json", "schemas.json"),
    ],
)
def test_golden(command: Command, arguments: str, file: str) -> None:
    assert command(*arguments.split()) == (0, (GOLDEN / file).read_text(), "")


def test_no_line_of_the_tree_is_cut_off_in_a_narrow_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert command("show")[1] == (GOLDEN / "tree.txt").read_text()


def test_check_counts_what_is_right(command: Command) -> None:
    assert command("check") == (0, "ok: 7 flows, 6 topics, 2 sinks\n", "")
    code, out, err = command("check", "--json")
    assert (code, json.loads(out), err) == (0, {"flows": 7, "topics": 6, "sinks": 2, "faults": [], "warnings": []}, "")


def test_show_in_two_forms_is_wrong_use(command: Command) -> None:
    code, out, err = command("show", "--mermaid", "--json")
    assert (code, out) == (2, "")
    assert err.startswith("trunkline: --mermaid and --json")


def test_schema_ls_names_every_schema_with_its_topic(command: Command) -> None:
    code, out, err = command("schema", "ls")
    assert (code, err) == (0, "")
    assert "stock_movement.v1" in out
    assert "shop.stock-movements" in out


def test_stale_types_are_told_then_written(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.chdir(tmp_path)
    types = tmp_path / "schemas" / "__init__.py"
    code, out, err = command("schema", "types", "--check")
    assert (code, out) == (1, "")
    assert err == "trunkline: schemas/__init__.py is not what the schema files say. Run: trunkline schema types.\n"
    assert not types.exists()
    assert command("schema", "types") == (0, "", "schemas/__init__.py: written from 8 schema files.\n")
    assert types.read_text() == (ROOT / "schemas" / "__init__.py").read_text()
    assert command("schema", "types", "--check") == (0, "", "schemas/__init__.py: up to date with 8 schema files.\n")


def test_without_schema_files_there_is_nothing_to_write(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command("schema", "types")
    assert code == 2
    assert err == "trunkline: there is no schema file in schemas/. Add one: schemas/<name>.v1.avsc.\n"
