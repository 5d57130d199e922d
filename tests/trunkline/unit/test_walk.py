import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline.unit.schemas import CustomerV1, OrderPlacedV1, ParcelV1
from trunkline import (
    Bus,
    Deliver,
    Delivered,
    Drop,
    Enrich,
    Event,
    Lookup,
    Permanent,
    Process,
    Publish,
    Rejected,
    Superseded,
    Table,
    Target,
    Topic,
    Unknown,
    env,
    wait,
)
from trunkline.adapters import Item
from trunkline.errors import Halt, Retryable, UsageError
from trunkline.flow.inputs import posted, walked
from trunkline.flow.journey import Journey, Stepped
from trunkline.flow.journeys import stepped
from trunkline.flow.walk import walk
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.sinks import Call, CompositeSink, HttpSink
from trunkline.sources import Webhook
from trunkline.verdict import Verdict
from trunkline.webhooks import WebhookRequest

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Anybody:
    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Accept."""

    def sign(self, message_id: str, body: bytes) -> dict[str, str]:
        return {"id": message_id, "of": body.decode()}


class Web(Webhook):
    name = "web"

    def events(self, request: WebhookRequest) -> list[Event[OrderPlacedV1]]:
        return [Event(order["number"], AT, order) for order in request.json(list[OrderPlacedV1])]


class Carrier(HttpSink):
    name = "carrier"

    def request(self, event: Event[ParcelV1]) -> Request:
        return Request.put("/to/{city}", path={"city": event.data["customer"]}, json={"pieces": event.data["pieces"]})


class Archive(HttpSink):
    name = "archive"

    def request(self, event: Event[ParcelV1]) -> Request:
        return Request.post("/", json={"pieces": 10 // event.data["pieces"]})


def with_city(order: Event[OrderPlacedV1], rows: Mapping[str, CustomerV1]) -> Event[OrderPlacedV1] | Drop:
    if order.data["pieces"] < 0:
        return Drop("negative")
    row = rows.get(order.data["customer"] or "")
    return order.having({**order.data, "customer": row["city"] if row else None})


def parcels_of(order: Event[OrderPlacedV1]) -> Iterator[ParcelV1]:
    if order.data["pieces"] == 666:
        raise KeyError("pieces")
    if order.data["pieces"] < 100:
        yield {"customer": order.data["customer"], "pieces": order.data["pieces"]}


web = Web(Anybody())
other = Web(Anybody())
orders = Topic("orders", OrderPlacedV1, key="number")
parcels = Topic("parcels", ParcelV1, key="customer")
customers = Table("customers", CustomerV1, key="customer")
bus = Bus(
    "bus",
    [
        Publish(web, to=orders),
        Process(orders, [Enrich(with_city, customers)], to={parcels: parcels_of}),
        Deliver(parcels, to=Carrier(Target("carrier", env("CARRIER_URL")))),
        Deliver(parcels, to=Archive(Target("archive", env("ARCHIVE_URL")))),
    ],
)
ROWS: dict[Table, Any] = {customers: {"7": {"customer": "7", "city": "Bern"}}}


def went(*pieces: int, customer: str | None = "7", answers: Mapping[str, Response] | None = None) -> Journey:
    order = [{"number": str(n), "customer": customer, "pieces": count} for n, count in enumerate(pieces)]
    return walk(bus, web, json.dumps(order).encode(), tables=ROWS, answers=answers)


def test_a_request_goes_all_the_way() -> None:
    journey = went(2, 5)
    assert [event.key for event in journey.events["orders"]] == ["0", "1"]
    assert journey.requests["carrier"] == [
        Request("PUT", "/to/Bern", {"pieces": 2}),
        Request("PUT", "/to/Bern", {"pieces": 5}),
    ]
    assert journey.verdicts["archive"] == [Delivered(200), Delivered(200)]
    assert not any((journey.dead, journey.filtered, journey.unrouted))


def test_what_goes_no_further_is_told_apart() -> None:
    journey = went(-1, 200, 666)
    assert dict(journey.filtered) == {"orders.with_city": ["negative"]}
    assert [event.id for event in journey.unrouted["orders.with_city"]] == ["1"]
    assert [str(verdict) for verdict in journey.dead["orders.with_city"]] == ["bug in parcels_of: KeyError: 'pieces'"]
    assert "parcels" not in journey.events


def test_an_adapters_bug_is_a_dead_letter_of_that_sink_alone() -> None:
    journey = went(0)
    assert list(journey.dead) == ["archive"]
    assert list(journey.requests) == ["carrier"]
    assert str(journey.dead["archive"][0]).startswith("bug in the adapter: ZeroDivisionError")


def test_an_event_that_cannot_be_expressed_is_a_dead_letter() -> None:
    journey = went(1, customer=None)
    assert isinstance(journey.dead["carrier"][0], Permanent)
    assert journey.verdicts["archive"] == [Delivered(200)]


@pytest.mark.parametrize(("status", "kind"), [(422, Permanent), (503, Retryable), (401, Halt), (204, Delivered)])
def test_answers_are_judged(status: int, kind: type) -> None:
    journey = went(1, answers={"carrier": Response(status)})
    assert isinstance(journey.verdicts["carrier"][0], kind)
    assert ("carrier" in journey.dead) == (kind is Permanent)
    assert journey.verdicts["archive"] == [Delivered(200)]


class Bulk(HttpSink):
    name = "bulk"
    together = 3

    def batch(self, items: Sequence[Item[ParcelV1]]) -> Request:
        return Request.post(
            "/bulk", json=[[item.event.key, 10 // item.event.data["pieces"], item.key] for item in items]
        )

    def verdicts(self, response: Response, items: Sequence[Item[ParcelV1]]) -> list[Verdict]:
        refused = response.body.decode().split()
        return [Permanent("no") if item.event.key in refused else Delivered(response.status) for item in items]


class Unkeyed(Carrier):
    name = "unkeyed"
    idempotency = None

    def verdict(self, response: Response) -> Verdict:
        return Unknown(f"answered {response.status}")


class Recent(Carrier):
    name = "recent"
    writes = "latest"


def sent(sink: HttpSink, *pieces: tuple[str, int], answer: Response | None = None) -> Journey:
    """Send a parcel of so many pieces to each customer, through one sink."""
    flow = Process(orders, [], to={parcels: parcels_of})
    small = Bus("bus", [Publish(web, to=orders), flow, Deliver(parcels, to=sink)])
    posted = [{"number": str(n), "customer": one, "pieces": count} for n, (one, count) in enumerate(pieces)]
    return walk(small, web, json.dumps(posted).encode(), answers={sink.name: answer} if answer else None)


TARGET = Target("bulk", env("BULK_URL"))


def test_a_batch_holds_one_event_of_each_key_and_so_many_together() -> None:
    journey = sent(Bulk(TARGET), *((one, 1) for one in "aabcdeff"))
    assert [[one[0] for one in request.json] for request in journey.requests["bulk"]] == [
        ["a"],
        ["a", "b", "c"],
        ["d", "e", "f"],
        ["f"],
    ]
    keys = [one[2] for request in journey.requests["bulk"] for one in request.json]
    assert len(set(keys)) == len(keys) == 8
    assert journey.verdicts["bulk"] == [Delivered(200)] * 8


def test_an_event_that_cannot_be_expressed_leaves_the_rest_of_its_batch() -> None:
    journey = sent(Bulk(TARGET), ("a", 1), ("b", 0), ("c", 1))
    assert [[one[0] for one in request.json] for request in journey.requests["bulk"]] == [["a"], ["c"]]
    assert [str(verdict) for verdict in journey.dead["bulk"]] == [
        "bug in the adapter: ZeroDivisionError: integer division or modulo by zero"
    ]


def test_each_event_of_a_batch_has_its_verdict() -> None:
    journey = sent(Bulk(TARGET), ("a", 1), ("b", 1), ("c", 1), answer=Response(207, body=b"b"))
    assert [type(verdict) for verdict in journey.verdicts["bulk"]] == [Delivered, Permanent, Delivered]
    assert len(journey.dead["bulk"]) == 1


def test_an_unknown_outcome_at_a_target_without_keys_is_dead_at_once() -> None:
    journey = sent(Unkeyed(TARGET), ("a", 1))
    assert [type(verdict) for verdict in journey.dead["unkeyed"]] == [Unknown]


class Removed(Carrier):
    name = "removed"

    def request(self, event: Event[ParcelV1]) -> Request:
        return Request.delete("/{id}", path={"id": event.id})


def test_an_answer_is_judged_with_what_was_asked() -> None:
    assert sent(Removed(TARGET), ("a", 1), answer=Response(404)).verdicts["removed"] == [Delivered(404)]
    assert list(sent(Carrier(TARGET), ("a", 1), answer=Response(404)).dead) == ["carrier"]


def test_a_superseded_event_is_not_dead() -> None:
    journey = sent(Recent(TARGET), ("a", 1), answer=Response(412))
    assert journey.verdicts["recent"] == [Superseded(412)]
    assert not journey.dead


class Muddled(CompositeSink):
    """A sink whose author forgot a `return`."""

    name = "muddled"
    calls = (Call("a", lambda _, __: Request.post("/a")),)

    def verdict(self, response: Response) -> Any:
        super().verdict(response)


def test_an_answer_without_a_verdict_is_a_bug() -> None:
    [dead] = sent(Muddled(TARGET), ("b", 1)).dead["muddled"]
    assert str(dead) == "a bug in the adapter: TypeError: it gives NoneType where a verdict is wanted"


def test_nothing_happens_for_a_source_that_is_not_on_the_bus() -> None:
    assert walk(bus, other, b"[]") == Journey()


def test_a_wrong_request_is_told_as_the_sender_would_be() -> None:
    with pytest.raises(Rejected) as error:
        walk(bus, web, b"[{}]")
    assert error.value.status == 422


def test_an_example_is_read_from_the_folder_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "producers" / "examples" / "web"
    folder.mkdir(parents=True)
    (folder / "two.json").write_text('[{"number": "1", "customer": "7", "pieces": 2}]')
    assert walk(bus, web, "two.json", tables=ROWS).requests["carrier"][0].path == "/to/Bern"
    with pytest.raises(UsageError, match="three"):
        walk(bus, web, "three.json")


def test_nothing_is_kept_between_walks() -> None:
    assert went(3) == went(3)
    assert went(3) is not went(3)


@pytest.mark.parametrize("missing", ["dead", wait(60)])
def test_an_event_without_the_row_that_it_has_to_have_is_dead(missing: Any) -> None:
    strict = Table("customers", CustomerV1, key="customer", missing=missing)
    flows: list[Any] = [
        Publish(web, to=orders),
        Process(orders, [Enrich(with_city, strict)], to={parcels: parcels_of}, name="p"),
    ]
    body = json.dumps([{"number": number, "customer": number, "pieces": 1} for number in ("7", "8")]).encode()
    journey = walk(Bus("bus", flows), web, body, tables={strict: ROWS[customers]})
    assert [event.data["customer"] for event in journey.events["parcels"]] == ["Bern"]
    assert [str(verdict) for verdict in journey.dead["p"]] == ['customers has no row "8"']


def test_rows_are_given_for_look_ups_too() -> None:
    lookup = Lookup("cities", Target("crm", env("CRM_URL")), "/{key}", CustomerV1, "customer")
    flows: list[Any] = [
        Publish(web, to=orders),
        Process(orders, [Enrich(with_city, lookup)], to={parcels: parcels_of}, name="p"),
    ]
    asking = Bus("bus", flows)
    body = json.dumps([{"number": number, "customer": number, "pieces": 1} for number in ("7", "8", None)]).encode()
    body = body.replace(b'"number": null', b'"number": "9"')
    journey = walk(asking, web, body, tables={lookup: ROWS[customers]})
    assert [event.data["customer"] for event in journey.events["parcels"]] == ["Bern", None, None]
    [first, *_] = [hop for hop in journey.hops if isinstance(hop, Stepped)]
    assert first.asked == {"cities": {"7": True}}

    job = {"tables": {"cities": {"7": {"city": "Bern"}}}, "inputs": {"it": posted("web", "it.json", body)}}
    told = walked(asking, job)
    assert told["notes"] == []
    assert "Bern" in json.dumps(told["journeys"])


@pytest.mark.parametrize(("given", "became"), [({}, None), ({"key": "b"}, "b")])
def test_a_step_that_makes_another_event_of_one_is_told(given: dict[str, Any], became: str | None) -> None:
    before: Event[Any] = Event("1", AT, {}, source="bus/web", key="a")
    told = stepped(Stepped("flow", "step", before, replace(before, **given)))
    assert told.get("became", {"key": None})["key"] == became


def test_a_step_that_looks_up_what_its_key_does_not_give_is_told() -> None:
    lookup = Lookup("cities", Target("crm", env("CRM_URL")), "/{key}", CustomerV1, "number")
    flows: list[Any] = [
        Publish(web, to=orders),
        Process(orders, [Enrich(with_city, lookup)], to={parcels: parcels_of}, name="p"),
    ]
    body = b'[{"number": "1", "customer": "7", "pieces": 1}]'
    journey = walk(Bus("bus", flows), web, body, tables={lookup: ROWS[customers]})
    assert [str(one) for one in journey.dead["p"]] == [
        'cities was not asked for "7": it is no number of the event. Correct the key of cities.'
    ]
