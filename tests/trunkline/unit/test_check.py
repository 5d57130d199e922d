"""Whatever is declared, `faults` names it and never raises. The messages are in tests/topology/wrong."""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trunkline.unit.schemas import CustomerV1, OrderPlacedV1, ParcelV1
from tests.trunkline.unit.test_walk import Anybody, Archive, Carrier, Web, bus, parcels_of, with_city
from trunkline import ApiKey, Bus, Deliver, Enrich, Limit, Process, Publish, Retry, Secret, Table, Target, Topic, env
from trunkline.errors import Fault, TopologyError
from trunkline.flow.check import check, faults
from trunkline.flow.values import ASKED, SAID
from trunkline.sinks import Idempotency


class Strange:
    """Every public attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("_") else RuntimeError(name)


class Late(Carrier):
    @property
    def name(self) -> str:  # type: ignore[override]  # wrong on purpose
        raise RuntimeError


async def later(_: Any) -> Any:
    return None


def misread(_: "Unknown") -> "Event[Nothing]":  # type: ignore[name-defined]  # noqa: F821 - wrong on purpose
    return None


topic = Topic("orders", OrderPlacedV1, key="number")
table = Table("customers", CustomerV1, key="customer")
target = Target("carrier", env("CARRIER_URL"))
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, float("nan"), "", "x", "A b", "orders", b"x", [], (), {}, [None], {None: None}),
    *(print, dict, int, object(), Strange(), len, min, later, misread, partial(print), lambda: None, "é" * 300),
    *(topic, table, target, env("X"), Secret("X"), ApiKey(Secret("X")), Limit(1), Retry(), timedelta(0)),
    *(OrderPlacedV1, ParcelV1, Web(Anybody()), Web, Carrier(target), Archive, Late(target), parcels_of, with_city),
    *(Enrich(with_city, table), Enrich(with_city), Publish(Web(Anybody()), to=topic), Bus("inner", [])),
]
values = st.sampled_from(VALUES)


def either(right: Any) -> st.SearchStrategy[Any]:
    return st.just(right) | right if isinstance(right, st.SearchStrategy) else st.just(right) | values


keys = st.sampled_from([value for value in VALUES if value.__hash__ is not None])
topics = st.builds(Topic, either("orders"), either(OrderPlacedV1), either("number"), either(3), either(timedelta(1)))
tables = st.builds(Table, either("customers"), either(CustomerV1), either("customer"), either(1))
limits = st.builds(Limit, either(10), either("second"))
targets = st.builds(Target, either("carrier"), either(env("URL")), values | st.builds(ApiKey, values), limits | values)
retries = st.builds(Retry, *[either(timedelta(minutes=1))] * 3)
enriched = st.builds(Enrich, either(with_city), tables | values)
sinks = st.builds(Carrier, targets | values) | values


@st.composite
def odd_sinks(draw: st.DrawFn) -> Any:
    sink = draw(st.builds(Carrier, targets))
    for name in ("name", *SAID, *ASKED):
        if draw(st.integers(0, 5)) == 0:
            setattr(sink, name, draw(idempotencies | values if name == "idempotency" else values))
    return sink


idempotencies = st.builds(Idempotency, either("X-Key") | st.none(), either(False), either(32))
publish = st.builds(Publish, either(Web(Anybody())), topics | values, either(""), either("was"))
process = st.builds(
    Process,
    topics | values,
    st.lists(enriched | values, max_size=3) | values,
    st.dictionaries(topics | keys, either(parcels_of), max_size=3) | values,
    either(""),
    either("was"),
)
after_dead = st.sampled_from(["continue", "park_key", "block"]) | values
deliver = st.builds(
    Deliver, topics | values, sinks | odd_sinks(), retries | values, either(""), after_dead, either("") | st.just("was")
)
flows = st.lists(publish | process | deliver | values, max_size=5)
buses = st.builds(Bus, either("bus"), flows, either("was"), st.lists(values, max_size=2) | values)


@given(buses)
def test_nothing_that_is_declared_breaks_the_check(wrong: Bus) -> None:
    for fault in faults(wrong):
        assert isinstance(fault, Fault)
        assert "\n" not in str(fault)
        assert fault.where.rpartition(":")[2].isdigit()


def test_a_right_topology_has_no_fault() -> None:
    assert faults(bus) == []
    check(bus)


def test_every_fault_is_in_the_error() -> None:
    wrong = Bus("The Bus", [])
    with pytest.raises(TopologyError) as error:
        check(wrong)
    assert error.value.faults == tuple(faults(wrong))
    assert str(error.value).endswith("\n2 faults; nothing was started.")


def processed(*steps: Any, to: Mapping[Topic, Any] | None = None) -> list[str]:
    flows: list[Any] = [Publish(Web(Anybody()), to=topic), Process(topic, list(steps), to=to or {parcel: lambda _: []})]
    return [fault.message for fault in faults(Bus("bus", flows)) if "makes no name" not in fault.message]


parcel = Topic("parcels", ParcelV1)


def optional(_: Any, __: Any = None) -> Any:
    return _


def unpacked(*_: Any) -> Any:
    return _


@pytest.mark.parametrize("step", [optional, unpacked, Enrich(optional, table), Enrich(unpacked, table, table), misread])
def test_a_step_that_does_not_tell_is_believed(step: Any) -> None:
    assert processed(step) == []


def test_a_step_may_be_a_method() -> None:
    class Steps:
        def same(self, order: Any) -> Any:
            return order

    assert processed(Steps().same) == []


def wrapping(route: Callable[[Any], Iterator[ParcelV1]]) -> Callable[[Any], Iterator[ParcelV1]]:
    def wrapped(event: Any) -> Iterator[ParcelV1]:
        yield from route(event)

    return wrapped


@wrapping
def decorated(_: Any) -> Iterator[ParcelV1]:
    yield {"customer": None, "pieces": 1}


def test_a_route_may_be_decorated() -> None:
    assert processed(to={parcel: decorated}) == []
