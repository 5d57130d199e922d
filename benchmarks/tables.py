"""What a table costs: `make bench-tables`, in ten minutes, most of which go by writing a million rows.

Rows ready at a first start, and at the next after one in a hundred has changed; rows asked for, again, for the first
time and in vain; memory. Each start is a process of its own. Exit code 1 when a first start takes longer than the bar.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.stage import BUILD
from schemas import ProductV1
from trunkline import Bus, Drop, Enrich, Event, Process, Table, Topic
from trunkline.dev.broker import LocalKafka
from trunkline.engine.tables import TableReader
from trunkline.flow.declare import schemas_of
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control
from trunkline.kafka.publisher import Publisher
from trunkline.kafka.registry import Format, Registry
from trunkline.kafka.topics import plan
from trunkline.observe import Observed
from trunkline.settings import Kafka

BAR = 3.0
"""Seconds in which 100,000 rows must be ready at a first start."""
BARRED = 100_000
ASKED = 100_000
"""How many rows are asked for."""
ABSENT = 0.2
"""The share of what is asked for that is not there, in the case that mixes both."""
FOLDER = BUILD / "tables"


def nothing(_event: Event[ProductV1], _rows: object) -> Drop:
    """Use a table."""
    return Drop("nothing")


products = Table("bench.products", ProductV1, key="sku", partitions=1)
bus = Bus("bench", [Process(Topic("bench.asked", ProductV1, key="sku"), [Enrich(nothing, products)], to={})])


def row(number: int, brand: str) -> ProductV1:
    """Make a row of about seventy bytes."""
    department, category = f"DEPARTMENT {number % 40}", f"CATEGORY {number % 300}"
    return {
        "sku": f"{1_000_000 + number}",
        "department": department,
        "brand": brand,
        "category": category,
        "size": "1 L",
    }


def main() -> int:
    """Measure and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--life", help="be one life of a worker at this broker")
    asked = parser.parse_args()
    if asked.life:
        return live(asked.life, asked.rows[0])
    results = []
    for rows in asked.rows:
        results += measure(rows)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "tables.json").write_text(json.dumps(results, indent=2) + "\n")
    slow = [one for one in results if one["case"] == "first start" and one["rows"] == BARRED and one["seconds"] > BAR]
    return 1 if slow else 0


def measure(rows: int) -> list[dict[str, Any]]:
    """Fill a table and give what two lives say of it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    kafka = LocalKafka(FOLDER / "broker")
    bootstrap = kafka.start().bootstrap
    try:
        with Control(Cluster(bootstrap)) as control:
            control.apply(plan(bus, {}, Kafka()))
        write(bootstrap, range(rows), "Private")
        found = spawn(bootstrap, rows, "first start")
        write(bootstrap, range(0, rows, 100), "National")
        return [*found, *spawn(bootstrap, rows, "restart, one row in a hundred changed")]
    finally:
        kafka.stop()


def write(bootstrap: str, numbers: Sequence[int], brand: str) -> None:
    """Write rows."""
    with Publisher(bootstrap, bus, products, service="bench") as publisher:
        for _ in publisher.rows((row(number, brand) for number in numbers), datetime.now(UTC)):
            pass


def spawn(bootstrap: str, rows: int, case: str) -> list[dict[str, Any]]:
    """Let a worker live once."""
    command = [sys.executable, "-m", "benchmarks.tables", "--life", bootstrap, "--rows", str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)  # noqa: S603 - ourselves
    found = [{"rows": rows, **one, "case": one["case"] or case} for one in json.loads(done.stdout)]
    for one in found:
        sys.stderr.write(f"{one}\n")
    return found


def live(bootstrap: str, rows: int) -> int:
    """Read the table and ask for rows; print what it took."""
    seen: list[Observed] = []
    registry = Registry(Cluster(bootstrap), schemas_of(bus))
    form = Format(registry, products.schema)
    before, cpu, began = resident(), time.process_time(), time.perf_counter()
    reader = TableReader(products, form, Cluster(bootstrap), FOLDER / "rows", seen.append)
    if not reader.ready.wait(600):
        raise SystemExit(f"not ready: {seen}")
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    held = resident() - before
    results: list[dict[str, Any]] = [
        {
            "case": "",
            "seconds": round(took, 3),
            "cpu_us_per_row": round(cpu / rows * 1e6, 2),
            "changed_rows_read": next(one.count for one in seen if one.what == "table"),
            "memory_bytes_per_row": round(held / rows),
            "disk_bytes_per_row": round(reader.size / rows),
        }
    ]
    random.seed(7)
    there = [f"{1_000_000 + random.randrange(rows)}" for _ in range(ASKED)]  # noqa: S311 - no secret
    mixed = [key if random.random() > ABSENT else f"x{key}" for key in there]  # noqa: S311
    few = [f"{1_000_000 + number % 10_000}" for number in range(ASKED)]
    for case, keys in (
        ("get, uniform, the first time", there),
        ("get, uniform, a fifth absent", mixed),
        ("get, of 10,000 rows", few),
        ("get, of 10,000 rows again", few),
        ("get, absent", [f"x{key}" for key in there]),
    ):
        began = time.perf_counter()
        for key in keys:
            reader.rows.get(key)
        results.append({"case": case, "gets_per_s": round(len(keys) / (time.perf_counter() - began))})
    results.append({"case": "memory after that", "memory_bytes_per_row": round((resident() - before) / rows)})
    reader.stop()
    registry.close()
    sys.stdout.write(json.dumps(results))
    assert threading.active_count() == 1
    return 0


def resident() -> int:
    """Give the bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    sys.exit(main())
