"""A real PostgreSQL for tests, and the ledger over both databases."""

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from tests.shared import running
from trunkline.dev import postgres as local
from trunkline.dev.postgres import LocalPostgres
from trunkline.ledger.database import Ledger
from trunkline.ledger.postgres import Server
from trunkline.ledger.sqlite import File

MakeUrl = Callable[[], SecretStr]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeUrl]:
    """Give a function that makes an empty place for a ledger, on a server of TEST_POSTGRES, of Docker or of our own.

    All are in a database of this process: who makes tables locks out others who make some in the same database.
    """
    with running(tmp_path_factory, "postgres", a_server) as server:
        name = f"t{uuid.uuid4().hex[:12]}"
        with psycopg.connect(server, autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        address = make_conninfo(server, dbname=name)

        def make() -> SecretStr:
            schema = f"t{uuid.uuid4().hex[:12]}"
            with psycopg.connect(address, autocommit=True) as db:
                db.execute(f"CREATE SCHEMA {schema}")
            return SecretStr(make_conninfo(address, options=f"-csearch_path={schema}"))

        yield make


@contextmanager
def a_server(folder: Path) -> Iterator[str]:
    if given := os.environ.get("TEST_POSTGRES"):
        yield given
    elif (
        shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    ):
        with in_docker() as address:
            yield address
    else:
        server = LocalPostgres(folder)
        try:
            server.start()
            yield server.url()
        finally:
            server.remove()


@contextmanager
def in_docker() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - a third of a second, where there is Docker

    image = f"postgres:{local.VERSION.removesuffix('.0')}"
    with DockerContainer(image).with_env("POSTGRES_PASSWORD", "test").with_exposed_ports(5432) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(5432)
        address = f"postgresql://postgres:test@{host}:{port}/postgres"
        give_up = time.monotonic() + 60
        while (trouble := local.fault_of(address)) is not None:
            assert time.monotonic() < give_up, trouble
            time.sleep(0.1)
        yield address


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """Give an empty ledger, once over each database."""
    if request.param == "sqlite":
        return File(tmp_path / "ledger.db")
    make: MakeUrl = request.getfixturevalue("postgres")
    return Server(make())
