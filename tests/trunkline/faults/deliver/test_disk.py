"""A broker of which a disk is full: its only one, and it ends, or that of the dead letters, and it goes on without."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from tests.trunkline.faults.cluster import Cluster, Node
from tests.trunkline.faults.deliver.conftest import MARKS, REFUSED, Case, conclusive, opened
from tests.trunkline.support import Stage, note, wait_for
from trunkline.flow.declare import dead_letters_of

pytestmark = [*MARKS, pytest.mark.timeout(240)]
FULL = 200_000
"""Bytes from which on a file of the broker does not grow."""


@pytest.fixture(params=[("data",), ("data", "letters")], ids=["the only", "of letters"])
def disks(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", 1, request.param) as cluster:
        yield cluster


def test_a_disk_that_is_full(
    disks: Cluster, stage: Stage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    [node] = disks.nodes
    with opened(stage, request, monkeypatch, bootstrap=disks.bootstrap, kafka=disks.kafka) as case:
        case.make(partitions=2)
        case.strike(status=422, match=f"text={REFUSED}*")
        # Ten keys: twenty refusals alike in a row would halt the flow.
        odd = [f"k{n}" for n in range(10)]
        data = [(n, f"k{k}") for n in range(20) for k in range(50)]
        large = REFUSED + "x" * 20_000
        case.stage.write(case.bus, [note(n, key, large if n % 2 and key in odd else "") for n, key in data])
        if len(node.disks) > 1:
            set_apart(case, node)
        node.fill(FULL)
        with case.worker() as child:
            wait_for(lambda: '"stuck"' in child.log, why=lambda: child.log[-2000:])
            assert "what became of it cannot be written, so its key waits: the broker did not acknowledge" in child.log
            if len(node.disks) > 1:
                # Two of twenty events of each odd key, and all of the others.
                wait_for(lambda: case.target.attempts >= 800, why=lambda: case.target.attempts)
            conclusive(node.gone == (len(node.disks) == 1), "the broker has not noticed")
            node.kill()
            node.start()
            disks.wait()
            case.until_finished(90, child)
            case.end(child)
        found = case.settle()
    assert found.states == {"done": 900, "dead": 100}
    assert found.repeats <= len(odd), "invariant repeats"


def set_apart(case: Case, node: Node) -> None:
    """Let the dead letters have a disk to themselves."""
    letters = dead_letters_of(case.flow)
    with closing(KafkaAdminClient(bootstrap_servers=case.stage.bootstrap)) as admin:

        def places() -> dict[tuple[str, int], str]:
            [found] = admin.describe_log_dirs()
            return {
                (topic["name"], one["partition_index"]): folder["log_dir"]
                for folder in found["log_dirs"]
                for topic in folder["topics"]
                for one in topic["partitions"]
            }

        data, apart = map(str, node.disks)
        wanted = {place: apart if place[0] == letters else data for place in places()}
        admin.alter_replica_log_dirs({(topic, n, node.number): wanted[topic, n] for topic, n in wanted})
        wait_for(lambda: places() == wanted, why=lambda: places().items() ^ wanted.items())
