import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.trunkline import postgres as database
from tests.trunkline.support import Reader, Stage
from trunkline.dev.target.running import RunningTarget, start
from trunkline.engine.limits import Limiter
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender

ledger = database.ledger
postgres = database.postgres


@pytest.fixture(scope="session")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningTarget, Path]]:
    """Give the target that every stage calls, and its file."""
    database = tmp_path_factory.mktemp("witness") / "target.db"
    with start(database) as running:
        yield running, database


@pytest.fixture(scope="session")
def sender(cluster: Cluster) -> Iterator[Sender]:
    """Give what writes for every stage."""
    with closing(Sender(cluster)) as sender:
        yield sender


@pytest.fixture(scope="session")
def control(cluster: Cluster) -> Iterator[Control]:
    """Give what asks the broker for every stage."""
    with Control(cluster) as control:
        yield control


@pytest.fixture(scope="session")
def reader(cluster: Cluster) -> Iterator[Reader]:
    """Give what reads for every stage."""
    with closing(Reader(cluster.bootstrap)) as reader:
        yield reader


@pytest.fixture
def stage(
    cluster: Cluster,
    control: Control,
    sender: Sender,
    reader: Reader,
    witness: tuple[RunningTarget, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    running, database = witness
    stage = Stage(
        f"t{uuid.uuid4().hex[:8]}",
        *(cluster.bootstrap, tmp_path, running, database),
        senders={cluster: sender},
        controls={cluster: control},
        readers={cluster: reader},
    )
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)
    yield stage
    running.control.heal(stage.prefix)


@pytest.fixture
def let_go(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give when limits let calls go: what comes of it on a busy machine is held up together."""
    at: list[float] = []
    real = Limiter.take

    def take(limiter: Limiter, now: float, calls: int = 1) -> None:
        at.extend([now] * calls)
        real(limiter, now, calls)

    monkeypatch.setattr(Limiter, "take", take)
    return at
