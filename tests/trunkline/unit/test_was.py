"""A rename under `was` changes what people read, and nothing that Kafka, the ledger or a target knows."""

from typing import Any

from tests.trunkline.unit.schemas import OrderPlacedV1, ParcelV1
from tests.trunkline.unit.test_walk import Anybody, Carrier, Web, parcels_of
from trunkline import Bus, Deliver, Process, Publish, Target, Topic, env
from trunkline.event import idempotency_key
from trunkline.flow.check import faults
from trunkline.flow.declare import (
    dead_letters_of,
    group_of,
    identity_of,
    replay_of,
    schemas_of,
    sink_identity,
    source_of,
)
from trunkline.flow.draw import data
from trunkline.flow.walk import item_of, walk

ORDERS = Topic("orders", OrderPlacedV1, key="number")
PARCELS = Topic("parcels", ParcelV1, key="customer")
CARRIER = Target("carrier", env("CARRIER_URL"))


class Portal(Web):
    name = "portal"


class Courier(Carrier):
    name = "courier"
    was = "carrier"


BEFORE = Bus(
    "old",
    [
        Publish(Web(Anybody()), to=ORDERS),
        Process(ORDERS, [], to={PARCELS: parcels_of}),
        Deliver(PARCELS, to=Carrier(CARRIER)),
        Deliver(PARCELS, to=Carrier(CARRIER), name="parcels.again"),
    ],
)
AFTER = Bus(
    "new",
    [
        Publish(Portal(Anybody()), to=ORDERS, was="web"),
        Process(ORDERS, [], to={PARCELS: parcels_of}, name="orders.split", was="orders.parcels_of"),
        Deliver(PARCELS, to=Courier(CARRIER)),
        Deliver(PARCELS, to=Courier(CARRIER), name="parcels.twice", was="parcels.again"),
    ],
    was="old",
)


def known(bus: Bus) -> list[Any]:
    """Give everything that a bus is known by outside."""
    found: list[Any] = [schemas_of(bus)]
    for flow in bus.flows:
        match flow:
            case Publish():
                found += [source_of(bus, flow)]
            case Process() | Deliver():
                identity = identity_of(flow)
                found += [group_of(bus, identity), dead_letters_of(identity), replay_of(identity)]
                found += [source_of(bus, flow) if isinstance(flow, Process) else sink_identity(flow.to)]
    return found


def test_what_is_known_outside_stays() -> None:
    assert known(AFTER) == known(BEFORE)
    assert known(BEFORE) == [
        "trunkline.old.schemas",
        "old/web",
        *("old.orders.parcels_of", "orders.parcels_of.dlq", "orders.parcels_of.replay", "old/orders.parcels_of"),
        *("old.parcels.carrier", "parcels.carrier.dlq", "parcels.carrier.replay", "carrier"),
        *("old.parcels.again", "parcels.again.dlq", "parcels.again.replay", "carrier"),
    ]


def test_what_people_read_is_new() -> None:
    assert [name for name, _ in AFTER.named()] == ["portal", "orders.split", "parcels.courier", "parcels.twice"]
    flows = data(AFTER)["flows"]
    assert [flow["name"] for flow in flows] == ["portal", "orders.split", "parcels.courier", "parcels.twice"]
    assert [flow.get("dead_letters") for flow in flows[1:]] == [
        "orders.parcels_of.dlq",
        "parcels.carrier.dlq",
        "parcels.again.dlq",
    ]


def test_events_and_keys_stay() -> None:
    body = b'[{"number": "7", "customer": "c", "pieces": 2}]'
    before, after = (walk(bus, bus.sources[0], body) for bus in (BEFORE, AFTER))
    assert after.events == before.events
    [parcel] = before.events["parcels"]
    key = idempotency_key("old", "carrier", "old/orders.parcels_of", parcel.id)
    assert item_of(AFTER, Courier(CARRIER), parcel).key == item_of(BEFORE, Carrier(CARRIER), parcel).key == key
    assert after.requests["courier"] == before.requests["carrier"]


def test_neither_has_a_fault() -> None:
    assert faults(BEFORE) == []
    assert faults(AFTER) == []
