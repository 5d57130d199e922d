"""`trunkline run` as operators meet it: processes that are killed, told to end, stuck, and asked how they are."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.shared import free_port
from tests.trunkline.support import ROOT, Stage, deliver_bus, note, process_bus, wait_for, whole_bus
from trunkline.dev.target.behaviour import Behaviour
from trunkline.flow.declare import Bus, group_of
from trunkline.kafka.control import Control

pytestmark = pytest.mark.faults(group="main")

TRUNKLINE = str(Path(sys.executable).with_name("trunkline"))


class Run:
    """A supervisor and its workers; all are gone at the end, whatever happens."""

    def __init__(self, stage: Stage, command: list[str], folder: Path, settings: Mapping[str, str]) -> None:
        self._log = stage.folder / "run.log"
        environment = {
            **os.environ,
            **stage.environment,
            "PYTHONPATH": str(ROOT),
            "TRUNKLINE_KAFKA__BOOTSTRAP": stage.bootstrap,
            "TRUNKLINE_LEDGER__PATH": str(stage.ledger),
            **settings,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def workers(self) -> list[int]:
        """Give the processes that it supervises now."""
        with contextlib.suppress(FileNotFoundError):
            pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return sorted(map(int, pids))
        return []

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


@contextmanager
def running(stage: Stage, command: list[str], folder: Path, **settings: str) -> Iterator[Run]:
    run = Run(stage, command, folder, settings)
    try:
        yield run
    finally:
        for pid in run.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.process.kill()
        run.process.wait()


@contextmanager
def project(stage: Stage, port: int, **settings: str) -> Iterator[Run]:
    """Run the whole bus of the support module as a project does."""
    (stage.folder / "topology.py").write_text(
        f"from tests.trunkline.support import whole_bus\n\nbus = whole_bus({stage.prefix!r})\n"
    )
    with running(stage, [TRUNKLINE, "run"], stage.folder, TRUNKLINE_GATEWAY__PORT=str(port), **settings) as run:
        yield run


@pytest.fixture
def port() -> int:
    """Give a port that is free, and so are the two that come ten above it."""
    while True:
        with contextlib.suppress(OSError):
            return free(free_port())


def free(first: int) -> int:
    for number in (first, first + 10, first + 11):
        with socket.create_server(("127.0.0.1", number)):
            pass
    return first


def ask(port: int, path: str) -> httpx.Response | None:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20, trust_env=False)
    return None


def ready(port: int) -> bool:
    answer = ask(port, "/readyz")
    return answer is not None and answer.status_code == 200


def finished(stage: Stage, bus: Bus) -> bool:
    [flow] = [*bus.processing, *bus.delivering]
    return stage.committed(bus, flow) == stage.ends(bus.topics[0].name)


def test_a_worker_that_is_killed_is_started_again_and_the_port_stays(stage: Stage, port: int) -> None:
    bus = stage.make(whole_bus(stage.prefix))
    with project(stage, port) as run:
        wait_for(lambda: ready(port), why=lambda: run.said)
        [first] = run.workers()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: run.workers() not in ([], [first]), why=lambda: run.said)
        assert "worker 0 has ended: killed by SIGKILL; it starts again in" in run.said
        stage.write(bus, [note(number) for number in range(3)])
        wait_for(lambda: len(stage.effects()) == 3, seconds=60, why=lambda: run.said)
        assert run.end() == 0
    assert stage.effects() == {f"/a/{number}": 1 for number in range(3)}
    assert ask(port, "/healthz") is None


def test_several_workers_share_the_port_and_each_has_figures_of_its_own(stage: Stage, port: int) -> None:
    bus = stage.make(whole_bus(stage.prefix))
    with project(stage, port, TRUNKLINE_WORKER__PROCESSES="2") as run:
        wait_for(lambda: all(ready(port + 10 + number) for number in range(2)), seconds=60, why=lambda: run.said)
        assert ready(port)
        assert len(run.workers()) == 2
        refused = ask(port, "/metrics")
        assert refused is not None
        assert refused.status_code == 421
        assert re.search(rf"are on port ({port + 10}|{port + 11}),", refused.json()["detail"])
        for number in range(2):
            figures = ask(port + 10 + number, "/metrics")
            assert figures is not None
            assert "trunkline_sink_events_total" in figures.text
        members = [group_of(bus, flow) for flow in (*bus.processing, *bus.delivering)]
        with Control(stage.cluster) as control:
            assert {len(control.members(group)) for group in members} == {2}
        assert run.end() == 0, run.said


def test_what_is_missing_is_said_once_and_ends_the_run(stage: Stage, port: int) -> None:
    stage.make(whole_bus(stage.prefix))
    several = {"TRUNKLINE_WORKER__PROCESSES": "3"}
    stage.environment.pop("DESK_SECRET")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DESK_SECRET")
        with project(stage, port, **several) as run:
            assert run.process.wait(60) == 2
            assert run.said.splitlines() == [
                "trunkline: DESK_SECRET is not set. Set it, or DESK_SECRET_FILE, or pass --env FILE (dev.env has one)."
            ]
    with project(stage, port, TRUNKLINE_WORKER__PROCESSES="0") as run:
        assert run.process.wait(60) == 2
        assert run.said.startswith("trunkline: TRUNKLINE_WORKER__PROCESSES is '0':")


def test_a_port_that_is_taken_is_wrong_use(stage: Stage, port: int) -> None:
    stage.make(whole_bus(stage.prefix))
    with project(stage, port) as first:
        wait_for(lambda: ready(port), why=lambda: first.said)
        with project(stage, port) as second:
            assert second.process.wait(60) == 2
            assert f"port {port} of 127.0.0.1 cannot be taken" in second.said
        assert ready(port)


def test_a_worker_says_why_it_is_not_ready_from_its_start_to_its_end(stage: Stage, port: int) -> None:
    bus = stage.make(whole_bus(stage.prefix, partitions=3))
    seen: dict[str, int] = {}

    def look() -> bool:
        answer = ask(port, "/readyz")
        if answer is None:
            return False
        if answer.status_code == 503:
            assert answer.headers["content-type"] == "application/problem+json"
            seen[answer.json()["detail"].partition(":")[0].partition(";")[0]] = 503
        return answer.status_code == 200

    with project(stage, port) as run:
        wait_for(look, why=lambda: run.said)
        assert "The worker starts" in seen
        stage.target.control.break_(Behaviour(name=stage.prefix, latency_ms=8_000))
        stage.write(bus, [note(1)])
        wait_for(lambda: stage.in_flight() == 1, why=lambda: run.said)
        run.process.terminate()
        wait_for(lambda: not look() and "The worker drains" in seen, why=lambda: (seen, run.said))
        alive = ask(port, "/healthz")
        refused = httpx.post(f"http://127.0.0.1:{port}/in/desk", content=b"{}", timeout=20, trust_env=False)
        assert alive is not None
        assert alive.status_code == 200
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert run.process.wait(60) == 0
    assert stage.effects() == {"/a/1": 1}


def test_a_sink_that_has_halted_is_named_and_the_worker_stays_ready(stage: Stage, port: int) -> None:
    bus = stage.make(whole_bus(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=401))
    with project(stage, port) as run:
        wait_for(lambda: ready(port), why=lambda: run.said)
        stage.write(bus, [note(1)])

        def stopped() -> dict[str, str]:
            answer = ask(port, "/readyz")
            assert answer is not None
            assert answer.status_code == 200
            found: dict[str, str] = answer.json()["stopped"]
            return found

        wait_for(stopped, why=lambda: run.said)
        [flow] = bus.delivering
        assert list(stopped()) == [flow]
        assert "When that is mended: `trunkline sink resume shelf`" in stopped()[flow]
        stage.write(bus, [note(2)])
        [step] = bus.processing
        wait_for(lambda: stage.committed(bus, step) == stage.ends(bus.topics[0].name))
        assert run.end() == 0


def test_no_worker_outlives_a_supervisor_that_was_killed(stage: Stage, port: int) -> None:
    stage.make(whole_bus(stage.prefix))
    with project(stage, port) as run:
        wait_for(lambda: ready(port), why=lambda: run.said)
        run.process.kill()
        wait_for(lambda: ask(port, "/healthz") is None)


@pytest.mark.parametrize(
    ("bus", "moment", "thread", "stands"),
    [("deliver_bus", "answered", "MainThread", "the loop"), ("process_bus", "stuck", "", "the thread that polls for")],
)
def test_what_stands_still_is_ended_by_the_watchdog_and_begins_again(
    stage: Stage, bus: str, moment: str, thread: str, stands: str
) -> None:
    made = stage.make({"deliver_bus": deliver_bus, "process_bus": process_bus}[bus](stage.prefix))
    once = stage.folder / "once"
    stage.write(made, [note(1, text="" if thread else f"wait:{once}")])
    asked = {
        "bus": bus,
        "moment": moment,
        "once": str(once),
        "prefix": stage.prefix,
        "bootstrap": stage.bootstrap,
        "ledger": str(stage.ledger),
        "silent": 6.0,
    }
    with running(stage, [sys.executable, "-m", "tests.trunkline.stuck", json.dumps(asked)], ROOT) as run:
        wait_for(lambda: finished(stage, made), seconds=90, why=lambda: run.said)
        assert "worker 0 has ended: its watchdog ended it, exit code 70; it starts again in" in run.said
        assert run.end() == 0
    [flow] = [*made.processing, *made.delivering]
    assert once.read_text() == (thread or flow)
    [last] = [json.loads(line) for line in run.said.splitlines() if '"watchdog"' in line]
    assert last["why"].startswith(stands)
    assert last["exit_code"] == 70
    assert any("stuck.py" in frame for frame in last["threads"])
    assert flow in last["flows"]


def test_a_worker_that_was_stopped_for_longer_than_the_watchdog_waits_goes_on(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    asked = {
        "bus": "deliver_bus",
        "moment": "",
        "once": str(stage.folder / "once"),
        "prefix": stage.prefix,
        "bootstrap": stage.bootstrap,
        "ledger": str(stage.ledger),
        "silent": 6.0,
    }
    with running(stage, [sys.executable, "-m", "tests.trunkline.stuck", json.dumps(asked)], ROOT) as run:
        stage.write(bus, [note(1)])
        wait_for(lambda: finished(stage, bus), why=lambda: run.said)
        [worker] = run.workers()
        os.kill(worker, signal.SIGSTOP)
        time.sleep(9)  # that time passes is what is tested
        os.kill(worker, signal.SIGCONT)
        stage.write(bus, [note(2)])
        wait_for(lambda: finished(stage, bus), seconds=60, why=lambda: run.said)
        assert run.workers() == [worker], run.said
        assert run.end() == 0
