"""A project of its own for a test, and what the test types there and writes onto its topics."""

import importlib
import json
import os
import subprocess
import sys
import uuid
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trunkline import deadletter
from trunkline.avro.codec import HEAD, Codec
from trunkline.avro.files import read, released
from trunkline.avro.types import module
from trunkline.cli.main import app
from trunkline.deadletter import Failure, Kind, Origin
from trunkline.event import Event, Headers, to_headers
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import Sender, Written
from trunkline.kafka.registry import Registry
from trunkline.ledger import deliveries
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import Outcome, State
from trunkline.ledger.sqlite import File

TRUNKLINE = Path(sys.executable).with_name("trunkline")
HAPPENED = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWN = ("topology", "schemas", "producers", "consumers")
"""The modules of a project: each has its own."""
BIG = 9_007_199_254_740_993
"""2^53 + 1: what a float would round."""

ORDER = {
    "type": "record",
    "name": "Order",
    "namespace": "t",
    "doc": "An order.",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "number", "type": "long"},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}},
    ],
}

TOPOLOGY = """
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout

from schemas import OrderV1
from trunkline import Bus, Deliver, Event, Process, Publish, Secret, Target, Topic, env
from trunkline.sinks import HttpSink, Request
from trunkline.sources import StandardWebhooks, Webhook, WebhookRequest


class Till(Webhook):
    name = "till"

    def events(self, request: WebhookRequest) -> list[Event[OrderV1]]:
        return []


class Store(HttpSink):
    name = "store"

    def request(self, event: Event[OrderV1]) -> Request:
        return Request.put("/orders/{id}", path={"id": event.id}, json={"number": event.data["number"]})


def checked(order: Event[OrderV1]) -> Iterator[OrderV1]:
    yield order.data


orders = Topic("PREFIX.orders", OrderV1, key="id", partitions=2)
good = Topic("PREFIX.good", OrderV1, key="id", partitions=2)
bus = Bus(
    "PREFIX",
    [
        Publish(Till(verify=StandardWebhooks(Secret("TILL"))), to=orders),
        Process(orders, [], to={good: checked}),
        Deliver(good, to=Store(Target("shelves", env("STORE_URL")))),
    ],
)
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str, **environment: str) -> Done:
    """Run a command in this process, as if it were one of its own in a project's folder."""
    stdout, stderr, code = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["trunkline", *arguments])
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(sys, "dont_write_bytecode", True)  # it would count for what is changed in the same second
        importlib.invalidate_caches()
        for name, value in environment.items():
            patch.setenv(name, value)
        for name in own_modules():
            patch.delitem(sys.modules, name)
        try:
            app()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        for name in own_modules():
            del sys.modules[name]
    return Done(code, stdout.getvalue(), stderr.getvalue())


def own_modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in OWN]


@dataclass
class Project:
    """A project's folder, and what a test writes onto its topics."""

    folder: Path
    bootstrap: str
    prefix: str = field(default_factory=lambda: f"o{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        schemas = self.folder / "schemas"
        schemas.mkdir()
        (schemas / "order.v1.avsc").write_text(json.dumps(ORDER))
        (schemas / "__init__.py").write_text(module(released(schemas)))
        (self.folder / "topology.py").write_text(TOPOLOGY.replace("PREFIX", self.prefix))
        self.good = f"{self.prefix}.good"
        self.flow = f"{self.good}.store"
        self.ledger = self.folder / "var" / "ledger.db"
        self.codec = Codec(read(schemas / "order.v1.avsc").text)

    def __call__(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Run a command and give what it printed on stdout, and after wrong use on stderr."""
        done = self.run(*arguments, **environment)
        assert done.code == code, done
        return done.stderr if code == 2 else done.stdout

    def run(self, *arguments: str, **environment: str) -> Done:
        """Run a command in the project's folder."""
        return run(self.folder, *arguments, **{"TRUNKLINE_KAFKA__BOOTSTRAP": self.bootstrap, **environment})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        variables = {**os.environ, "TRUNKLINE_KAFKA__BOOTSTRAP": self.bootstrap}
        command, pipe = [str(TRUNKLINE), *arguments], subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=variables, stdout=pipe, stderr=pipe, text=True)

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.bootstrap)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))

    @cached_property
    def schema(self) -> int:
        with closing(Registry(self.cluster, f"trunkline.{self.prefix}.schemas")) as registry:
            return registry.id_of(read(self.folder / "schemas" / "order.v1.avsc").text)

    def value(self, number: int) -> bytes:
        return self.codec.encode({"id": "k1", "number": number, "amount": Decimal("12345678901234567.89")}, self.schema)

    @cached_property
    def sender(self) -> Sender:
        return Sender(self.cluster)

    def send(
        self, topic: str, value: bytes | None, headers: Headers, *, key: bytes = b"k1", partition: int = 0
    ) -> Written:
        return self.sender.send(topic, key, value, headers, partition=partition).result(20)

    def fail(
        self,
        event: str,
        *,
        state: State | None = State.DEAD,
        replays: int = 0,
        kind: Kind = "permanent",
        value: bytes | None = None,
        partition: int = 0,
    ) -> None:
        """Let an event be a dead letter of the sink, as the engine would."""
        value = self.value(BIG) if value is None else value
        seen = order(event)
        before = (
            ("trunkline-first-failed-at", HAPPENED.isoformat().encode()),
            ("trunkline-replay-count", b"%d" % replays),
        )
        headers = (*to_headers(seen), *(before if replays else ()))
        stood = self.send(self.good, value, to_headers(seen), partition=partition)
        at = HAPPENED + timedelta(days=1, minutes=replays)
        failure = Failure(self.flow, kind, "deliver", "Permanent", "answered 422: no such \x1b[31mshelf", 2, 422, at)
        letter = deadletter.write(headers, Origin(self.good, partition, stood.offset), failure)
        self.send(f"{self.flow}.dlq", value, letter, partition=partition)
        if state is not None:
            with File(self.ledger).connect() as db:
                self.record(db, seen, state, value)

    def record(self, db: Connection, event: Event[Any], state: State, value: bytes) -> None:
        place, number = deliveries.place_of("store", event), deliveries.number_of(db, "store")
        payload = deliveries.payload_of(value[HEAD:])
        deliveries.record(db, [Outcome(place, number, state, None, 0, 0, payload, 1, datetime.now(UTC))])


def order(event: str) -> Event[Any]:
    return Event(event, HAPPENED, {}, source="t/till", type="t.Order.v1", key="k1")
