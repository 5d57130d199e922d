"""A bus on brokers that ask who it is, and let it do what docs/operating.md lists and nothing else."""

import json
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from kafka import KafkaConsumer, TopicPartition

from tests.shared import free_port, running
from tests.trunkline.integration import project
from tests.trunkline.integration.project import TRUNKLINE, Done
from tests.trunkline.integration.test_tables import bus_of
from tests.trunkline.observability.figures import figures
from tests.trunkline.schemas import NoteWrittenV1
from tests.trunkline.secured import PASSWORD, PLAIN, ROLES, Secured, roles, secured
from tests.trunkline.support import ROOT, SECRET, note, wait_for
from trunkline import Bus, Table
from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.records import Stats
from trunkline.dev.target.running import RunningTarget
from trunkline.errors import Unavailable
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.events import Sender
from trunkline.kafka.publisher import Publisher

pytestmark = [pytest.mark.xdist_group("secured"), pytest.mark.timeout(300)]

OTHER = trustme.CA().cert_pem.bytes().decode()
TOPOLOGY = """
from datetime import timedelta

from tests.trunkline.agents.buses import tally
from tests.trunkline.integration.test_tables import with_known
from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import QUICK, Desk, marks_of, notes, shelf
from trunkline import Agent, Bus, Deliver, Enrich, Process, Publish, Secret, Table, Topic
from trunkline.sources import StandardWebhooks

written = notes("{name}", 3)
known = Table("{name}.products", NoteWrittenV1, key="note_id", partitions=1)
marks = Topic("{name}.marks", MarkV1, key="box", partitions=3)
tallies = Topic("{name}.tallies", MarkV1, key="box", partitions=3)
bus = Bus(
    "{name}",
    [
        Publish(Desk(StandardWebhooks(Secret("DESK_SECRET"))), to=written),
        Process(written, [Enrich(with_known, known)], to={{marks: marks_of}}),
        Agent(written, tally, to=tallies, window=timedelta(seconds=2)),
        Deliver(marks, to=shelf(), retry=QUICK),
    ],
)
"""

SOONER = """
import sys

if "run-worker" in sys.orig_argv:
    from trunkline.engine import survey, worker
    from trunkline.kafka import orders

    orders.EVERY, survey.EVERY, worker.LATELY = 0.5, 0.5, 3.0
else:
    from trunkline.cli import supervisor

    supervisor.FIRST = 0.1
"""
"""What every process of `trunkline run` begins with: it tells at once what it would tell in some seconds."""


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with running(tmp_path_factory, "secured", secured) as told:
        yield Secured(**json.loads(told))


