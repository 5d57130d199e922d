"""A topic that vanishes under a running flow: what the halt says to type brings the flow back."""

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import timedelta

import pytest
from kafka.admin import KafkaAdminClient

from tests.trunkline.schemas import MarkV1, NoteWrittenV1
from tests.trunkline.support import Stage, deliver_bus, marks_of, note, notes, process_bus, wait_for
from trunkline import Agent, Bus, Event, Stream, Topic
from trunkline.flow.declare import flow_name, group_of
from trunkline.kafka.cluster import COMMON
from trunkline.kafka.topics import names, plan


async def follow(stream: Stream[NoteWrittenV1], _: timedelta) -> AsyncIterator[Event[MarkV1]]:
    async for _at, event in stream:
        if event is not None:
            for mark in marks_of(event):
                yield event.having(mark)


def agent_bus(prefix: str) -> Bus:
    marks = Topic(f"{prefix}.marks", MarkV1, key="box", partitions=3)
    return Bus(prefix, [Agent(notes(prefix, 3), follow, to=marks, window=timedelta(seconds=9))])


@pytest.mark.parametrize("make", [deliver_bus, process_bus, agent_bus], ids=["sink", "step", "agent"])
def test_what_the_halt_of_a_vanished_topic_says_brings_the_flow_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, make: Callable[[str], Bus]
) -> None:
    monkeypatch.setitem(COMMON, "topic.metadata.refresh.interval.ms", 500)
    monkeypatch.setitem(COMMON, "topic.metadata.propagation.max.ms", 1_000)
    bus = stage.make(make(stage.prefix))
    [flow], topic = map(flow_name, bus.flows), bus.topics[0].name

    def through() -> bool:
        return stage.committed(bus, flow) == stage.ends(topic)

    with stage.running(bus) as running:
        stage.write(bus, [note(number) for number in range(5)])
        wait_for(through, why=running.worker.stopped)
        with closing(KafkaAdminClient(bootstrap_servers=stage.bootstrap)) as admin:
            admin.delete_topics([topic])
        wait_for(running.worker.stopped, seconds=60)
        [why] = running.worker.stopped().values()
        then = "then start its workers again: no order does, as its offsets were the old topic's."
        assert why.endswith(f"Run `trunkline topics apply`, {then}")
    with stage.control() as control:
        control.apply(plan(bus, control.existing(names(bus)), stage.kafka))
        wait_for(lambda: not control.members(group_of(bus, flow)), seconds=60)
        control.start_offsets(bus, [flow], None)
    with stage.running(bus) as running:
        stage.write(bus, [note(number) for number in range(5, 12)])
        wait_for(lambda: through() and sum(stage.ends(topic).values()) >= 7, why=running.worker.stopped)
