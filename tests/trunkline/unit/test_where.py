"""Routes with a condition: which events they take, what is wrong with them, and that they cannot run away."""

import builtins
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from tests.trunkline.unit.schemas import OrderPlacedV1, ParcelV1
from tests.trunkline.unit.test_walk import Anybody, Carrier, Web
from trunkline import Bus, Deliver, Event, Permanent, Process, Publish, Target, Topic, Where, env, first_match
from trunkline.flow.check import faults
from trunkline.flow.conditions import condition_faults
from trunkline.flow.declare import Route
from trunkline.flow.draw import data as drawn
from trunkline.flow.journey import Journey, Took
from trunkline.flow.walk import walk

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Line(TypedDict):
    sku: str
    count: int
    note: str | None
    inner: "Line | None"


class Order(TypedDict):
    number: str
    total: Decimal
    state: Literal["open", "paid"]
    at: datetime
    day: date
    lines: list[Line]
    tags: list[str]
    extra: dict[str, int]
    odd: int | str
    when_not: str | None


LINE: Line = {"sku": "7", "count": 2, "note": None, "inner": None}
ORDER: Order = {
    "number": "1",
    "total": Decimal("100.50"),
    "state": "paid",
    "at": AT,
    "day": date(2026, 7, 1),
    "lines": [LINE, {**LINE, "sku": "9", "count": 5, "inner": LINE}],
    "tags": ["a"],
    "extra": {"x": 3},
    "odd": 4,
    "when_not": None,
}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("total > 100.0", True),
        ("total > 100.5", False),
        ("state == 'paid' && lines.exists(l, l.count > 4)", True),
        ("lines.all(line, line.sku.startsWith('7'))", False),
        ("lines[1].inner.sku == '7' && lines[0].inner == null", True),
        ("when_not == null || when_not == 'x'", True),
        ("timestamp(at) >= timestamp('2026-07-01T14:00:00+02:00')", True),
        ("day < '2026-07-02'", True),
        ("'a' in tags && size(tags) == 1", True),
        ("extra.x == 3 && odd == 4", True),
        ("number.matches('^[0-9]+$')", True),
        ("true", True),
    ],
)
def test_a_condition_is_right_for_the_checker_and_holds_or_not(condition: str, holds: bool) -> None:  # noqa: FBT001
    route = Where(condition)
    assert list(condition_faults(route, Order)) == []
    assert route.holds(ORDER) is holds
    event: Event[Any] = Event("e", AT, {**ORDER})
    assert list(route(event)) == ([ORDER] if holds else [])


class Named(TypedDict):
    """A record whose fields are called as what is CEL's own."""

    type: str
    string: str
    list: "builtins.list[builtins.int]"
    int: "builtins.int"
    size: "builtins.int"
    x: "builtins.int"


class Typed(TypedDict):
    type: str


NAMED: Named = {"type": "sale", "string": "s", "list": [1, 2], "int": 3, "size": 4, "x": 5}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("x > 4", True),
        ("true", True),
        ("type == 'sale' && string == 's' && int == 3", True),
        ("list.exists(one, one == 2) && size(list) == 2 && size == 4", True),
        ("string(x) == '5' && string == 's'", True),
        ("type == 'refund'", False),
    ],
)
def test_fields_may_be_called_as_what_is_cels_own(condition: str, holds: bool) -> None:  # noqa: FBT001
    route = Where(condition)
    assert list(condition_faults(route, Named)) == []
    assert route.holds(NAMED) is holds
    assert list(condition_faults(Where("type == 'sale'"), Typed)) == []
    [fault] = condition_faults(Where("typo == 'sale'"), Typed)
    assert "there is no field 'typo', at character 1." in fault.message


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("totl > 100.0", "there is no field 'totl', at character 1."),
        ("lines.exists(l, l.cuont > 1)", "there is no field 'cuont' not found in 'Line', at character 18."),
        ("total > 'x'", "found no matching overload for '_>_' applied to '(double, string)', at character 7."),
        ("total > 100", "A number with a point is compared with one, 100.0, and a whole one with a whole one"),
        ("total >", "Syntax error: mismatched input '<EOF>'"),
        ("total", 'the condition "total" is no yes or no but of type double. Compare it.'),
        ("open('/etc/passwd')", "there is no field 'open'"),
        ("__import__('os')", "there is no field '__import__'"),
        ("number == null", "no matching overload for '_==_' applied to '(string, null_type)'"),
    ],
)
def test_what_is_wrong_with_a_condition_is_told_with_its_line(condition: str, told: str) -> None:
    route = Where(condition)
    [fault] = condition_faults(route, Order)
    assert told in fault.message
    assert fault.where.startswith("tests/trunkline/unit/test_where.py:")


def test_of_data_of_an_unknown_type_only_the_syntax_is_checked() -> None:
    assert list(condition_faults(Where("whatever.x > 1"), None)) == []
    assert len(list(condition_faults(Where("whatever >"), dict[str, int]))) == 1


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("lines[5].count > 1", "Index error: index=5 size=2"),
        ("extra.y > 1", 'Key not found in map : "y"'),
        ("total", "it is no yes or no but DOUBLE"),
        ("nothing > 1", "there is no"),
        ("lines >", "mismatched input"),
        ("tags.all(a, tags.all(b, tags.all(c, true)))", "Iteration budget exceeded"),
        ("(" * 100 + "true" + ")" * 100, "recursion limit exceeded"),
    ],
)
def test_what_cannot_be_decided_is_the_events_fault(condition: str, told: str) -> None:
    """Nothing is taken silently for no; and loops within loops end, however long the lists are."""
    with pytest.raises(Permanent, match="cannot be decided") as error:
        Where(condition).holds({**ORDER, "tags": ["a"] * 200})
    assert told in str(error.value) or "undeclared reference" in str(error.value)


