"""The wheel works alone: in an empty environment and an empty folder, with no checkout in reach."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.shared import made

ROOT = Path(__file__).parents[3]

Trunkline = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    [file] = made(tmp_path_factory, "wheel", build).glob("*.whl")
    return file


def build(folder: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.fixture(scope="session")
def trunkline(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in an environment of its own and return its `trunkline` command."""
    return made(tmp_path_factory, "environment", partial(install, wheel)) / "bin" / "trunkline"


def install(wheel: Path, environment: Path) -> None:
    """Make an environment that has the wheel.

    The dependencies are not installed a second time: a .pth file adds the folder that holds them to the path. It only
    appends, so the wheel's folder comes first; and Python reads no .pth files in a folder added so, which leaves out
    the editable install's own .pth and with it the checkout.
    """
    venv.create(environment, symlinks=True)
    python = str(environment / "bin" / "python")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    # pip itself comes through the .pth file; it must not take the checkout's editable install for the same package.
    subprocess.run([*pip, "--ignore-installed", str(wheel)], check=True, cwd=environment)


@pytest.fixture
def run(trunkline: Path, tmp_path: Path) -> Iterator[Trunkline]:
    """Give a function that runs `trunkline` in an empty folder; whatever it started there has ended afterwards."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "TRUNKLINE" not in name}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(trunkline), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)

    yield run
    run("broker", "down")
    assert [file for file in Path("/proc").glob("[0-9]*/cmdline") if os.fsencode(tmp_path) in arguments(file)] == []


def arguments(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"trunkline"}
    assert "trunkline/dev/kafka-pom.xml" in names
    tracked = {str(file.relative_to(ROOT)) for file in (ROOT / "trunkline").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == tracked


def test_it_is_the_wheel_that_is_imported(trunkline: Path) -> None:
    where = [str(trunkline.with_name("python")), "-I", "-c", "import trunkline; print(trunkline.__file__)"]
    shown = subprocess.run(where, capture_output=True, text=True, check=True)
    assert Path(shown.stdout.strip()).is_relative_to(trunkline.parents[1])


def test_the_command_tells_its_version(run: Trunkline, wheel: Path) -> None:
    assert run("--version").stdout == f"trunkline {wheel.name.split('-')[1]}\n"


@pytest.mark.faults(group="main")
def test_a_broker_comes_up_and_goes_down_in_an_empty_folder(run: Trunkline, tmp_path: Path) -> None:
    up = run("broker", "up")
    assert (up.returncode, up.stdout.split(":")[0]) == (0, "up"), up.stderr
    again = run("broker", "up")
    assert (again.returncode, again.stdout.split(":")[0]) == (0, "already up"), again.stderr

    status = json.loads(run("broker", "status", "--json").stdout)
    assert (status["state"], status["kind"]) == ("up", "jvm")
    assert str(status["pid"]) in up.stdout
    assert status["bootstrap"] in up.stdout
    assert (tmp_path / "var" / "broker" / "data").is_dir()

    assert run("broker", "down").returncode == 0
    gone = run("broker", "status", "--json")
    assert (gone.returncode, json.loads(gone.stdout)) == (1, {"state": "down"})
    assert run("broker", "down").returncode == 0
