import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from tests.trunkline.unit.schemas import CustomerV1, ParcelV1
from tests.trunkline.unit.test_walk import Anybody, Carrier, Web
from trunkline import Bus, Deliver, Enrich, Event, Lookup, Process, Publish, Table, Target, Topic, env, minutes, wait
from trunkline.flow.draw import data, mermaid, tree

PARCELS = Topic("parcels", ParcelV1, key="customer")


@pytest.mark.parametrize(
    ("after_dead", "told"),
    [
        ("continue", "carrier  → carrier at $CARRIER_URL, gives up after 15 min"),
        ("park_key", "carrier  → carrier at $CARRIER_URL, gives up after 15 min and parks the key"),
        ("block", "carrier  → carrier at $CARRIER_URL, gives up after 15 min and blocks the key"),
    ],
)
def test_what_happens_after_a_dead_letter_is_drawn(after_dead: str, told: str) -> None:
    sink = Carrier(Target("carrier", env("CARRIER_URL")))
    deliver = Deliver(PARCELS, to=sink, after_dead=after_dead)  # type: ignore[arg-type]  # one of the three
    bus = Bus("bus", [Publish(Web(Anybody()), to=PARCELS), deliver])
    screen = Console(file=io.StringIO(), width=200)
    screen.print(tree(bus))
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue().splitlines()[-1].strip("│└─ ") == told
    assert data(bus)["flows"][1]["after_dead"] == after_dead


def with_row(order: Event[Any], rows: Mapping[str, Any]) -> Event[Any]:
    return order.having({**order.data, **rows.get("", {})})


CRM = Target("crm", env("CRM_URL"))


@pytest.mark.parametrize(
    ("part", "told", "given"),
    [
        (Table("t", CustomerV1, key="customer"), "with_row  looks up t", {"missing": "null"}),
        (
            Table("t", CustomerV1, "customer", missing="dead"),
            "with_row  looks up t (dead without a row)",
            {"missing": "dead"},
        ),
        (
            Table("t", CustomerV1, "customer", missing=wait(30)),
            "with_row  looks up t (waits 30 s for a row, then dead)",
            {"missing": {"wait_seconds": 30}},
        ),
        (
            Lookup("l", CRM, "/{key}", CustomerV1, "customer", stale=minutes(1)),
            "with_row  looks up l at crm by customer",
            {
                "target": "crm",
                "path": "/{key}",
                "key": "customer",
                "ttl_seconds": 300,
                "stale_seconds": 60,
                "together": 1,
            },
        ),
    ],
)
def test_what_a_step_looks_up_is_drawn(part: Table | Lookup, told: str, given: dict[str, Any]) -> None:
    process = Process(PARCELS, [Enrich(with_row, part)], to={Topic("out", ParcelV1): lambda _: []}, name="p")
    bus = Bus("bus", [Publish(Web(Anybody()), to=PARCELS), process])
    screen = Console(file=io.StringIO(), width=200)
    screen.print(tree(bus))
    assert isinstance(screen.file, io.StringIO)
    assert told in [line.strip("│├└─ ") for line in screen.file.getvalue().splitlines()]
    drawn = data(bus)
    kind = "tables" if isinstance(part, Table) else "lookups"
    [found] = drawn[kind]
    assert found.items() >= given.items()
    assert drawn["flows"][1]["steps"][0][kind] == [part.name]
    assert ("crm" in [target["name"] for target in drawn["targets"]]) == isinstance(part, Lookup)
    assert ('{{"crm"}}' in mermaid(bus)) == isinstance(part, Lookup)
