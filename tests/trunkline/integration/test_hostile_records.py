"""Records that nobody of ours has written, among others: whatever they hold, no flow stands still for them."""

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import timedelta

import pytest
from kafka import KafkaProducer

from tests.trunkline.integration.test_versions import bus_of, first, marks_of, steps_of, third, write
from tests.trunkline.schemas import BoxMovedV1, BoxMovedV3, MarkV1
from tests.trunkline.support import WHEN, Stage, header, notes, wait_for
from trunkline import Agent, Bus, Event, Stream, Topic
from trunkline.event import to_headers
from trunkline.kafka.control import Control
from trunkline.operate import browse


class Unnamed(str):
    """The name of a header that is no UTF-8."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


async def follow(stream: Stream[BoxMovedV3], _: timedelta) -> AsyncIterator[Event[MarkV1]]:
    async for at, box in stream:
        assert at - timedelta(days=1) < at + timedelta(days=1)
        if box is not None:
            for mark in marks_of(box):
                yield box.having(mark)


def agent_of(prefix: str, record: type) -> Bus:
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=3)
    return Bus(prefix, [Agent(notes(prefix, 3, record), follow, to=marks, window=timedelta(seconds=9))])


@pytest.mark.parametrize("make", [steps_of, bus_of, agent_of])
def test_no_record_halts_a_flow_whatever_it_holds(stage: Stage, make: Callable[[str, type], Bus]) -> None:
    old, bus = make(stage.prefix, BoxMovedV1), stage.make(make(stage.prefix, BoxMovedV3))
    topic = bus.topics[0].name
    (flow, declared) = next(iter(bus.named()))
    headers = to_headers(Event("early", WHEN, {}, "tests", "t", "a"))
    heavy = stage.encoder(old, topic).encode(first("a", 0, "heavy"))
    good = stage.encoder(bus, topic).encode(third("a", 1))
    with closing(KafkaProducer(bootstrap_servers=stage.bootstrap)) as producer:
        sent = [
            producer.send(topic, heavy, b"a", headers=[("ok", b"1"), (Unnamed("x"), b"1")], partition=0),
            producer.send(topic, heavy, b"a", partition=0),
            producer.send(topic, b"", b"a", headers=[("trunkline-first-failed-at", b"once")], partition=0),
            producer.send(topic, b"", b"a", headers=[("trunkline-replay-count", b"many")], partition=0),
            producer.send(topic, good, b"a", headers=list(headers), timestamp_ms=-(10**17), partition=0),
        ]
        for one in sent:
            one.get(60)
    write(stage, bus, [third("b", 2)])
    with stage.running(bus) as running:
        wait_for(
            lambda: stage.committed(bus, flow) == stage.ends(topic) or running.worker.stopped(),
            why=lambda: (running.worker.stopped(), running.details("stuck"), running.details("halted")),
        )
        assert running.worker.stopped() == {}
    letters = stage.letters(flow)
    assert [header(letter, "trunkline-class") for letter in letters] == ["poison"] * 4
    assert "no UTF-8" in str(header(letters[0], "__connect.errors.exception.message"))
    with Control(stage.cluster) as control:
        found = browse.look(control, declared)  # type: ignore[arg-type]  # none of them publishes
    assert (len(found.dead), found.foreign) == (4, 0), "each can be shown and replayed"
