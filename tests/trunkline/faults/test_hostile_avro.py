"""Records that end or freeze whoever reads them with fastavro alone: both kinds of workers outlive them (fault 44)."""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.trunkline.support import Stage, deliver_bus, note, process_bus, stamped, wait_for
from tests.trunkline.unit.test_avro_hostile import BODIES, MUTUAL, RECURSIVE, chain, doubling, nested, number, record
from trunkline.avro.codec import HEAD
from trunkline.event import to_headers
from trunkline.flow.declare import Bus, schemas_of
from trunkline.ledger.deliveries import State

pytestmark = pytest.mark.faults(group="process")

SCHEMAS: dict[str, tuple[Any, bytes]] = {
    "a record inside itself": (RECURSIVE, number(1) * 50_000),
    "two records inside each other": (MUTUAL, number(1) * 50_000),
    "thirty million items in five bytes": (
        record({"type": "array", "items": "null"}),
        number(30_000_000) + number(0),
    ),
    "a million values in no byte": (doubling(20), b""),
    "records around a byte": (chain(30), number(900_000) + b"\1" * 900_000),
    "too deep": (nested(64), number(1) * 64),
    "too large": (record("string") | {"doc": "x" * 300_000}, number(0)),
    "no schema": ({"type": "nothing"}, b"\0"),
    "fastavro's own mark": ({"__fastavro_parsed__": True, "type": "record"}, b"\0"),
}


def values(stage: Stage, bus: Bus) -> Iterator[tuple[str, bytes]]:
    """Register every schema as anybody could who reaches the broker, and give the values that name it."""
    for name, (definition, body) in {**SCHEMAS, **BODIES}.items():
        text = json.dumps(definition).encode()
        [place] = stage.send([(schemas_of(bus), hashlib.sha256(text).digest(), text, (), 0)])
        yield name, b"\0" + struct.pack(">I", place.offset) + body
    yield "a schema that nobody registered", b"\0" + struct.pack(">I", 2**31 - 1) + b"\2"
    yield "no magic byte", b"{}"
    yield "four bytes", b"\0\0\0\1"
    own = stage.encoder(bus, bus.topics[0].name).encode(note(1, "x"))
    yield "ours and seventy bytes left over", own + b"\0" * 70
    yield "ours cut short", own[:-3]
    yield "ours and no end of a number", own[:HEAD] + b"\xff" * 40
    yield "ours and no such member of the union", own[:HEAD] + number(1) + b"n" + number(5)
    yield "ours and no UTF-8", own[:HEAD] + number(2) + b"\xff\xff" + number(0)


@pytest.mark.parametrize("bus_name", ["process_bus", "deliver_bus"])
def test_a_worker_outlives_each_and_its_bytes_are_dead_letters(stage: Stage, bus_name: str) -> None:
    bus = stage.make({"process_bus": process_bus, "deliver_bus": deliver_bus}[bus_name](stage.prefix))
    [flow] = [*bus.processing, *bus.delivering]
    topic = bus.topics[0].name
    sent = dict(values(stage, bus))
    headers = to_headers(stamped(bus, note(0, "bad")))
    stage.send((topic, b"bad", value, headers, 0) for value in sent.values())
    with stage.child(bus_name) as child:
        stage.write(bus, [note(number, "good") for number in range(5)])
        if bus.delivering:
            done = Counter({State.DONE: 5, State.DEAD: len(sent)})
            wait_for(lambda: stage.rows() == done, why=lambda: (stage.rows(), child.log), seconds=60)
        else:
            wait_for(lambda: len(stage.read(bus.topics[1].name)) == 5, why=lambda: child.log, seconds=60)
            wait_for(lambda: stage.committed(bus, flow) == stage.ends(topic), why=lambda: child.log)
        assert child.terminate() == 0, child.log
    letters = stage.letters(flow)
    assert Counter(letter.value for letter in letters) == Counter(sent.values())
    assert {dict(letter.headers)["trunkline-class"] for letter in letters} == {b"poison"}
