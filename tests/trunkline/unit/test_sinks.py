"""What a sink says of its target decides what an answer means, and how events share a call."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from trunkline import Delivered, Event, Permanent, Retryable, Superseded, Target, env
from trunkline.adapters import judged
from trunkline.event import batch_key, idempotency_key
from trunkline.sinks import HttpSink, Idempotency, Item, Request, Response
from trunkline.verdict import Verdict

TARGET = Target("carrier", env("CARRIER_URL"))


class Each(HttpSink):
    name = "each"

    def request(self, event: Event[Any]) -> Request:
        return Request.put("/{id}", path={"id": event.id}, json=dict(event.data))


class Latest(Each):
    name = "latest"
    writes = "latest"


class Unkeyed(Each):
    name = "unkeyed"
    idempotency = None


class Bulk(HttpSink):
    name = "bulk"
    together = 3
    idempotency = Idempotency(None)

    def batch(self, items: Sequence[Item[Any]]) -> Request:
        return Request.post("/bulk", json=[{"id": item.event.id, "key": item.key} for item in items])

    def verdicts(self, response: Response, items: Sequence[Item[Any]]) -> list[Verdict]:
        refused = response.body.decode().split()
        return [Permanent("refused") if item.event.id in refused else Delivered(response.status) for item in items]


def items(*ids: str) -> list[Item[Any]]:
    at = datetime(2026, 7, 1, 12, tzinfo=UTC)
    return [Item(Event(one, at, {"n": 1}), f"key-{one}") for one in ids]


@pytest.mark.parametrize(
    ("sink", "method", "status", "kind"),
    [
        (Each, "PUT", 409, Retryable),
        (Each, "PUT", 412, Permanent),
        (Each, "DELETE", 404, Delivered),
        (Each, "PUT", 404, Permanent),
        (Latest, "PUT", 409, Superseded),
        (Latest, "PUT", 412, Superseded),
        (Latest, "GET", 409, Retryable),
        (Unkeyed, "PUT", 409, Permanent),
    ],
)
def test_a_sink_judges_by_what_it_says_of_its_target(
    sink: type[HttpSink], method: str, status: int, kind: type
) -> None:
    assert isinstance(sink(TARGET).verdict(Response(status, method=method)), kind)


def test_one_event_is_a_batch_of_one() -> None:
    sink = Each(TARGET)
    [item] = items("a")
    assert sink.batch([item]) == sink.request(item.event)
    assert judged(sink, Response(204), [item]) == [Delivered(204)]


def test_an_answer_is_the_same_for_each_unless_it_tells_them_apart() -> None:
    many = items("a", "b", "c")
    assert judged(Each(TARGET), Response(200), many) == [Delivered(200)] * 3
    first, second, third = judged(Bulk(TARGET), Response(207, body=b"b"), many)
    assert (first, third) == (Delivered(207), Delivered(207))
    assert isinstance(second, Permanent)


def test_the_keys_of_a_batch_are_the_sinks_to_write() -> None:
    assert Bulk(TARGET).batch(items("a", "b")).json == [{"id": "a", "key": "key-a"}, {"id": "b", "key": "key-b"}]


def test_a_sink_without_anything_to_send_says_so() -> None:
    class Silent(HttpSink):
        name = "silent"

    with pytest.raises(NotImplementedError, match="Silent does not say what to send"):
        Silent(TARGET).batch(items("a"))


def raising(_: Response, __: Sequence[Item[Any]]) -> list[Verdict]:
    raise KeyError("results")


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        (lambda *_: [Delivered(200)], "bug in the adapter: 1 verdicts for 2 events"),
        (lambda *_: [Delivered(200)] * 3, "bug in the adapter: 3 verdicts for 2 events"),
        (lambda *_: None, "bug in the adapter: TypeError: 'NoneType' object is not iterable"),
        (raising, "bug in the adapter: KeyError: 'results'"),
    ],
)
def test_a_sinks_mistake_befalls_all_of_its_batch(
    verdicts: Callable[..., Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Bulk(TARGET)
    monkeypatch.setattr(sink, "verdicts", verdicts)
    found = judged(sink, Response(200), items("a", "b"))
    assert [(type(verdict), str(verdict)) for verdict in found] == [(Permanent, told)] * 2


def test_the_key_of_a_call_is_made_of_its_events() -> None:
    keys = [idempotency_key("bus", "bulk", "bus/web", one) for one in "abc"]
    made = {batch_key(keys), batch_key(keys[:2]), batch_key(keys[1:]), batch_key(keys[::-1]), *keys}
    assert len(made) == 7
    assert all(len(one) == 32 and one.isascii() for one in made)
    assert batch_key(keys[:1]) == keys[0], "so a batch of one is the event's own call"
    assert batch_key(keys) == batch_key(list(keys))
