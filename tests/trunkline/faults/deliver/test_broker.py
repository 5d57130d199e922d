"""Brokers that die, freeze or are far away while calls are in flight."""

import time
from dataclasses import replace

import pytest

from tests.trunkline.faults.cluster import Cluster
from tests.trunkline.faults.deliver.conftest import EVENTS, KEYS, MARKS, Case, conclusive
from tests.trunkline.support import wait_for

pytestmark = MARKS


@pytest.mark.xdist_group("single")
def test_a_broker_killed_and_brought_back(alone: Case, single: Cluster) -> None:
    case = alone
    [node] = single.nodes
    case.make()
    case.strike(latency_ms=200)
    case.refuse()
    case.write(4_000, refused=0.05)
    with case.worker() as child:
        for _ in range(2):
            case.until_busy(child)
            node.kill()
            case.kills += 1
            case.figures[f"in flight at kill {case.kills}"] = case.stage.in_flight()
            seen = case.target.attempts
            time.sleep(2.0)  # what the worker has already read goes on meanwhile
            case.figures[f"calls without a broker {case.kills}"] = case.target.attempts - seen
            node.start()
            single.wait()
        conclusive(not case.finished(), "nothing was left to do after the kills")
        case.until_finished(90, child)
        case.end(child)
    found = case.settle(doubled=0)
    assert found.states == {"done": 4_000 - case.refused, "dead": case.refused}
    assert found.attempts - 4_000 <= case.kills * KEYS, "invariant repeats"


@pytest.mark.xdist_group("single")
def test_a_network_that_is_slow_and_breaks(alone: Case, single: Cluster) -> None:
    case = alone
    [proxy] = [node.proxy for node in single.nodes]
    case.make()
    case.refuse()
    case.strike(latency_ms=200)
    case.write(refused=0.05)
    with case.worker(bootstrap=single.proxied) as child:
        for number in range(3):
            case.until_busy(child)
            proxy.delay(0.05 * number)
            proxy.cut("all")
        conclusive(not case.finished(), "nothing was left to do")
        case.until_finished(60, child)
        proxy.heal()
        case.end(child)
    found = case.settle()
    assert found.states == {"done": EVENTS - case.refused, "dead": case.refused}
    assert not found.repeats, "invariant repeats: a worker that lives knows what it has done"
    assert found.attempts - EVENTS <= 3 * KEYS, "invariant repeats: only what has no letter yet is called again"


@pytest.mark.xdist_group("three")
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_leader_of_three(among: Case, three: Cluster, how: str) -> None:
    case = among
    case.make()
    case.strike(latency_ms=300)
    case.write(6_000)
    topic = case.bus.topics[0].name
    with case.worker() as child:
        case.until_busy(child)
        leader = three.leader_of(topic, 0)
        assert leader is not None
        case.stage = replace(case.stage, bootstrap=three.without(leader))
        if how == "killed":
            leader.kill()
        else:
            leader.freeze()
        began = time.monotonic()
        wait_for(lambda: three.leader_of(topic, 0) not in (None, leader), seconds=90)
        case.figures["a new leader after"] = f"{time.monotonic() - began:.1f} s"
        case.write(300)  # for the new leader, whatever was delivered before its witness knew of it
        case.until_finished(90, child)
        case.figures["all delivered after"] = f"{time.monotonic() - began:.1f} s"
        if how == "killed":
            leader.start()
        else:
            leader.thaw()
        three.wait()
        wait_for(lambda: three.in_sync(topic), seconds=60)
        case.write(300)
        case.until_finished(60, child)
        case.end(child)
    found = case.settle(doubled=KEYS)
    assert found.states == {"done": 6_600}
    assert found.repeats <= KEYS, "invariant repeats"
