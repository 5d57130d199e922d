"""Faust is loaded when a flow needs it, by whichever thread comes first."""

import subprocess
import sys

from tests.trunkline.support import ROOT

TOGETHER = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from trunkline.kafka.agents import app_of

start = Barrier(6)

def make(number):
    start.wait()
    return app_of(f"t.{number}").conf.id

with ThreadPoolExecutor(6) as threads:
    print(*sorted(threads.map(make, range(6))))
"""


def test_flows_that_start_together_load_it_once() -> None:
    done = subprocess.run([sys.executable, "-c", TOGETHER], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [f"t.{number}" for number in range(6)], done.stderr
