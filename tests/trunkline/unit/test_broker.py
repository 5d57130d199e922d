import json
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.shared import free_port
from trunkline.dev import broker
from trunkline.dev.broker import COMPOSE, POM, PROPERTIES, VERSION, LocalKafka, answers, jars, properties, running
from trunkline.errors import Unavailable, UsageError
from trunkline.settings import Kafka, Settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the whole PATH, and another one the cache."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def program(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
    file.chmod(0o755)


def java(folder: Path, version: str = "17.0.15") -> None:
    program(folder, "java", f"""echo 'openjdk version "{version}" 2025-04-15' >&2""")


def state(folder: Path, pid: int, port: int) -> LocalKafka:
    folder.mkdir(parents=True)
    facts = {
        "kind": "jvm",
        "bootstrap": f"127.0.0.1:{port}",
        "pid": pid,
        "version": VERSION,
        "started": "2026-01-01T00:00:00+00:00",
    }
    (folder / "state.json").write_text(json.dumps(facts))
    return LocalKafka(folder)


def lines(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_properties_hold_every_setting_and_the_two_ports() -> None:
    written = lines(properties(20_001, 20_002))
    assert PROPERTIES.items() <= written.items()
    assert written["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002"
    assert written["advertised.listeners"] == "PLAINTEXT://127.0.0.1:20001"
    assert written["controller.quorum.voters"] == "1@127.0.0.1:20002"
    assert written["log.dirs"] == "data"


def test_the_broker_in_docker_has_the_settings_and_the_version_of_the_one_on_the_jvm() -> None:
    compose = (ROOT / COMPOSE).read_text()
    given = dict(re.findall(r'^      (KAFKA_\w+): "(.*)"$', compose, re.MULTILINE))
    assert {
        f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in PROPERTIES.items()
    }.items() <= given.items()
    assert re.findall(r"image: apache/kafka:(.+)", compose) == [VERSION]
    assert re.findall(r"<kafka.version>(.+)</kafka.version>", POM.read_text()) == [VERSION]


def test_docker_publishes_on_this_machine_only() -> None:
    ports = re.findall(r'^    ports:\n      - "(.*)"$', (ROOT / COMPOSE).read_text(), re.MULTILINE)
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.skipif(
    not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,  # noqa: PLW1510
    reason="the docker compose client is not installed",
)
def test_docker_compose_reads_its_file() -> None:
    shown = subprocess.run(
        ["docker", "compose", "--file", ROOT / COMPOSE, "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(json.loads(shown.stdout)["services"]) == {"kafka", "postgres"}


def test_ports_are_kept_when_free_and_replaced_when_taken(tmp_path: Path) -> None:
    file = tmp_path / "server.properties"
    first = broker._ports(file)
    file.write_text(properties(*first))
    assert broker._ports(file) == first
    with socket.create_server(("127.0.0.1", first[1])):
        second = broker._ports(file)
    assert first[1] not in second
    assert len({*second}) == 2


def test_ports_lie_below_those_that_clients_are_lent(tmp_path: Path) -> None:
    assert all(port in broker.PORTS for port in broker._ports(tmp_path / "server.properties"))


def test_the_state_of_a_dead_process_is_stale(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kafka = state(tmp_path / "broker", ended.pid, 20_000)
    assert kafka.pid is None
    assert running(Settings(state=tmp_path)) is None
    assert not kafka.kill()
    assert not kafka.stop()
    assert not (kafka.folder / "state.json").exists()


def test_a_process_id_reused_by_another_program_is_left_alone(tmp_path: Path) -> None:
    kafka = state(tmp_path / "broker", os.getpid(), 20_000)
    assert kafka.pid is None
    assert not kafka.stop()
    assert not kafka.kill()


def test_another_folders_broker_is_not_ours(tmp_path: Path) -> None:
    marked = [sys.executable, "-c", "print(flush=True); input()", f"-Dtrunkline.broker={tmp_path / 'theirs'}"]
    with subprocess.Popen(marked, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()  # a process that has only just begun has no command line yet
            assert state(tmp_path / "theirs", other.pid, 20_000).pid == other.pid
            assert state(tmp_path / "ours", other.pid, 20_000).pid is None
        finally:
            other.kill()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "jvm"}', '{"started": 1}'])
def test_a_state_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "state.json").write_text(text)
    assert running(Settings(state=tmp_path)) is None
    assert not broker.down(Settings(state=tmp_path))


@pytest.mark.usefixtures("programs")
def test_with_nothing_installed_one_line_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        broker.up(Settings(state=tmp_path))
    assert str(refused.value) == (
        "The local broker needs Java 17 or newer (none found) and Maven. "
        "Run `apt-get install openjdk-17-jre-headless maven`, or start Docker, or set TRUNKLINE_KAFKA__BOOTSTRAP."
    )


@pytest.mark.parametrize(("version", "found"), [("11.0.2", "11"), ("1.8.0_412", "1")])
def test_an_old_java_is_refused(programs: Path, version: str, found: str) -> None:
    java(programs, version)
    program(programs, "mvn", "")
    with pytest.raises(
        UsageError, match=rf"Java 17 or newer \({found} found\)\. Run `apt-get install openjdk-17-jre-headless`"
    ):
        jars()


def test_a_missing_maven_is_named_alone(programs: Path) -> None:
    java(programs)
    with pytest.raises(UsageError, match=r"needs Maven\. Run `apt-get install maven`"):
        jars()


def test_a_docker_client_without_a_daemon_counts_as_no_docker(programs: Path, tmp_path: Path) -> None:
    program(programs, "docker", "exit 1")
    with pytest.raises(UsageError, match="or start Docker"):
        broker.up(Settings(state=tmp_path))


def test_without_a_compose_file_docker_is_passed_over_and_that_is_said(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "docker", "exit 0")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    with pytest.raises(UsageError):
        broker.up(Settings(state=tmp_path), progress=said.append)
    assert said == ["Docker answers, but there is no docker-compose.yml here: the JVM is used."]


def test_a_refusal_of_docker_compose_is_one_line(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(
        programs, "docker", """[ "$4" != up ] || { echo pulling >&2; echo 'port is already allocated' >&2; exit 1; }"""
    )
    monkeypatch.chdir(ROOT)
    with pytest.raises(
        Unavailable, match=r"^`docker compose up --detach --wait kafka` failed: port is already allocated$"
    ):
        broker.up(Settings(state=tmp_path))
    assert running(Settings(state=tmp_path)) is None


def test_a_failed_download_says_why_and_leaves_no_half_of_it(programs: Path, tmp_path: Path) -> None:
    java(programs)
    program(programs, "mvn", "echo '[ERROR] Unknown host repo.example'; echo '[ERROR] more'; exit 1")
    with pytest.raises(Unavailable, match=rf"could not download Apache Kafka {VERSION}: \[ERROR\] Unknown host"):
        jars()
    assert [file.name for file in (tmp_path / "cache" / "trunkline").iterdir()] == [f"kafka-{VERSION}.lock"]


def test_two_downloads_at_once_are_one(programs: Path, tmp_path: Path) -> None:
    java(programs)
    asked = tmp_path / "asked"
    program(
        programs,
        "mvn",
        f"""echo once >>'{asked}'; for word; do case $word in -DoutputDirectory=*) folder=${{word#*=}};; esac; done
        mkdir -p "$folder"; sleep 0.2; touch "$folder/kafka.jar" """,
    )
    with ThreadPoolExecutor(2) as pool:
        [one, other] = pool.map(lambda _: jars(), range(2))
    assert one == other == tmp_path / "cache" / "trunkline" / f"kafka-{VERSION}"
    assert [file.name for file in one.iterdir()] == ["kafka.jar"]
    assert asked.read_text() == "once\n"


def test_what_is_downloaded_needs_no_maven(programs: Path, tmp_path: Path) -> None:
    java(programs)
    libs = tmp_path / "cache" / "trunkline" / f"kafka-{VERSION}"
    libs.mkdir(parents=True)
    assert jars() == libs


def test_a_configured_broker_that_does_not_answer_is_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=f"^no broker answers at {address}"):
        broker.up(Settings(state=tmp_path, kafka=Kafka(bootstrap=address)))


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\x08\0\0\0\x01\0\0\0\0"])
def test_an_open_port_is_not_yet_a_broker(reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(answers, f"127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(reply)
            connection.shutdown(socket.SHUT_WR)
            assert not asked.result()


@pytest.mark.parametrize("address", ["", "nonsense", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:99999"])
def test_what_is_no_address_does_not_answer(address: str) -> None:
    assert not answers(address)
