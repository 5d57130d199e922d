"""The delivery engine's decisions under thousands of schedules of faults; `oracle.py` has the rules.

One schedule alone, with its last steps: `python -m tests.trunkline.simulator SEED`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trunkline.simulator.schedules import PAIRS, Pair, impossible, missed, report, run, run_on_cores

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DEFECTS = sorted((HERE / "defects").glob("*.patch"))

SELDOM: frozenset[Pair] = frozenset(
    [
        *((f"answered {verdict}", "gone") for verdict in ("Delivered", "Retryable", "Permanent", "Unknown")),
        *(("halt", stage) for stage in ("started", "preparing", "waiting", "burying", "recording")),
        *((f"arrive {kind}", "SUPERSEDED") for kind in ("main", "live", "stale")),
        *(("arrive stale", state) for state in ("INTENT", "PARKED")),
        *(("due", stage) for stage in ("burying", "recording")),
        *((f"against {state}", "recording") for state in ("INTENT", "DONE", "AMBIGUOUS", "DISCARDED")),
        ("answered Superseded", "ours"),
    ]
)
"""What fewer than one schedule in 200 meets: it is asked of the long run only."""


@pytest.mark.timeout(600)  # it only computes, beside all that starts
@pytest.mark.parametrize("first", range(0, 20_000, 5_000))
def test_no_schedule_breaks_a_rule(first: int) -> None:
    result = run(range(first, first + 5_000))
    for seed, why in result.broken.items():
        pytest.fail(report(seed, why))
    assert not missed(result) - SELDOM, "no schedule met these inputs in these stages: nothing is known of them"


@pytest.mark.faults(group="sim")
@pytest.mark.timeout(1_800)
def test_no_schedule_of_a_hundred_thousand_breaks_a_rule() -> None:
    result = run_on_cores(range(20_000, 120_000), os.cpu_count() or 1)
    sys.stdout.write(f"{result.schedules} schedules, {result.seconds:.0f} s of one core; of {len(PAIRS)} pairs met:\n")
    for (about, met), schedules in sorted(result.met.items()):
        sys.stdout.write(f"  {about} with {met}: {schedules}\n")
    for seed, why in result.broken.items():
        pytest.fail(report(seed, why))
    assert not missed(result)
    assert not [pair for pair in PAIRS & set(result.met) if impossible(pair)]


@pytest.mark.faults(group="sim")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("patch", DEFECTS, ids=lambda patch: patch.stem)
def test_a_planted_defect_is_found_by_its_rule(patch: Path, tmp_path: Path) -> None:
    """Each patch begins with the name of the rule that must find it."""
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "trunkline", tmp_path / "trunkline", ignore=unwanted)
    shutil.copytree(HERE, tmp_path / "tests/trunkline/simulator", ignore=unwanted)
    planted = ["git", "apply", "-C1", "--recount", str(patch)]
    subprocess.run(planted, cwd=tmp_path, check=True)
    rule = patch.read_text().splitlines()[0]
    found = [sys.executable, "-m", "tests.trunkline.simulator", "--schedules", "10000", "--until", rule]
    done = subprocess.run(found, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.stdout.write(f"{patch.stem}: {done.stdout}")
