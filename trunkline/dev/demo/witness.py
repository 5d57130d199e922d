"""What really happened, seen without the bus: topics through kafka-python and fastavro, the target's own database.

The third witness is the input file, in a scenario. What the bus says of itself, its metrics, is read here as well.
"""

import contextlib
import io
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import httpx
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from prometheus_client.parser import text_string_to_metric_families

from trunkline.errors import Unavailable
from trunkline.kafka.cluster import Cluster

PATIENCE = 20.0
"""Seconds without a record after which a topic cannot be read."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A committed record on a topic; `data` is empty when it is no Avro that the schemas know."""

    id: str
    source: str
    partition: int
    offset: int
    at: float
    """Epoch seconds of publishing."""
    data: Mapping[str, Any]


class Topics:
    """Reads topics to their end, read_committed, with schemas over HTTP, and keeps what it has read.

    Every method raises Unavailable when the broker does not answer.
    """

    def __init__(self, cluster: Cluster, gateway: str, names: Collection[str]) -> None:
        self.records: dict[str, list[Seen]] = {name: [] for name in names}
        self._schemas: dict[int, Any] = {}
        # No environment: a proxy in it is not meant for this machine.
        self._http = httpx.Client(base_url=gateway, timeout=30, trust_env=False)
        with told(cluster):
            self._admin = KafkaAdminClient(**cluster.kafka_python())
            self._consumer = KafkaConsumer(
                **cluster.kafka_python(),
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
            )
            self._slots = [
                TopicPartition(topic["name"], partition["partition_index"])
                for topic in self._admin.describe_topics(list(names))
                for partition in topic["partitions"]
            ]
            self._consumer.assign(self._slots)
            self._consumer.seek_to_beginning()
        self._cluster = cluster

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()
        self._admin.close()
        self._http.close()

    def read(self, tell: Callable[[int, int], None] = lambda _done, _of: None) -> None:
        """Read on, up to the end as it is now; `tell` hears how many offsets are read of how many."""
        with told(self._cluster):
            ends = self._consumer.end_offsets(self._slots)
            begun = {slot: self._consumer.position(slot) for slot in self._slots}
            left = {slot for slot in self._slots if begun[slot] < ends[slot]}
            until = time.monotonic() + PATIENCE
            while left:
                for records in self._consumer.poll(timeout_ms=500, max_records=5_000).values():
                    until = time.monotonic() + PATIENCE
                    for record in records:
                        self.records[record.topic].append(self._seen(record))
                at = {slot: min(self._consumer.position(slot), ends[slot]) for slot in self._slots}
                tell(sum(at.values()) - sum(begun.values()), sum(ends.values()) - sum(begun.values()))
                left = {slot for slot in left if at[slot] < ends[slot]}
                if time.monotonic() > until:
                    names = ", ".join(sorted({slot.topic for slot in left}))
                    raise Unavailable(f"the broker at {self._cluster.bootstrap} gives no more records of {names}.")

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """Give the offsets that a group has committed, by topic and partition."""
        with told(self._cluster):
            found = self._admin.list_group_offsets({group: None})[group]
        return {(slot.topic, slot.partition): at.offset for slot, at in found.items() if at.offset >= 0}

    def _seen(self, record: Any) -> Seen:
        headers = {name: value.decode() for name, value in record.headers if name in ("ce_id", "ce_source")}
        identity = headers.get("ce_id", f"{record.partition}@{record.offset}")
        return Seen(
            id=identity,
            source=headers.get("ce_source", ""),
            partition=record.partition,
            offset=record.offset,
            at=record.timestamp / 1000,
            data=self._decoded(record.value),
        )

    def _decoded(self, value: bytes | None) -> Mapping[str, Any]:
        if not value or value[0] != 0:
            return {}
        number = int.from_bytes(value[1:5], "big")
        if number not in self._schemas:
            self._schemas[number] = self._schema(number)
        if self._schemas[number] is None:
            return {}
        data: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), self._schemas[number], None)
        return data if isinstance(data, dict) else {}

    def _schema(self, number: int) -> Any:
        try:
            answer = self._http.get(f"/schemas/ids/{number}")
        except httpx.HTTPError as error:
            raise Unavailable(f"the schemas at {self._http.base_url} cannot be read: {error}.") from None
        if answer.status_code == 404:
            return None
        return fastavro.parse_schema(json.loads(answer.raise_for_status().json()["schema"]))


@contextlib.contextmanager
def told(cluster: Cluster) -> Iterator[None]:
    """Turn what kafka-python raises into one line."""
    try:
        yield
    except (KafkaError, OSError) as error:
        raise Unavailable(f"the broker at {cluster.bootstrap} cannot be read from: {error}.") from None


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that happened at a target: `times` is 1, unless it was applied again."""

    path: str
    body: str
    at: float
    """Epoch seconds."""
    times: int


@dataclass(frozen=True, slots=True)
class Api:
    """What one API of the target has recorded."""

    attempts: int = 0
    effects: tuple[Effect, ...] = ()


def apis(database: Path) -> dict[str, Api]:
    """Read the target's database, by API, without disturbing it."""
    uri = f"{database.absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
        db.execute("BEGIN")
        attempts: dict[str, int] = dict(db.execute("SELECT name, count(*) FROM attempts GROUP BY name"))
        effects: dict[str, list[Effect]] = {}
        for name, path, body, at, times in db.execute("SELECT name, path, body, at, times FROM effects ORDER BY at"):
            text = body if isinstance(body, str) else bytes(body).decode(errors="replace")
            effects.setdefault(name, []).append(Effect(path, text, at, times))
    return {name: Api(count, tuple(effects.get(name, ()))) for name, count in attempts.items()}


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the bus says of itself: every sample of /metrics, by name, with its labels and value."""

    samples: Mapping[str, tuple[tuple[Mapping[str, str], float], ...]]

    def count(self, name: str, **labels: str) -> int:
        """Add up the samples of a counter that have these labels, whatever others they have."""
        return round(
            sum(
                value
                for found, value in self.samples.get(f"trunkline_{name}_total", ())
                if labels.items() <= found.items()
            )
        )


def metrics(gateway: str) -> Metrics:
    """Read a worker's metrics.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        text = httpx.get(f"{gateway}/metrics", timeout=30, trust_env=False).raise_for_status().text
    except httpx.HTTPError as error:
        raise Unavailable(f"the metrics at {gateway} cannot be read: {error}.") from None
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Metrics({name: tuple(samples) for name, samples in found.items()})
