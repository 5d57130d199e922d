"""A target that fails in every way it can, under load."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline.faults.account import Target
from tests.trunkline.faults.deliver.conftest import EVENTS, KEYS, MARKS, Case, conclusive
from tests.trunkline.support import note, wait_for

pytestmark = MARKS

SHORT = {"trunkline.http.transport.DEADLINE": 1.0}
"""A call ends after a second."""
PEAK = 256 * 1024 * 1024
"""What a worker may take of memory, whatever its target answers."""


def run_broken(case: Case, bitten: Callable[[], bool], **more: Any) -> None:
    """Run a worker against what is broken until half is done and the fault has bitten; then heal it, and finish."""
    case.write()
    with case.worker(**more) as child:
        half = EVENTS // 2
        wait_for(
            lambda: case.finished() or (len(case.target.effects) >= half and bitten()),
            seconds=60,
            why=lambda: (case.target.statuses, case.target.repeats, child.log[-3000:]),
        )
        case.heal()
        case.until_finished(60, child)
        case.figures["peak MiB"] = peak(child.pid) // 2**20
        assert peak(child.pid) <= PEAK, "invariant memory"
        case.end(child)


def peak(pid: int) -> int:
    """Give the most memory that a process has held at once, in bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def level(pid: int) -> int:
    """Wait until a process takes no more memory, or too much, and give the most that it has held."""
    before = 0
    while before < (now := peak(pid)) <= PEAK:
        before = now
        time.sleep(2.0)
    return now


def test_a_burst_of_server_errors(case: Case) -> None:
    case.make()
    for status in (500, 502, 503, 504):
        case.strike(status=status, rate=0.05)
    case.strike(status=500, rate=0.05, after_apply=True)

    def refused() -> int:
        return sum(count for status, count in case.target.statuses.items() if status != 200)

    run_broken(case, lambda: refused() >= 200)
    case.figures["refused"] = refused()
    conclusive(refused() >= 200, "hardly a call was refused")
    assert case.settle().states == {"done": EVENTS}


@pytest.mark.parametrize("dated", [False, True], ids=["seconds", "date"])
def test_a_storm_of_too_many_requests(case: Case, *, dated: bool) -> None:
    case.make()
    case.strike(status=429, per_second=150, retry_after=1, dated=dated)
    run_broken(case, lambda: case.target.statuses[429] >= 100)
    refused = case.figures["refused"] = case.target.statuses[429]
    conclusive(refused >= 100, "hardly a call was refused")
    early = [path for path, seconds in returns(case.target) if seconds < 1.0]
    assert not early, f"invariant patience: {len(early)} calls came before the time that the target had named"
    assert case.settle().states == {"done": EVENTS}


def returns(target: Target) -> list[tuple[str, float]]:
    """Give how long after a 429 each refused event came again."""
    return target.rows(
        "SELECT path, next - at FROM (SELECT path, at, status, lead(at) OVER (PARTITION BY path ORDER BY seq) AS next "
        "FROM calls) WHERE status = 429 AND next IS NOT NULL"
    )


@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
def test_a_hang(case: Case, *, applied: bool) -> None:
    case.make()
    case.strike(hang="forever", rate=0.05, after_apply=applied)
    run_broken(case, lambda: case.target.statuses[None] >= 30, constants=SHORT)
    hung = case.figures["hung"] = case.target.statuses[None]
    conclusive(hung >= 20, "hardly a call hung")
    found = case.settle(doubled=hung)  # the target may notice that a caller has left when it has called again
    assert found.states == {"done": EVENTS}
    conclusive(found.repeats > 0 if applied else not found.repeats, "the effects were not when they should have been")


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect(case: Case, status: int) -> None:
    case.make()
    case.write()
    case.strike(status=status, location=f"{case.stage.target.url}/{case.stage.prefix}/elsewhere/1", match="/k3/*")
    with case.worker() as child:
        wait_for(lambda: '"halted"' in child.log or case.finished(), why=lambda: child.log[-2000:])
        wait_for(lambda: case.stage.in_flight() == 0)
        conclusive(case.target.statuses[status] > 0, "no call was redirected")
        elsewhere = case.target.rows("SELECT path FROM calls WHERE path LIKE '/elsewhere%'")
        assert not elsewhere, "invariant redirect: it is never followed"
        assert "redirects are never followed" in child.log
        case.heal()
        case.end(child)
    conclusive(not case.finished(), "nothing was left to do")
    case.run_out()
    found = case.settle()
    assert found.states == {"done": EVENTS}
    assert found.attempts <= EVENTS + KEYS, "invariant redirect: the flow stands still after the first"


