"""The examples of docs/targets.md about sinks do what the page says; so does what `walk` shows of a composite."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.trunkline.sinks.trips import trips
from tests.trunkline.support import WHEN, Desk, note
from trunkline import Bus, Delivered, Event, Permanent, Publish, Retryable, Secret, Target, env
from trunkline.engine.calling import Calling, attempt
from trunkline.flow.composite import Outcome
from trunkline.flow.journey import Journey
from trunkline.flow.walk import walk
from trunkline.sinks import Response
from trunkline.sources import StandardWebhooks, WebhookRequest

PAGE = Path("docs/targets.md")
EXAMPLE = re.compile(r"<!-- example: (?P<name>\w+) -->\n```python\n(?P<body>.*?)```\n", re.DOTALL)
TARGET = Target("t", env("T"))


def example(name: str) -> dict[str, Any]:
    """Run an example of the page and give what it defines."""
    [body] = [match["body"] for match in EXAMPLE.finditer(PAGE.read_text()) if match["name"] == name]
    defined: dict[str, Any] = {}
    exec(body, defined)  # noqa: S102 - the page is ours
    return defined


def event(**data: Any) -> Event[Any]:
    return Event("e1", WHEN, data, key="k/1")


def test_a_last_state() -> None:
    board = example("board")["Board"](TARGET)
    request = board.request(event(version=7))
    assert (request.method, request.path, request.headers) == ("PUT", "/records/k%2F1", {"If-Match": '"6"'})
    assert board.delete(event()).method == "DELETE"


def test_a_trip() -> None:
    trip = example("trip")["Trip"](TARGET)
    kept = {"flight": {"booking": "f1"}, "hotel": {"booking": "h1"}}
    sent = {call.name: call.request(event(city="Wien"), kept) for call in trip.calls}
    assert sent["car"].json == {"driver": "k/1", "flight": "f1"}
    assert [call.undo(event(), kept).path for call in trip.calls if call.undo] == ["/flights/f1", "/hotels/h1"]
    told = trip.result(event(), Outcome("complete", {}, {}))
    assert told == {"traveller": "k/1", "state": "complete", "why": ""}


@pytest.mark.parametrize("member", [True, False])
def test_a_member(member: bool) -> None:  # noqa: FBT001 - a parameter of the test
    sink = example("member")["Member"](TARGET)
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"member": member})

    async def check() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://t") as client:
            verdict, _ = await attempt(sink, sink, event(), Calling(client, lambda name: f"key of {name}"))
            assert verdict == Delivered(200)

    asyncio.run(check())
    assert [request.headers.get("idempotency-key") for request in asked] == [None, *([] if member else ["key of join"])]


def journey(answers: dict[str, Response], **options: Any) -> Journey:
    desk = Desk(StandardWebhooks(Secret("X")))
    bus = trips("b", **options)
    bus = Bus("b", [Publish(desk, to=bus.topics[0]), *bus.flows])
    body = note(1) | {"written_at": WHEN.isoformat()}
    request = WebhookRequest({}, json.dumps(body).encode())
    return walk(bus, desk, request, answers=answers)


def test_a_walk_through_every_call() -> None:
    found = journey({})
    assert [request.path for request in found.requests["trip"]] == ["/flight/a-1", "/hotel/a-1", "/car/a-1"]
    assert found.requests["trip"][2].json["flight"] == "flight.key"
    assert found.verdicts["trip"] == [Delivered(200)]
    [result] = found.events["b.trips"]
    assert result.data["text"] == "complete car=done flight=done hotel=done"


def test_a_walk_back() -> None:
    found = journey({"trip/car": Response(422)})
    paths = [request.path.split("/")[1] for request in found.requests["trip"]]
    assert paths == ["flight", "hotel", "car", "cancel-flight", "cancel-hotel"]
    [dead] = found.dead["trip"]
    assert isinstance(dead, Permanent)
    assert str(dead) == "car answered 422"
    assert found.events["b.trips"][0].data["text"] == "compensated car=failed flight=undone hotel=undone"


def test_a_walk_that_stops_half_way() -> None:
    found = journey({"trip/hotel": Response(503)})
    assert [type(verdict) for verdict in found.verdicts["trip"]] == [Retryable]
    assert not found.dead
    assert "b.trips" not in found.events


def test_a_walk_on_without_what_is_refused() -> None:
    found = journey({"trip/flight": Response(404)}, on_failure="continue")
    assert found.verdicts["trip"] == [Delivered(200)]
    assert found.events["b.trips"][0].data["text"] == "partial car=skipped flight=failed hotel=done"
