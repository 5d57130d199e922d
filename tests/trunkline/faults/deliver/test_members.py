"""Workers that come, go, freeze and lose sight of their group while calls are in flight."""

import time
from contextlib import ExitStack

import pytest

from tests.trunkline.faults.cluster import Cluster
from tests.trunkline.faults.deliver.conftest import KEYS, MARKS, Case, conclusive
from tests.trunkline.support import Child, counts, wait_for
from trunkline.engine.deliver import WIDTH
from trunkline.kafka.control import Control
from trunkline.kafka.topics import plan

pytestmark = MARKS

SESSION = 6.0
SCALED = {"trunkline.http.transport.DEADLINE": 5.0, "trunkline.engine.deliver.SPARE": 0.5}
"""What 45 s, 20 s and 22 s are in earnest."""


def test_a_storm_of_rebalances(case: Case) -> None:
    case.make()
    case.strike(latency_ms=150)
    changes = 0
    with ExitStack() as stack, case.load():
        first = stack.enter_context(case.worker("first"))
        wait_for(lambda: counts(first, "delivered"), why=lambda: first.log)
        others: list[Child] = []
        until = time.monotonic() + 30
        while time.monotonic() < until:
            began = time.monotonic()
            if len(others) < 2 and (not others or case.random.random() < 0.6):
                slot = changes + 1
                others.append(stack.enter_context(case.worker(f"other{slot}", slot=slot)))
            else:
                leaving = others.pop(case.random.randrange(len(others)))
                if case.random.random() < 0.25:
                    leaving.kill()
                    case.kills += 1
                else:
                    case.end(leaving)
            changes += 1
            time.sleep(max(0.0, began + 2.0 - time.monotonic()))
        for child in (first, *others):
            case.end(child)
    case.figures |= {"changes": changes, "kills": case.kills}
    conclusive(changes >= 8, "hardly a worker came or went")
    case.run_out(name="last", slot=99)
    found = case.settle(doubled=case.kills * KEYS)
    assert found.states == {"done": found.inputs}
    assert found.attempts - found.inputs <= case.kills * KEYS, "invariant repeats"


def test_a_rebalance_while_calls_take_long(case: Case) -> None:
    case.make()
    case.strike(hang=4.5, deaf=True)
    case.write(300)
    with case.worker("first", constants=SCALED) as first:
        wait_for(lambda: case.stage.in_flight() >= KEYS // 2, why=lambda: first.log)
        with case.worker("second", slot=1, constants=SCALED) as second:
            wait_for(lambda: counts(second, "delivered"), seconds=60, why=lambda: second.log)
            conclusive(not case.finished(), "nothing was left to do after the rebalance")
            case.end(first)
            case.until_finished(90, second)
            case.end(second)
    found = case.settle()
    assert found.states == {"done": 300}
    assert found.attempts == 300, "invariant repeats: what is in flight is awaited before a partition is given up"


def test_a_rolling_restart_to_another_topology(case: Case) -> None:
    case.make()
    case.strike(latency_ms=100)
    with ExitStack() as stack, case.load():
        old = [stack.enter_context(case.worker(f"old{slot}", slot=slot)) for slot in range(2)]
        wait_for(lambda: all(counts(one, "delivered") for one in old), why=lambda: [one.log for one in old])
        case.become("annexed")
        with Control(case.stage.cluster) as control:
            control.apply(plan(case.bus, {}, case.stage.kafka))
            control.start_offsets(case.bus, list(case.bus.delivering), "earliest")
        new = []
        for slot, one in enumerate(old):
            case.end(one)
            new.append(stack.enter_context(case.worker(f"new{slot}", slot=slot)))
            wait_for(lambda: counts(new[-1], "delivered"), why=lambda: new[-1].log)
        for one in new:
            case.end(one)
    case.run_out(name="last", slot=9)
    for sink in ("shelf", "annex"):
        case.sink = sink
        found = case.settle()
        assert found.states == {"done": found.inputs}
        assert found.attempts == found.inputs, "invariant repeats: a worker that ends finishes what it has begun"


def test_a_frozen_worker(case: Case) -> None:
    case.make()
    case.strike(latency_ms=300)
    # More keys than calls at once, so that others may begin the moment an answer comes.
    case.write(8_000, keys=1_000)
    with case.worker("frozen") as frozen:
        case.until_busy(frozen)
        flying = case.figures["in flight at the freeze"] = case.stage.in_flight()
        conclusive(flying >= WIDTH // 3, "hardly a call was in flight")
        case.stage.freeze(frozen)
        with case.worker("other", slot=1) as other:
            wait_for(lambda: counts(other, "delivered"), why=lambda: other.log)
            before = case.target.attempts
            conclusive(not case.finished(), "nothing was left to do after the freeze")
            case.thaw(frozen)
            case.until_finished(60, frozen, other)
            case.figures["calls at the thaw and after"] = case.target.attempts - before
            case.end(other)
        case.write(300)
        case.until_finished(60, frozen)
        case.end(frozen)
    found = case.settle()
    assert found.states == {"done": 8_300}
    assert found.repeats <= 2 * WIDTH, "invariant repeats: more than were in flight or being recorded at the freeze"


@pytest.mark.xdist_group("single")
def test_a_coordinator_out_of_reach(alone: Case, single: Cluster) -> None:
    case = alone
    [proxy] = [node.proxy for node in single.nodes]
    case.make()
    case.strike(latency_ms=300)
    case.write(3_000)
    with case.worker("cut off", bootstrap=single.proxied) as child:
        case.until_busy(child)
        proxy.swallow("group")
        with case.worker("other", slot=1) as other:
            wait_for(lambda: counts(other, "delivered"), why=lambda: other.log)
            conclusive(not case.finished(), "nothing was left to do after the session")
            case.until_finished(60, child, other)
            conclusive(proxy.swallowed > 0, "nothing was said to the coordinator")
            case.figures["swallowed"] = proxy.swallowed
            proxy.heal()
            case.end(other)
        case.write(300)
        case.until_finished(60, child)
        case.end(child)
    found = case.settle(doubled=KEYS)
    assert found.states == {"done": 3_300}


@pytest.mark.xdist_group("single")
def test_commits_that_are_not_accepted(alone: Case, single: Cluster) -> None:
    """The worker keeps its session and its partitions: only the lease tells it that nobody has heard of it."""
    case = alone
    [proxy] = [node.proxy for node in single.nodes]
    case.make()
    case.strike(latency_ms=200)
    case.write(6_000)  # twelve seconds at least, of which the lease and the wait for its end take half
    with case.worker("unheard", bootstrap=single.proxied) as child:
        case.until_busy(child)
        proxy.swallow("commits")
        wait_for(lambda: proxy.swallowed > 1, why=lambda: child.log[-3000:])
        # Half a session after the last accepted commit was sent, with a second for what was on its way.
        time.sleep(SESSION / 2 + 1.0)
        before = case.target.attempts
        conclusive(before < 6_000, "nothing was left to do when the lease ended")
        time.sleep(SESSION / 2)
        late = case.figures["calls after the lease"] = case.target.attempts - before
        case.figures["commits swallowed"] = proxy.swallowed
        proxy.heal()
        case.until_finished(90, child)
        case.end(child)
    assert not late, f"invariant lease: {late} calls began although no commit was accepted"
    found = case.settle()
    assert found.states == {"done": 6_000}
    assert found.attempts == 6_000, "invariant repeats: the session was never lost"
