"""`trunkline demo run` as a person sees it: on a terminal, with a second one beside it, until Ctrl-C."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.shared import locked
from tests.trunkline.integration.short_journey import AFTER, BASKETS
from trunkline.dev.broker import LocalKafka

ROOT = Path(__file__).parents[3]
TRUNKLINE = str(Path(sys.executable).with_name("trunkline"))
SCENARIO = "tests.trunkline.integration.short_journey:scenario"
PATIENCE = 100.0

pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep a broker up, as `trunkline broker up` does, for all demos of this module."""
    state = tmp_path_factory.mktemp("state")
    kafka = LocalKafka(state / "broker")
    kafka.start()
    yield state
    assert kafka.kill(), "the broker was up before the demo, so the demo leaves it up"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, state: Path, *arguments: str) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")},
            "TRUNKLINE_STATE": str(state),
            "TRUNKLINE_LEDGER__PATH": str(state / "ledger.db"),
            "SHIP_WITHIN": "PT10S",
            "COLUMNS": "120",
            "TERM": "xterm",
        }
        self.shown = ""
        ours, theirs = pty.openpty()
        self._screen = ours
        self._process = subprocess.Popen(
            [TRUNKLINE, "--env", "dev.env", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509 - Ctrl-C comes from a controlling terminal, and no thread runs here
        )
        os.close(theirs)

    def wait_for(self, words: str) -> None:
        """Read the screen until it says so."""
        until = time.monotonic() + PATIENCE
        while words not in self.shown:
            assert time.monotonic() < until, self.shown
            assert self._read(), f"it ended without {words!r}: {self.shown}"

    def interrupt(self) -> int:
        """Type Ctrl-C, read the rest and give the exit code."""
        os.write(self._screen, b"\x03")
        while self._read():
            pass
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            while self._read():
                pass
            self._process.wait(PATIENCE)
        os.close(self._screen)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._screen], [], [], PATIENCE)
        try:
            found = os.read(self._screen, 65_536) if ready else b""
        except OSError:  # the other side is closed
            return False
        self.shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found.decode(errors="replace")).replace("\r\n", "\n")
        return bool(found)


def take_terminal() -> None:
    os.close(os.open(os.ttyname(0), os.O_RDWR))


@contextmanager
def terminal(state: Path, *arguments: str) -> Iterator[Terminal]:
    lock = ROOT / "build" / "demo-tests.lock"  # every demo begins at the same ports, so one at a time
    lock.parent.mkdir(exist_ok=True)
    with locked(lock):
        found = Terminal(state, *arguments)
        try:
            yield found
        finally:
            found.close()


def run(line: str, environment: dict[str, str]) -> str:
    """Type a command into a second terminal."""
    done = subprocess.run(line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S602 - as the screen says
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def left_behind(folder: Path) -> list[str]:
    """Find processes that name the folder in their arguments or environment, the broker apart."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if os.fsencode(folder) in command + (process / "environ").read_bytes() and b"kafka.Kafka" not in command:
                found.append(command.replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def interrupted(state: Path, folder: Path) -> None:
    """Run a demo and type Ctrl-C in the middle."""
    with terminal(state, "demo", "run", SCENARIO, "--rate", "1", "--out", str(folder)) as demo:
        demo.wait_for("act one, posted")
        assert demo.interrupt() == 130
    assert left_behind(folder) + left_behind(state) == []


def test_ctrl_c_in_the_middle_stops_what_was_started(state: Path, tmp_path: Path) -> None:
    interrupted(state, tmp_path / "demo")


@pytest.mark.faults(group="main")
@pytest.mark.timeout(300)
def test_both_acts_balance_and_the_bus_stays_up_for_the_commands_on_the_screen(state: Path, tmp_path: Path) -> None:
    """It begins anew on what an interrupted demo has left on the broker."""
    interrupted(state, tmp_path / "interrupted")
    out = tmp_path / "demo"
    arguments = ("--events", str(BASKETS), "--rate", "0", "--out", str(out))
    with terminal(state, "demo", "run", SCENARIO, *arguments) as demo:
        demo.wait_for("until Ctrl-C")
        _, _, screen = demo.shown.partition("Act one: ")
        assert "✗" not in demo.shown
        assert "0 duplicates, 0 lost" in screen

        first: dict[str, Any] = json.loads((out / "report.json").read_text())
        assert first["balanced"] is True
        posted = BASKETS + first["sources"]["carrier"]["received"]
        assert screen.startswith(f"{posted} events\n✓ storefront → shop.sales ")
        assert first["input"]["baskets"] == first["sources"]["storefront"]["received"] == BASKETS
        flow = first["flows"]["shop.sales.with_products"]
        assert flow["read"] == BASKETS == flow["routed"] + flow["filtered"] + flow["unrouted"]
        assert flow["emitted"]["shop.stock-movements"] == first["sinks"]["warehouse"]["delivered"] > BASKETS
        withheld = first["input"]["withheld_parcels"]
        assert first["flows"]["shop.sales.unshipped"]["emitted"] == {"shop.overdue-parcels": withheld}
        assert withheld == BASKETS - first["sources"]["carrier"]["published"] > 0
        assert first["latency_ms"]["p50"] <= first["latency_ms"]["p99"]

        second: dict[str, Any] = json.loads((out / "report-replay.json").read_text())
        assert second["balanced"] is True
        dead = second["replay"]["dead"]
        assert second["replay"] == {
            "sink": "warehouse",
            "dead": dead,
            "delivered": dead,
            "still_dead": 0,
            "calls_elsewhere": {"marketing": 0},
        }
        assert dead > 0
        assert second["sources"]["storefront"]["published"] == BASKETS + AFTER
        assert second["sinks"]["warehouse"]["attempts"] == second["sinks"]["warehouse"]["effects"] + dead

        commands = re.findall(r"^  (\S*trunkline .*?)  ", screen, re.MULTILINE)
        assert [command.split()[3] for command in commands] == ["demo", "send", "dlq"]
        assert "warehouse is broken: stock refuses with 422" in run(commands[0], demo.environment)
        assert "published → shop.sales" in run(commands[1], demo.environment)
        own = commands[0].partition(" demo ")[0]
        waited = time.monotonic() + PATIENCE
        while "This API was told to refuse the request." not in run(commands[2], demo.environment):
            assert time.monotonic() < waited
        assert run(f"{own} demo heal warehouse", demo.environment) == "warehouse is healed.\n"
        assert re.search(r"to warehouse: \d delivered\n", run(f"{own} dlq replay warehouse --run", demo.environment))

        assert demo.interrupt() == 0
    assert left_behind(out) + left_behind(state) == []
