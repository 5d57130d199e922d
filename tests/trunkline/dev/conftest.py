"""A target in its own process for each module of tests, an API of it for each test, and the file that it counts in."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from trunkline.dev.target.running import RunningTarget, TargetControl, start

REQUIRED = "X-Api-Key"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("target") / "target.db"


@pytest.fixture(scope="module")
def target(database: Path) -> Iterator[RunningTarget]:
    with start(database, require=[f"guarded:{REQUIRED}:let:me:in"]) as running:
        yield running


@pytest.fixture
def control(target: RunningTarget) -> TargetControl:
    return target.control


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Name an API that only this test calls."""
    return re.sub(r"\W", "-", request.node.name)


@pytest.fixture
def api(target: RunningTarget, name: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{target.url}/{name}", timeout=30, trust_env=False) as client:
        yield client


def rows(database: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as file:
        return file.execute(query, values).fetchall()
