"""A target that says again what it was sent: nobody finds it in a letter, a log, the ledger or on a screen."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.trunkline.integration.project import run
from tests.trunkline.people import PersonMovedV1
from tests.trunkline.support import Stage, header, wait_for
from trunkline import ApiKey, Bus, Deliver, Event, Process, Publish, Secret, Target, Topic, env, redact
from trunkline.event import to_headers
from trunkline.flow.declare import dead_letters_of
from trunkline.kafka import orders
from trunkline.kafka.events import BY_KEY
from trunkline.kafka.orders import Announcement, Full, Worker
from trunkline.kafka.topics import control_of
from trunkline.observe import Log
from trunkline.sinks import HttpSink, Request
from trunkline.sources import StandardWebhooks, Webhook, WebhookRequest

KEY = "Bearer never-to-be-seen-4711"
PERSON = "Ann Onymous"
STREET = "17 Hidden Lane"
TRACES = ("never-to-be-seen", "Onymous", "onymous", "Hidden Lane", "hidden lane")


class Register(HttpSink):
    """Tells an office that a person has moved."""

    name = "register"

    def request(self, event: Event[Any]) -> Request:
        return Request.post("/moves", json={"person": event.data["person"], "street": event.data["street"]})


class Clerk(Webhook):
    """Tells of one move a request."""

    name = "clerk"

    def events(self, request: WebhookRequest) -> list[Event[PersonMovedV1]]:
        data = request.json(PersonMovedV1)
        return [Event(id=data["town"], time=data["moved_at"], data=data)]


def of_person(event: Event[PersonMovedV1]) -> Event[PersonMovedV1]:
    """Find fault with a town, and with whom it concerns."""
    if event.data["town"] == "Nowhere":
        raise ValueError(f"{event.data['person']} cannot live there")
    return event


def same(event: Event[PersonMovedV1]) -> Iterator[PersonMovedV1]:
    yield event.data


def people_bus(prefix: str) -> Bus:
    heard = Topic(f"{prefix}.heard", PersonMovedV1, key="person", partitions=1)
    moves = Topic(f"{prefix}.moves", PersonMovedV1, key="person", partitions=1)
    office = Target("office", env("OFFICE_URL"), auth=ApiKey(Secret("OFFICE_KEY"), header="Authorization"))
    clerk = Clerk(StandardWebhooks(Secret("DESK_SECRET")))
    return Bus(
        prefix,
        [Publish(clerk, to=heard), Process(heard, [of_person], to={moves: same}), Deliver(moves, to=Register(office))],
    )


class Echo(BaseHTTPRequestHandler):
    """Refuses every request and says again what it was sent."""

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = f"{self.headers['authorization']} may not move {sent['person'].lower()} to {sent['street']}"
        body = json.dumps({"detail": said}).encode()
        self.send_response(422)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def office(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stage.environment.update(OFFICE_URL=f"http://127.0.0.1:{server.server_port}", OFFICE_KEY=KEY)
        for name in ("OFFICE_URL", "OFFICE_KEY"):
            monkeypatch.setenv(name, stage.environment[name])
        yield
        server.shutdown()
        thread.join()


def write(stage: Stage, bus: Bus, towns: list[str]) -> None:
    topic = bus.topics[0]
    form = stage.encoder(bus, topic.name)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    records = []
    for number, town in enumerate(towns):
        data: PersonMovedV1 = {"person": PERSON, "street": STREET, "town": town, "moved_at": at}
        event = Event(f"m-{number}", at, data, source="test", type=topic.schema.event_type, key=PERSON)
        records.append((topic.name, PERSON.encode(), form.encode(data), to_headers(event), BY_KEY))
    stage.send(records)


@pytest.fixture
def command(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give a way to run a command that knows nothing of what was run before, as in a process of its own."""
    (stage.folder / "topology.py").write_text(
        f"from tests.trunkline.integration.test_redaction import people_bus\n\nbus = people_bus({stage.prefix!r})\n"
    )

    def command(*arguments: str) -> str:
        monkeypatch.setattr(redact, "_secrets", set())
        redact._finder.cache_clear()
        where = {"TRUNKLINE_KAFKA__BOOTSTRAP": stage.bootstrap, "TRUNKLINE_LEDGER__PATH": str(stage.ledger)}
        done = run(stage.folder, *arguments, **where)
        assert done.code == 0, done
        return done.stdout + done.stderr

    return command


def clean(said: str) -> None:
    found = [trace for trace in TRACES if trace in said]
    assert not found, said


@pytest.mark.usefixtures("office")
def test_what_is_secret_or_sensitive_is_nowhere_to_be_found(stage: Stage, command: Callable[..., str]) -> None:
    bus = stage.make(people_bus(stage.prefix))
    write(stage, bus, ["Hull", "Nowhere"])
    [step], [sink] = bus.processing, bus.delivering
    with capture_logs() as logs, stage.running(bus, observe=Log()) as running:
        wait_for(lambda: len(stage.letters(step)) == len(stage.letters(sink)) == 1, why=running.worker.stopped)
        wait_for(lambda: sum(stage.rows().values()) == 1)
    [refused], [wrong] = stage.letters(sink), stage.letters(step)
    reason = header(refused, "__connect.errors.exception.message")
    assert reason == "answered 422: [secret] may not move [sensitive] to [sensitive]"
    clean(header(wrong, "__connect.errors.exception.message"))
    clean(json.dumps(logs, default=str))
    assert {"dead letter", "attempt failed"} <= {line["event"] for line in logs}
    clean(" ".join(detail for seen in running.seen for detail in [seen.detail, seen.lane]))
    with closing(sqlite3.connect(stage.ledger)) as ledger:
        clean("\n".join(ledger.iterdump()))

    shown = [
        command("tail", bus.topics[0].name),
        command("tail", bus.topics[1].name, "--json"),
        command("tail", dead_letters_of(sink), "--json"),
        command("dlq", "ls", sink),
        command("dlq", "ls", sink, "--json"),
        command("dlq", "show", sink),
        command("dlq", "show", step, "--json"),
    ]
    for said in shown:
        clean(said)
    assert '"town": "Hull"' in shown[0]
    assert '"person": "[sensitive]"' in shown[0]


@pytest.mark.usefixtures("office")
def test_a_sensitive_key_that_holds_a_partition_up_is_shown_as_everywhere(
    stage: Stage, command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "LIVE", timedelta(minutes=10))  # nobody says again that this worker is there
    bus = stage.make(people_bus(stage.prefix))
    [flow] = bus.delivering
    full = Full(flow, bus.delivering[flow].topic.name, 0, PERSON, "m-1")
    said = Announcement(Worker("w", "host", 7, (flow,), "t"), 0, {}, (full,))
    [(name, value)] = orders.announcing(said)
    stage.send([(control_of(bus), name.encode(), value, (), BY_KEY)])
    for arguments in (["status"], ["status", "--json"], ["sink", "ls"], ["sink", "ls", "--json"]):
        told = command(*arguments)
        clean(told)
        assert f"#{redact.hashed(PERSON.encode())}" in told
