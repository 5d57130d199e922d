"""A registry that is not ours: Apicurio, which speaks Confluent's API, in front of a whole bus and as a judge."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest

from tests.shared import free_port
from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.servers import not_here
from tests.trunkline.support import Stage, note, process_bus, stamped, wait_for, whole_bus
from tests.trunkline.unit.test_avro_compat import PAIRS
from trunkline.avro.codec import Codec, split
from trunkline.avro.compat import clashes
from trunkline.avro.files import schema_of
from trunkline.engine import watchdog
from trunkline.errors import Poison, Unavailable, UnknownSchema, UsageError
from trunkline.event import to_headers
from trunkline.kafka.confluent import Confluent
from trunkline.kafka.events import BY_KEY
from trunkline.kafka.registry import Format
from trunkline.ledger.deliveries import State
from trunkline.settings import Settings

pytestmark = [pytest.mark.faults(group="process"), pytest.mark.timeout(300)]
ARTIFACT = "io.apicurio:apicurio-registry-app:2.6.13.Final:tar.gz:all"
GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trunkline/apicurio-2.6.13"
STRICTER = {
    "a is long (timestamp-micros), and was long",
    "a is long (timestamp-micros), and was long (timestamp-millis)",
    "a is bytes (decimal of scale 3), and was bytes (decimal of scale 2)",
    "a is string, and was bytes",
    "a would be read as bytes where it was string",
    "a would be read as double where it was long",
    "a would be read as string where it was bytes (decimal of scale 2)",
}
"""What we refuse and Avro's own checker lets pass, on purpose (trunkline/avro/compat.py)."""


