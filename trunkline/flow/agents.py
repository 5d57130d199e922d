"""Mistakes in the body of an agent, and in the topics that it is given on one stream."""

import ast
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_args, get_origin

from trunkline.errors import Fault, Faults
from trunkline.event import Moment
from trunkline.flow.declare import Agent, inputs_of
from trunkline.flow.functions import annotations, argument, data_of, located, members, name_of, node_of, own, takes
from trunkline.flow.records import fits, released, written_faults
from trunkline.flow.values import is_sound


def agent_faults(flow: Agent) -> Faults:
    """Find what is wrong with a body, and with what it joins."""
    body = flow.body
    if not inspect.isasyncgenfunction(body):
        yield Fault(
            flow.where, f"the body of an Agent is an async generator: async def, with a yield. {told_of(body)}."
        )
    elif not takes(body, 2):
        yield Fault(
            flow.where, f"{located(body)} is given the stream and the window. Write {name_of(body)}(stream, window)."
        )
    else:
        yield from reading_faults(flow)
        yield from giving_faults(flow)
    if flow.join is not None and is_sound(flow.join):
        yield from join_faults(flow)


def told_of(body: Any) -> str:
    """Say what is there in place of a body."""
    return f"{located(body)} is none" if inspect.isfunction(body) else f"This is of type {type(body).__name__}"


def reading_faults(flow: Agent) -> Faults:
    """Find that a body reads other events than its topics hold."""
    stream = get_args(argument(flow.body, 0))
    wanted = members(get_args(stream[0])[0]) if stream and get_origin(stream[0]) is Moment else ()
    for topic in inputs_of(flow):
        if wanted and is_sound(topic) and not any(fits(topic.record, one) for one in wanted):
            gives = f"{topic.name} holds {topic.record.__name__}"
            names = " or ".join(getattr(one, "__name__", str(one)) for one in wanted)
            yield Fault(
                flow.where, f"{located(flow.body)} reads {names}; {gives}. Change the annotation, or the topic."
            )


def giving_faults(flow: Agent) -> Faults:
    """Find that a body makes other records than its topic holds."""
    given = annotations(flow.body).get("return")
    record = (
        data_of(get_args(given)[0])
        if get_args(given) and issubclass(get_origin(given) or object, AsyncIterator)
        else None
    )
    if not is_sound(flow.to):
        return
    if not fits(record, flow.to.record):
        name = getattr(record, "__name__", str(record))
        told = f"gives {name}; {flow.to.name} holds {flow.to.record.__name__}"
        yield Fault(flow.where, f"{located(flow.body)} {told}. Write to a topic of {name}.")
    elif (found := released(flow.to.record)) is not None:
        for literal in made(flow.body):
            yield from written_faults(flow, found, flow.body, literal)


def made(body: Any) -> Iterator[ast.Dict]:
    """Yield the records that a body writes out as `yield event.having({"field": …})`, in order of line."""
    node = node_of(body)
    for part in own(node) if node is not None else ():
        match part:
            case ast.Yield(value=ast.Call(func=ast.Attribute(attr="having"), args=[ast.Dict() as record])):
                yield record


def join_faults(flow: Agent) -> Faults:
    """Find two topics whose partitions do not belong together."""
    first, second = inputs_of(flow)
    if first.name == second.name:
        yield Fault(flow.where, f"the Agent joins {first.name} with itself. Leave join out.")
    elif first.partitions != second.partitions:
        told = f"{first.name} has {first.partitions} partitions and {second.name} {second.partitions}"
        yield Fault(flow.where, f"{told}: events of one key would not meet. Declare as many for both.")
    elif first.key is None or second.key is None:
        told = f"{first.name if first.key is None else second.name} has no key"
        yield Fault(flow.where, f'{told}: events that belong together would not meet. Declare one: Topic(…, key="…").')
