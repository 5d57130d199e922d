"""The embedded schema registry: a topic of one partition that is never compacted and never expires (I4).

A schema's id is the offset of the first record with its fingerprint: write it, read back to the end, then use it. So
two registrars that race always agree, and no service has to run.
"""

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from trunkline.avro.codec import HEAD, Codec, head_of, split
from trunkline.avro.files import Schema, fingerprint
from trunkline.avro.versions import Past
from trunkline.errors import Permanent, Unavailable
from trunkline.event import Event, from_headers
from trunkline.kafka.cluster import READER, Cluster
from trunkline.kafka.confluent import Confluent, codec_from, still
from trunkline.kafka.events import MISSING, Record, words
from trunkline.settings import Kafka

PATIENCE = 10.0
WAITS = 4.0
"""Seconds for which a flow that has to know a schema waits for it: less than its watchdog does."""
SILENT_FOR = 1.0
"""Seconds after a question without an answer in which no other is asked: flows would wait for each other."""
NOT_FOUND_FOR = 5.0


class Registry:
    """Schemas by id, and ids by schema; safe to use from several threads."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = topic
        self._partition = TopicPartition(topic, 0)
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None
        self._next = 0
        self._texts: dict[int, str] = {}
        self._ids: dict[bytes, int] = {}
        self._codecs: dict[int, Codec] = {}
        self._missing: dict[int, float] = {}
        self._silent = 0.0

    def id_of(self, text: str) -> int:
        """Give the id of a schema, registered when it is new.

        Raises:
            Unavailable: the broker does not answer, or the registry's topic is missing.
        """
        mark = fingerprint(text)
        with self._lock:
            if mark not in self._ids:
                self._catch_up()
            if mark not in self._ids:
                self._append(mark, text.encode())
                self._catch_up()
            return self._ids[mark]

    def text_of(self, schema_id: int) -> str | None:
        """Give the schema with this id as JSON text, None when there is none (asked again after five seconds).

        Raises:
            Unavailable: the broker does not answer.
        """
        if (text := self._texts.get(schema_id)) is not None:
            return text
        with self._lock:
            if schema_id not in self._texts and time.monotonic() > self._missing.get(schema_id, 0.0):
                if time.monotonic() < self._silent:
                    raise Unavailable(f"the schemas on {self._topic} could not be read a moment ago")
                self._catch_up(WAITS)
                if schema_id not in self._texts:
                    now = time.monotonic()
                    self._missing = still(self._missing, now) | {schema_id: now + NOT_FOUND_FOR}
            return self._texts.get(schema_id)

    def codec_of(self, schema_id: int) -> Codec:
        """Give the codec of the schema with this id.

        Raises:
            UnknownSchema: no schema has this id.
            Poison: what has it is no Avro.
            Unavailable: the broker does not answer.
        """
        if (codec := self._codecs.get(schema_id)) is not None:
            return codec
        return self._codecs.setdefault(schema_id, codec_from(schema_id, self.text_of(schema_id)))

    def close(self) -> None:
        """Leave the broker."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _append(self, mark: bytes, value: bytes) -> None:
        # Not idempotent: that waits half a second, and what is written twice has the id of the first.
        producer = Producer(
            {**self._cluster.librdkafka(), "acks": "all", "max.in.flight": 1, "log_level": 0,
             "message.timeout.ms": int(PATIENCE * 1000)}
        )  # fmt: skip
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Any) -> None:
            if error is not None:
                failures.append(error)

        if self._next == 0:
            # Ids begin at 1, as clients of other registries expect: the first record says what the topic is.
            producer.produce(self._topic, key=b"", value=b'"trunkline schema registry"', on_delivery=delivered)
        producer.produce(self._topic, key=mark, value=value, on_delivery=delivered)
        if producer.flush(PATIENCE + 1) or failures:
            why = words(failures[0], "Write", self._topic) if failures else "no answer"
            raise Unavailable(f"a schema cannot be registered on {self._topic}: {why}")

    def _catch_up(self, patience: float = PATIENCE) -> None:
        """Read what was registered since the last time, to the end, within so many seconds."""
        until = time.monotonic() + patience
        try:
            if self._consumer is None:
                self._consumer = Consumer(
                    {**self._cluster.librdkafka(), "group.id": READER, "log_level": 0,
                     "enable.auto.commit": False, "auto.offset.reset": "error", "fetch.wait.max.ms": 10}
                )  # fmt: skip
                self._consumer.assign([TopicPartition(self._topic, 0, self._next)])
            else:
                self._consumer.resume([self._partition])
            _, end = self._consumer.get_watermark_offsets(self._partition, timeout=patience)
            while self._next < end:
                message = self._consumer.poll(0.1)
                if message is None:
                    if time.monotonic() > until:
                        self._silent = time.monotonic() + SILENT_FOR
                        raise Unavailable(f"{self._topic} cannot be read to its end")
                    continue
                if (error := message.error()) is not None:
                    raise KafkaException(error)  # noqa: TRY301 - told to the caller as all broker errors are
                self._learn(message.offset() or 0, message.key() or b"", message.value() or b"")
            self._consumer.pause([self._partition])  # else it asks a hundred times a second for more, for good
        except KafkaException as error:
            self._silent = time.monotonic() + SILENT_FOR
            if error.args[0].code() in MISSING:
                raise Unavailable(f"the topic {self._topic} does not exist. Run `trunkline topics apply`.") from None
            why = words(error.args[0], "Read", self._topic)
            raise Unavailable(f"the schemas on {self._topic} cannot be read: {why}") from None

    def _learn(self, offset: int, mark: bytes | str, value: bytes | str) -> None:
        self._next = offset + 1
        raw = value if isinstance(value, bytes) else value.encode()
        if isinstance(mark, bytes) and mark and fingerprint(raw.decode(errors="replace")) == mark:
            self._texts[offset] = raw.decode()
            self._ids.setdefault(mark, offset)


