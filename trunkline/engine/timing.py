"""How long the steps of a flow take: one run in many is timed, for two looks at a clock would cost more than a step."""

from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from inspect import iscoroutinefunction
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
        Enrich(watched(step.step, name, observe), *step.parts)
        if isinstance(step, Enrich)
        else watched(step, name, observe)
        for step in flow.steps
    ]
    return replace(flow, steps=steps)


def watched(step: Step, flow: str, observe: Observer) -> Step:
    """Give a step that tells of one run in many: `passed`, `dropped` or `failed`."""
    runs = -1
    name = getattr(step, "__name__", "step")

    def told(began: float, made: object) -> None:
        outcome = "failed" if made is None else "dropped" if isinstance(made, Drop) else "passed"
        observe(Observed("step", flow, detail=name, seconds=perf_counter() - began, outcome=outcome))

    @wraps(step)
    def run(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs % EVERY:
            return step(*arguments)
        made, began = None, perf_counter()
        try:
            made = step(*arguments)
        finally:
            told(began, made)
        return made

    @wraps(step)
    async def wait(*arguments: Any) -> Any:
        nonlocal runs
        runs += 1
        made, timing, began = None, runs % EVERY == 0, perf_counter()
        try:
            made = await step(*arguments)  # type: ignore[misc]  # a coroutine: the kind that is asked for below
        finally:
            if timing:
                told(began, made)
        return made

    return wait if iscoroutinefunction(step) else run
