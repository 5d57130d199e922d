"""The development broker: the configured one, else Docker's, else Apache Kafka on the local JVM.

Everything about it lives in one folder (`var/broker`): `data/`, `server.properties`, `log` and `state.json`. It runs
in a session of its own, so it survives the terminal that started it, and keeps its ports and data over down and up.
"""

import base64
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Literal

from trunkline.errors import Unavailable, UsageError
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.greeting import greet
from trunkline.settings import Settings

VERSION = "4.1.2"
JAVA = 17
POM = Path(__file__).with_name("kafka-pom.xml")
COMPOSE = Path("docker-compose.yml")
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

# Below the ports a kernel lends to clients: a client that keeps calling a stopped broker's port could otherwise be
# lent that very port, connect to itself, and keep the broker from coming back.
PORTS = range(20_000, 32_000)

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "num.partitions": "4",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(8 * 1024 * 1024),
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "broker.heartbeat.interval.ms": "1000",
    "broker.session.timeout.ms": "4000",  # a killed broker is let in again when its last session has timed out
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),  # the default takes 128 MiB of the heap
}

JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that answers. `pid`, `version` and `started` are None for one that Trunkline did not start."""

    kind: Literal["configured", "docker", "jvm"]
    bootstrap: str
    pid: int | None = None
    version: str | None = None
    started: datetime | None = None


def quiet(_line: str) -> None:
    """Say nothing."""


def up(settings: Settings, *, progress: Progress = quiet) -> Running:
    """Return the broker to use, started if need be; it has answered a metadata request.

    A configured bootstrap is only asked; then Docker is tried, then the JVM. `progress` is given a line for a person
    when a choice was made or something takes longer than a second.

    Raises:
        UsageError: Java or Maven is missing and Docker does not answer; the message says what to install.
        Unavailable: the configured broker does not take us, or the local one could not be downloaded or started.
    """
    if settings.kafka.bootstrap and (found := running(settings)):
        return found
    with _locked(_folder(settings) / "lock"):
        if found := running(settings):
            return found
        local = LocalKafka(_folder(settings), progress=progress)
        if local.pid is None and _docker_works():
            if COMPOSE.exists():
                return _compose_up(local.folder, progress)
            progress(f"Docker answers, but there is no {COMPOSE} here: the JVM is used.")
        return local.start()


def down(settings: Settings) -> bool:
    """Stop the broker that `up` started, keeping its data; False when there is none. A configured one is left alone.

    Raises:
        Unavailable: Docker does not stop it.
    """
    folder = _folder(settings)
    if not folder.exists():
        return False
    with _locked(folder / "lock"):
        state = _read(folder)
        if state is None or state.kind != "docker":
            return LocalKafka(folder).stop()
        _compose("stop", "kafka")
        _forget(folder)
        return True


def running(settings: Settings) -> Running | None:
    """Return the broker that answers now; None when there is no local one that does.

    Raises:
        Unavailable: the configured broker does not answer, or does not take us; the message says why.
    """
    if bootstrap := settings.kafka.bootstrap:
        greet(Cluster.of(settings.kafka))
        return Running("configured", bootstrap)
    folder = _folder(settings)
    state = _read(folder)
    if state is None or (state.kind == "jvm" and LocalKafka(folder).pid is None):
        return None
    return state if answers(state.bootstrap) else None


def answers(bootstrap: str, *, seconds: float = 2.0) -> bool:
    """Tell whether one of the addresses answers a metadata request with at least one broker that takes requests."""
    client = b"trunkline"
    no_topics = struct.pack(">hhih9si", 3, 1, 1, len(client), client, 0)  # Metadata, version 1
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        with contextlib.suppress(OSError, struct.error, ValueError):
            with socket.create_connection((host, int(port)), seconds) as connection:
                connection.sendall(struct.pack(">i", len(no_topics)) + no_topics)
                with connection.makefile("rb") as answer:
                    _length, correlation, brokers = struct.unpack(">iii", answer.read(12))
            if correlation == 1 and brokers > 0:
                return True
    return False


class LocalKafka:
    """One Apache Kafka on the JVM, with its data, ports, log and state in one folder.

    Any process may start, stop or kill it through the same folder; brokers in different folders run side by side.
    """

    def __init__(self, folder: Path, *, progress: Progress = quiet) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "log"
        self._progress = progress
        self._mark = f"-Dtrunkline.broker={self.folder}"

    @property
    def pid(self) -> int | None:
        """The broker's process id; None when it does not run, or when its id now belongs to another program."""
        state = _read(self.folder)
        if state is None or state.pid is None:
            return None
        return state.pid if self._mark in _command(state.pid) else None

    def start(self) -> Running:
        """Start the broker and wait until it answers; when it already runs, only wait.

        The ports of the last start are taken again when they are still free.

        Raises:
            UsageError: Java, or Maven for the first download, is missing; the message says what to install.
            Unavailable: the download failed, or the broker stopped or did not answer within a minute.
        """
        if self.pid is None:
            self._spawn()
        state = _read(self.folder)
        assert state is not None  # `_spawn` wrote it and `pid` has read it
        try:
            self._wait(state)
        except BaseException:
            self.kill()
            raise
        return state

    def stop(self, *, seconds: float = 20.0) -> bool:
        """Stop the broker cleanly, killing it when that takes longer than `seconds`; False when it does not run."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            if not self._gone(pid, seconds):
                self.kill()
        _forget(self.folder)
        return pid is not None

    def kill(self) -> bool:
        """Kill the broker with SIGKILL, leaving everything as a crash would; False when it does not run."""
        if (pid := self.pid) is None:
            return False
        os.kill(pid, signal.SIGKILL)
        return self._gone(pid, 20.0)

    def _spawn(self) -> None:
        libs = jars(self._progress)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "server.properties"
        broker, controller = _ports(file)
        file.write_text(properties(broker, controller))
        # Only names relative to the folder: neither the JVM nor Kafka's property files read every path correctly.
        java = ["java", *JVM, self._mark, "-cp", f"{libs}/*"]
        if not (self.folder / "data" / "meta.properties").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", f"--config={file.name}"]
            formatted = _run(*java, *tool, "--ignore-formatted", cwd=self.folder)
            if formatted.returncode != 0:
                raise Unavailable(f"Apache Kafka could not format {self.folder / 'data'}: {_last(formatted.stderr)}")
        # The shell starts the broker and leaves: it is nobody's child, so any process can stop it in the same way.
        detached = '"$@" </dev/null >>log 2>&1 & echo $!'
        spawned = _run("sh", "-c", detached, "sh", *java, "kafka.Kafka", file.name, cwd=self.folder, session=True)
        _write(self.folder, Running("jvm", f"127.0.0.1:{broker}", int(spawned.stdout), VERSION, datetime.now(UTC)))

    def _wait(self, state: Running, seconds: float = 60.0) -> None:
        assert state.pid is not None  # this class writes no other state
        give_up = time.monotonic() + seconds
        while not answers(state.bootstrap):
            if self._gone(state.pid, 0.05):
                raise Unavailable(f"Apache Kafka stopped while starting: {self._fault()}. All of it is in {self.log}.")
            if time.monotonic() > give_up:
                raise Unavailable(
                    f"Apache Kafka did not answer within {seconds:.0f} s and was stopped. See {self.log}."
                )

    def _fault(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return _last("\n".join(line for line in lines if "ERROR" in line or "Exception" in line) or "\n".join(lines))

    def _gone(self, pid: int, seconds: float) -> bool:
        give_up = time.monotonic() + seconds
        while (command := _command(pid)) == [""] or self._mark in command:
            if time.monotonic() > give_up:
                return False
            time.sleep(0.02)
        return True


def properties(broker: int, controller: int) -> str:
    """Return the text of server.properties for these two ports; the data lie in `data`, relative to the folder."""
    addresses = {
        "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "log.dirs": "data",
    }
    return "".join(f"{name}={value}\n" for name, value in (PROPERTIES | addresses).items())


def jars(progress: Progress = quiet) -> Path:
    """Return the folder of Apache Kafka's jars in the user's cache; Maven downloads them the first time.

    Raises:
        UsageError: Java, or Maven when it is needed, is missing; the message says what to install.
        Unavailable: Maven could not download them.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trunkline"
    libs = (cache / f"kafka-{VERSION}").absolute()  # the broker runs in another folder
    _require(maven=not libs.is_dir())
    if libs.is_dir():
        return libs
    with _locked(cache / f"{libs.name}.lock"), tempfile.TemporaryDirectory(dir=cache) as partial:
        if not libs.is_dir():  # another process may have downloaded them while this one waited
            progress(f"Downloading Apache Kafka {VERSION} to {libs}: about 55 MB, once.")
            arguments = ("-DincludeScope=runtime", f"-DoutputDirectory={partial}/libs")
            maven = _run("mvn", "-q", "-B", "-f", str(POM), MAVEN_GOAL, *arguments)
            if maven.returncode != 0:
                fault = next((line for line in maven.stdout.splitlines() if "ERROR" in line), "it says nothing")
                raise Unavailable(f"Maven could not download Apache Kafka {VERSION}: {fault}")
            Path(partial, "libs").rename(libs)
    return libs


