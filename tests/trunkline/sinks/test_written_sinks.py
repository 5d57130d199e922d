"""Hand-written sinks, tombstones and version writes with a real broker, ledger and target."""

import asyncio
import sys
import threading
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.support import QUICK, WHEN, Stage, header, note, notes, stamped, wait_for
from trunkline import Bus, Deliver, Delivered, Event, Permanent, Target, env
from trunkline.dev.target.behaviour import Behaviour
from trunkline.engine import calls
from trunkline.engine.calling import Calling, attempt, verdict_of
from trunkline.errors import Retryable, Unavailable, Unknown
from trunkline.event import to_headers
from trunkline.http import transport
from trunkline.kafka.events import BY_KEY
from trunkline.ledger.deliveries import State
from trunkline.responses import Response
from trunkline.sinks import Calls, HttpSink, Request, if_match
from trunkline.sinks.http import Written
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
        if isinstance(self.found, BaseException):
            raise self.found
        return answer.raise_for_status() if self.found is None else self.found


class Posts(HttpSink):
    """One call by hand."""

    name = "posts"

    async def deliver(self, event: Event[NoteWrittenV1], call: Calls) -> httpx.Response:
        return await call.http.post(f"/{event.key}", headers={"Idempotency-Key": call.key})


def test_a_target_that_asks_a_hand_written_sink_to_wait_is_called_by_nobody_until_then(stage: Stage) -> None:
    bus = stage.make(Bus(stage.prefix, [Deliver(notes(stage.prefix, 2), to=Posts(Target("p", env("SHELF_URL"))))]))
    stage.target.control.break_(Behaviour(name=stage.prefix, status=429, retry_after=3))
    with stage.running(bus):
        stage.write(bus, [note(1, "a")])
        wait_for(lambda: len(stage.attempts()) == 1, why=stage.attempts)
        stage.target.control.heal(stage.prefix)
        stage.write(bus, [note(1, box) for box in "bcdefgh"])
        wait_for(lambda: stage.rows()[State.DONE] == 8, why=stage.rows)
    first, *others = [attempt.at for attempt in stage.attempts()]
    assert min(others) - first > 2.9


async def attempted(sink: HttpSink, answer: httpx.Response) -> tuple[Verdict, Response | None]:
    """Let a hand-written sink make its attempt at a target that answers so."""
    assert isinstance(sink, Written)
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer), base_url="http://t") as client:
        return await attempt(sink, sink, Event("a-1", WHEN, {}), Calling(client, lambda name: f"/{name}"))


@pytest.mark.parametrize(
    ("status", "found", "verdict"),
    [(200, None, Delivered), (422, None, Permanent), (500, None, Retryable), (500, Delivered(200), Delivered)],
)
def test_an_answer_or_a_verdict(status: int, found: Any, verdict: type) -> None:
    sink = Scripted(Target("t", env("T")))
    sink.found = found
    made, answer = asyncio.run(attempted(sink, httpx.Response(status)))
    assert isinstance(made, verdict)
    assert (None if answer is None else answer.status) == (None if found else status)
    sink.found = Unavailable("the target stands still")
    with pytest.raises(Unavailable):
        asyncio.run(attempted(sink, httpx.Response(status)))


class Panic(BaseException):
    """What libraries written in Rust raise is no Exception either."""


@pytest.mark.parametrize("raised", [SystemExit(3), GeneratorExit("3"), Panic(3), RecursionError(3), MemoryError(3)])
def test_whatever_is_raised_has_a_verdict(raised: BaseException) -> None:
    """Some of it would end the worker, the rest leave the call in flight for good."""
    sink = Scripted(Target("t", env("T")))
    sink.found = raised
    told = f"bug in the adapter: {type(raised).__name__}: 3"
    assert str(asyncio.run(attempted(sink, httpx.Response(200)))[0]) == told


def test_what_something_else_has_cancelled_has_a_verdict() -> None:
    sink = Scripted(Target("t", env("T")))
    sink.found = asyncio.CancelledError()
    assert isinstance(asyncio.run(attempted(sink, httpx.Response(200)))[0], Unknown)


def test_a_cancelled_attempt_has_no_verdict() -> None:
    class Waits(Scripted):
        async def deliver(self, _event: Event[Any], _call: Calls) -> Any:
            await asyncio.sleep(60)

    async def cancelled() -> None:
        task = asyncio.create_task(attempted(Waits(Target("t", env("T"))), httpx.Response(200)))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


class Deaf(HttpSink):
    """Does not let itself be cancelled until it has had enough."""

    name = "deaf"
    enough = threading.Event()

    async def deliver(self, event: Event[NoteWrittenV1], call: Calls) -> httpx.Response:
        while event.key == "a" and not self.enough.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        return await call.http.post(f"/{event.key}", headers={"Idempotency-Key": call.key})