def installed() -> Path:
    """Give the folder of the registry, fetched once through Maven."""
    if not CACHE.is_dir():
        if shutil.which("mvn") is None:
            not_here("Apicurio is fetched through Maven, which is not installed")
        parts = CACHE.with_suffix(".parts")
        command = ["mvn", "-q", "-B", GOAL, f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={parts}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stdout
        [archive] = parts.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(parts, filter="data")
        archive.unlink()
        parts.rename(CACHE)
    return CACHE


@pytest.fixture(scope="module")
def apicurio(started: tuple[str, int]) -> str:
    """Give the address of the registry's Confluent-compatible API."""
    return started[0]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Run the registry, in memory, and give its address and its process."""
    folder = installed()
    port = free_port()
    options = ["-Xmx384m", f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1"]
    [jar] = folder.glob("apicurio-registry-app-*-runner.jar")
    log = (tmp_path_factory.mktemp("apicurio") / "log").open("wb")
    process = subprocess.Popen(["java", *options, "-jar", jar], cwd=folder, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    try:
        wait_for(lambda: answers(url), seconds=90, why=lambda: Path(log.name).read_text()[-2_000:])
        yield url, process.pid
    finally:
        process.kill()
        process.wait()
        log.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/subjects", timeout=20).status_code == 200
    except httpx.HTTPError:
        return False


def record(name: str, *fields: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "name": name, "namespace": "t", "fields": fields})


def test_ids_are_the_registrys_and_what_it_refuses_is_told(apicurio: str) -> None:
    some, other, gone = Confluent(apicurio), Confluent(apicurio), Confluent("http://127.0.0.1:9")
    with closing(some), closing(other), closing(gone):
        refused_and_known(apicurio, some, other, gone)


def refused_and_known(apicurio: str, some: Confluent, other: Confluent, gone: Confluent) -> None:
    httpx.put(f"{apicurio}/config", json={"compatibility": "BACKWARD"}, timeout=60).raise_for_status()
    text = record("Priced", {"name": "n", "type": "long"})
    number = some.id_of(text)
    assert other.id_of(text) == number
    assert json.loads(str(other.text_of(number))) == json.loads(text)
    assert other.codec_of(number).name == "t.Priced"
    assert "t.Priced" in httpx.get(f"{apicurio}/subjects", timeout=60).json()
    with pytest.raises(UsageError, match=r"the registry refuses t\.Priced: .*Run `trunkline schema check`"):
        some.id_of(record("Priced", {"name": "n", "type": "long"}, {"name": "m", "type": "long"}))
    with pytest.raises(UnknownSchema, match="which nobody registered"):
        some.codec_of(987_654)
    recursive = record("Tree", {"name": "a", "type": {"type": "array", "items": "t.Tree"}})
    answer = httpx.post(f"{apicurio}/subjects/t.Tree/versions", json={"schema": recursive}, timeout=60)
    with pytest.raises(Poison, match="recursive"):
        some.codec_of(answer.json()["id"])
    with pytest.raises(Unavailable, match="does not answer"):
        gone.id_of(text)


def test_a_whole_bus_uses_it(apicurio: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = stage.make(whole_bus(stage.prefix))
    usual = Stage.settings

    def settings(self: Stage, **more: Any) -> Settings:
        made = usual(self, **more)
        kafka = made.kafka.model_validate({"bootstrap": made.kafka.bootstrap, "registry": apicurio})
        return made.model_copy(update={"kafka": kafka})

    monkeypatch.setattr(Stage, "settings", settings)
    with closing(Confluent(apicurio)) as schemas:
        form, marked = Format(schemas, schema_of(NoteWrittenV1)), schemas.id_of(schema_of(MarkV1).text)
    events = [stamped(bus, note(number, box)) for number in range(3) for box in ("a", "b")]
    with stage.running(bus):
        stage.send(
            (bus.topics[0].name, str(event.key).encode(), form.encode(event.data), to_headers(event), BY_KEY)
            for event in events
        )
        wait_for(lambda: stage.rows() == Counter({State.DONE: 6}), why=stage.rows)
    marks = stage.read(bus.topics[1].name)
    for mark in marks:
        assert fastavro_of(apicurio, mark.value)["box"] in "ab"
    assert {split(mark.value)[0] for mark in marks} == {marked}
    assert len(marks) == 6
    assert not stage.ends(f"trunkline.{stage.prefix}.schemas")[0], "the embedded registry was used"


def test_a_registry_that_is_away_holds_what_it_must_be_asked_for_and_nothing_is_lost(
    started: tuple[str, int], stage: Stage
) -> None:
    """One that is frozen takes connections and answers nothing: longer than the watchdog would wait for a flow."""
    apicurio, registry = started
    bus = stage.make(process_bus(stage.prefix, partitions=1))
    [flow] = bus.processing
    definition = schema_of(NoteWrittenV1).definition
    newer = json.dumps({**definition, "fields": [*definition["fields"], {"name": "x", "type": "int", "default": 0}]})
    with closing(Confluent(apicurio)) as schemas:
        form, codec, number = Format(schemas, schema_of(NoteWrittenV1)), Codec(newer), schemas.id_of(newer)
    events = [stamped(bus, note(number, "a")) for number in range(3)]
    unknown = codec.encode({**events[1].data, "x": 1}, number)
    values = [form.encode(events[0].data), unknown, form.encode(events[2].data)]
    with stage.child("process_bus", registry=apicurio, options={"partitions": 1}) as child:
        try:
            os.kill(registry, signal.SIGSTOP)
            stage.send(
                (bus.topics[0].name, b"a", value, to_headers(event), BY_KEY)
                for event, value in zip(events, values, strict=True)
            )
            wait_for(lambda: "registry does not answer" in child.log, seconds=60, why=lambda: child.log)
            until = time.monotonic() + watchdog.SILENT + watchdog.DUMPING
            wait_for(lambda: time.monotonic() > until)
            assert stage.committed(bus, flow) == {0: 1}, "what it knows is done, in order, and nothing else"
        finally:
            os.kill(registry, signal.SIGCONT)
        wait_for(lambda: stage.committed(bus, flow) == {0: 3}, seconds=60, why=lambda: child.log)
        assert child.terminate() == 0, child.log
    marks = [fastavro_of(apicurio, mark.value)["number"] for mark in stage.read(bus.topics[1].name)]
    assert marks == [0, 1, 2]
    assert stage.letters(flow) == []


def fastavro_of(url: str, value: bytes) -> Any:
    """Read a value by what the registry says of its schema."""
    number, body = split(value)
    said = httpx.get(f"{url}/schemas/ids/{number}", timeout=60).json()["schema"]
    return fastavro.schemaless_reader(io.BytesIO(body), json.loads(said), None)


def test_the_command_registers_what_the_topology_uses_and_shows_it(apicurio: str) -> None:
    told = [command(apicurio, "register").stdout for _ in range(2)]
    assert told[0] == told[1]
    lines = [line.split() for line in told[0].splitlines()]
    assert lines[0] == ["schema", "id"]
    ids = {name: int(number) for name, number in lines[1:]}
    assert len(set(ids.values())) == len(ids) >= 5
    shown = json.loads(command(apicurio, "show", str(ids["stock_movement.v1"])).stdout)
    assert shown == json.loads(Path("schemas/stock_movement.v1.avsc").read_text())
    nothing = command(apicurio, "show", "987654")
    assert (nothing.returncode, nothing.stderr) == (2, "trunkline: no schema is registered as 987654.\n")


def command(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `trunkline schema` in this repository, with no broker in reach."""
    environment = {"PATH": os.environ["PATH"], "TRUNKLINE_KAFKA__REGISTRY": url}
    program = [str(Path(sys.executable).with_name("trunkline")), "schema", *arguments]
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_it_judges_compatibility_as_we_do(apicurio: str, number: int) -> None:
    newer, older, _ = PAIRS[number]
    subject = f"pair{number}"
    httpx.put(f"{apicurio}/config/{subject}", json={"compatibility": "BACKWARD"}, timeout=60)
    registered = {"schema": json.dumps(older)}
    httpx.post(f"{apicurio}/subjects/{subject}/versions", json=registered, timeout=60).raise_for_status()
    answer = httpx.post(
        f"{apicurio}/compatibility/subjects/{subject}/versions/latest",
        json={"schema": json.dumps(newer)},
        timeout=60,
    )
    ours = {str(clash) for clash in clashes(Codec(json.dumps(newer)), Codec(json.dumps(older)))}
    assert answer.json()["is_compatible"] is (not ours - STRICTER), (ours, answer.text)
