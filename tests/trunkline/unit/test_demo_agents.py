"""The demo's report on an agent: each absence found, and no other."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.trunkline.unit.test_demo import Desk, Expected, Play, seen
from trunkline import Agent, Bus, Event, Publish, Stream, Topic
from trunkline.dev.demo.judge import Evidence, judge
from trunkline.dev.demo.witness import Metrics, Seen


async def late(stream: Stream[Any], _window: timedelta) -> AsyncIterator[Event[Any]]:
    async for _, event in stream:
        if event is not None:
            yield event


ORDERS = Topic("t.orders", dict, key="order")
LATE = Topic("t.late", dict, key="order")
BUS = Bus("t", [Publish(Desk(), to=ORDERS), Agent(ORDERS, late, to=LATE, window=timedelta(seconds=1))])
FLOW = "t.orders.late"


class Late(Play):
    def expected(self, count: int) -> Expected:
        orders = [("1",), ("2",), ("3",), ("4",)][:count]
        return Expected({"orders": count}, {}, {"t.orders": orders, "t.late": [("2",), ("3",)]})


def evidence(found: list[str], taken: int = 4, emitted: int | None = None, committed: int = 4) -> Evidence:
    records: dict[str, list[Seen]] = {
        "t.orders": [seen(f"{number}", "t/desk", number - 1, order=f"{number}") for number in (1, 2, 3, 4)],
        "t.late": [seen(f"l{at}", f"t/{FLOW}", at, order=order) for at, order in enumerate(found)],
        f"{FLOW}.dlq": [],
    }
    flow: Mapping[str, str] = {"flow": FLOW}
    many = len(found) if emitted is None else emitted
    samples: dict[str, tuple[tuple[Mapping[str, str], float], ...]] = {
        "trunkline_source_events_total": tuple(
            ({"source": "desk", "outcome": outcome}, 4.0) for outcome in ("received", "published")
        ),
        "trunkline_process_events_total": (
            ({**flow, "outcome": "read"}, 4.0),
            ({**flow, "outcome": "taken"}, float(taken)),
        ),
        "trunkline_process_emitted_total": (({**flow, "topic": "t.late"}, float(many)),),
    }
    return Evidence(
        expected=Late().expected(4),
        refused=[],
        answers={"desk": {"published": 4}},
        records=records,
        committed={FLOW: {("t.orders", 0): committed}},
        apis={},
        metrics=Metrics(samples),
        ledger={},
    )


def test_each_absence_found_and_no_other_balances() -> None:
    report = judge(BUS, Late(), evidence(["2", "3"]))
    assert report.differences == []
    assert [(hop.name, hop.counts) for hop in report.hops][1:] == [
        ("t.orders → late", "4 read = 4 taken"),
        ("late → t.late", "2 emitted of 2 due"),
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (evidence(["2"]), "from the input but not on t.late"),
        (evidence(["2", "3", "4"]), "on t.late but not from the input"),
        (evidence(["2", "4"]), "on t.late but not from the input"),
        (evidence(["2", "3"], emitted=3), "emitted to t.late"),
        (evidence(["2", "3"], taken=3), "taken"),
        (evidence(["2", "3"], committed=3), "in flight"),
        (
            replace(evidence(["2", "3"]), records={**evidence(["2", "3"]).records, f"{FLOW}.dlq": [seen("1", "", 0)]}),
            "dead",
        ),
    ],
    ids=["one missed", "one too many", "another", "counted twice", "not taken", "not read", "one dead"],
)
def test_what_differs_is_named(given: Evidence, told: str) -> None:
    assert any(told in line for line in judge(BUS, Late(), given).differences)
