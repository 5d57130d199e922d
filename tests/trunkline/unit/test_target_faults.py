"""What is wrong with a target's limit, breaker, networks, or a flow's share of it."""

from datetime import timedelta
from typing import Any

import pytest

from tests.trunkline.support import Shelf, notes
from trunkline import Breaker, Bus, Deliver, Limit, Target, env
from trunkline.flow.check import faults


def found(weight: Any = 1.0, **declared: Any) -> list[str]:
    """Check a bus whose target is declared so."""
    topic = notes("b", 1)
    flow = Deliver(topic, to=Shelf(Target("shelf", env("SHELF_URL"), **declared)), weight=weight)
    return [one.message for one in faults(Bus("b", [flow])) if "nothing above writes" not in one.message]


@pytest.mark.parametrize(
    "declared",
    [
        {},
        {"limit": Limit(5, per="minute", burst=5)},
        {"breaker": None},
        {"breaker": Breaker(1, timedelta(hours=1), 1)},
        {"allow": ["10.0.0.0/8", "fd00::/8", "127.0.0.1"]},
        {"weight": 3},
    ],
)
def test_what_may_be_declared(declared: dict[str, Any]) -> None:
    assert found(**declared) == []


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"limit": Limit(5, burst=0.5)}, "the burst of shelf's Limit is 0.5. Give at least 1, or leave it out."),
        ({"limit": Limit(5, burst=float("inf"))}, "the burst of shelf's Limit is inf. Give at least 1"),
        ({"limit": Limit(5, burst="few")}, "Limit's burst is of type str."),  # type: ignore[arg-type]  # wrong on purpose
        ({"breaker": 5}, "Target's breaker is of type int. Give Breaker() or None."),
        ({"breaker": Breaker(failures=0)}, "the failures of shelf's Breaker is 0. Give at least 1."),
        ({"breaker": Breaker(probes=0)}, "the probes of shelf's Breaker is 0. Give at least 1."),
        ({"breaker": Breaker(pause=timedelta(0))}, "the pause of shelf's Breaker is 0:00:00."),
        ({"breaker": Breaker(pause=5)}, "Breaker's pause is of type int."),  # type: ignore[arg-type]  # wrong on purpose
        ({"allow": "10.0.0.0/8"}, "Target's allow is of type str. Give a list of networks"),
        ({"allow": [8]}, "a network in Target's allow is of type int."),
        ({"allow": ["10.0.0.1/8"]}, 'shelf allows "10.0.0.1/8", which is no network'),
        ({"allow": ["depot.example"]}, 'shelf allows "depot.example", which is no network'),
        ({"weight": 0}, "the weight of b.notes.shelf is 0. Give a number above 0."),
        ({"weight": float("nan")}, "the weight of b.notes.shelf is nan."),
        ({"weight": "more"}, "Deliver's weight is of type str."),
    ],
)
def test_what_is_wrong_is_said(declared: dict[str, Any], told: str) -> None:
    [message] = found(**declared)
    assert message.startswith(told)