def _require(*, maven: bool) -> None:
    found = re.search(r'version "(\d+)', _run("java", "-version").stderr) if shutil.which("java") else None
    wanted, packages = [], []
    if found is None or int(found[1]) < JAVA:
        wanted.append(f"Java {JAVA} or newer ({found[1] if found else 'none'} found)")
        packages.append(f"openjdk-{JAVA}-jre-headless")
    if maven and not shutil.which("mvn"):
        wanted.append("Maven")
        packages.append("maven")
    if wanted:
        raise UsageError(
            f"The local broker needs {' and '.join(wanted)}. Run `apt-get install {' '.join(packages)}`, "
            "or start Docker, or set TRUNKLINE_KAFKA__BOOTSTRAP."
        )


def _docker_works() -> bool:
    return bool(shutil.which("docker")) and all(
        _run("docker", *question).returncode == 0 for question in (["info"], ["compose", "version"])
    )


def _compose(*arguments: str) -> str:
    done = _run("docker", "compose", "--file", str(COMPOSE), *arguments)
    if done.returncode != 0:
        raise Unavailable(f"`docker compose {' '.join(arguments)}` failed: {_last(done.stderr)}")
    return done.stdout.strip()


def _compose_up(folder: Path, progress: Progress) -> Running:
    progress(f"Starting Apache Kafka {VERSION} in Docker; the first time its image is pulled.")
    _compose("up", "--detach", "--wait", "kafka")
    state = Running("docker", _compose("port", "kafka", "29092"), None, VERSION, datetime.now(UTC))
    if not answers(state.bootstrap, seconds=10.0):
        raise Unavailable(f"Docker runs Kafka, but {state.bootstrap} does not answer. See `docker compose logs kafka`.")
    _write(folder, state)
    return state