class Office:
    """A project, and what people and programs in their roles do there."""

    def __init__(self, guarded: Secured, folder: Path, target: RunningTarget, database: Path) -> None:
        self.guarded = guarded
        self.folder = folder
        self.name = f"s{uuid.uuid4().hex[:8]}"
        self.target = target
        self.database = database
        self.port = free_port()
        (folder / "topology.py").write_text(TOPOLOGY.format(name=self.name))
        (folder / "ca.pem").write_text(guarded.ca)
        (folder / "sooner").mkdir()
        (folder / "sooner" / "sitecustomize.py").write_text(SOONER)
        self.users = {role: f"{self.name}-{role.replace(' ', '-')}" for role in ROLES}
        guarded.user(*self.users.values())
        for role, user in self.users.items():
            guarded.allow(user, *roles(role, self.name))

    def environment(self, role: str) -> dict[str, str]:
        return {
            "TRUNKLINE_KAFKA__BOOTSTRAP": self.guarded.login,
            "TRUNKLINE_KAFKA__TLS": "true",
            "TRUNKLINE_KAFKA__CA_FILE": str(self.folder / "ca.pem"),
            "TRUNKLINE_KAFKA__USERNAME": self.users[role],
            "TRUNKLINE_KAFKA__PASSWORD": PASSWORD,
            "TRUNKLINE_GATEWAY__PORT": str(self.port),
            "TRUNKLINE_TARGETS__ALLOW": "127.0.0.0/8",
            "DESK_SECRET": SECRET,
            "SHELF_URL": f"{self.target.url}/{self.name}",
        }

    def cluster(self, role: str) -> Cluster:
        return self.guarded.cluster(self.users[role])

    def run(self, *arguments: str, role: str = "operator", **other: str) -> Done:
        return project.run(self.folder, *arguments, **{**self.environment(role), **other})

    def operator(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.code == 0, done
        return done.stdout

    def start(self, *arguments: str, role: str = "worker") -> "subprocess.Popen[bytes]":
        """Start a command in a process of its own."""
        variables = {**os.environ, **self.environment(role), "PYTHONPATH": f"{self.folder / 'sooner'}:{ROOT}"}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(TRUNKLINE), *arguments], cwd=self.folder, env=variables, stdin=subprocess.DEVNULL, stderr=log
            )

    @contextmanager
    def working(self, *arguments: str, role: str = "worker") -> Iterator[None]:
        """Let `trunkline run` run from when it answers."""
        with self.start("run", *arguments, role=role) as process:
            try:
                wait_for(lambda: "; port http" in self.log, seconds=120, why=lambda: self.log)
                yield
            finally:
                process.send_signal(signal.SIGTERM)
        assert process.returncode == 0, self.log

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def post(self, number: int, *, code: int = 0, **more: Any) -> str:
        file = self.folder / "note.json"
        file.write_text(json.dumps(note(number, **more), default=lambda at: at.isoformat()))
        done = self.run("send", "desk", "--file", str(file))
        assert done.code == code, done
        return done.stderr

    def status(self) -> dict[str, dict[str, Any]]:
        return {one["flow"]: one for one in json.loads(self.operator("status", "--json"))}

    def effects(self) -> int:
        return self.target.control.stats().get(self.name, Stats()).effects

    def row(self, name: str) -> None:
        """Publish a row of the table as an upstream service does."""
        table = Table(f"{self.name}.products", NoteWrittenV1, key="note_id", partitions=1)
        with Publisher(self.cluster("upstream publisher"), Bus(self.name, []), table, service="crm") as publisher:
            list(publisher.rows([note(0, name=name)], datetime.now(UTC)))

    def records(self, topic: str) -> list[Any]:
        """Read a topic with kafka-python, by a login of its own configuration."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.guarded.login,
            security_protocol="SASL_SSL",
            ssl_cafile=str(self.folder / "ca.pem"),
            sasl_mechanism="SCRAM-SHA-512",
            sasl_plain_username=self.users["operator"],
            sasl_plain_password=PASSWORD,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        with closing(consumer):
            places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(places)
            ends, found = consumer.end_offsets(places), list[Any]()
            while any(consumer.position(place) < ends[place] for place in places):
                found += [one for batch in consumer.poll(timeout_ms=200).values() for one in batch]
        return found


@pytest.fixture
def office(guarded: Secured, tmp_path: Path, witness: tuple[RunningTarget, Path]) -> Iterator[Office]:
    target, database = witness
    made = Office(guarded, tmp_path, target, database)
    yield made
    target.control.heal(made.name)


def test_a_bus_lives_with_the_rights_that_are_listed(office: Office) -> None:
    """It publishes, processes with a table, counts with an agent, delivers, and replays what went dead."""
    sink, flow = "shelf", f"{office.name}.marks.shelf"
    office.operator("topics", "apply")
    office.row("a row")
    with office.working():
        office.post(1)
        wait_for(lambda: office.effects() == 1, why=lambda: office.log)
        office.target.control.break_(Behaviour(office.name, status=422))
        office.post(2)
        wait_for(lambda: office.status()[flow]["dead"] == 1, why=lambda: office.log)
        office.target.control.heal(office.name)
        assert "422" in office.operator("dlq", "ls", sink)
        office.operator("dlq", "replay", sink, "--run")
        wait_for(lambda: office.effects() == 2, why=lambda: office.log)
        standing = office.status()
        assert not [one for one in standing.values() if one["waits"] or one["halted"]]
        assert all(one["workers"] for one in standing.values() if one["kind"] != "publish"), standing
        office.operator("sink", "pause", sink, "--why", "a look")
        office.operator("sink", "resume", sink)
    assert "uthorization" not in office.log
    assert PASSWORD not in office.log
    assert [record.key for record in office.records(f"{office.name}.notes")] == [b"a", b"a"]


def test_a_gateway_alone_needs_less(office: Office) -> None:
    office.operator("topics", "apply")
    with office.working("desk", role="gateway only"):
        office.post(1)
        assert len(office.records(f"{office.name}.notes")) == 1
        wait_for(lambda: figures(f"http://127.0.0.1:{office.port}").surveyed)
        found = figures(f"http://127.0.0.1:{office.port}")
        assert (found.total("certificate_end_timestamp_seconds", setting="TRUNKLINE_KAFKA__CA") or 0) > time.time()


def test_what_is_not_granted_waits_and_loses_nothing(office: Office) -> None:
    """Dead letters, results, the offsets of a group and transactions, each taken from a worker and given back."""
    flow, step = f"{office.name}.marks.shelf", f"{office.name}.notes"
    office.operator("topics", "apply")
    worker, name = office.users["worker"], office.name
    office.guarded.forbid(worker, ("topic", f"{name}.*", "Write"), ("transactional_id", f"{name}.*", "Write"))
    office.guarded.allow(worker, ("topic", f"{name}.notes", "Write"))

    def waits(kind: str, why: str) -> None:
        def told() -> bool:
            return any(why in said for one in office.status().values() if one["kind"] == kind for said in one["waits"])

        wait_for(lambda: why in office.log, why=lambda: office.log)  # costs less than to ask for the status
        wait_for(told, why=office.status)

    with office.working():
        office.post(1)
        waits("process", f"the ACL Write on the transactional id {name}.")
        office.guarded.allow(worker, ("transactional_id", f"{name}.*", "Write"))
        waits("process", f"the ACL Write on the topic {name}.marks is missing")
        assert "waits, and tries again: " in office.run("status").stderr
        office.guarded.allow(worker, ("topic", f"{name}.marks", "Write"))
        wait_for(lambda: office.effects() == 1, why=office.status)
        office.target.control.break_(Behaviour(name, status=422))
        office.post(2)
        waits("deliver", f"the ACL Write on the topic {flow}.dlq is missing")
        assert office.status()[flow]["lag"] > 0
        office.guarded.allow(worker, ("topic", f"{flow}.dlq", "Write"))
        wait_for(lambda: office.status()[flow]["dead"] == 1, why=office.status)
        wait_for(lambda: not office.status()[flow]["waits"], why=office.status)
        assert len(office.records(f"{flow}.dlq")) == 1
        office.target.control.heal(name)
        office.guarded.forbid(worker, ("group", f"{name}.*", "Read"))
        office.guarded.allow(worker, ("group", f"{name}.*", "Describe"))
        waits("deliver", f"the ACL Read on the group {name}.{flow} is missing")
        office.post(3)
        office.guarded.allow(worker, ("group", f"{name}.*", "Read"))
        wait_for(lambda: office.effects() == 2, why=office.status)
        office.guarded.forbid(worker, ("topic", f"{name}.*", "Read"))
        waits("deliver", f" on the topic {name}.marks")  # or of its replays, to read or by now to describe
        office.guarded.forbid(worker, ("topic", f"{name}.notes", "Write"))
        assert f"the ACL Write on the topic {name}.notes is missing" in office.post(4, code=1)
    assert not office.records(f"{step}.dlq")


def test_a_worker_that_may_not_start_says_which_right_is_missing(office: Office) -> None:
    """Its supervisor starts it again and again until it has the right."""
    office.operator("topics", "apply")
    worker, name = office.users["worker"], office.name
    group, topic = ("group", f"{name}.*", "Read"), ("topic", f"trunkline.{name}.*", "Read,Write")
    reader = ("group", "trunkline-reader", "Describe")
    office.guarded.forbid(worker, group, topic, reader)
    process = office.start("run")
    for said, right in (
        (f"the ACL Describe on the topic trunkline.{name}.", topic),
        (f"the ACL Describe on the group {name}.", group),
        ("the ACL Describe on the group trunkline-reader is missing", reader),
        ("; port http", None),
    ):
        wait_for(lambda said=said: said in office.log, why=lambda: office.log)  # type: ignore[misc]
        if right is not None:
            office.guarded.allow(worker, right)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, office.log


def test_an_operator_who_may_not_is_told_what_is_missing(office: Office) -> None:
    operator, name = office.users["operator"], office.name
    for resource, right, command in (
        (f"{name}.*", "Create", ("topics", "apply")),
        (f"{name}.*", "DescribeConfigs", ("topics", "apply")),
        (f"trunkline.{name}.*", "Read", ("status",)),
    ):
        office.guarded.forbid(operator, ("topic", resource, right))
        done = office.run(*command)
        assert done.code == 1, done
        assert re.search(
            rf"^trunkline: .*the ACL {right} on the topic \S+ is missing\.?$", done.stderr, re.MULTILINE
        ), done
        office.guarded.allow(operator, ("topic", resource, right))
        office.operator("topics", "apply")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"PASSWORD": "wrong-password"}, "refuses the login of "),
        ({"USERNAME": "nobody"}, "refuses the login of nobody: TRUNKLINE_KAFKA__USERNAME, TRUNKLINE_KAFKA__PASSWORD"),
        ({"MECHANISM": "scram-sha-256"}, "takes no login by SCRAM-SHA-256, but by PLAIN, SCRAM-SHA-512. Set TRUNKLINE"),
        ({"USERNAME": "", "PASSWORD": ""}, "asks for a login. Set TRUNKLINE_KAFKA__USERNAME and "),
        (
            {"CA": OTHER},
            "has a certificate that is not trusted: unable to get local issuer certificate. Set TRUNKLINE_",
        ),
        (
            {"BOOTSTRAP": "127.0.0.1"},
            "not valid for '127.0.0.1'. Name the broker in TRUNKLINE_KAFKA__BOOTSTRAP as its ",
        ),
        ({"TLS": "false", "CA_FILE": "/dev/null"}, "speaks TLS. Set TRUNKLINE_KAFKA__TLS=true."),
        ({"BOOTSTRAP": "plain"}, "speaks no TLS there. Set TRUNKLINE_KAFKA__TLS=false, or name its port for TLS."),
        (
            {"BOOTSTRAP": "plain", "TLS": "false", "CA_FILE": "/dev/null"},
            "asks for no login there. Leave TRUNKLINE_KAF",
        ),
        (
            {"BOOTSTRAP": "mutual"},
            "asks for a certificate of ours (sslv3 alert bad certificate). Set TRUNKLINE_KAFKA__C",
        ),
    ],
)
def test_a_wrong_setting_is_told_at_once(office: Office, other: dict[str, str], said: str) -> None:
    where = {"plain": office.guarded.plain, "mutual": office.guarded.mutual}
    changed = dict(other)
    if address := changed.get("BOOTSTRAP"):
        changed["BOOTSTRAP"] = where.get(address, office.guarded.login.replace("localhost", address))
    variables = {f"TRUNKLINE_KAFKA__{name}": value for name, value in changed.items()}
    for command in ("topics apply", "status", "dlq ls shelf", "broker up"):
        began = time.monotonic()
        done = office.run(*command.split(), **variables)
        assert time.monotonic() - began < 20, "who asks again waits for half a minute"
        assert done.code == 1, done
        [line] = done.stderr.splitlines()
        assert said in line
        assert "wrong-password" not in line
        assert PASSWORD not in line
    told = office.run("broker", "status", **variables)
    assert (told.code, told.stdout.startswith("down: the broker at ")) == (1, True)
    assert said in told.stdout


def test_a_certificate_and_a_plain_password_let_us_in_too(guarded: Secured) -> None:
    mutual = Cluster(guarded.mutual, tls=True, ca=guarded.ca, certificate=guarded.certificate, key=guarded.key)
    plain = replace(guarded.cluster("plain", password=PLAIN), mechanism="PLAIN")
    for cluster in (mutual, plain):
        with Control(cluster) as control:
            assert control.topics() == {}
        with (
            closing(Sender(cluster)) as sender,
            pytest.raises(Unavailable, match="the ACL Write on the topic t is mis"),
        ):
            sender.send("t", None, b"", ()).result(20)


def test_a_publisher_whose_password_is_wrong_says_so(guarded: Secured) -> None:
    bus = bus_of("nobody")
    wrong = guarded.cluster(password="wrong-password")  # noqa: S106
    with pytest.raises(Unavailable, match="refuses the login of bus"):
        Publisher(wrong, bus, bus.tables[0], service="crm")
