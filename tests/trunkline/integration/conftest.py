"""What several modules begin with: a project with its topics, and a connection to the broker's control plane."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.trunkline.integration.project import Project
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control


@pytest.fixture
def project(bootstrap: str, tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, bootstrap)
    made("topics", "apply")
    with closing(made.sender):
        yield made


@pytest.fixture
def control(cluster: Cluster) -> Iterator[Control]:
    with Control(cluster) as control:
        yield control
