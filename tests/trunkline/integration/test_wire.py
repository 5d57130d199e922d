"""What is on the topics, read and written by clients that are not ours."""

import hashlib
import io
import json
import multiprocessing
import random
import struct
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import fastavro
import httpx
import pytest
from aiokafka.partitioner import DefaultPartitioner as AiokafkaPartitioner  # type: ignore[import-untyped]  # has none
from confluent_kafka import Consumer, Producer, TopicPartition
from kafka import KafkaProducer
from kafka.partitioner import DefaultPartitioner as KafkaPythonPartitioner

from tests.trunkline.support import SECRET, Stage, deliver_bus, header, note, stamped, wait_for, whole_bus
from trunkline.avro.files import canonical
from trunkline.errors import Poison, Unavailable
from trunkline.event import to_headers
from trunkline.flow.declare import dead_letters_of, schemas_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.events import PRODUCER, Member
from trunkline.kafka.registry import Registry, answer
from trunkline.settings import Secret
from trunkline.sources import StandardWebhooks

CODECS = (None, "gzip", "snappy", "lz4", "zstd")


def decode(registry: httpx.Client, value: bytes) -> Any:
    """Read a value as any client of a schema registry does."""
    magic, schema_id = struct.unpack(">bI", value[:5])
    assert magic == 0
    schema = registry.get(f"/schemas/ids/{schema_id}").json()
    assert schema["schemaType"] == "AVRO"
    return fastavro.schemaless_reader(io.BytesIO(value[5:]), json.loads(schema["schema"]), None)


def test_every_topic_is_read_with_other_clients_and_the_registrys_address_alone(stage: Stage) -> None:
    bus = stage.make(whole_bus(stage.prefix))
    [process], [deliver] = bus.processing, bus.delivering
    bodies = [
        {**note(number, box, text), "written_at": "2026-01-01T00:00:00Z"}
        for number, text in enumerate(["", "raise", "unsayable"])
        for box in ("a", "ü", None)
    ]
    with (
        pytest.MonkeyPatch.context() as patch,
        stage.child("whole_bus") as child,
        httpx.Client(base_url=child.url, timeout=60, trust_env=False) as client,
    ):
        patch.setenv("X", SECRET)
        for body in bodies:
            content = json.dumps(body).encode()
            headers = StandardWebhooks(Secret("X")).sign("m", content)
            assert client.post("/in/desk", content=content, headers=headers).status_code == 202
        wait_for(lambda: sum(stage.rows().values()) == 6 and len(stage.letters(process)) == 3)
        found = {
            topic: [(decode(client, record.value), record) for record in stage.read(topic)]
            for topic in [*(topic.name for topic in bus.topics), dead_letters_of(process), dead_letters_of(deliver)]
        }
    assert {topic: len(records) for topic, records in found.items()} == {
        bus.topics[0].name: 9,
        bus.topics[1].name: 6,
        dead_letters_of(process): 3,
        dead_letters_of(deliver): 3,
    }
    for records in found.values():
        for value, record in records:
            assert value["box"] == (None if record.key is None else record.key.decode())
            assert header(record, "ce_specversion") == "1.0"
            assert header(record, "content-type") == "application/avro"
            assert header(record, "ce_time") == "2026-01-01T00:00:00Z"
    posted = {body["note_id"] for body in bodies}
    assert {header(record, "ce_id") for _, record in found[bus.topics[0].name]} == posted
    assert {header(record, "ce_type") for _, record in found[bus.topics[1].name]} == {"tests.Mark.v1"}
    assert len({header(record, "ce_id") for _, record in found[bus.topics[1].name]}) == 6


def test_every_codec_is_read(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    topic = bus.topics[0]
    form = stage.encoder(bus, topic.name)
    for number, codec in enumerate(CODECS):
        producer = KafkaProducer(bootstrap_servers=stage.bootstrap, compression_type=codec, linger_ms=50)
        sent = []
        for box in range(20):
            item = note(number, f"k{box}", "text " * 50)
            event = stamped(bus, item)
            sent.append(
                producer.send(topic.name, form.encode(item), key=f"k{box}".encode(), headers=list(to_headers(event)))
            )
        for future in sent:
            future.get(timeout=20)
        producer.close()
    with stage.running(bus):
        wait_for(lambda: len(stage.effects()) == 20 * len(CODECS))
    assert set(stage.effects().values()) == {1}
    assert len(stage.read(topic.name)) == 20 * len(CODECS)


def keys(count: int) -> list[bytes]:
    chance = random.Random(1)  # noqa: S311 - the same keys in every run
    letters = "abcXYZ019 -_/.äßéλжあ漢🎈\0"
    return [b"", *("".join(chance.choices(letters, k=chance.randint(1, 40))).encode() for _ in range(count - 1))]


@dataclass(frozen=True)
class Layout:
    """What kafka-python asks before it chooses a partition."""

    topic: str
    numbers: list[int]

    def topics(self) -> set[str]:
        return {self.topic}

    def partitions_for_topic(self, _: str) -> list[int]:
        return self.numbers

    available_partitions_for_topic = partitions_for_topic


@pytest.mark.parametrize("partitions", [1, 7, 12])
def test_clients_agree_on_a_keys_partition(stage: Stage, partitions: int) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=partitions))
    wanted = keys(10_000)
    ours: dict[bytes, int] = {}
    producer = Producer({**PRODUCER, "bootstrap.servers": stage.bootstrap})

    def delivered(error: Any, message: Any) -> None:
        assert error is None
        ours[message.key() or b""] = message.partition()

    for key in wanted:
        producer.produce(bus.topics[0].name, key=key, on_delivery=delivered)
        producer.poll(0)
    assert producer.flush(60) == 0
    numbers = list(range(partitions))
    cluster = Layout("t", numbers)
    theirs, others = KafkaPythonPartitioner(), AiokafkaPartitioner()
    for key in set(wanted):
        assert ours[key] == theirs.partition("t", key, key, None, None, cluster) == others(key, numbers, numbers), key
    assert set(ours.values()) == set(numbers)


