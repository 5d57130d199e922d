"""Mistakes in the code that a flow runs, as far as it says what it reads and gives: sources, steps, routes, sinks."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, get_args, get_origin, get_type_hints

from trunkline.adapters import Item
from trunkline.errors import Fault, Faults
from trunkline.event import Drop
from trunkline.flow.conditions import condition_faults
from trunkline.flow.declare import (
    Declared,
    Deliver,
    Enrich,
    Lookup,
    Process,
    Publish,
    Route,
    Step,
    Table,
    Topic,
    body_of,
    lookups_of,
    parts_of,
)
from trunkline.flow.functions import (
    annotations,
    argument,
    data_of,
    is_record,
    item_of,
    located,
    members,
    name_of,
    parameters,
    takes,
)
from trunkline.flow.records import fits, literal_faults, near
from trunkline.flow.values import expect, is_sound
from trunkline.flow.where import Where


def source_faults(flow: Publish) -> Faults:
    """Find that a source gives other events than its topic holds."""
    events = flow.source.events
    kind = type(flow.source).__name__
    if is_async(events):
        yield Fault(flow.where, f"{kind}.events is async; only sync is supported. Write it as def.")
    given = data_of(item_of(annotations(events).get("return")))
    if not fits(given, flow.to.record):
        told = f"{kind}.events gives {given.__name__}; {flow.to.name} holds {flow.to.record.__name__}"
        yield Fault(flow.where, f"{told}. Publish to a topic of {given.__name__}, or change the annotation.")


def sink_faults(flow: Deliver) -> Faults:
    """Find that a sink reads other events than its topic holds."""
    kind = type(flow.to).__name__
    for name in ("request", "verdict", "batch", "verdicts"):
        if is_async(getattr(flow.to, name)):
            yield Fault(flow.where, f"{kind}.{name} is async; only sync is supported. Write it as def.")
    for name, wanted in (
        ("request", data_of(argument(flow.to.request, 0))),
        ("batch", data_of(item_of(argument(flow.to.batch, 0)), Item)),
    ):
        if not fits(flow.topic.record, wanted):
            told = f"{kind}.{name} reads {wanted.__name__}; {flow.topic.name} holds {flow.topic.record.__name__}"
            yield Fault(flow.where, f"{told}. Deliver a topic of {wanted.__name__}, or change the annotation.")


def process_faults(flow: Process) -> Faults:
    """Find what is wrong with the steps and routes of a flow, following the data from one to the next."""
    data: Any = flow.topic.record
    giver = f"{flow.topic.name} holds"
    for step in flow.steps:
        body = body_of(step)
        line = step if isinstance(step, Enrich) else flow
        if is_function(body) or inspect.iscoroutinefunction(body):
            yield from reading_faults(line, body, data, giver)
            yield from table_faults(line, step, body)
            yield from key_faults(line, step, data)
            yield from giving_faults(line, body)
            data, giver = data_of(annotations(body).get("return")), f"{name_of(body)} gives"
        else:
            yield from body_faults(line, "step", body)
            data = None
    if not flow.to:
        yield Fault(flow.where, f"Process of {flow.topic.name} has no routes. Add to={{topic: route}}.")
    for topic, route in flow.to.items():
        if isinstance(route, Where):
            yield from where_faults(flow, topic, route, data, giver)
            continue
        yield from route_faults(flow, topic, route)
        if is_function(route):
            yield from reading_faults(flow, route, data, giver)


def where_faults(flow: Process, topic: Any, route: Where, data: Any, giver: str) -> Faults:
    """Find what is wrong with a route that has a condition."""
    wrong = list(expect(route.where, "what Where asks", route.condition, str, 'a condition such as "total > 100.0"'))
    yield from wrong or condition_faults(route, data)
    if route.record is not None:
        yield from route_faults(flow, topic, route.record)
        if is_function(route.record):
            yield from reading_faults(route, route.record, data, giver)
    elif isinstance(topic, Topic) and is_sound(topic) and not fits(data, topic.record):
        told = f"makes no record of its own; {giver} {data.__name__}, and {topic.name} holds {topic.record.__name__}"
        yield Fault(route.where, f"Where {told}. Give it a function: Where(condition, record).")


def is_async(body: Any) -> bool:
    """Say whether a function has to be awaited."""
    return inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body)


def is_function(body: object) -> TypeGuard[Callable[..., Any]]:
    """Say whether something can be a route, or a step that waits for nothing."""
    return callable(body) and not isinstance(body, type) and hasattr(body, "__name__") and not is_async(body)


def body_faults(line: Declared, what: str, body: Any) -> Faults:
    """Say why something cannot be a step or a route."""
    if not callable(body):
        told = f"a {what} is of type {type(body).__name__}, which cannot be called. Give a function."
    elif isinstance(body, type):
        told = f"a {what} is the class {body.__name__}. Give a function."
    elif is_async(body):
        told = f"{located(body)} is async; only sync is supported. Write it as def."
    else:
        told = f"a {what} is a {type(body).__name__} without a name to report. Write it as def."
    yield Fault(line.where, told)


def reading_faults(line: Declared, body: Step | Route, data: Any, giver: str) -> Faults:
    """Find that a step or route reads other data than it gets."""
    wanted = data_of(argument(body, 0))
    if not fits(data, wanted):
        told = f"{located(body)} reads {wanted.__name__}; {giver} {data.__name__}"
        yield Fault(line.where, f"{told}. Change the annotation, or what comes before.")


def table_faults(line: Declared, step: Step | Enrich, body: Step) -> Faults:
    """Find that a step's parameters are not the tables and look-ups it is declared with."""
    tables = parts_of(step)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = sum(one.kind in positional for one in parameters(body) or []) - 1
    if isinstance(step, Enrich) and not tables:
        told = "Name those it looks things up in, or give the step without Enrich"
        yield Fault(line.where, f"Enrich({name_of(body)}) has no tables. {told}.")
    elif not takes(body, 1 + len(tables)):
        if taken < 0:
            yield Fault(line.where, f"{located(body)} takes no event. Give it the parameter.")
        elif isinstance(step, Enrich):
            told = f"takes {taken} table{'' if taken == 1 else 's'}; it is given {len(tables)}"
            yield Fault(line.where, f"{located(body)} {told}. Make them the same.")
        else:
            told = f"Declare it with its tables: Enrich({name_of(body)}, …)"
            yield Fault(line.where, f"{located(body)} takes more than the event. {told}.")
    for position, table in enumerate(tables, 1):
        hint = argument(body, position)
        row = get_args(hint)[1] if is_mapping(hint) and len(get_args(hint)) == 2 else None
        if isinstance(table, Table | Lookup) and is_sound(table) and not fits(table.record, row):
            told = f"looks up {getattr(row, '__name__', row)}; {table.name} holds {table.record.__name__}"
            yield Fault(line.where, f"{located(body)} {told}. Give it another, or change the annotation.")