@given(st.text(max_size=60))
def test_no_text_breaks_the_checker_or_a_route(condition: str) -> None:
    list(condition_faults(Where(condition), Order))
    list(condition_faults(Where(condition), None))
    with suppress(Permanent):
        Where(condition).holds(ORDER)


def parcels_of(order: Event[OrderPlacedV1]) -> Iterator[ParcelV1]:
    yield {"customer": order.data["customer"], "pieces": order.data["pieces"]}


def wrong_record(order: Event[ParcelV1]) -> Iterator[OrderPlacedV1]:
    yield {"number": "1", "customer": None, "pieces": order.data["pieces"]}


orders = Topic("orders", OrderPlacedV1, key="number")
large, small, rest = (Topic(f"parcels.{name}", ParcelV1, key="customer") for name in ("large", "small", "rest"))
web = Web(Anybody())


def bus_of(to: Mapping[Topic, Route]) -> Bus:
    sinks = [type(topic.name, (Carrier,), {"name": topic.name})(Target(topic.name, env("URL"))) for topic in to]
    flows = [Deliver(topic, to=sink) for topic, sink in zip(to, sinks, strict=True)]
    return Bus("bus", [Publish(web, to=orders), Process(orders, [], to=to), *flows])


def journey(bus: Bus, *pieces: int) -> Journey:
    posted = [{"number": str(at), "customer": "c", "pieces": count} for at, count in enumerate(pieces)]
    return walk(bus, web, json.dumps(posted).encode())


ALL: dict[Topic, Route] = {
    large: Where("pieces > 10", parcels_of),
    small: Where("pieces > 2", parcels_of),
    rest: parcels_of,
}


def taken(bus: Bus, *pieces: int) -> dict[str, list[int]]:
    found = journey(bus, *pieces)
    return {
        topic.name: [event.data["pieces"] for event in found.events.get(topic.name, ())]
        for topic in (large, small, rest)
    }


def test_every_route_is_asked_unless_the_first_match_is_wanted() -> None:
    every, first = bus_of(ALL), bus_of(first_match(ALL))
    assert faults(every) == faults(first) == []
    assert taken(every, 20, 5, 1) == {"parcels.large": [20], "parcels.small": [20, 5], "parcels.rest": [20, 5, 1]}
    assert taken(first, 20, 5, 1) == {"parcels.large": [20], "parcels.small": [5], "parcels.rest": [1]}


@given(st.lists(st.integers(-5, 30), max_size=5))
def test_of_the_first_match_every_event_is_on_one_topic(pieces: list[int]) -> None:
    found = taken(bus_of(first_match(ALL)), *pieces)
    assert sorted(count for counts in found.values() for count in counts) == sorted(pieces)


def test_an_event_that_no_condition_takes_is_unrouted() -> None:
    bus = bus_of(first_match({large: Where("pieces > 10", parcels_of), small: Where("pieces > 2", parcels_of)}))
    assert [event.data["pieces"] for event in journey(bus, 1, 3).unrouted["orders.parcels_of"]] == [1]


def test_a_walk_says_why() -> None:
    hops = [hop for hop in journey(bus_of(first_match(ALL)), 20).hops if isinstance(hop, Took)]
    assert [(hop.topic, hop.why, bool(hop.records)) for hop in hops] == [
        ("parcels.large", "pieces > 10 is true", True),
        ("parcels.small", "an earlier route took it: pieces > 10 is true", False),
        ("parcels.rest", "an earlier route took it: pieces > 10 is true", False),
    ]
    assert hops[1].saw == {"/pieces": 20}


@pytest.mark.parametrize(
    ("to", "told"),
    [
        (lambda: {large: Where("pices > 10", parcels_of)}, "there is no field 'pices'"),
        (lambda: {large: Where("pieces > 10", wrong_record)}, "gives OrderPlacedV1; parcels.large holds ParcelV1"),
        (lambda: {large: Where("pieces > 10", wrong_record)}, "reads ParcelV1; orders holds OrderPlacedV1"),
        (lambda: {large: Where("pieces > 10")}, "makes no record of its own; orders holds OrderPlacedV1"),
        (lambda: {large: Where(7, parcels_of)}, "what Where asks is of type int"),  # type: ignore[arg-type]  # wrong
        (
            lambda: first_match({rest: parcels_of, large: Where("pieces > 10", parcels_of)}),
            "an earlier route takes everything, so this one is never asked",
        ),
    ],
)
def test_the_check_names_what_is_wrong_with_a_route(to: Callable[[], Mapping[Topic, Route]], told: str) -> None:
    found = faults(bus_of(to()))
    assert any(told in fault.message for fault in found), found
    assert all(fault.where.startswith("tests/trunkline/unit/test_where.py:") for fault in found)


def test_a_drawing_has_the_conditions() -> None:
    [process] = [flow for flow in drawn(bus_of(first_match(ALL)))["flows"] if flow["kind"] == "process"]
    assert process["routes"][1] == {
        "route": "parcels_of",
        "topic": "parcels.small",
        "where": "pieces > 2",
        "first_match": True,
    }