def test_events_without_a_key_are_spread(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, partitions=7))
    met: set[int] = set()

    def met_all() -> bool:
        """Write a few; what is sent within a moment goes to one partition together."""
        met.update(place.partition for place in stage.write(bus, [note(0, None) for _ in range(3)]))
        return met == set(range(7))

    wait_for(met_all, why=lambda: met)


def schema(number: int) -> str:
    return canonical({"type": "record", "name": f"R{number}", "fields": [{"name": "x", "type": "long"}]})


def register(bootstrap: str, topic: str, seed: int) -> dict[int, int]:
    """Register two hundred schemas in an order of its own and give their ids."""
    numbers = list(range(200))
    random.Random(seed).shuffle(numbers)  # noqa: S311
    registry = Registry(Cluster(bootstrap), topic)
    try:
        return {number: registry.id_of(schema(number)) for number in numbers}
    finally:
        registry.close()


@pytest.mark.faults(group="process")
def test_registrars_that_race_agree_and_never_share_an_id(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        asked = [(stage.bootstrap, schemas_of(bus), seed) for seed in (1, 2)]
        first, second = pool.starmap(register, asked)
    assert first == second
    assert len(set(first.values())) == 200
    assert min(first.values()) >= 1
    registry = Registry(stage.cluster, schemas_of(bus))
    try:
        assert {number: registry.id_of(schema(number)) for number in range(200)} == first
        assert {number: registry.text_of(first[number]) for number in range(200)} == dict(
            enumerate(map(schema, range(200)))
        )
        assert answer(registry, 10**6) is None
        assert registry.text_of(0) is None, "what begins the topic is no schema"
        with pytest.raises(Poison, match="which nobody registered"):
            registry.codec_of(0)
    finally:
        registry.close()


def test_new_schemas_are_registered_at_once(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    with closing(Registry(stage.cluster, schemas_of(bus))) as registry:
        registry.id_of(schema(0))
        began = time.monotonic()
        for number in range(1, 41):
            registry.id_of(schema(number))
        assert time.monotonic() - began < 12, "one that waits for more to write, or to read, takes half a second each"


def test_a_registry_that_knows_everything_asks_for_nothing_more(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """And still hears of what others register; librdkafka itself counts the requests."""
    told: list[str] = []

    def consumer(settings: dict[str, Any]) -> Consumer:
        return Consumer({**settings, "statistics.interval.ms": 200, "stats_cb": told.append})

    def asked() -> int:
        told.clear()
        wait_for(lambda: registry._consumer.poll(0) or told)  # type: ignore[union-attr]  # it has asked by now
        return sum(one["req"].get("Fetch", 0) for one in json.loads(told[-1])["brokers"].values())

    bus = stage.make(deliver_bus(stage.prefix))
    monkeypatch.setattr("trunkline.kafka.registry.Consumer", consumer)
    with closing(Registry(stage.cluster, schemas_of(bus))) as registry:
        registry.id_of(schema(0))
        before = asked()
        asked()
        assert asked() <= before + 2, "what was under way may end"
        with closing(Registry(stage.cluster, schemas_of(bus))) as other:
            new = other.id_of(schema(1))
        assert registry.text_of(new) == schema(1)


def test_a_registrys_topic_that_is_not_there_is_named(stage: Stage) -> None:
    with closing(Registry(stage.cluster, f"{stage.prefix}.none")) as registry:
        wanted = rf"^the topic {stage.prefix}\.none does not exist\. Run `trunkline topics apply`\.$"
        with pytest.raises(Unavailable, match=wanted):
            registry.id_of(schema(0))


def test_what_stands_on_the_registrys_topic_and_is_no_schema_is_poison(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix))
    topic = schemas_of(bus)
    stray: Sequence[tuple[bytes | None, bytes | None]] = [
        (None, None),
        (b"key", b"value"),
        (hashlib.sha256(b"no schema").digest(), b"no schema"),
        (hashlib.sha256(b"\xff").digest(), b"\xff"),
        (b"", b'"trunkline schema registry"'),
    ]
    places = stage.send((topic, key, value, (), 0) for key, value in stray)
    registry = Registry(stage.cluster, topic)
    try:
        for place in places:
            with pytest.raises(Poison):
                registry.codec_of(place.offset)
        known = registry.id_of(schema(1))
        assert known not in {place.offset for place in places}
    finally:
        registry.close()


def test_what_the_clients_own_code_raises_in_a_callback_comes_out_as_what_it_is(stage: Stage) -> None:
    bus = stage.make(deliver_bus(stage.prefix, 1))

    def assigned(*_: object) -> None:
        TopicPartition("t", 0).metadata = "which it lets nobody set"

    with closing(Member(stage.cluster, f"{stage.prefix}.callback", bus.topics[0], assigned=assigned)) as member:

        def fetched() -> bool:
            try:
                member.fetch(1, 0.1)
            except AttributeError as error:
                return "readonly" in str(error)
            return False

        wait_for(fetched)
