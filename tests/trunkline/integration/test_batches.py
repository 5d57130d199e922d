"""APIs that take several events in one call, over a real broker and ledger (D10)."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from tests.trunkline.support import QUICK, Stage, note, notes, stamped, wait_for
from trunkline import Bus, Deliver, Event, Permanent, Retryable, Target, env
from trunkline.adapters import Item
from trunkline.event import to_headers
from trunkline.kafka.events import BY_KEY
from trunkline.ledger.deliveries import State
from trunkline.requests import Idempotency
from trunkline.responses import Response
from trunkline.sinks import HttpSink, Request
from trunkline.verdict import Delivered, Verdict

Sent = dict[str, Any]
"""One event as the API gets it: its key, box, number and text."""


class Crate(HttpSink):
    """An API that takes ten events in one call, and a key for each."""

    name = "crate"
    together = 10
    idempotency: ClassVar[Idempotency | None] = Idempotency(header=None)

    def batch(self, items: Sequence[Item[Any]]) -> Request:
        return Request.post(
            "/items",
            json=[{"key": item.key} | {k: item.event.data[k] for k in ("box", "number", "text")} for item in items],
        )

    def verdicts(self, response: Response, items: Sequence[Item[Any]]) -> Sequence[Verdict]:
        if response.status != 200:
            return super().verdicts(response, items)
        kinds: dict[int, Verdict] = {422: Permanent("refused"), 503: Retryable("busy"), 200: Delivered(200)}
        return [kinds[status] for status in json.loads(response.body)]


class Sealed(Crate):
    """The same with one key for the whole call."""

    idempotency = Idempotency()


class Bulk:
    """The API: an event's text says what becomes of it, or of the call it is in."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Sent]]] = []
        self.gone: list[tuple[str, str]] = []
        """Path and key of each DELETE."""
        self.effects: Counter[tuple[str, int]] = Counter()
        self.order: dict[str, list[int]] = {}
        self.pause = 0.0
        """Seconds between the effect and the answer."""
        self._known: set[str] = set()
        self._met: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def handle(self, key: str, items: list[Sent]) -> tuple[int, list[int]] | None:
        """Give status and body, or None for no answer."""
        with self._lock:
            self.calls.append((key, items))
            if any(one["text"] == "poisonous" for one in items):
                return 400, []
            statuses = [self._apply(key, one) for one in items]
            return None if any(self._lost(one) for one in items) else (200, statuses)

    def _apply(self, key: str, one: Sent) -> int:
        place = one["box"], one["number"]
        self._met[place] += 1
        if one["text"] == "refused":
            return 422
        if one["text"] == "busy" and self._met[place] < 3:
            return 503
        name = one["key"] or f"{key} {place}"
        if name not in self._known:
            self._known.add(name)
            self.effects[place] += 1
            self.order.setdefault(one["box"], []).append(one["number"])
        return 200

    def _lost(self, one: Sent) -> bool:
        return one["text"] == "lost" and self._met[one["box"], one["number"]] == 1


@contextmanager
def serving(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bulk]:
    bulk = Bulk()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            items = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = bulk.handle(self.headers.get("idempotency-key", ""), items)
            time.sleep(bulk.pause)
            if answer is None:
                self.close_connection = True
                return
            body = json.dumps(answer[1]).encode()
            with suppress(OSError):  # whoever asked may be gone
                self.send_response(answer[0])
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def do_DELETE(self) -> None:
            bulk.gone.append((self.path, self.headers.get("idempotency-key", "")))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("CRATE_URL", f"http://127.0.0.1:{server.server_address[1]}")
    stage.environment["CRATE_URL"] = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield bulk
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def bulk(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bulk]:
    with serving(stage, monkeypatch) as served:
        yield served


def bus_of(prefix: str, *, sealed: bool = False) -> Bus:
    """Deliver to the API, under a key for each event or one for the whole call; a process can be told to run it."""
    sink = Sealed if sealed else Crate
    return Bus(prefix, [Deliver(notes(prefix, 3), to=sink(Target("crate", env("CRATE_URL"))), retry=QUICK)])


def crates(stage: Stage, sink: type[HttpSink] = Crate) -> Bus:
    return stage.make(bus_of(stage.prefix, sealed=sink is Sealed))


def run(stage: Stage, bus: Bus, **expected: int) -> None:
    """Run a worker until the ledger holds so many of each state."""
    wanted = {State[name]: count for name, count in expected.items()}
    with stage.running(bus):
        wait_for(lambda: stage.rows() == wanted, why=stage.rows)


