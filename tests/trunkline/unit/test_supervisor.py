"""Restarts, drains and ends, on small processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.trunkline.support import wait_for
from trunkline.cli.supervisor import again, backoff, why

ROOT = Path(__file__).parents[3]

SUPERVISE = """
import asyncio, sys
from trunkline.cli import supervisor
supervisor.FIRST = 0.2
command = [sys.executable, "-c", sys.argv[2]]
children = [supervisor.Process(f"worker {n}", command, {"NUMBER": str(n)}) for n in range(int(sys.argv[1]))]
def say(line):
    print(line, flush=True)
sys.exit(asyncio.run(supervisor.supervise(children, say, chance=lambda: 0.0)))
"""

CHILD = """
import contextlib, os, pathlib, signal, sys, threading
here = pathlib.Path(os.environ["HERE"])
number = os.environ["NUMBER"]
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
def leave():
    with contextlib.suppress(ConnectionResetError):
        os.read(0, 1)
    (here / f"alone-{number}").touch()
    os._exit(0)
threading.Thread(target=leave, daemon=True).start()
(here / f"{number}-{os.getpid()}").touch()
def up():
    with contextlib.suppress(BrokenPipeError):
        os.write(0, b".")
def until_told():
    while not stop.wait(0.05):
        pass
"""


class Supervised:
    def __init__(self, here: Path, count: int, body: str) -> None:
        self._here = here
        self._out = here / "out.txt"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISE, str(count), CHILD + body],
                cwd=ROOT,
                env={**os.environ, "HERE": str(here)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._out.read_text()

    def pids(self, number: int = 0) -> list[int]:
        """Give every process that ran in a slot, whether or not it still does."""
        return [int(path.name.partition("-")[2]) for path in self._here.glob(f"{number}-*")]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@contextmanager
def supervised(here: Path, body: str, count: int = 1) -> Iterator[Supervised]:
    found = Supervised(here, count, body)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        for number in range(count):
            for pid in found.pids(number):
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)


def test_waits_grow_to_half_a_minute_and_chance_takes_off_a_quarter_at_most() -> None:
    assert [backoff(row, 0.0) for row in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff(10**6, 0.0) == 30
    assert backoff(1, 1.0) == 0.75
    assert backoff(7, 0.5) == 30 * 0.875


def test_a_minute_of_life_begins_the_row_anew() -> None:
    assert again(0, 0.1) == 1
    assert again(5, 59.9) == 6
    assert again(5, 60.0) == 1


@pytest.mark.parametrize(
    ("code", "told"),
    [(1, "exit code 1"), (0, "exit code 0"), (-9, "killed by SIGKILL"), (70, "its watchdog ended it, exit code 70")],
)
def test_why_a_process_ended(code: int, told: str) -> None:
    assert why(code) == told


def test_one_that_ends_is_started_again_and_the_line_says_why(tmp_path: Path) -> None:
    with supervised(tmp_path, "up(); until_told()") as run:
        wait_for(lambda: len(run.pids()) == 1, why=lambda: run.said)
        [first] = run.pids()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(run.pids()) == 2, why=lambda: run.said)
        assert run.said == "worker 0 has ended: killed by SIGKILL; it starts again in 0.2 s.\n"
        assert run.end() == 0
        assert not any(map(alive, run.pids()))


def test_one_that_ends_well_without_being_told_is_started_again_too(tmp_path: Path) -> None:
    with supervised(tmp_path, "up(); sys.exit(0)") as run:
        wait_for(lambda: len(run.pids()) == 3, why=lambda: run.said)
        assert run.said.startswith(
            "worker 0 has ended: exit code 0; it starts again in 0.2 s.\n"
            "worker 0 has ended: exit code 0; it starts again in 0.4 s.\n"
        )
        run.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_signal_is_passed_on_and_all_drain(tmp_path: Path, number: signal.Signals) -> None:
    body = "up(); until_told(); (here / f'drained-{number}').touch(); sys.exit(0)"
    with supervised(tmp_path, body, count=3) as run:
        wait_for(lambda: all(run.pids(number) for number in range(3)), why=lambda: run.said)
        assert run.end(number) == 0
        assert len(list(tmp_path.glob("drained-*"))) == 3
        assert run.said == ""


def test_ctrl_c_on_a_terminal_reaches_the_processes_once(tmp_path: Path) -> None:
    with supervised(tmp_path, "up(); until_told(); sys.exit(0)", count=2) as run:
        wait_for(lambda: run.pids(1), why=lambda: run.said)
        os.killpg(run.process.pid, signal.SIGINT)  # what a terminal does
        assert run.process.wait(60) == 0, run.said


def test_one_that_had_not_drained_shows_in_the_exit_code(tmp_path: Path) -> None:
    with supervised(tmp_path, "up(); until_told(); sys.exit(int(number == '1'))", count=2) as run:
        wait_for(lambda: run.pids(1), why=lambda: run.said)
        assert run.end() == 1


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    body = "up(); until_told(); (here / f'told-{number}').touch(); threading.Event().wait()"
    with supervised(tmp_path, body, count=2) as run:
        wait_for(lambda: run.pids(1), why=lambda: run.said)
        run.process.send_signal(signal.SIGTERM)
        wait_for(lambda: len(list(tmp_path.glob("told-*"))) == 2, why=lambda: run.said)
        run.process.send_signal(signal.SIGHUP)  # a terminal that closes is no second order
        assert run.end() == 1
        assert not any(map(alive, [*run.pids(0), *run.pids(1)]))


def test_wrong_use_ends_the_whole_run_with_its_own_line(tmp_path: Path) -> None:
    with supervised(tmp_path, "print('trunkline: no.', flush=True); sys.exit(2)", count=3) as run:
        assert run.process.wait(60) == 2
        assert run.said == "trunkline: no.\n"
        assert (len(run.pids(0)), run.pids(1), run.pids(2)) == (1, [], [])


def test_wrong_use_after_it_had_run_is_only_another_end(tmp_path: Path) -> None:
    with supervised(tmp_path, "up(); sys.exit(2)") as run:
        wait_for(lambda: len(run.pids()) == 2, why=lambda: run.said)
        assert "exit code 2; it starts again" in run.said
        run.end()


def test_the_others_start_when_the_first_one_runs(tmp_path: Path) -> None:
    body = """
if number == '0':
    go = here / 'go'
    while not go.exists() and not stop.wait(0.02):
        pass
up(); until_told()
"""
    with supervised(tmp_path, body, count=2) as run:
        wait_for(lambda: run.pids(0), why=lambda: run.said)
        [first] = run.pids(0)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(run.pids(0)) == 2, why=lambda: run.said)
        assert run.pids(1) == []
        (tmp_path / "go").touch()
        wait_for(lambda: run.pids(1), why=lambda: run.said)
        assert run.end() == 0


def test_a_signal_while_one_waits_to_be_started_ends_the_run(tmp_path: Path) -> None:
    with supervised(tmp_path, "up(); sys.exit(1)") as run:
        wait_for(lambda: len(run.pids()) >= 3, why=lambda: run.said)
        began = time.monotonic()
        assert run.end() in (0, 1)
        assert time.monotonic() - began < 20


def test_none_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, "up(); until_told()", count=2) as run:
        wait_for(lambda: run.pids(1), why=lambda: run.said)
        run.process.kill()
        wait_for(lambda: not any(map(alive, [*run.pids(0), *run.pids(1)])))
        assert len(list(tmp_path.glob("alone-*"))) == 2
