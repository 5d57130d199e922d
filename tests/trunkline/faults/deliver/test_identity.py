"""Names that change and offsets that go: nothing is delivered or skipped until a person has said where to begin."""

from collections.abc import Callable
from contextlib import closing

import pytest
from kafka.admin import KafkaAdminClient

from tests.trunkline.faults.deliver.conftest import MARKS, Case
from trunkline.flow.declare import group_of
from trunkline.kafka.control import Control
from trunkline.kafka.topics import plan

pytestmark = MARKS

FIRST = 500
THEN = 200


def rename_flow(case: Case) -> list[str]:
    case.become("keyed", name="renamed")
    return ["shelf"]


def rename_sink(case: Case) -> list[str]:
    case.become("annexed", alone=True)
    return ["annex"]


def add_sink(case: Case) -> list[str]:
    case.become("annexed")
    return ["shelf", "annex"]


def delete_offsets(case: Case) -> list[str]:
    with closing(KafkaAdminClient(bootstrap_servers=case.stage.bootstrap)) as admin:
        admin.delete_groups([group_of(case.bus, case.flow)])
    return ["shelf"]


@pytest.mark.parametrize("change", [rename_flow, rename_sink, add_sink, delete_offsets])
def test_a_start_without_offsets(case: Case, change: Callable[[Case], list[str]]) -> None:
    case.make()
    case.write(FIRST)
    case.run_out()
    sinks = change(case)
    with Control(case.stage.cluster) as control:
        control.apply(plan(case.bus, {}, case.stage.kafka))
    assert "--start" in case.refused_to_start(), "invariant told: the refusal names what to say"
    for sink in ("shelf", "annex"):
        case.sink = sink
        had = FIRST if sink == "shelf" else 0
        assert case.target.attempts == had, "invariant untold: nothing is sent before a person has said where to begin"
    case.write(THEN)
    with Control(case.stage.cluster) as control:
        control.start_offsets(case.bus, list(case.bus.delivering), "earliest")
    case.run_out(name="told")
    for sink in sinks:
        case.sink = sink
        found = case.settle()
        assert found.states == {"done": FIRST + THEN}
        assert found.attempts == FIRST + THEN, "invariant repeats: the ledger knows what the group has forgotten"


def test_a_bus_of_another_name(case: Case) -> None:
    """Its keys would be others, so the target would take every event for a new one: the ledger is not lent to it."""
    case.make()
    case.write(FIRST)
    case.run_out()
    case.become("keyed", called="-renamed")
    with Control(case.stage.cluster) as control:
        control.apply(plan(case.bus, control.existing(control.topics()), case.stage.kafka))
    said = case.refused_to_start()
    assert "--start" in said or "is the one of bus" in said, f"invariant told: the refusal names what it is: {said}"
    with Control(case.stage.cluster) as control:
        control.start_offsets(case.bus, list(case.bus.delivering), "earliest")
    assert "is the one of bus" in case.refused_to_start(), "invariant told: a person who says --start is told too"
    assert case.target.attempts == FIRST, "invariant untold: nothing is sent under the other name"
    case.become("keyed")
    case.write(THEN)
    case.run_out(name="renamed back")
    found = case.settle()
    assert found.states == {"done": FIRST + THEN}
    assert found.attempts == FIRST + THEN, "invariant repeats: under its own name it goes on where it was"