def _ports(file: Path) -> tuple[int, int]:
    if file.exists() and (listeners := re.search(r"^listeners=.*:(\d+),.*:(\d+)$", file.read_text(), re.MULTILINE)):
        broker, controller = map(int, listeners.groups())
        if _free(broker) and _free(controller):
            return broker, controller
    free = (port for port in SystemRandom().sample(PORTS, len(PORTS)) if _free(port))
    return next(free), next(free)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # Without it, the connections of the last run that the kernel still remembers would count as a use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _command(pid: int) -> list[str]:
    """Return a live process's arguments: none when it has ended, one empty one while it is ending."""
    proc = Path("/proc")
    if not proc.is_dir():
        line = _run("ps", "-ww", "-o", "command=", "-p", str(pid)).stdout
        return line.split()
    try:
        state = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
        return [] if state in "ZX" else os.fsdecode((proc / str(pid) / "cmdline").read_bytes()).split("\0")
    except OSError:
        return []


def _run(*command: str, cwd: Path | None = None, session: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - every command is written in this file
        command,
        cwd=cwd,
        start_new_session=session,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing")


def _folder(settings: Settings) -> Path:
    return settings.state / "broker"


def _read(folder: Path) -> Running | None:
    try:
        state = json.loads((folder / "state.json").read_text())
        return Running(**state | {"started": datetime.fromisoformat(state["started"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(folder: Path, state: Running) -> None:
    partial = folder / "state.json.partial"
    partial.write_text(json.dumps(asdict(state), default=datetime.isoformat) + "\n")
    partial.replace(folder / "state.json")


def _forget(folder: Path) -> None:
    (folder / "state.json").unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
