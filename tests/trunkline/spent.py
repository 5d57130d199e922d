"""What work costs, counted by the system in a process forked for it: nothing that was done before it counts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

Costs = dict[str, tuple[float, int]]
"""Of each work, the processor seconds and the bytes that it took."""


def costs(module: str) -> Costs:
    """Count what each work in a module's `works()` costs: in one process, which has a single thread to fork."""
    code = f"from tests.trunkline import spent; from {module} import works; spent.count(works())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    return {name: (seconds, taken) for name, (seconds, taken) in json.loads(done.stdout).items()}


def count(works: Mapping[str, Callable[[], object]]) -> None:
    """Print what each costs more than a process that does nothing."""
    least = used(lambda: None)
    found = {name: used(work) for name, work in works.items()}
    more = {name: [seconds - least[0], taken - least[1]] for name, (seconds, taken) in found.items()}
    sys.stdout.write(json.dumps(more))


def used(work: Callable[[], object]) -> tuple[float, int]:
    """Do work in a forked process, and give what that one took in all."""
    if (child := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status, usage = os.wait4(child, 0)
    assert status == 0, "the work has failed"
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
