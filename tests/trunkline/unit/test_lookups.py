"""Look-ups: which keys an event has, what is remembered, and how a target is asked (P2)."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from typing_extensions import TypedDict

from trunkline import Enrich, Event, Limit, Lookup, Retry, Target, env, minutes
from trunkline.engine import lookups
from trunkline.engine.cache import MOST, Cache
from trunkline.engine.lookups import Asker, Turns, read, request_of
from trunkline.engine.targets import Access, Gate
from trunkline.errors import Halt, Permanent, Retryable, Unknown
from trunkline.flow.bodies import key_faults
from trunkline.flow.rows import Answers, Known, keys_of
from trunkline.kafka import events
from trunkline.observe import Observed
from trunkline.requests import Request
from trunkline.responses import Response


class Rating(TypedDict):
    score: Decimal


class Share(TypedDict):
    share: float


class Both(TypedDict):
    share: float
    score: Decimal


CRM = Target("crm", env("CRM_URL"))


def lookup(target: Target = CRM, **more: Any) -> Lookup:
    return Lookup("ratings", target, "/of/{key}", Rating, more.pop("key", "id"), **more)


def by_id(answer: Any) -> Mapping[str, Any]:
    return {one["id"]: one for one in answer["items"]}


def several(together: int = 3) -> Lookup:
    return Lookup("ratings", CRM, "/all?ids={keys}", Rating, "id", together=together, split=by_id)


def event(**data: Any) -> Event[Any]:
    return Event("1", datetime(2026, 1, 1, tzinfo=UTC), data)


@pytest.mark.parametrize(
    ("key", "data", "keys"),
    [
        ("id", {"id": "7"}, ["7"]),
        ("id", {"id": 7}, ["7"]),
        ("id", {"id": None}, []),
        ("ids", {"ids": ["b", "a", "b", None]}, ["b", "a"]),
        ("lines.sku", {"lines": [{"sku": "2"}, {"sku": "1"}, {"sku": "2"}]}, ["2", "1"]),
        ("lines.sku", {"lines": []}, []),
        ("lines.parts.sku", {"lines": [{"parts": [{"sku": "1"}]}, {"parts": None}]}, ["1"]),
        ("to.id", {"to": {"id": "7"}}, ["7"]),
        ("to.id", {"to": None}, []),
    ],
)
def test_the_keys_of_an_event_are_the_values_of_a_field(key: str, data: Any, keys: list[str]) -> None:
    assert keys_of(lookup(key=key), event(**data)) == keys


@pytest.mark.parametrize("data", [{}, {"lines": [{}]}, {"lines": ["text"]}, {"lines": "text"}])
def test_an_event_without_the_field_is_dead(data: Any) -> None:
    with pytest.raises(Permanent, match=r"^the event has no lines\.sku, which is the key of ratings$"):
        keys_of(lookup(key="lines.sku"), event(**data))


class Shop(TypedDict):
    id: str


class Sale(TypedDict):
    shop: Shop | None


@pytest.mark.parametrize(("key", "told"), [("shop.id", []), ("shop.di", ['Shop has no "di"']), ("shop.id.x", [])])
def test_a_key_of_a_record_within_is_checked(key: str, told: list[str]) -> None:
    def rated(sale: Event[Sale], _: Mapping[str, Any]) -> Event[Sale]:
        return sale

    one = lookup(key=key)
    found = [fault.message for fault in key_faults(one, Enrich(rated, one), Sale)]
    assert [each.partition("; ")[2].partition(". ")[0] for each in found] == told


def test_a_step_that_asks_for_another_key_than_declared_is_told() -> None:
    rows = Answers(lookup(), ["7", "8"], {"7": {"score": 1}})
    assert (rows["7"], rows.get("8"), "8" in rows, list(rows), len(rows)) == ({"score": 1}, None, False, ["7"], 1)
    assert (rows.get(""), None in rows) == (None, False), "a field that is null has no key"
    for ask in (rows.get, rows.__getitem__, rows.__contains__):
        with pytest.raises(Permanent, match='ratings was not asked for "9": it is no id of the event'):
            ask("9")


def test_rows_of_a_test_are_what_a_target_would_answer() -> None:
    assert asyncio.run(Known({"7": {"score": 1}}).ask(["7", "8"])) == {"7": {"score": 1}}


def test_answers_are_fresh_and_usable_for_as_long_as_declared() -> None:
    cache = Cache(lookup(ttl=minutes(5), absent=minutes(1), stale=minutes(10)))
    cache.want(["7", "8"])
    assert [cache.take(), cache.take(), cache.take()] == [["7"], ["8"], []]
    cache.want(["7"])
    assert cache.take() == [], "it is being asked for"
    cache.answered(["7", "8"], {"7": {"score": 1}}, 1_000.0)
    assert cache.fresh("7", 1_299.9) == cache.usable("7", 1_899.9)
    assert (cache.fresh("7", 1_300.0), cache.usable("7", 1_900.0)) == (None, None)
    absent = cache.fresh("8", 1_059.9)
    assert absent is not None
    assert absent.row is None
    assert cache.fresh("8", 1_060.0) is None
    cache.want(["7"])
    assert cache.take() == ["7"]


def test_keys_are_asked_for_together_as_many_as_the_api_takes() -> None:
    cache = Cache(several())
    cache.want(f"{number}" for number in range(7))
    assert [len(cache.take()) for _ in range(4)] == [3, 3, 1, 0]


def test_what_is_remembered_has_a_bound() -> None:
    cache = Cache(lookup())
    for number in range(3 * MOST):
        cache.answered([f"{number}"], {}, 0.0)
    assert len(cache._young) + len(cache._old) <= 2 * MOST
    assert cache.fresh(f"{3 * MOST - 1}", 1.0) is not None
    assert cache.fresh("0", 1.0) is None


def test_a_key_becomes_one_segment_and_several_are_listed() -> None:
    assert request_of(lookup(), ["a/b"]).path == "/of/a%2Fb"
    assert request_of(several(), ["a,b", "c&d"]).path == "/all?ids=a%2Cb,c%26d"
    for wrong in ("", ".."):
        with pytest.raises(Permanent):
            request_of(lookup(), [wrong])


def test_an_answer_is_a_row_of_its_type_with_its_own_digits() -> None:
    body = b'{"score": 1.10, "more": 1}'
    assert read(lookup(), ["7"], Response(200, body=body)) == {"7": {"score": Decimal("1.10")}}
    body = b'{"items": [{"id": "7", "score": 0.1000000000000000000001}, {"id": "9", "score": 1}]}'
    floating = Lookup("ratings", CRM, "/of/{key}", Share, "id")
    assert read(floating, ["7"], Response(200, body=b'{"share": 0.5}')) == {"7": {"share": 0.5}}
    assert read(several(), ["7", "8"], Response(200, body=body)) == {
        "7": {"score": Decimal("0.1000000000000000000001")}
    }
    both = Lookup("ratings", CRM, "/of/{key}", Both, "id")
    body = b'{"share": 0.5, "score": 12345678901234567.10, "unknown": 10000000000000000000000000}'
    assert read(both, ["7"], Response(200, body=body)) == {
        "7": {"share": 0.5, "score": Decimal("12345678901234567.10")}
    }


@pytest.mark.parametrize("status", [404, 410])
def test_a_row_that_the_target_does_not_have_is_absent(status: int) -> None:
    assert read(lookup(), ["7"], Response(status)) == {}
    with pytest.raises(Permanent):
        read(several(), ["7"], Response(status))  # it may as well be the wrong path


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (Response(200, body=b'{"score": "many"}'), Permanent),
        (Response(200, body=b"[]"), Permanent),
        (Response(200, body=b"no json"), Permanent),
        (Response(200, body=b'{"score": 1', whole=False), Permanent),
        (Response(200, {"content-type": "text/html"}, b"<html>"), Permanent),
        (Response(400), Permanent),
        (Response(401), Halt),
        (Response(302), Halt),
        (Response(429, {"retry-after": "7"}), Retryable),
        (Response(500), Retryable),
    ],
)
def test_any_other_answer_means_what_it_means_everywhere(response: Response, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        read(lookup(), ["7"], response)
    assert "many" not in str(raised.value), "no payload in a message"


class Fake:
    """Targets whose answers a test gives."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]], target: Target = CRM) -> None:
        self.asked: list[str] = []
        self.still: dict[str, str] = {}
        self.gate = Gate(Access(target), target, 1.0)
        self.gate.divide(1.0, events.clock())
        self._answer = answer

    async def call(self, _flow: str, _target: Target, request: Request, *_: Any, again: bool) -> Response:
        assert not again
        self.gate.begin(events.clock())
        self.asked.append(request.path)
        return await self._answer(request)

    def standing(self) -> dict[str, str]:
        return self.still