def test_a_target_that_repeats_our_secrets(case: Case) -> None:
    case.make()
    said = " ".join(case.secrets.values())
    case.refuse(detail=f"Bad key {said}.")
    case.strike(status=503, body={"message": f"no {said}"}, rate=0.02)
    case.strike(status=500, body=f"Authorization: Bearer {said}", rate=0.02)
    case.write(refused=0.02)
    case.run_out()
    found = case.settle()
    conclusive(case.refused >= 10, "hardly an answer held a secret")
    assert found.states == {"done": EVENTS - case.refused, "dead": case.refused}


def test_a_key_that_is_stuck(case: Case) -> None:
    case.make()
    case.strike(status=503, match="/stuck/*")
    stuck = [note(number, "stuck", "x" * 300_000) for number in range(500)]
    [place] = case.stage.write(case.bus, stuck[:1])
    case.write()
    case.stage.write(case.bus, stuck[1:])
    elsewhere = {one.path for one in case.inputs() if one.place.partition != place.partition}
    with case.worker() as child:
        wait_for(lambda: elsewhere <= case.target.effects.keys(), seconds=60, why=lambda: child.log[-2000:])
        held = case.figures["peak MiB while stuck"] = level(child.pid) // 2**20
        assert held <= 200, f"invariant memory: {held} MiB while one key was stuck"
        case.look().check()
        case.heal()
        case.until_finished(90, child)
        case.end(child)
    assert case.settle().states == {"done": EVENTS + len(stuck)}


def test_an_answer_that_drips(case: Case) -> None:
    case.make()
    case.strike(drip_ms=100, rate=0.05)
    run_broken(case, lambda: case.target.repeats >= 20, constants=SHORT)
    found = case.settle()
    conclusive(found.repeats >= 20, "hardly an answer was too slow")
    assert found.states == {"done": EVENTS}


def test_a_reset_after_the_effect(case: Case) -> None:
    case.make()
    case.strike(reset=True, after_apply=True, rate=0.2)
    run_broken(case, lambda: case.target.repeats >= 100)
    found = case.settle()
    conclusive(found.repeats >= 100, "hardly a call was reset")
    assert found.states == {"done": EVENTS}


MANY = {"size": 4 * 2**20}
ENDLESS = {"size": "endless"}
BOMB = {"size": 64 * 2**20, "gzip": True}


@pytest.mark.parametrize("answer", [MANY, ENDLESS, BOMB], ids=["huge", "endless", "bomb"])
def test_a_good_answer_without_measure(case: Case, answer: dict[str, Any]) -> None:
    case.make()
    case.strike(status=200, after_apply=True, match="*5", **answer)
    run_broken(case, lambda: False)
    found = case.settle()
    struck = case.figures["answers"] = sum(path.endswith("5") for path in case.target.applied)
    conclusive(struck >= 100, "hardly an answer was large")
    assert found.states == {"done": EVENTS}
    assert not found.repeats, "invariant status: it decides, whatever the body is"


@pytest.mark.parametrize("answer", [ENDLESS, BOMB], ids=["endless", "bomb"])
def test_a_refusal_without_measure(case: Case, answer: dict[str, Any]) -> None:
    case.make()
    case.strike(status=503, after_apply=True, rate=0.05, **answer)
    run_broken(case, lambda: case.target.repeats >= 20)
    found = case.settle()
    conclusive(found.repeats >= 20, "hardly an answer was large")
    assert found.states == {"done": EVENTS}
