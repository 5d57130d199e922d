import gc
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from tests.shared import running
from trunkline import redact
from trunkline.dev import broker
from trunkline.dev.broker import LocalKafka, answers
from trunkline.kafka.cluster import Cluster

gc.disable()  # what is collected stays: no search through it finds anything, and each takes a third of a second
settings.register_profile("patient", deadline=None)  # a slow machine is no defect
settings.load_profile("patient")
# A run in the background, or under nohup, is started deaf to these, and so would be all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--group", help="run the faults of this group only; every one also runs alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "simulator" not in item.nodeid)  # what only computes, while the broker starts
    group = config.getoption("--group")
    if group is None:
        return
    chosen = [item for item in items if any(mark.kwargs["group"] == group for mark in item.iter_markers("faults"))]
    if not chosen:
        raise pytest.UsageError(f"there is no group {group}")
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture(autouse=True)
def secrets_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test take out of its words what is secret in another."""
    monkeypatch.setattr(redact, "_secrets", set(redact._secrets))
    redact._finder.cache_clear()


@pytest.fixture(scope="session")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a real broker: the one of TEST_BOOTSTRAP, else Docker's, else one on the JVM."""
    if given := os.environ.get("TEST_BOOTSTRAP"):
        yield given
    else:
        with running(tmp_path_factory, "broker", in_docker if docker_works() else on_jvm) as address:
            yield address


@pytest.fixture(scope="session")
def cluster(bootstrap: str) -> Cluster:
    return Cluster(bootstrap)


def docker_works() -> bool:
    asked = ["docker", "info"]
    return bool(shutil.which("docker")) and subprocess.run(asked, capture_output=True, check=False).returncode == 0


@contextmanager
def on_jvm(folder: Path) -> Iterator[str]:
    kafka = LocalKafka(folder)
    try:
        yield kafka.start().bootstrap
    finally:
        kafka.kill()  # nobody reads its folder again, and a clean stop moves every leader and syncs every log


@contextmanager
def in_docker(folder: Path) -> Iterator[str]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - a third of a second, where there is Docker

    port, _ = broker._ports(folder / "ports")
    settings = dict(line.split("=", 1) for line in broker.properties(29092, 29093).splitlines())
    settings |= {
        "listeners": "PLAINTEXT://0.0.0.0:29092,CONTROLLER://127.0.0.1:29093",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "log.dirs": "/var/lib/kafka/data",
    }
    variables = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in settings.items()}
    with DockerContainer(f"apache/kafka:{broker.VERSION}").with_envs(**variables).with_bind_ports(29092, port) as kafka:
        give_up = time.monotonic() + 60
        while not answers(f"127.0.0.1:{port}"):
            assert time.monotonic() < give_up, kafka.get_logs()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
