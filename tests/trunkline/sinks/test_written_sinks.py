"""Hand-written sinks, tombstones and version writes with a real broker, ledger and target."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.support import QUICK, WHEN, Stage, header, note, notes, stamped, wait_for
from trunkline import Bus, Deliver, Delivered, Event, Permanent, Target, env
from trunkline.dev.target.behaviour import Behaviour
from trunkline.engine.calling import Calling, attempt, verdict_of
from trunkline.errors import Retryable, Unavailable, Unknown
from trunkline.event import to_headers
from trunkline.kafka.events import BY_KEY
from trunkline.ledger.deliveries import State
from trunkline.sinks import Calls, HttpSink, Request, if_match
from trunkline.verdict import Verdict


class Twice(HttpSink):
    """A person first, then what belongs to them: two calls, each under its key."""

    name = "twice"

    async def deliver(self, event: Event[NoteWrittenV1], call: Calls) -> Verdict | httpx.Response:
        if event.data["text"] == "unsayable":
            raise Permanent("this cannot be said")
        first = await call.http.post(
            f"/people/{event.key}", json={"box": event.key}, headers={"Idempotency-Key": call.key_for("person")}
        )
        first.raise_for_status()
        person = first.json()["key"]
        return await call.http.post(
            f"/things/{event.id}", json={"person": person}, headers={"Idempotency-Key": call.key}
        )


def twice(prefix: str) -> Bus:
    return Bus(
        prefix, [Deliver(notes(prefix, 2), to=Twice(Target("shelf", env("SHELF_URL"), breaker=None)), retry=QUICK)]
    )


def test_a_hand_written_sink_is_delivered_effectively_once(stage: Stage) -> None:
    bus = stage.make(twice(stage.prefix))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=503, rate=0.4, after_apply=True))
    stage.write(bus, [note(number, box) for number in range(4) for box in "abc"])
    stage.write(bus, [note(9, "a", "unsayable")])
    with stage.running(bus) as running:
        wait_for(lambda: sum(stage.rows().values()) == 13, why=stage.rows)
    assert stage.rows() == {State.DONE: 12, State.DEAD: 1}
    effects = stage.effects()
    assert sum(effects[path] for path in effects if path.startswith("/things/")) == 12
    assert sum(effects[path] for path in effects if path.startswith("/people/")) == 12
    [flow] = bus.delivering
    [letter] = stage.letters(flow)
    assert header(letter, "__connect.errors.exception.message") == "this cannot be said"
    assert running.counted(flow)["calling"] == running.counted(flow)["attempt"]


class Board(HttpSink):
    """The last note of each box, written only over the one before it, gone when the box is."""

    name = "board"
    writes = "latest"

    def request(self, event: Event[NoteWrittenV1]) -> Request:
        number = event.data["number"]
        return Request.put("/{box}", path={"box": event.key}, json={"number": number}, headers=if_match(number - 1))

    def delete(self, event: Event[Any]) -> Request:
        return Request.delete("/{box}", path={"box": event.key})


def test_an_event_without_a_value_deletes(stage: Stage) -> None:
    bus = stage.make(Bus(stage.prefix, [Deliver(notes(stage.prefix, 2), to=Board(Target("b", env("SHELF_URL"))))]))
    stage.write(bus, [note(1, "a"), note(1, "b")])
    gone = stamped(bus, note(2, "a"))
    stage.send([(bus.topics[0].name, b"a", None, to_headers(gone), BY_KEY)])
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/b", status=412))
    with stage.running(bus):
        wait_for(lambda: sum(stage.rows().values()) == 3, why=stage.rows)
    assert stage.rows() == {State.DONE: 2, State.SUPERSEDED: 1}
    assert [(attempt.path, attempt.status) for attempt in stage.attempts() if attempt.box == "a"] == [
        ("/a", 200),
        ("/a", 200),
    ]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("x"), Retryable),
        (httpx.ConnectTimeout("x"), Retryable),
        (httpx.PoolTimeout("x"), Retryable),
        (httpx.ReadTimeout("x"), Unknown),
        (httpx.RemoteProtocolError("x"), Unknown),
        (httpx.DecodingError("x"), Unknown),
        (httpx.UnsupportedProtocol("x"), Permanent),
        (KeyError("x"), Permanent),
        (Retryable("x"), Retryable),
    ],
)
def test_what_a_client_raises_has_a_verdict(error: Exception, kind: type) -> None:
    assert isinstance(verdict_of(error), kind)


class Scripted(HttpSink):
    name = "scripted"
    found: Any = None

    async def deliver(self, event: Event[Any], call: Calls) -> Any:
        assert event.id == "a-1"
        answer = await call.http.get(call.key_for("x"))
        if isinstance(self.found, Exception):
            raise self.found
        return answer.raise_for_status() if self.found is None else self.found


async def check(status: int, found: Any, verdict: type) -> None:
    sink = Scripted(Target("t", env("T")))
    sink.found = found
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(status)), base_url="http://t"
    ) as client:
        made, _ = await attempt(sink, sink, Event("a-1", WHEN, {}), Calling(client, lambda name: f"/{name}"))
        assert isinstance(made, verdict)
        sink.found = Unavailable("the target stands still")
        with pytest.raises(Unavailable):
            await attempt(sink, sink, Event("a-1", WHEN, {}), Calling(client, lambda name: f"/{name}"))


@pytest.mark.parametrize(
    ("status", "found", "verdict"),
    [(200, None, Delivered), (422, None, Permanent), (500, None, Retryable), (500, Delivered(200), Delivered)],
)
def test_an_answer_or_a_verdict(status: int, found: Any, verdict: type) -> None:
    asyncio.run(check(status, found, verdict))
