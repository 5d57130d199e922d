import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from trunkline.dev import broker
from trunkline.dev.broker import LocalKafka, Running, answers
from trunkline.errors import Unavailable
from trunkline.settings import Kafka, Settings

TOPIC = "records"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """State of its own, in a folder without docker-compose.yml, so that the JVM is used wherever the tests run."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(state=tmp_path / "state with ü")
    yield settings
    broker.down(settings)
    assert processes(tmp_path) == []


def processes(folder: Path) -> list[int]:
    """Find every process that names the folder in its arguments."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(folder) in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def produce(bootstrap: str, value: bytes) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.send(TOPIC, value).get(timeout=20)
    producer.close()


def consume(bootstrap: str) -> bytes:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=20_000)
    consumer.assign([TopicPartition(TOPIC, 0)])
    consumer.seek_to_beginning()
    value: bytes = next(iter(consumer)).value
    consumer.close()
    return value


def test_a_broker_is_one_and_keeps_address_and_records_over_a_crash_and_a_clean_stop(
    bootstrap: str, settings: Settings
) -> None:
    """From its first start, which two ask for at once, beside another broker, to a stop that it does not hear."""
    with ThreadPoolExecutor(2) as pool:
        [first, other] = pool.map(lambda _: broker.up(settings), range(2))
    assert first == other == broker.running(settings)
    assert first.kind == "jvm"
    assert first.pid is not None
    assert processes(settings.state) == [first.pid]
    assert os.getsid(first.pid) != os.getsid(0)
    assert os.getpgid(first.pid) != os.getpgid(0)
    assert first.bootstrap != bootstrap
    produce(first.bootstrap, b"kept")

    kafka = LocalKafka(settings.state / "broker")
    assert kafka.kill()
    assert not answers(first.bootstrap)
    assert broker.running(settings) is None
    second = broker.up(settings)
    assert (second.bootstrap, second.pid == first.pid) == (first.bootstrap, False)
    assert consume(second.bootstrap) == b"kept"

    assert broker.down(settings)
    assert not broker.down(settings)
    assert processes(settings.state) == []
    assert answers(bootstrap)
    third = broker.up(settings)
    assert third.bootstrap == first.bootstrap
    assert consume(third.bootstrap) == b"kept"

    assert third.pid is not None
    os.kill(third.pid, signal.SIGSTOP)
    assert kafka.stop(seconds=0.1)
    assert processes(settings.state) == []


def test_a_configured_broker_is_used_and_left_alone(bootstrap: str, settings: Settings) -> None:
    configured = settings.model_copy(update={"kafka": Kafka(bootstrap=f"127.0.0.1:1,{bootstrap}")})
    assert broker.up(configured) == Running("configured", f"127.0.0.1:1,{bootstrap}")
    assert not broker.down(configured)
    assert answers(bootstrap)


def test_docker_is_asked_to_start_and_stop_kafka(
    bootstrap: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The docker client is a stand-in that notes what it is asked; what answers at the address is a real broker."""
    asked = tmp_path / "asked"
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f"""#!/bin/sh\necho "$*" >>'{asked}'\n[ "$4" != port ] || echo {bootstrap}\n""")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    (tmp_path / "docker-compose.yml").touch()

    found = broker.up(settings)
    assert (found.kind, found.bootstrap, found.pid) == ("docker", bootstrap, None)
    assert broker.up(settings) == broker.running(settings) == found
    assert broker.down(settings)
    assert broker.running(settings) is None
    assert asked.read_text().splitlines() == [
        "info",
        "compose version",
        "compose --file docker-compose.yml up --detach --wait kafka",
        "compose --file docker-compose.yml port kafka 29092",
        "compose --file docker-compose.yml stop kafka",
    ]


def test_a_broker_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=another\n")
    with pytest.raises(Unavailable, match=r"^Apache Kafka stopped while starting: .*node.* All of it is in .*log\.$"):
        kafka.start()
    assert processes(tmp_path) == []
