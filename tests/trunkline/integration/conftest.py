"""What several modules begin with: a project with its topics."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.trunkline.integration.project import Project


@pytest.fixture
def project(bootstrap: str, tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, bootstrap)
    made("topics", "apply")
    with closing(made.sender):
        yield made
