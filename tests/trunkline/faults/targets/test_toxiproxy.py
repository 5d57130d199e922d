"""The same network troubles, made by somebody else's proxy: nothing is lost, doubled or dead, and all of it ends."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.trunkline.faults.targets.test_network import Case
from tests.trunkline.servers import Toxiproxy, toxiproxy
from tests.trunkline.support import HASTY, QUICK, Stage, say, wait_for
from trunkline.flow.declare import Breaker

pytestmark = [
    pytest.mark.faults(group="targets"),
    pytest.mark.timeout(900),  # on a new machine the first of them wait for Go, which needs minutes of two busy cores
]
BRISK = Breaker(pause=timedelta(seconds=0.5))


@pytest.fixture
def case(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr("trunkline.http.transport.DEADLINE", 0.6)
    return Case(stage, monkeypatch)


@pytest.fixture
def proxy(case: Case, tmp_path: Path) -> Iterator[Toxiproxy]:
    with toxiproxy(tmp_path, case.upstream) as running:
        yield running


TOXICS = {
    "slower than the deadline": {"kind": "latency", "latency": 900, "jitter": 100},
    "reset": {"kind": "reset_peer", "toxicity": 0.5, "timeout": 0},
    "reset after the target has heard": {"kind": "reset_peer", "toxicity": 0.5, "timeout": 100, "stream": "upstream"},
    "cut in the middle of an answer": {"kind": "limit_data", "toxicity": 0.5, "bytes": 300},
    "nothing comes back": {"kind": "timeout", "toxicity": 0.3, "timeout": 0},
    "closed late": {"kind": "slow_close", "delay": 2_000},
    "in pieces of a few bytes": {"kind": "slicer", "average_size": 8, "size_variation": 4, "delay": 500},
    "a kilobyte a second": {"kind": "bandwidth", "rate": 1},
}
HARMLESS = ("closed late", "in pieces of a few bytes", "a kilobyte a second")


@pytest.mark.parametrize("name", TOXICS)
def test_a_network_that_is(name: str, case: Case, proxy: Toxiproxy) -> None:
    toxic = dict(TOXICS[name])
    # Where some connections are well the target is no target that is down, and an event may lose its patience by right.
    down = "toxicity" not in toxic and name not in HARMLESS
    case.make(proxy.port, breaker=BRISK, retry=HASTY if down else QUICK)
    proxy.poison(**toxic)  # type: ignore[arg-type]  # values of several kinds
    case.write(5, 60)
    with case.stage.running(case.bus) as running:
        until = time.monotonic() + 3 * HASTY.give_up_after.total_seconds()
        wait_for(lambda: case.finished() or time.monotonic() > until, seconds=30)
        again = len([one for one in running.seen if one.what == "attempt" and one.outcome])
        proxy.heal()
        case.until_finished()
    say(f"\n{name}: {case.events} events, {again} attempts failed")
    assert again > 0 or name in HARMLESS
    case.settle()


def test_a_target_that_is_down_for_longer_than_any_event_is_tried(case: Case, proxy: Toxiproxy) -> None:
    case.make(proxy.port, breaker=BRISK, retry=HASTY)
    proxy.enable(enabled=False)
    case.write(2, 3)  # too little to open the breaker at once
    with case.stage.running(case.bus) as running:
        until = time.monotonic() + 6 * HASTY.give_up_after.total_seconds()
        wait_for(lambda: time.monotonic() > until, seconds=30)
        assert running.counted(case.flow)["attempt"] >= 10
        assert case.stage.letters(case.flow) == []
        assert case.stage.effects() == {}
        proxy.enable(enabled=True)
        case.until_finished()
    case.settle()
