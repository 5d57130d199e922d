"""Pause a sink, let it go on, skip one of its events; and see how sinks stand.

A command stands once it is written. Here it is also waited for: every live worker of the sink says that it obeys.
"""

import time
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from trunkline.errors import Unavailable, UsageError
from trunkline.flow.declare import Bus, group_of, identity_of, sink_identity
from trunkline.kafka import orders
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.control import Control, moment
from trunkline.kafka.events import Follower, Sender
from trunkline.kafka.orders import Announcement, Change, Command, Full, Orders
from trunkline.kafka.topics import control_of
from trunkline.operate import browse


@dataclass(frozen=True, slots=True)
class Answer:
    """Who obeys a command, and who has not said so."""

    obeying: tuple[Announcement, ...]
    silent: tuple[Announcement, ...]
    unknown: int = 0
    """Members of the sink's groups beyond those that have said anything at all."""

    @property
    def complete(self) -> bool:
        """Whether nobody is missing."""
        return not self.silent and not self.unknown


def answer(held: Orders, flows: Collection[str], offset: int, members: int, now: datetime) -> Answer:
    """Say who obeys the command at an offset, of the live workers that run these flows.

    `members` counts the members of the flows' groups; a worker is one of each of its flows' groups.
    """
    there = orders.running(held, flows, now)
    obeying = tuple(said for said in there if said.applied > offset)
    known = sum(flow in flows for said in there for flow in said.worker.flows)
    return Answer(obeying, tuple(said for said in there if said.applied <= offset), max(0, members - known))


def sink_of(bus: Bus, name: str) -> str:
    """Find the sink that is meant by its own name or by its flow's, and give what it is known by (I1).

    Raises:
        UsageError: there is none.
    """
    found = next((sink for sink in bus.sinks if sink.name == name), None)
    if found is None:
        flow = browse.flow_of(bus, name)
        if flow not in bus.delivering:
            raise UsageError(f"{flow} calls no target; only a sink can be paused, resumed or told to skip an event.")
        found = bus.delivering[flow].to
    return sink_identity(found)


def topic_of(bus: Bus, control: Control) -> str:
    """Name the control topic.

    Raises:
        UsageError: it does not exist.
    """
    topic = control_of(bus)
    if topic not in control.topics([topic]):
        raise UsageError(f"the topic {topic} does not exist. Run `trunkline topics apply`.")
    return topic


def flows_of(bus: Bus, sink: str) -> list[str]:
    """Name the flows that end at a sink."""
    return [name for name, flow in bus.delivering.items() if sink_identity(flow.to) == sink]


@dataclass(frozen=True, slots=True)
class Desk:
    """From where commands are given; each waits at most `patience` seconds for the workers.

    A command is written when its method returns, whoever has answered by then.
    """

    bus: Bus
    cluster: Cluster
    control: Control
    sender: Sender
    patience: float

    def pause(self, sink: str, command: Command) -> Answer:
        """Let a sink start no more calls; those in flight end as they would.

        Raises:
            UsageError: the control topic is missing.
            Unavailable: the command was not acknowledged by the broker.
        """
        return self._give(sink, orders.pausing(sink, command))

    def resume(self, sink: str, command: Command) -> Answer:
        """Let a sink go on that was paused or has halted; raises as `pause` does."""
        return self._give(sink, orders.resuming(sink, command))

    def skip(self, sink: str, event: str, command: Command) -> Answer:
        """Let a sink send an event to the dead letters instead of to the target; raises as `pause` does."""
        return self._give(sink, orders.skipping(sink, event, command))

    def _give(self, sink: str, changes: Iterable[Change]) -> Answer:
        topic = topic_of(self.bus, self.control)
        last = orders.send(self.sender, topic, changes)[-1].offset
        return self.wait(topic, flows_of(self.bus, sink), last)

    def wait(self, topic: str, flows: Collection[str], offset: int) -> Answer:
        """Follow what the workers say. The clock is the broker's: at its own record it shows how far ours is off."""
        groups = [group_of(self.bus, identity_of(self.bus.delivering[flow])) for flow in flows]
        until = time.monotonic() + self.patience
        held, off, found = Orders(), timedelta(), None
        with closing(Follower(self.cluster, topic)) as follower:
            while found is None or not (found.complete or time.monotonic() > until):
                records = follower.fetch(0.5)
                held = orders.applied(held, records)
                if written := [one for one in records if one.offset == offset]:
                    off = moment(written[0].timestamp) - datetime.now(UTC)
                if held.position > offset:
                    members = sum(len(self.control.members(group)) for group in groups)
                    found = answer(held, flows, offset, members, datetime.now(UTC) + off)
                elif time.monotonic() > until + orders.PATIENCE:
                    raise Unavailable(f"{topic} cannot be read, so it is not known who obeys. The command stands.")
        return found


@dataclass(frozen=True, slots=True)
class Standing:
    """How one sink stands."""

    sink: str
    flows: tuple[str, ...]
    paused: Command | None
    workers: tuple[Announcement, ...]
    """The live ones that run any of its flows."""
    halted: tuple[tuple[str, str], ...]
    """Workers where it has halted, each with the reason."""
    full: tuple[Full, ...]
    """Its partitions that are held up, each with the key that fills it."""
    skips: tuple[str, ...]
    """Events to be skipped that have not come by yet."""


def standings(bus: Bus, held: Orders, now: datetime) -> list[Standing]:
    """Say how every sink stands, in the order of the topology."""
    found = []
    for known, sink in {sink_identity(sink): sink.name for sink in bus.sinks}.items():
        flows = tuple(flows_of(bus, known))
        workers = tuple(orders.running(held, flows, now))
        found.append(
            Standing(
                sink,
                flows,
                held.paused.get(known),
                workers,
                tuple((said.worker.id, said.halted[flow]) for said in workers for flow in flows if flow in said.halted),
                tuple(full for said in workers for full in said.full if full.flow in flows),
                tuple(sorted(held.skips(known))),
            )
        )
    return found