def asker(fake: Fake, one: Lookup, seen: list[Observed] | None = None) -> Asker:
    return Asker(one, "flow", fake, Turns(fake.gate), [].append if seen is None else seen.append)  # type: ignore[arg-type]


async def scored(_: Request) -> Response:
    await asyncio.sleep(0)
    return Response(200, body=b'{"score": 1}')


def test_a_hundred_events_of_one_key_are_one_call() -> None:
    async def run() -> None:
        fake = Fake(scored)
        one = asker(fake, lookup())
        found = await asyncio.gather(*(one.ask(["7"]) for _ in range(100)))
        assert found == [{"7": {"score": Decimal(1)}}] * 100
        assert await one.ask(["7"]) == found[0]
        assert fake.asked == ["/of/7"]

    asyncio.run(run())


def test_keys_of_many_events_share_requests() -> None:
    async def answer(request: Request) -> Response:
        keys = request.path.removeprefix("/all?ids=").split(",")
        items = ",".join(f'{{"id": "{key}", "score": {key}}}' for key in keys if key != "4")
        return Response(200, body=f'{{"items": [{items}]}}'.encode())

    async def run() -> None:
        fake = Fake(answer)
        one = asker(fake, several(50))
        found = await asyncio.gather(*(one.ask([f"{number}", f"{number + 1}"]) for number in range(99)))
        assert [sorted(rows, key=int) for rows in found[2:6]] == [["2", "3"], ["3"], ["5"], ["5", "6"]]
        assert len(fake.asked) == 2

    asyncio.run(run())


