"""What the gateway does with a body that never ends, and when a worker is ready."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, cast
from unittest.mock import Mock

import httpx
import pytest
from prometheus_client import CollectorRegistry

from trunkline.errors import Rejected
from trunkline.gateway import app
from trunkline.gateway.app import Condition, Door, unready
from trunkline.sources import Webhook, WebhookRequest


async def one_byte_and_no_more() -> dict[str, Any]:
    if not sent:
        sent.append(True)
        return {"type": "http.request", "body": b"{", "more_body": True}
    await asyncio.Event().wait()
    raise AssertionError


sent: list[bool] = []


def test_a_body_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PATIENCE", 0.05)
    with pytest.raises(Rejected, match="nothing was published") as refused:
        asyncio.run(app.read({}, {}, one_byte_and_no_more))
    assert refused.value.status == 408


FLOWS = ("desk", "one", "two")
HALTED = {"one": "no credentials", "two": "no credentials"}


@pytest.mark.parametrize(
    ("state", "condition", "why"),
    [
        ("starting", Condition(FLOWS, [], {}), "The worker starts"),
        ("draining", Condition(FLOWS, [], {}), "The worker drains"),
        ("open", Condition(FLOWS, ["two", "one"], {}), "Not yet taken in by their consumer groups: one, two."),
        ("open", Condition(FLOWS, [], {}), ""),
        ("open", Condition(FLOWS, [], {}, silence=25), ""),
        ("open", Condition(FLOWS, [], {}, silence=42), "No broker has acknowledged anything for 42 seconds"),
        ("open", Condition(FLOWS, [], {}, unwritten=(25, "it is full")), ""),
        ("open", Condition(FLOWS, [], {}, unwritten=(42, "it is full")), "The ledger has taken nothing for 42 seconds"),
        ("open", Condition(FLOWS, [], HALTED), ""),
        ("open", Condition(["one", "two"], [], HALTED), "Every flow has halted: one: no credentials"),
        ("open", Condition(["one", "two"], [], {"one": "no credentials"}), ""),
        ("open", Condition(["desk"], [], {}), ""),
    ],
)
def test_when_a_worker_is_ready(state: Any, condition: Condition, why: str) -> None:
    door = Door()
    door.state = state
    found = unready(door, condition)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_a_worker_that_drains_keeps_no_connection() -> None:
    door = Door()
    served = app.build({}, cast("Any", None), CollectorRegistry(), door, lambda: Condition(FLOWS, [], {}))

    async def post(state: Any) -> tuple[int, str | None]:
        door.state = state
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://gate") as http:
            answer = await http.post("/in/desk", content=b"{}")
        return answer.status_code, answer.headers.get("connection")

    assert asyncio.run(post("starting")) == (503, None)
    assert asyncio.run(post("open")) == (404, None)
    assert asyncio.run(post("draining")) == (503, "close")


def test_a_bug_is_answered_as_a_problem_and_handed_on_to_the_log() -> None:
    door = Door()
    door.state = "open"
    desk = Mock()
    desk.verify.side_effect = KeyError("hush")
    served = app.build({"desk": desk}, cast("Any", None), CollectorRegistry(), door, lambda: Condition(FLOWS, [], {}))

    async def post(*, raises: bool) -> httpx.Response:
        transport = httpx.ASGITransport(served, raise_app_exceptions=raises)
        async with httpx.AsyncClient(transport=transport, base_url="http://gate") as http:
            return await http.post("/in/desk", content=b"{}")

    answer = asyncio.run(post(raises=False))
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["detail"].startswith("KeyError; nothing was acknowledged.")
    assert "hush" not in answer.text
    with pytest.raises(KeyError, match="hush"):
        asyncio.run(post(raises=True))


def test_a_door_is_empty_when_its_last_request_has_its_answer() -> None:
    async def wait() -> list[str]:
        door, told = Door(), []

        async def post(name: str) -> None:
            with door.posting():
                await asyncio.sleep(0)
                told.append(name)

        posts = [asyncio.create_task(post(name)) for name in "ab"]
        await asyncio.sleep(0)
        await door.emptied(20)
        told.append("empty")
        await asyncio.gather(*posts)
        with door.posting():
            await door.emptied(0.01)
        await door.emptied(20)
        return told

    assert asyncio.run(wait()) == ["a", "b", "empty"]


class Asked(Webhook):
    """A source whose sender asks before it posts."""

    name = "asked"
    origins: ClassVar[Sequence[str]] = ("events.example.com",)

    def events(self, request: WebhookRequest) -> list[Any]:
        raise AssertionError(request)


class Unasked(Asked):
    """A source that lets nobody ask."""

    name = "unasked"
    origins = ()


def test_a_sender_that_asks_is_told_that_events_are_wanted_and_nobody_else_learns_a_name() -> None:
    publishers = {source.name: Mock(source=source) for source in (Asked(Mock()), Unasked(Mock()))}
    served = app.build(publishers, cast("Any", None), CollectorRegistry(), Door(), lambda: Condition(FLOWS, [], {}))

    async def ask(name: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://gate") as http:
            return await http.options(f"/in/{name}", headers={k.replace("_", "-"): v for k, v in headers.items()})

    told = asyncio.run(ask("asked", WebHook_Request_Origin="Events.example.com", WebHook_Request_Rate="120"))
    assert (told.status_code, told.content) == (200, b"")
    assert told.headers["webhook-allowed-origin"] == "Events.example.com"
    assert (told.headers["webhook-allowed-rate"], told.headers["allow"]) == ("*", "POST")
    others = [("asked", "other.example.com"), ("asked", ""), ("unasked", "events.example.com"), ("none", "")]
    for name, origin in others:
        answer = asyncio.run(ask(name, WebHook_Request_Origin=origin))
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert "webhook-allowed-origin" not in answer.headers
        assert answer.json()["detail"] == f"OPTIONS /in/{name}: it takes POST. Nothing was published."
