"""The worker, and what it and other commands are started with."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from trunkline.errors import Unavailable
from trunkline.flow.declare import Bus, group_of, identity_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.topics import reading
from trunkline.settings import Settings

INHERITED = {"kafka": {"registry", "ca", "certificate", "key", "password"}}
"""Settings that no file of variables may hold: they are secret, or of many lines."""
STARTING = 90.0
STOPPING = 40.0
"""A little more than a worker's drain takes."""


def command(*arguments: str) -> list[str]:
    """Give a `trunkline` command as its own process runs it."""
    return [shutil.which("trunkline", path=str(Path(sys.executable).parent)) or sys.argv[0], *arguments]


@contextlib.contextmanager
def working(environment: Mapping[str, str], gateway: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run every flow in a process of its own; it is ready when this begins, and has drained when it ends.

    Raises:
        Unavailable: it ended, or was not ready in time; its log says why.
    """
    with log.open("wb") as file:
        # A session of its own: Ctrl-C is the demo's, which then stops everything in order.
        worker = subprocess.Popen(  # noqa: S603 - ourselves
            command("run"), stdout=file, stderr=file, env={**inherited(), **environment}, start_new_session=True
        )
    try:
        until = time.monotonic() + STARTING
        while not (f"port {gateway};" in log.read_text(errors="replace") and ready(gateway)):
            alive(worker, gateway, log)
            if time.monotonic() > until:
                raise Unavailable(f"the worker was not ready after {STARTING:.0f} s. Its log is {log}.")
            time.sleep(0.05)
        yield worker
    finally:
        worker.terminate()
        try:
            worker.wait(STOPPING)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def joined(bus: Bus, cluster: Cluster) -> None:
    """Return when somebody reads for every flow.

    Raises:
        Unavailable: nobody does in time.
    """
    until = time.monotonic() + STARTING
    with Control(cluster) as control:
        for name, flow in reading(bus).items():
            while not any(member.slots for member in control.members(group_of(bus, identity_of(flow)))):
                if time.monotonic() > until:
                    raise Unavailable(f"nobody reads for the flow {name} after {STARTING:.0f} s.")
                time.sleep(0.05)


def ready(gateway: str) -> bool:
    """Tell whether a worker runs; it may say that some of its flows do not."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{gateway}/healthz", timeout=5, trust_env=False).is_success
    return False


def alive(worker: subprocess.Popen[bytes], gateway: str, log: Path) -> None:
    """Return while the worker and all its flows run.

    Raises:
        Unavailable: it has ended, or a flow has halted.
    """
    if (code := worker.poll()) is not None:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
        raise Unavailable(f"the worker has ended with {code}: {lines[-1]} All of it is in {log}.")
    with contextlib.suppress(httpx.HTTPError):
        if stopped := httpx.get(f"{gateway}/readyz", timeout=5, trust_env=False).json()["stopped"]:
            raise Unavailable(" ".join(f"{flow} has halted: {why}" for flow, why in stopped.items()))


def inherited() -> dict[str, str]:
    """Give this process's environment without the ledger's server: a demo has a file of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_LEDGER__URL")}


def as_environment(settings: Settings) -> dict[str, str]:
    """Give settings as variables, where they are not the default; `INHERITED` ones stay as they were given."""
    plain: Any = settings.model_dump(mode="json", exclude_defaults=True, exclude=INHERITED)
    found: dict[str, str] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            found |= {f"TRUNKLINE_{name}__{leaf}".upper(): str(inner) for leaf, inner in value.items()}
        else:
            found[f"TRUNKLINE_{name}".upper()] = str(value)
    return found
