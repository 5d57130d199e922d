"""Look-ups with a real broker and a real HTTP server, which counts what it is asked (P2, D13)."""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typing_extensions import TypedDict

from tests.shared import free_port
from tests.trunkline.integration.test_tables import put, with_known
from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import Stage, header, note, notes, wait_for
from trunkline import Bus, Enrich, Event, Limit, Lookup, Process, Table, Target, Topic, env, wait
from trunkline.avro.codec import HEAD, Codec


class Title(TypedDict):
    title: str


class Titles:
    """An API that has a title for every box but those named `none…`, and refuses those named `bad…`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[str] = []
        self.status = 200

    @contextmanager
    def up(self) -> Iterator[None]:
        titles = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                titles.asked.append(self.path)
                boxes = re.split(",|/", self.path.rpartition("=")[2].removeprefix("/of/"))
                known = {box: {"title": box.upper()} for box in boxes if not box.startswith("none")}
                status = titles.status
                if any(box.startswith("bad") for box in boxes):
                    status = 422
                elif self.path.startswith("/of/") and not known and status == 200:
                    status = 404
                found: Any = next(iter(known.values()), None) if self.path.startswith("/of/") else known
                body = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def titles(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Titles:
    served = Titles(free_port())
    monkeypatch.setenv("TITLES_URL", f"http://127.0.0.1:{served.port}")
    assert stage.prefix
    return served


def titled(event: Event[NoteWrittenV1], titles: Mapping[str, Title]) -> Event[NoteWrittenV1]:
    found = titles.get(event.data["box"] or "")
    return event.having({**event.data, "text": "untitled" if found is None else found["title"]})


def marks_of(event: Event[NoteWrittenV1]) -> Iterator[MarkV1]:
    yield {"box": event.data["box"], "number": event.data["number"], "text": event.data["text"]}


def same(answer: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = answer
    return found


def bus_of(prefix: str, **more: Any) -> Bus:
    target = Target("titles", env("TITLES_URL"), breaker=None, limit=Limit(500))  # of which the flow needs its share
    path = "/of?boxes={keys}" if "split" in more else "/of/{key}"
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=1)
    enrich = Enrich(titled, Lookup("titles", target, path, Title, "box", **more))
    return Bus(prefix, [Process(notes(prefix, 1), [enrich], to={marks: marks_of})])


def flow_of(bus: Bus) -> str:
    [name] = bus.processing
    return name


def marks(stage: Stage, bus: Bus) -> list[tuple[str | None, int, str]]:
    codec = Codec(bus.topics[1].schema.text)
    read = [codec.decode(record.value[HEAD:]) for record in stage.read(bus.topics[1].name)]
    return [(mark["box"], mark["number"], mark["text"]) for mark in read]


def test_a_hundred_events_of_one_key_are_one_call_and_a_missing_row_is_none(stage: Stage, titles: Titles) -> None:
    bus = stage.make(bus_of(stage.prefix))
    boxes = ["a"] * 100 + ["b", "none", None, "c d/e"]
    with titles.up(), stage.running(bus) as running:
        stage.write(bus, [note(number, box) for number, box in enumerate(boxes)])
        wait_for(lambda: running.counted(flow_of(bus))["routed"] == len(boxes), why=lambda: running.seen)
        stage.write(bus, [note(number, box) for number, box in enumerate(boxes, 200)])
        wait_for(lambda: running.counted(flow_of(bus))["routed"] == 2 * len(boxes), why=lambda: running.seen)
    assert Counter(titles.asked) == {"/of/a": 1, "/of/b": 1, "/of/none": 1, "/of/c%20d%2Fe": 1}
    found = marks(stage, bus)
    assert [number for box, number, _ in found if box == "a"] == [*range(100), *range(200, 300)]
    assert {(box, text) for box, _, text in found} == {
        ("a", "A"),
        ("b", "B"),
        ("none", "untitled"),
        (None, "untitled"),
        ("c d/e", "C%20D%2FE"),
    }


def test_an_api_that_takes_several_keys_is_asked_for_them_together(stage: Stage, titles: Titles) -> None:
    bus = stage.make(bus_of(stage.prefix, together=10, split=same))
    boxes = [f"k{number}" for number in range(29)] + ["bad"]
    stage.write(bus, [note(number, box) for number, box in enumerate(boxes)])
    with titles.up(), stage.running(bus) as running:
        wait_for(lambda: running.counted(flow_of(bus))["read"] == 30, why=lambda: running.details("stuck"))
    assert sorted(mark[0] or "" for mark in marks(stage, bus)) == sorted(boxes[:29])
    [letter] = stage.letters(flow_of(bus))
    assert header(letter, "__connect.errors.exception.message").startswith("titles answered 422")
    assert len([path for path in titles.asked if path.count(",") == 9]) == 3
    assert len(titles.asked) == 3 + 10, "those asked for with a refused one are asked for again, each alone"


def test_a_target_that_is_down_keeps_the_flow_waiting_and_nothing_goes_dead(stage: Stage, titles: Titles) -> None:
    bus = stage.make(bus_of(stage.prefix))
    stage.write(bus, [note(number, box) for number in range(3) for box in "abc"])
    with stage.running(bus) as running:
        wait_for(lambda: running.details("stuck"), why=lambda: running.seen)
        assert running.details("stuck")[0].startswith("titles waits: no connection to the target")
        assert stage.committed(bus, flow_of(bus)) == {0: 0}
        titles.status = 503
        with titles.up():
            wait_for(lambda: titles.asked)
            titles.status = 200
            wait_for(lambda: running.counted(flow_of(bus))["routed"] == 9, why=lambda: running.details("stuck"))
    assert stage.letters(flow_of(bus)) == []
    found = marks(stage, bus)
    assert [[number for name, number, _ in found if name == box] for box in "abc"] == [[0, 1, 2]] * 3
    assert stage.committed(bus, flow_of(bus)) == {0: 9}


def test_a_worker_ends_while_a_target_is_down(stage: Stage, titles: Titles) -> None:
    bus = stage.make(bus_of(stage.prefix))
    stage.write(bus, [note(1)])
    with stage.running(bus) as running:
        wait_for(lambda: running.details("stuck"))
    assert running.drained
    with titles.up(), stage.running(bus) as running:
        wait_for(lambda: running.counted(flow_of(bus))["routed"] == 1)
    assert marks(stage, bus) == [("a", 1, "A")]


def test_a_target_that_refuses_us_halts_the_flow(stage: Stage, titles: Titles) -> None:
    bus = stage.make(bus_of(stage.prefix))
    titles.status = 401
    stage.write(bus, [note(1)])
    with titles.up(), stage.running(bus) as running:
        wait_for(running.worker.stopped)
        assert "it does not accept our credentials" in running.worker.stopped()[flow_of(bus)]
    assert stage.committed(bus, flow_of(bus)) == {0: 0}
    assert stage.letters(flow_of(bus)) == []


def test_a_key_waits_for_a_row_while_others_are_looked_up(stage: Stage, titles: Titles) -> None:
    """Steps that wait and keys that wait, in one flow (P2, P4)."""
    single = bus_of(stage.prefix)
    [flow] = single.processing.values()
    known = Table(f"{stage.prefix}.known", NoteWrittenV1, key="note_id", missing=wait(60))
    bus = stage.make(Bus(stage.prefix, [replace(flow, steps=[Enrich(with_known, known), *flow.steps], name="both")]))
    put(stage, bus, [("here", "known")])
    with titles.up(), stage.running(bus) as running:
        stage.write(bus, [note(number, box, "late" if box == "a" else "here") for number in range(3) for box in "abc"])
        wait_for(lambda: running.counted("both")["routed"] == 6, why=lambda: running.seen)
        put(stage, bus, [("late", "came")])
        wait_for(lambda: running.counted("both")["routed"] == 9, why=lambda: running.seen)
    found = marks(stage, bus)
    assert [box for box, _, _ in found[6:]] == ["a"] * 3
    assert [[number for name, number, _ in found if name == box] for box in "abc"] == [[0, 1, 2]] * 3
    assert Counter(titles.asked) == {"/of/a": 1, "/of/b": 1, "/of/c": 1}