def key_faults(line: Declared, step: Step | Enrich, data: Any) -> Faults:
    """Find the keys of look-ups that are no field of what the step gets."""
    for lookup in lookups_of(step):
        kind = data
        for name in lookup.key.split(".") if is_sound(lookup) else ():
            if not is_record(kind):
                break
            fields = get_type_hints(kind)
            if name not in fields:
                told = f'{lookup.name} is looked up by "{lookup.key}"; {kind.__name__} has no "{name}"'
                yield Fault(line.where, f"{told}. {near(name, fields)}")
                break
            inner = [member for member in members(fields[name]) if member is not type(None)]
            kind = (item_of(inner[0]) or inner[0]) if len(inner) == 1 else None


def giving_faults(line: Declared, body: Step) -> Faults:
    """Find that a step gives something that is no Event or Drop."""
    given = annotations(body).get("return", Any)
    if inspect.isgeneratorfunction(body):
        yield Fault(line.where, f"{located(body)} yields; a step returns one Event or Drop. Make it a route.")
    elif type(None) in members(given):
        yield Fault(line.where, f'{located(body)} may return None. Return Drop("reason") for what goes no further.')
    elif is_record(given) or is_mapping(given):
        yield Fault(line.where, f"{located(body)} returns data without its event. Return event.having(data).")
    elif members(given) == (Drop,):
        yield Fault(line.where, f"{located(body)} returns nothing but Drop. Return the event that goes further.")


def route_faults(flow: Process, topic: Any, route: Any) -> Faults:
    """Find that a route leads nowhere, or makes other records than its topic holds."""
    if isinstance(topic, Table):
        yield Fault(
            flow.where, f"Process writes to the Table {topic.name}, which holds rows and no events. Use a Topic."
        )
    elif not isinstance(topic, Topic):
        yield Fault(flow.where, f"a route leads to something of type {type(topic).__name__}. Give it a Topic.")
    if not is_function(route):
        yield from body_faults(flow, "route", route)
        return
    if not takes(route, 1):
        yield Fault(flow.where, f"{located(route)} cannot be called with the event alone. Give it one parameter.")
    if not isinstance(topic, Topic) or not is_sound(topic):
        return
    given = annotations(route).get("return")
    record = item_of(given)
    if is_record(given) or is_mapping(given):
        told = f"yield it, and annotate Iterator[{topic.record.__name__}]"
        yield Fault(flow.where, f"{located(route)} returns one record; a route gives any number: {told}.")
    elif not fits(record, topic.record):
        told = f"gives {record.__name__}; {topic.name} holds {topic.record.__name__}"
        yield Fault(flow.where, f"{located(route)} {told}. Route it to a topic of {record.__name__}.")
    else:
        yield from literal_faults(flow, topic, route)


def is_mapping(hint: Any) -> bool:
    """Say whether a type is a mapping without named fields."""
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping) and not is_record(hint)
