"""Every mistake of a topology at once, each with the line that declared it and what to change there.

Pure: schema files and the source of the topology, steps and routes are read; nothing is opened, called or connected to.
What depends on a value of a wrong type is not judged; everything else still is.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from trunkline.errors import Fault, Faults, TopologyError
from trunkline.flow.agents import agent_faults
from trunkline.flow.bodies import process_faults, sink_faults, source_faults
from trunkline.flow.declare import (
    Agent,
    Bus,
    Declared,
    Deliver,
    Flow,
    Lookup,
    Process,
    Publish,
    Table,
    Target,
    Topic,
    dead_letters_of,
    flow_name,
    identity_of,
    inputs_of,
    replay_of,
    sink_identity,
)
from trunkline.flow.functions import variable
from trunkline.flow.kits import kit_faults
from trunkline.flow.records import record_faults
from trunkline.flow.values import bus_faults, flow_name_faults, is_sound, parts_of, type_faults, value_faults

D = TypeVar("D", bound=Declared)


def check(bus: Bus) -> None:
    """Return when the topology is right.

    Raises:
        TopologyError: it is wrong; holds every fault, in order of line.
    """
    if found := faults(bus):
        raise TopologyError(found)


def faults(bus: Bus) -> list[Fault]:
    """Find every mistake, in order of line, those in the bus's own file first."""
    flows = [flow for flow in bus.flows if isinstance(flow, Flow)]
    parts = in_order(part for flow in flows for part in parts_of(flow))
    sound = [part for part in parts if is_sound(part)]
    whole = [flow for flow in flows if flow in sound and topic_of(flow) in sound]
    stored = [part for part in sound if isinstance(part, Topic | Table)]
    found = [
        *bus_faults(bus, bus.flows),
        *(fault for part in parts for fault in (value_faults if part in sound else type_faults)(part)),
        *(fault for flow in whole for fault in (*flow_name_faults(flow), *body_faults(flow))),
        *order_faults(flows, whole),
        *twice_faults(whole),
        *was_faults(whole),
        *retired_faults(bus, whole),
        *topic_faults(stored, whole),
        *twice_declared_faults([part for part in sound if isinstance(part, Target)]),
        *twice_declared_faults([part for part in sound if isinstance(part, Table | Lookup)]),
        *loop_faults([flow for flow in whole if isinstance(flow, Process | Agent)]),
        *record_faults(stored),
    ]
    home, _ = place_of(bus.where)
    return sorted(dict.fromkeys(found), key=lambda fault: (place_of(fault.where)[0] != home, place_of(fault.where)))


def place_of(where: str) -> tuple[str, int]:
    """Take `file:line` apart."""
    path, _, line = where.rpartition(":")
    return path, int(line)


def in_order(parts: Iterable[D]) -> list[D]:
    """Give each declaration once, in order of line."""
    return sorted(dict.fromkeys(parts), key=lambda part: place_of(part.where))


def topic_of(flow: Flow) -> Topic:
    """Give the one topic without which nothing can be said of a flow."""
    return flow.to if isinstance(flow, Publish) else flow.topic


def body_faults(flow: Flow) -> Faults:
    """Find what is wrong with the code that a flow runs."""
    match flow:
        case Publish():
            return source_faults(flow)
        case Process():
            return process_faults(flow)
        case Agent():
            return agent_faults(flow)
        case Deliver():
            return chain(sink_faults(flow), kit_faults(flow))


def title(flow: Flow) -> str:
    """Name a flow as its line reads."""
    match flow:
        case Publish():
            return f"Publish {flow.source.name}"
        case Process():
            return f"Process {flow_name(flow)}"
        case Agent():
            return f"Agent {flow_name(flow)}"
        case Deliver():
            return f"Deliver → {flow.to.name}"


def outputs(flow: Flow) -> list[str]:
    """Give the names of the topics that a flow writes, as far as it says so."""
    read = None if isinstance(flow, Publish) else flow.topic
    if isinstance(flow, Agent):
        return [flow.to.name] if is_sound(flow) and is_sound(flow.to) else []
    topics = [part for part in parts_of(flow) if isinstance(part, Topic) and part is not read and is_sound(part)]
    if isinstance(flow, Process) and is_sound(flow) and read in flow.to:
        topics.append(flow.topic)
    return [topic.name for topic in topics]


def order_faults(flows: Sequence[Flow], whole: Sequence[Flow]) -> Faults:
    """Find the topics that are read and that nothing above writes."""
    for position, flow in enumerate(flows):
        if isinstance(flow, Publish) or flow not in whole:
            continue
        above = {topic for earlier in flows[:position] for topic in outputs(earlier)}
        for read in inputs_of(flow):
            if read.name in above:
                continue
            below = [later.where for later in flows[position + 1 :] if read.name in outputs(later)]
            word = variable(read.where)
            if below:
                told = f"Move {below[0]}, which writes it, above this line."
            elif near := difflib.get_close_matches(read.name, sorted(above), n=1, cutoff=0.9):
                told = f"Did you mean {near[0]}?"
            elif isinstance(flow, Process | Agent):
                told = f"Add Publish(…, to={word}) above."
            else:
                told = f"Add it to a Process(..., to={{{word}: …}}) above."
            yield Fault(flow.where, f"{title(flow)} reads {read.name}; nothing above writes it. {told}")


