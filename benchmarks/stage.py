"""What every benchmark beside peers has: a broker, processes with their logs, and contenders that are built first."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from benchmarks.events import Writer
from trunkline.dev.broker import LocalKafka

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
PINNED = ROOT / "benchmarks" / "peers.txt"
PEERS = BUILD / "venv" / "bin" / "python"
START_SECONDS = 60.0


class FailedError(Exception):
    """A contender ended, or delivered nothing."""


class Stage:
    """An empty broker and who writes to it, a context manager; everything lies in build/bench."""

    def __init__(self) -> None:
        self._kafka = LocalKafka(BUILD / "broker")
        self._ours = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start it; one benchmark runs at a time.

        Raises:
            FailedError: another benchmark runs here.
        """
        BUILD.mkdir(parents=True, exist_ok=True)
        lock = self._ours.enter_context((BUILD / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FailedError(f"another benchmark runs in {BUILD}: two would measure each other") from None
        self._kafka.stop()
        shutil.rmtree(BUILD / "broker", ignore_errors=True)
        self.bootstrap = self._kafka.start().bootstrap
        self._ours.callback(self._kafka.stop)
        self.writer = Writer(self.bootstrap)
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()


def log_of(name: str) -> Path:
    """Name the file with what a process said."""
    return BUILD / "logs" / f"{name.replace(' ', '-').replace('/', '-')}.log"


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