def test_a_refused_key_does_not_spoil_those_it_was_asked_with() -> None:
    async def answer(request: Request) -> Response:
        keys = request.path.removeprefix("/all?ids=").split(",")
        if "bad" in keys:
            return Response(422)
        return Response(200, body=f'{{"items": [{{"id": "{keys[0]}", "score": 1}}]}}'.encode())

    async def run() -> None:
        one = asker(Fake(answer), several(3))
        good, bad, other = await asyncio.gather(*(one.ask([key]) for key in ("a", "bad", "c")), return_exceptions=True)
        assert (good, other) == ({"a": {"score": 1}}, {"c": {"score": 1}})
        assert isinstance(bad, Permanent)

    asyncio.run(run())


def failing(errors: Sequence[Exception | Response]) -> Callable[[Request], Awaitable[Response]]:
    """Give a target that fails so often, and answers then."""
    left = [*errors]

    async def answer(request: Request) -> Response:
        if not left:
            return await scored(request)
        if isinstance(found := left.pop(0), Exception):
            raise found
        return found

    return answer


def test_a_target_that_fails_keeps_its_events_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "PATIENCE", Retry(first=timedelta(milliseconds=1)))

    async def run() -> None:
        seen: list[Observed] = []
        fake = Fake(failing([Response(503), Retryable("no connection"), Unknown("no answer"), Response(500)]))
        assert await asker(fake, lookup(), seen).ask(["7"]) == {"7": {"score": 1}}
        assert len(fake.asked) == 5
        assert [one.detail for one in seen if one.what == "stuck"] == ["ratings waits: answered 503"]

    asyncio.run(run())