Schemas = Registry | Confluent
"""Either kind of registry."""


def registry_of(kafka: Kafka, cluster: Cluster, topic: str) -> Schemas:
    """Give the registry that the settings name, else the embedded one on its topic."""
    return Registry(cluster, topic) if kafka.registry is None else Confluent(kafka.registry.get_secret_value())


class Format:
    """How the values of one topic are written and read: Avro in Confluent wire format, schemas from the registry."""

    def __init__(self, registry: Schemas, schema: Schema) -> None:
        """Register the schema, so that no event waits for it.

        Raises:
            Unavailable: the broker does not answer, or the registry's topic is missing.
        """
        self._registry = registry
        self._id = registry.id_of(schema.text)
        self._head = head_of(self._id)
        self._codec = Codec(schema.text)
        self._past = Past(schema, self._codec)
        self._known: set[int] = set()
        """Ids of other schemas whose values are read without asking anybody."""

    def encode(self, data: Mapping[str, Any]) -> bytes:
        """Write a value.

        Raises:
            Permanent: the data do not fit the schema.
        """
        return self._codec.encode(data, self._id)

    def is_own(self, value: bytes | None) -> bool:
        """Say whether a value was written with this very schema."""
        return value is not None and value.startswith(self._head)

    def decode(self, value: bytes | None) -> dict[str, Any]:
        """Read a value, whatever version of the schema wrote it.

        Raises:
            UnknownSchema: its schema is not registered, or cannot be read as the topic's.
            Permanent: a function from one version to the next failed.
            Poison: it is no Avro in Confluent wire format, or bytes are left over.
            Unavailable: its schema is unknown here and the broker does not answer.
        """
        if value is not None and value.startswith(self._head):
            return self._codec.decode(value[HEAD:])
        writer, body = split(value)
        return self._past.read(self._registry.codec_of(writer), body)

    def event_of(self, record: Record) -> Event[Any]:
        """Read a record as an event.

        Raises:
            Poison: it is none: that comes before whatever else is wrong with it.
            UnknownSchema, Permanent, Unavailable: as `decode`.
        """
        try:
            data = self.decode(record.value)
        except Permanent:
            from_headers(record.headers, record.key)
            raise
        return from_headers(record.headers, record.key, data)

    def knows(self, value: bytes | None) -> bool:
        """Say whether a value that was decoded is of our version, of an earlier one, or of one that was accepted.

        Any other is of a version that another topology has and this one has not: Avro may resolve it, but a field that
        was renamed there would be a default here (L5).
        """
        if self.is_own(value):
            return True
        writer, _ = split(value)
        if writer not in self._known and self._past.knows(self._registry.codec_of(writer)):
            self._known.add(writer)
        return writer in self._known

    def accept(self, value: bytes | None) -> None:
        """Read the values of this one's schema as far as Avro resolves them: nobody knows it better."""
        self._known.add(split(value)[0])


def answer(registry: Schemas, schema_id: int) -> bytes | None:
    """Give the body of GET /schemas/ids/{id}, as Confluent's registry answers it; None when there is none."""
    text = registry.text_of(schema_id)
    return None if text is None else json.dumps({"schema": text, "schemaType": "AVRO"}).encode()
