import asyncio
import sys
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.trunkline.unit.schemas import CustomerV1, OrderPlacedV1, ParcelV1
from trunkline import Bus, Drop, Enrich, Event, Permanent, Process, Publish, Retryable, Table, Topic
from trunkline.event import derived_id
from trunkline.flow.declare import Step
from trunkline.flow.transform import Made, Steps, event_of, key_of, records_of, stamp
from trunkline.sources import Webhook, WebhookRequest

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)
orders = Topic("orders", OrderPlacedV1, key="number")
parcels = Topic("parcels", ParcelV1, key="customer")
notes = Topic("notes", ParcelV1)
customers = Table("customers", CustomerV1, key="customer")
ORDER = Event[Any]("1", AT, {"number": "1", "customer": "7", "pieces": 3}, source="bus/web", traceparent="00-a-b-01")

Route = Callable[[Event[Any]], Any]


def one(order: Event[Any]) -> Iterator[ParcelV1]:
    yield {"customer": order.data["customer"], "pieces": order.data["pieces"]}


def each(order: Event[Any]) -> Iterator[ParcelV1]:
    for number in range(order.data["pieces"]):
        yield {"customer": "7" if number < 2 else "8", "pieces": 1}


def none(_: Event[Any]) -> list[ParcelV1]:
    return []


def run(steps: list[Step | Enrich], to: Mapping[Topic, Route], rows: Mapping[str, Any] | None = None) -> Any:
    """Give what becomes of the order: the records of all routes, or the step's answer that it goes no further."""
    taken = Steps(Process(orders, steps, to=to), {"customers": rows or {}}).take(ORDER)
    if isinstance(taken, Drop):
        return taken
    return [made for topic, route in to.items() for made in records_of(route, topic, taken)]


def test_a_record_is_an_event_of_its_own() -> None:
    [made] = run([], {parcels: one})
    assert made == Made(parcels, derived_id(ORDER, "parcels", "7", 0), "7", {"customer": "7", "pieces": 3})
    assert event_of(made, "bus/orders.one", ORDER) == Event(
        id=derived_id(ORDER, "parcels", "7", 0),
        time=AT,
        data={"customer": "7", "pieces": 3},
        source="bus/orders.one",
        type="tests.Parcel.v1",
        key="7",
        traceparent="00-a-b-01",
    )


def test_ordinals_count_within_topic_and_key() -> None:
    made = run([], {parcels: each, notes: each})
    assert [(one.topic.name, one.key, one.id) for one in made] == [
        ("parcels", "7", derived_id(ORDER, "parcels", "7", 0)),
        ("parcels", "7", derived_id(ORDER, "parcels", "7", 1)),
        ("parcels", "8", derived_id(ORDER, "parcels", "8", 0)),
        ("notes", None, derived_id(ORDER, "notes", None, 0)),
        ("notes", None, derived_id(ORDER, "notes", None, 1)),
        ("notes", None, derived_id(ORDER, "notes", None, 2)),
    ]


def test_the_same_event_gives_the_same_records() -> None:
    assert run([], {parcels: each}) == run([], {parcels: each})


def test_of_an_event_routes_may_make_nothing() -> None:
    assert run([], {parcels: none, notes: none}) == []


def test_a_route_that_never_ends_is_the_events_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trunkline.flow.transform.MOST", 3)

    def endless(order: Event[Any]) -> Iterator[ParcelV1]:
        while True:
            yield from one(order)

    assert len(run([], {parcels: each})) == 3
    with pytest.raises(Permanent, match="endless makes more than 3 records of one event for parcels"):
        run([], {parcels: endless})


def test_steps_run_in_order_with_their_tables() -> None:
    def with_city(order: Event[Any], rows: Mapping[str, CustomerV1]) -> Event[Any]:
        return order.having({**order.data, "city": rows[order.data["customer"]]["city"]})

    def shouted(order: Event[Any]) -> Event[Any]:
        return order.having({**order.data, "city": order.data["city"].upper()})

    def to_city(order: Event[Any]) -> Iterator[ParcelV1]:
        yield {"customer": order.data["city"], "pieces": 1}

    made = run([Enrich(with_city, customers), shouted], {parcels: to_city}, {"7": {"customer": "7", "city": "Bern"}})
    assert [one.key for one in made] == ["BERN"]


def test_a_dropped_event_meets_no_later_step() -> None:
    def dropped(_: Event[Any]) -> Drop:
        return Drop("void")

    def never(_: Event[Any]) -> Event[Any]:
        raise AssertionError

    assert run([dropped, never], {parcels: one}) == Drop("void")


def broken_step(_: Event[Any]) -> Event[Any]:
    raise KeyError("city")


def leaving_step(_: Event[Any]) -> Event[Any]:
    sys.exit("no city")


async def leaving_later(_: Event[Any]) -> Event[Any]:
    sys.exit("no city")


class Panic(BaseException):
    """What libraries written in Rust raise is no Exception either."""


def panicking_step(_: Event[Any]) -> Event[Any]:
    raise Panic("city")


def ending_step(_: Event[Any]) -> Event[Any]:
    raise GeneratorExit("city")