def test_a_sink_that_does_not_end_with_its_time_is_named_and_holds_up_no_other_key(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, constant, seconds in ((transport, "DEADLINE", 0.2), (calls, "LATE", 0.1), (calls, "REMIND", 0.2)):
        monkeypatch.setattr(module, constant, seconds)
    bus = stage.make(Bus(stage.prefix, [Deliver(notes(stage.prefix, 2), to=Deaf(Target("d", env("SHELF_URL"))))]))
    stage.write(bus, [note(1, box) for box in "ab"])
    with stage.running(bus) as running:
        wait_for(lambda: len(running.details("stuck")) > 1 and stage.rows()[State.DONE] == 1, why=stage.rows)
        assert running.details("stuck")[0].startswith("deaf goes on though its time is over")
        Deaf.enough.set()
        wait_for(lambda: stage.rows()[State.DONE] == 2, why=stage.rows)


class Leaves(HttpSink):
    """Exits or panics where it writes its request, or where it reads the answer."""

    name = "leaves"

    def request(self, event: Event[NoteWrittenV1]) -> Request:
        if event.data["text"] == "at the request":
            sys.exit("no more")
        if event.data["text"] == "panics":
            raise Panic("no more")
        return Request.put("/{box}", path={"box": event.key}, json={"text": event.data["text"]})

    def verdict(self, response: Response) -> Verdict:
        if response.status == 418:
            raise Panic("no teapot")
        return super().verdict(response)


def test_a_sink_that_exits_is_at_fault_and_the_worker_goes_on(stage: Stage) -> None:
    bus = stage.make(Bus(stage.prefix, [Deliver(notes(stage.prefix, 2), to=Leaves(Target("l", env("SHELF_URL"))))]))
    stage.target.control.break_(Behaviour(name=stage.prefix, match="/b", status=418))
    stage.write(bus, [note(1, "a", "at the request"), note(1, "b"), note(1, "c"), note(2, "a"), note(1, "d", "panics")])
    with stage.running(bus):
        wait_for(lambda: sum(stage.rows().values()) == 5, why=stage.rows)
    assert stage.rows() == {State.DEAD: 3, State.DONE: 2}
    [flow] = bus.delivering
    assert {header(letter, "__connect.errors.exception.message") for letter in stage.letters(flow)} == {
        "bug in the adapter: SystemExit: no more",
        "bug in the adapter: Panic: no more",
        "bug in the adapter: Panic: no teapot",
    }


def test_what_the_target_says_beside_the_answer_that_decides_is_heard() -> None:
    """Its Retry-After above all, which holds for all that call it."""
    sink = Scripted(Target("t", env("T")))
    _, answer = asyncio.run(attempted(sink, httpx.Response(429, headers={"Retry-After": "30"}, content=b"x" * 70_000)))
    assert answer is not None
    assert answer.headers["retry-after"] == "30"
    assert (len(answer.body), answer.whole) == (65_536, False)


class Mute(HttpSink):
    """A sink whose author forgot a `return`."""

    name = "mute"

    def request(self, event: Event[NoteWrittenV1]) -> Request:
        return Request.put("/{box}", path={"box": event.key}, json={"number": event.data["number"]})

    def verdict(self, response: Response) -> Any:
        super().verdict(response)


def test_an_answer_without_a_verdict_is_a_bug_and_no_reason_to_call_again(stage: Stage) -> None:
    bus = stage.make(Bus(stage.prefix, [Deliver(notes(stage.prefix, 2), to=Mute(Target("b", env("SHELF_URL"))))]))
    stage.write(bus, [note(1, "a")])
    with stage.running(bus):
        wait_for(lambda: sum(stage.rows().values()) == 1, why=stage.rows)
    assert stage.rows() == {State.DEAD: 1}
    assert len(stage.attempts()) == 1
    [flow] = bus.delivering
    [letter] = stage.letters(flow)
    assert header(letter, "__connect.errors.exception.message").startswith("bug in the adapter: TypeError: it gives")


def test_a_hand_written_sink_that_returns_nothing_has_a_bug() -> None:

    class Silent(HttpSink):
        name = "silent"

        async def deliver(self, _event: Event[Any], call: Calls) -> None:
            (await call.http.get("/")).raise_for_status()

    verdict, _ = asyncio.run(attempted(Silent(Target("t", env("T"))), httpx.Response(200)))
    assert isinstance(verdict, Permanent)
    assert "bug in the adapter: TypeError: it gives NoneType where a verdict is wanted" in str(verdict)


def test_a_verdict_that_cannot_read_the_answer_says_what_that_means() -> None:
    class Reading(Scripted):
        def verdict(self, response: Response) -> Verdict:
            return Permanent(response.json()["code"])

    page = httpx.Response(422, headers={"content-type": "text/html"}, content=b"<html>")
    verdict, answer = asyncio.run(attempted(Reading(Target("t", env("T"))), page))
    assert isinstance(verdict, Permanent)
    assert str(verdict) == "answered 422: <html>"
    assert answer is not None


@pytest.mark.parametrize(
    ("version", "sent"),
    [(7, '"7"'), ("33a64", '"33a64"'), ('"33a64"', '"33a64"'), ('W/"33a64"', 'W/"33a64"'), ('""', '""'), ("*", '"*"')],
)
def test_a_version_is_sent_as_an_entity_tag_is_written(version: object, sent: str) -> None:
    assert if_match(version) == {"If-Match": sent}


@pytest.mark.parametrize("version", [None, "", 'a"b', '"a", "b"', '"'])
def test_a_version_that_no_target_can_hold_is_not_sent(version: object) -> None:
    """It would be answered 412, and count as superseded."""
    with pytest.raises(Permanent, match="no version that If-Match can name"):
        if_match(version)