def twice_faults(flows: Sequence[Flow]) -> Faults:
    """Find two flows of one name and a source that is published twice."""
    named: dict[str, Flow] = {}
    published: dict[str, Publish] = {}
    for flow in flows:
        if isinstance(flow, Publish) and (first := published.setdefault(flow.source.name, flow)) is not flow:
            told = (
                "Publish it once and route its events with a Process"
                if first.source is flow.source
                else "Give one of the two sources another name"
            )
            yield Fault(flow.where, f"source {flow.source.name} is published at {first.where} already. {told}.")
        elif (other := named.setdefault(flow_name(flow), flow)) is not flow:
            told = f'Name one of them: {type(flow).__name__}(…, name="…")'
            yield Fault(flow.where, f"{flow_name(flow)} is the name of the flow at {other.where} too. {told}.")


def was_faults(flows: Sequence[Flow]) -> Faults:
    """Find a former name that is another's: two would share one identity, or seem to."""
    for flow in flows:
        others = [one for one in flows if one is not flow and flow.was in (flow_name(one), identity_of(one))]
        if flow.was and others:
            yield was_fault(flow, f"{title(flow)} was {flow.was}, as is the flow at {others[0].where}")
    sinks = {flow.to.name: flow for flow in reversed(flows) if isinstance(flow, Deliver)}
    for name, flow in sinks.items():
        was = flow.to.was
        others = [one for one in sinks.values() if one is not flow and was in (one.to.name, sink_identity(one.to))]
        if was and others:
            yield was_fault(flow, f"the sink {name} was {was}, as is the sink at {others[0].where}")


def was_fault(flow: Flow, told: str) -> Fault:
    """Say that a former name is taken."""
    return Fault(flow.where, f"{told}. Correct was, or give the other a name of its own.")


def retired_faults(bus: Bus, flows: Sequence[Flow]) -> Faults:
    """Find a sink or flow that is retired and still here."""
    here = {name: flow.where for flow in flows for name in (flow_name(flow), identity_of(flow))}
    for flow in flows:
        if isinstance(flow, Deliver):
            here |= {flow.to.name: flow.where, sink_identity(flow.to): flow.where}
    for name in bus.retired if isinstance(bus.retired, list | tuple) else ():
        if isinstance(name, str) and name in here:
            yield Fault(bus.where, f"{name} is retired, and still at {here[name]}. Take it out of one of the two.")


@dataclass(frozen=True)
class Taken:
    """A topic's name, what has it, and the line."""

    name: str
    by: str
    where: str


def topic_faults(stored: Sequence[Topic | Table], flows: Sequence[Flow]) -> Faults:
    """Find two topics that Kafka would take for one, whether declared or made by the bus for a flow."""
    reading = {identity_of(flow): flow for flow in flows if not isinstance(flow, Publish)}
    made = [
        Taken(topic, f"the {kind} topic of {flow_name(flow)}", flow.where)
        for identity, flow in reading.items()
        for kind, topic in (("dead-letter", dead_letters_of(identity)), ("replay", replay_of(identity)))
    ]
    known: dict[str, Taken] = {}
    for new in [*(Taken(part.name, type(part).__name__, part.where) for part in stored), *made]:
        old = known.setdefault(new.name.replace(".", "_"), new)
        if old is new:
            continue
        if old.name != new.name:
            told = "Kafka takes dots and underscores for the same; rename one"
            yield Fault(new.where, f"{new.name} ({new.by}) is too like {old.name} ({old.by}, {old.where}). {told}.")
        elif new in made:
            yield Fault(old.where, f"{new.name} is {new.by} ({new.where}). Give this {old.by} another name.")
        elif old.by == new.by:
            yield Fault(new.where, f"{new.by} {new.name} is declared at {old.where} already. Use that one for both.")
        else:
            yield Fault(new.where, f"{new.name} is a {old.by} at {old.where}. Give this {new.by} another name.")


def twice_declared_faults(parts: Sequence[Target | Table | Lookup]) -> Faults:
    """Find two targets of one name, which would not share the limit that it promises, or two sources of rows."""
    known: dict[str, Target | Table | Lookup] = {}
    for part in parts:
        first = known.setdefault(part.name, part)
        if first is not part and not (isinstance(first, Table) and isinstance(part, Table)):  # two topics are told of
            told = "Use that one for both, or give this one another name"
            yield Fault(part.where, f"{type(part).__name__} {part.name} is declared at {first.where} already. {told}.")


def loop_faults(flows: Sequence[Process | Agent]) -> Faults:
    """Find the flows whose records come back to them."""
    follows: dict[str, set[str]] = {}
    for flow in flows:
        for topic in inputs_of(flow):
            follows.setdefault(topic.name, set()).update(outputs(flow))
    for flow in flows:
        reached: set[str] = set()
        ahead = outputs(flow)
        while ahead:
            if (name := ahead.pop()) not in reached:
                reached.add(name)
                ahead += follows.get(name, ())
        if flow.topic.name in reached:
            told = f"{title(flow)} reads {flow.topic.name}, and what it writes leads back there without end"
            yield Fault(flow.where, f"{told}. Write to another topic.")
