"""What the contenders in Python share: where everything is, and how a value is read. No import of Trunkline."""

import io
import json
import os
from pathlib import Path
from typing import Any

import fastavro
import orjson

BOOTSTRAP = os.environ["BOOTSTRAP"]
TOPIC = os.environ["TOPIC"]
GROUP = os.environ["GROUP"]
EVENTS_URL = os.environ["TARGET_URL"] + "/events"
CONCURRENCY = int(os.environ["CONCURRENCY"])
RETRY_SECONDS = 0.05

SCHEMA = fastavro.parse_schema(
    json.loads((Path(__file__).parents[1] / "schemas" / "sale_recorded.v1.avsc").read_text())
)


def body_of(value: bytes) -> bytes:
    """Turn an Avro value in Confluent wire format into JSON."""
    event: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), SCHEMA, None)
    return orjson.dumps(event)
