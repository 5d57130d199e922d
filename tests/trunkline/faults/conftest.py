from collections.abc import Iterator
from pathlib import Path

import pytest

from trunkline.dev.postgres import LocalPostgres


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalPostgres]:
    """Give a PostgreSQL that a test may kill."""
    server = LocalPostgres(tmp_path / "postgres")
    try:
        server.start()
        yield server
    finally:
        server.remove()