def test_an_old_answer_is_used_when_the_target_fails_if_so_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(events, "clock", lambda: now)

    async def run() -> None:
        nonlocal now
        seen: list[Observed] = []
        fake = Fake(failing([]))
        one = asker(fake, lookup(ttl=minutes(1), stale=minutes(5)), seen)
        first = await one.ask(["7"])
        now += 61
        fake._answer = failing([Response(503)])
        assert await one.ask(["7"]) == first
        assert [one.outcome for one in seen if one.what == "looked up"] == ["answered", "stale"]
        assert len(fake.asked) == 2
        fake.still = {"crm": "down"}
        fake.gate.access.pause(now, paused=True)
        assert await one.ask(["7"]) == first, "without a call, when the target stands still"
        assert len(fake.asked) == 2
        now += 400
        waiting = asyncio.ensure_future(one.ask(["7"]))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "it is too old"
        fake.gate.access.pause(now, paused=False)
        fake.gate.stir()
        assert await waiting == first
        assert len(fake.asked) == 3

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for knows of no event
        await asyncio.sleep(0.001)


def test_what_nobody_wants_any_more_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "PATIENCE", Retry(first=timedelta(milliseconds=1)))

    async def run() -> None:
        fake = Fake(failing([Response(503)] * 10_000))
        one = asker(fake, lookup())
        waiting = asyncio.ensure_future(one.ask(["7"]))
        await until(lambda: len(fake.asked) == 3)
        waiting.cancel()
        await until(lambda: not one._tasks)
        asked = len(fake.asked)
        fake._answer = scored
        assert await one.ask(["7"]) == {"7": {"score": 1}}
        assert len(fake.asked) == asked + 1

    asyncio.run(run())


def test_a_split_may_give_numbers_for_keys_and_a_step_may_not_ask_for_them() -> None:
    async def run() -> None:
        body = b'{"items": [{"id": 7, "score": 4}, {"id": 8, "score": 5}]}'
        rows = await asker(Fake(failing([Response(200, body=body)])), several()).ask(["7", "8"])
        assert {key: row["score"] for key, row in rows.items()} == {"7": 4, "8": 5}
        answers: Any = Answers(several(), ["7"], rows)
        assert (answers["7"]["score"], answers.get(None), None in answers) == (4, None, False)
        for ask in (answers.__getitem__, answers.get, answers.__contains__):
            with pytest.raises(Permanent, match=r"^ratings is asked for a key of type int; its keys are texts"):
                ask(7)

    asyncio.run(run())


def test_a_refusal_of_us_halts_and_a_split_with_a_bug_is_told() -> None:
    async def run() -> None:
        with pytest.raises(Halt):
            await asker(Fake(failing([Response(401)])), lookup()).ask(["7"])
        with pytest.raises(Permanent, match="bug in ratings: KeyError: 'items'"):
            await asker(Fake(failing([Response(200, body=b"{}")])), several(1)).ask(["7"])
        leaving = replace(several(1), split=lambda _: sys.exit("no items"))
        with pytest.raises(Permanent, match="bug in ratings: SystemExit: no items"):
            await asker(Fake(failing([Response(200, body=b"{}")])), leaving).ask(["7"])

    asyncio.run(run())


def test_no_more_is_asked_than_the_limit_of_the_target_allows() -> None:
    target = Target("crm", env("CRM_URL"), limit=Limit(50))

    async def run() -> None:
        fake = Fake(scored, target)
        one = asker(fake, lookup(target))
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(one.ask([f"{number}"]) for number in range(11)))
        assert asyncio.get_running_loop().time() - began > 0.15

    asyncio.run(run())
