"""How long the steps of a flow take: one run in many is timed, for two looks at a clock would cost more than a step."""

from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from time import perf_counter
from typing import Any

from trunkline.event import Drop
from trunkline.flow.declare import Enrich, Process, Step, flow_name
from trunkline.observe import Observed, Observer

EVERY = 64
"""Runs of a step of which the first is timed."""


def timed(flow: Process, observe: Observer) -> Process:
    """Give a flow whose steps do what they did, and tell how long it took now and then."""
    name = flow_name(flow)
    steps: Sequence[Step | Enrich] = [
        Enrich(watched(step.step, name, observe), *step.tables)
        if isinstance(step, Enrich)
        else watched(step, name, observe)
        for step in flow.steps
    ]
    return replace(flow, steps=steps)


def watched(step: Step, flow: str, observe: Observer) -> Step:
    """Give a step that tells of one run in many: `passed`, `dropped` or `failed`."""
    runs = -1

    @wraps(step)
    def run(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs % EVERY:
            return step(*arguments)
        outcome, began = "failed", perf_counter()
        try:
            made = step(*arguments)
            outcome = "dropped" if isinstance(made, Drop) else "passed"
        finally:
            observe(Observed("step", flow, detail=name, seconds=perf_counter() - began, outcome=outcome))
        return made

    name = getattr(step, "__name__", "step")
    return run
