"""What the contenders that process share: the job, and how values are read and written. No import of Trunkline."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

BOOTSTRAP = os.environ["BOOTSTRAP"]
TOPIC = os.environ["TOPIC"]
TABLE = os.environ["TABLE"]
OUT = os.environ["OUT"]
GROUP = os.environ["GROUP"]

SCHEMAS = Path(__file__).parents[1] / "schemas"
READ = fastavro.parse_schema(json.loads((SCHEMAS / "sale_recorded.v1.avsc").read_text()))
WRITTEN = fastavro.parse_schema(json.loads((SCHEMAS / "sale_priced.v1.avsc").read_text()))
ROW = fastavro.parse_schema(json.loads((SCHEMAS / "product_listed.v1.avsc").read_text()))
HEAD = b"\0\0\0\0\2"


def decode(value: bytes) -> dict[str, Any]:
    """Read an event."""
    found: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), READ, None)
    return found  # type: ignore[no-any-return]


def encode(made: dict[str, Any]) -> bytes:
    """Write what was made of it."""
    out = io.BytesIO()
    out.write(HEAD)
    fastavro.schemaless_writer(out, WRITTEN, made)
    return out.getvalue()


def pieces(sale: dict[str, Any], rows: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make one record for each piece of a sale, with what is known of the product."""
    row = rows.get(sale["sku"])
    for piece in range(sale["quantity"]):
        yield {
            "event_id": sale["event_id"],
            "piece": piece,
            "sku": sale["sku"],
            "product": None if row is None else row["product"],
            "category": "unknown" if row is None else row["category"],
            "amount": sale["unit_price"],
            "store": sale["store"],
            "note": sale["tags"].get("note", ""),
            "occurred_at": sale["occurred_at"],
        }


def made_of(value: bytes, rows: dict[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    """Give key and value of every record that is made of one."""
    for made in pieces(decode(value), rows):
        yield made["sku"].encode(), encode(made)


def read_rows() -> dict[str, Any]:
    """Read the table to its end into a dictionary: nothing is faster to ask."""
    consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False})
    place = TopicPartition(TABLE, 0, OFFSET_BEGINNING)
    _, end = consumer.get_watermark_offsets(place, timeout=10)
    consumer.assign([place])
    rows: dict[str, Any] = {}
    at = 0
    while at < end:
        for message in consumer.consume(10_000, 0.1):
            value: Any = message.value()
            row: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), ROW, None)
            rows[row["sku"]] = row
            at = (message.offset() or 0) + 1
    consumer.close()
    return rows