@pytest.mark.parametrize("sink", [Crate, Sealed])
def test_a_call_holds_many_events_and_no_two_of_a_key(stage: Stage, bulk: Bulk, sink: type[HttpSink]) -> None:
    bus = crates(stage, sink)
    stage.write(bus, [note(number, f"b{box}") for number in range(10) for box in range(20)])
    run(stage, bus, DONE=200)
    assert set(bulk.effects.values()) == {1}
    assert len(bulk.effects) == 200
    assert bulk.order == {f"b{box}": list(range(10)) for box in range(20)}
    for key, items in bulk.calls:
        assert len({one["box"] for one in items}) == len(items) <= 10
        assert bool(key) is (sink is Sealed)
    assert max(len(items) for _, items in bulk.calls) > 1


class Single(Crate):
    """The same API, which takes one event in a call and sixteen characters of a key."""

    together = 1
    idempotency = Idempotency(header=None, longest=16)


def test_a_key_in_the_body_has_no_more_characters_than_the_target_takes(stage: Stage, bulk: Bulk) -> None:
    """However many events a call takes: one too."""
    bus = Bus(stage.prefix, [Deliver(notes(stage.prefix, 3), to=Single(Target("crate", env("CRATE_URL"))))])
    stage.write(stage.make(bus), [note(0, f"b{box}") for box in range(5)])
    run(stage, bus, DONE=5)
    keys = [one["key"] for _, items in bulk.calls for one in items]
    assert [len(items) for _, items in bulk.calls] == [1] * 5
    assert len(set(keys)) == 5
    assert {len(key) for key in keys} == {16}


class Emptied(Crate):
    """The same API, which forgets a box when it is told to."""

    def delete(self, event: Event[Any]) -> Request:
        return Request.delete("/items/{box}", path={"box": event.key})


def test_an_event_without_a_value_is_a_call_of_its_own(stage: Stage, bulk: Bulk) -> None:
    bus = Bus(stage.prefix, [Deliver(notes(stage.prefix, 3), to=Emptied(Target("crate", env("CRATE_URL"))))])
    stage.write(stage.make(bus), [note(0, f"b{box}") for box in range(5)])
    topic = bus.topics[0].name
    stage.send([(topic, b"b3", None, to_headers(stamped(bus, note(1, "b3"))), BY_KEY)])
    run(stage, bus, DONE=6)
    assert bulk.gone == [("/items/b3", "")]
    assert bulk.effects == {(f"b{box}", 0): 1 for box in range(5)}


def test_each_event_has_the_verdict_that_is_its_own(stage: Stage, bulk: Bulk) -> None:
    bus = crates(stage)
    texts = {0: "refused", 1: "busy"}
    stage.write(
        bus,
        [note(number, f"b{box}", texts.get(box, "") if number == 1 else "") for number in range(3) for box in range(9)],
    )
    run(stage, bus, DONE=26, DEAD=1)
    assert ("b0", 1) not in bulk.effects
    assert set(bulk.effects.values()) == {1}
    assert bulk.order == {f"b{box}": [0, 2] if box == 0 else [0, 1, 2] for box in range(9)}
    called = Counter((one["box"], one["number"]) for _, items in bulk.calls for one in items)
    assert {place for place, times in called.items() if times > 1} == {("b1", 1)}


def test_one_bad_event_condemns_none_of_its_neighbours(stage: Stage, bulk: Bulk) -> None:
    bus = crates(stage)
    stage.write(bus, [note(0, f"b{box}", "poisonous" if box == 4 else "") for box in range(9)])
    run(stage, bus, DONE=8, DEAD=1)
    assert bulk.effects == {(f"b{box}", 0): 1 for box in range(9) if box != 4}
    [letter] = stage.letters(next(iter(bus.delivering)))
    assert letter.key == b"b4"


def test_a_lost_answer_is_asked_for_again_under_the_same_keys(stage: Stage, bulk: Bulk) -> None:
    bus = crates(stage)
    stage.write(bus, [note(0, f"b{box}", "lost" if box == 4 else "") for box in range(9)])
    run(stage, bus, DONE=9)
    assert bulk.effects == {(f"b{box}", 0): 1 for box in range(9)}
    assert sum(one["box"] == "b4" for _, items in bulk.calls for one in items) == 2


def test_a_lost_answer_to_a_call_under_one_key_is_for_a_person(stage: Stage, bulk: Bulk) -> None:
    bus = crates(stage, Sealed)
    stage.write(bus, [note(0, "b0", "lost")])
    run(stage, bus, AMBIGUOUS=1)
    assert bulk.effects == {("b0", 0): 1}
    assert len(bulk.calls) == 1


def test_a_record_without_a_value_is_no_event_and_its_neighbours_are_called(stage: Stage, bulk: Bulk) -> None:
    bus = crates(stage)
    stage.send([(bus.topics[0].name, b"b0", None, (), 0)])
    stage.write(bus, [note(0, f"b{box}") for box in range(9)])
    run(stage, bus, DONE=9, DEAD=1)
    assert set(bulk.effects.values()) == {1}
    assert len(bulk.effects) == 9
