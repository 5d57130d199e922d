"""The broker, the target and the contenders as processes, and one run of one contender."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import httpx

from benchmarks.events import Writer
from benchmarks.target import Plan, Report
from trunkline.dev.broker import LocalKafka

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
SCHEMA = ROOT / "benchmarks" / "schemas" / "sale_recorded.v1.avsc"
PINNED = ROOT / "benchmarks" / "peers.txt"
PEERS = BUILD / "venv" / "bin" / "python"
START_SECONDS = 60.0
REST_SECONDS = 15.0
"""How long what has not come when the window closes may take before it is lost, if it can come in that time at all."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who delivers: how its process is started and what order it promises per key."""

    name: str
    command: tuple[str, ...]
    order: str
    concurrency: int = 256
    note: str = ""


class FailedError(Exception):
    """A contender ended, or delivered nothing."""


class Stage:
    """Broker and target, a context manager; everything lies in build/bench."""

    def __init__(self) -> None:
        self._kafka = LocalKafka(BUILD / "broker")
        self._ours = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start both.

        Raises:
            FailedError: another benchmark runs here.
        """
        self.bootstrap = begun(self._kafka, self._ours)
        self.writer = Writer(self.bootstrap)
        target = self._ours.enter_context(started([sys.executable, "-m", "benchmarks.target"], {}, "target"))
        assert target.stdout is not None
        self.url = target.stdout.readline().decode().strip()
        self._http = self._ours.enter_context(httpx.Client(base_url=self.url, timeout=60, trust_env=False))
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()

    def run(self, contender: Contender, topic: str, paced: "Paced | None" = None, **plan: Any) -> Report:
        """Let a contender deliver a topic, from its beginning and in a new group, and give what the target saw.

        Raises:
            FailedError: its process ended, or nothing came.
        """
        group = f"bench-{uuid.uuid4().hex[:8]}"
        ledger = BUILD / f"{group}.db"
        environment = {
            "BOOTSTRAP": self.bootstrap,
            "TOPIC": topic,
            "GROUP": group,
            "TARGET_URL": self.url,
            "SCHEMA": str(SCHEMA),
            "CONCURRENCY": str(contender.concurrency),
            "LEDGER": str(ledger),
        }
        try:
            with started(contender.command, environment, contender.name) as process:
                broker = self._kafka.pid
                assert broker is not None
                asked = Plan(pid=process.pid, broker=broker, sender=os.getpid(), **plan)
                self.begin(asked)
                if paced is not None:
                    paced.begin(self.writer, topic, lambda: self.report().effects)
                return self._wait(contender, process, asked)
        finally:
            self.writer.drop(group)
            for file in BUILD.glob(f"{ledger.name}*"):
                file.unlink()

    def plan(self, pid: int, events: int, seconds: float) -> Plan:
        """Give the plan of a run whose every event is timed, in a window of so many seconds."""
        broker = self._kafka.pid
        assert broker is not None
        every: Any = {"events": events, "others": events, "latency_ms": 0.0, "timed": True, "window_s": seconds}
        return Plan(pid=pid, broker=broker, sender=os.getpid(), **every)

    def begin(self, plan: Plan) -> None:
        """Let the target count anew."""
        self._http.post("/run", json=asdict(plan)).raise_for_status()

    def report(self) -> Report:
        """Ask the target what it has seen."""
        return Report(**self._http.get("/report").json())

    def _wait(self, contender: Contender, process: "subprocess.Popen[bytes]", plan: Plan) -> Report:
        until = time.monotonic() + START_SECONDS + plan.window_s
        rest = 0.0
        while True:
            report = self.report()
            if process.poll() is not None:
                raise FailedError(f"{contender.name} ended with {process.returncode}; see {log_of(contender.name)}")
            if report.over and not report.window_effects:
                raise FailedError(f"{contender.name} stood still; see {log_of(contender.name)}")
            if report.whole:
                time.sleep(0.3)  # for copies that may still come
                return replace(self.report(), ended=True)
            if report.over:
                if not rest and (plan.slow_ms or report.lost * report.window_s > REST_SECONDS * report.window_effects):
                    return report
                rest = rest or time.monotonic() + 2 * REST_SECONDS
                if time.monotonic() > rest:
                    return replace(report, ended=True)
            elif time.monotonic() > until:
                raise FailedError(f"{contender.name} delivered {report.effects} events; see {log_of(contender.name)}")
            time.sleep(0.1)


class Paced:
    """Writes a topic at a steady rate while a contender reads it; a few events come first, so that it has begun."""

    FIRST = 200

    def __init__(self, events: int, per_second: float) -> None:
        self.events = events
        self._per_second = per_second

    def begin(self, writer: Writer, topic: str, effects: Any) -> None:
        """Write the first few, wait until they are delivered, and let a thread write the others."""
        writer.pace(topic, 0, self.FIRST, self._per_second)
        until = time.monotonic() + START_SECONDS
        while effects() < self.FIRST:
            if time.monotonic() > until:
                raise FailedError(f"the first events of {topic} were not delivered")
            time.sleep(0.1)
        rest = (topic, self.FIRST, self.events - self.FIRST, self._per_second)
        threading.Thread(target=writer.pace, args=rest, daemon=True).start()


def log_of(name: str) -> Path:
    """Name the file with what a process said."""
    return BUILD / "logs" / f"{name.replace(' ', '-').replace('/', '-')}.log"


def begun(kafka: LocalKafka, ours: contextlib.ExitStack) -> str:
    """Start an empty broker that `ours` stops, and give its address; one benchmark runs at a time.

    Raises:
        FailedError: another benchmark runs here.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    lock = ours.enter_context((BUILD / "lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise FailedError(f"another benchmark runs in {BUILD}: two would measure each other") from None
    kafka.stop()
    shutil.rmtree(BUILD / "broker", ignore_errors=True)
    bootstrap = kafka.start().bootstrap
    ours.callback(kafka.stop)
    return bootstrap


@contextlib.contextmanager
def started(command: Sequence[str], environment: Mapping[str, str], name: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a process from the root of the project, with its words in its log; end it at the end."""
    log_of(name).parent.mkdir(parents=True, exist_ok=True)
    with log_of(name).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - every command is written in this package
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def build_peers() -> None:
    """Install the contenders in Python that Trunkline does not depend on, in an environment of their own.

    Raises:
        FailedError: pip says no.
    """
    ready = BUILD / "venv" / "ready"
    if ready.exists() and ready.read_text() == PINNED.read_text():
        return
    pip = [str(PEERS), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(PINNED)]
    for command in ([sys.executable, "-m", "venv", "--clear", str(BUILD / "venv")], pip):
        if subprocess.run(command, check=False).returncode != 0:  # noqa: S603 - as above
            raise FailedError(f"the contenders of {PINNED} could not be installed")
    ready.write_text(PINNED.read_text())


def build_java(name: str) -> None:
    """Build a contender in Java, when its sources are newer than what is built.

    Raises:
        FailedError: Maven is missing or says no.
    """
    project = ROOT / "benchmarks" / "java" / name
    out = BUILD / "java" / name
    built = out / f"{name}-1.jar"
    sources = (path for folder in (project, project.parent / "common") for path in folder.rglob("*"))
    newest = max(path.stat().st_mtime for path in sources if path.is_file())
    if built.exists() and built.stat().st_mtime > newest:
        return
    if (maven := shutil.which("mvn")) is None:
        raise FailedError("the contenders in Java need Maven: apt-get install maven")
    command = [maven, "-q", "-B", "-f", str(project / "pom.xml"), "package", f"-Dout={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - as above
    if done.returncode != 0:
        why = next((line for line in done.stdout.splitlines() if "ERROR" in line), "it says nothing")
        raise FailedError(f"Maven could not build {name}: {why}")