async def cancelled_later(_: Event[Any]) -> Event[Any]:
    raise asyncio.CancelledError("city")


def panicking_route(_: Event[Any]) -> Iterator[ParcelV1]:
    yield {"customer": "7", "pieces": 1}
    raise Panic("later")


def broken_route(_: Event[Any]) -> list[ParcelV1]:
    raise ZeroDivisionError("pieces")


def broken_generator(_: Event[Any]) -> Iterator[ParcelV1]:
    yield {"customer": "7", "pieces": 1}
    raise ValueError("later")


def nothing(_: Event[Any]) -> None:
    return None


def texts(_: Event[Any]) -> list[str]:
    return ["7"]


def absent(_: Event[Any]) -> list[Any]:
    return [None]


def keyless(_: Event[Any]) -> list[Any]:
    return [{"pieces": 1}]


def no_text(_: Event[Any]) -> list[Any]:
    return [{"customer": "\ud800", "pieces": 1}]


@pytest.mark.parametrize(
    ("steps", "route", "told"),
    [
        ([broken_step], one, "bug in broken_step: KeyError: 'city'"),
        ([leaving_step], one, "bug in leaving_step: SystemExit: no city"),
        ([leaving_later], one, "bug in leaving_later: SystemExit: no city"),
        ([panicking_step], one, "bug in panicking_step: Panic: city"),
        ([ending_step], one, "bug in ending_step: GeneratorExit: city"),
        ([cancelled_later], one, "bug in cancelled_later: CancelledError: city"),
        ([], panicking_route, "bug in panicking_route: Panic: later"),
        ([nothing], one, "nothing returned NoneType, no Event or Drop"),
        ([], broken_route, "bug in broken_route: ZeroDivisionError: pieces"),
        ([], broken_generator, "bug in broken_generator: ValueError: later"),
        ([], nothing, "bug in nothing: TypeError: 'NoneType' object is not iterable"),
        ([], texts, "texts gave a str for parcels, no record"),
        ([], absent, "absent gave a NoneType for parcels, no record"),
        ([], keyless, "the record for parcels has no customer, which is the topic's key"),
        ([], no_text, r"the customer of the record for parcels is no text: '\ud800'"),
    ],
)
def test_a_bug_is_the_events_fault_and_says_where(steps: list[Step | Enrich], route: Route, told: str) -> None:
    with pytest.raises(Permanent) as error:
        run(steps, {parcels: route})
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("raised", [Retryable("busy"), Permanent("no"), OSError("disk"), TimeoutError("late")])
def test_what_is_raised_on_purpose_stays_what_it_is(raised: Exception) -> None:
    def step(_: Event[Any]) -> Event[Any]:
        raise raised

    with pytest.raises(type(raised)) as error:
        run([step], {parcels: one})
    assert error.value is raised


class Web(Webhook):
    name = "web"

    def events(self, _: WebhookRequest) -> list[Event[OrderPlacedV1]]:
        return []


class Anybody:
    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Accept."""

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        return {"id": message_id, "of": body.decode()}


def test_a_sources_event_is_given_its_place() -> None:
    flow = Publish(Web(Anybody()), to=orders)
    event = stamp(Bus("bus", [flow]), flow, Event("1", AT, {"number": 1, "pieces": 2}))
    assert (event.source, event.type, event.key, event.id) == ("bus/web", "tests.OrderPlaced.v1", "1", "1")


def test_a_null_key_is_none_and_a_topic_may_have_none() -> None:
    assert key_of(parcels, {"customer": None}) is None
    assert key_of(notes, {"customer": "7"}) is None
    assert key_of(parcels, {"customer": 7}) == "7"


async def louder(order: Event[Any]) -> Event[Any]:
    """Wait for nothing but the loop's next turn."""
    await asyncio.sleep(0)
    return order.having({**order.data, "customer": order.data["customer"] * 2})


async def void(_: Event[Any]) -> Drop:
    return Drop("void")


@types.coroutine
def elsewhere() -> Generator[str, None, None]:
    yield "something"


async def stuck(order: Event[Any]) -> Event[Any]:
    await elsewhere()
    return order


def test_steps_that_wait_run_in_order_too() -> None:
    def plain(order: Event[Any]) -> Event[Any]:
        return order.having({**order.data, "customer": order.data["customer"] + "!"})

    steps = Steps(Process(orders, [louder, plain, louder], to={parcels: one}), {})
    taken = asyncio.run(steps.take_waiting(ORDER))
    assert isinstance(taken, Event)
    assert taken.data["customer"] == "77!77!"
    dropping = Steps(Process(orders, [void, louder], to={parcels: one}), {})
    assert asyncio.run(dropping.take_waiting(ORDER)) == Drop("void")


def test_a_coroutine_that_waits_for_nothing_is_run_where_nothing_waits() -> None:
    assert run([void], {parcels: one}) == Drop("void")
    [made] = run([louder], {parcels: one})
    assert made.key == "77"
    with pytest.raises(Permanent, match="waits for something that is not here"):
        run([stuck], {parcels: one})
