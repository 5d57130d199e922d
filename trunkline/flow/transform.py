"""One event through the steps and routes of a process flow: pure, shared by the engine and by `walk`."""

from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import suppress
from inspect import iscoroutinefunction
from itertools import islice
from types import CoroutineType
from typing import Any, NamedTuple, TypeVar

from trunkline.errors import Permanent, TrunklineError, pass_on
from trunkline.event import Drop, Event, derived_id
from trunkline.flow.declare import (
    Bus,
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
    source_of,
)
from trunkline.flow.rows import Answers, Given, keys_of

T = TypeVar("T")

MOST = 100_000
"""Records that a route makes of one event at most: they are made at one go, within seconds and in memory."""


class Made(NamedTuple):
    """A record that a route made of an event, and its id as an event of its own."""

    topic: Topic
    id: str
    key: str | None
    data: Mapping[str, Any]


def waits(flow: Process) -> bool:
    """Say whether a step of the flow has to be awaited, or what it has asked of a target."""
    return any(iscoroutinefunction(body_of(step)) or lookups_of(step) for step in flow.steps)


class Steps:
    """The steps of a flow, each with the rows that it is given."""

    def __init__(self, flow: Process, tables: Given) -> None:
        """Look up once what is the same for every event; `tables` has what every table and look-up holds, by name."""
        self._steps = [(step, body_of(step), [tables[part.name] for part in parts_of(step)]) for step in flow.steps]
        self._tables = tables

    def take(self, event: Event[Any]) -> Event[Any] | Drop:
        """Run them here and now, one after the other.

        Raises:
            Permanent: a step raised something that is no OSError and none of ours (P3), naming it; it gave no event; or
                it waits for what is not here.
            TrunklineError, OSError: as raised by the step.
        """
        for _, body, rows in self._steps:
            made = run(body, event, *rows)
            if not isinstance(made, Event):
                made = at_once(settled(body, made))
                if isinstance(made, Drop):
                    return made
            event = made
        return event

    async def take_waiting(self, event: Event[Any]) -> Event[Any] | Drop:
        """Run them one after the other, where some wait or ask targets.

        Raises:
            Permanent, TrunklineError, OSError: as `take`.
        """
        for step, _, _ in self._steps:
            made = await stepped(step, event, self._tables)
            if isinstance(made, Drop):
                return made
            event = made
        return event


async def stepped(step: Step | Enrich, event: Event[Any], tables: Given) -> Event[Any] | Drop:
    """Run one step.

    Raises:
        Permanent, TrunklineError, OSError: as `Steps.take`.
    """
    body = body_of(step)
    parts = parts_of(step)
    looked: list[Any] = [tables[part.name] for part in parts]
    for place, part in enumerate(parts):
        if isinstance(part, Lookup):
            looked[place] = await answers_of(part, event, tables)
    return await settled(body, run(body, event, *looked))


async def settled(body: Step, made: Any) -> Event[Any] | Drop:
    """Give what a step gave, awaited if need be.

    Raises:
        Permanent, TrunklineError, OSError: as `Steps.take`.
    """
    if isinstance(made, CoroutineType):
        made = await waited(body, made)
    if not isinstance(made, (Event, Drop)):
        raise Permanent(f"{body.__name__} returned {type(made).__name__}, no Event or Drop")
    return made


async def answers_of(part: Lookup, event: Event[Any], tables: Given) -> Answers:
    """Give what a step gets of what it has asked of a target for this event.

    Raises:
        Permanent, Halt: the event has no such key, or the target refuses.
    """
    rows = tables[part.name]
    assert not isinstance(rows, Mapping)
    return Answers(part, keys := keys_of(part, event), await rows.ask(keys))


def step_of(step: Step | Enrich, event: Event[Any], tables: Given) -> Event[Any] | Drop:
    """Run one step here and now.

    Raises:
        Permanent, TrunklineError, OSError: as `Steps.take`.
    """
    return at_once(stepped(step, event, tables))


def at_once(steps: Coroutine[Any, None, T]) -> T:
    """Run what nothing keeps waiting to its end, without a loop.

    Raises:
        Permanent: something does.
    """
    try:
        while steps.send(None) is None:
            pass
    except StopIteration as ended:
        given: T = ended.value
        return given
    with suppress(Permanent):  # a step that hears of it in vain seems to have raised it
        steps.close()
    raise Permanent("a step waits for something that is not here")


def records_of(route: Route, topic: Topic, event: Event[Any]) -> list[Made]:
    """Run one route.

    Raises:
        Permanent, TrunklineError, OSError: as `Steps.take`.
    """
    records: list[Made] = []
    ordinals: dict[str | None, int] = {}
    given = run(route_to_list, route, event)
    if len(given) > MOST:
        raise Permanent(f"{route.__name__} makes more than {MOST:,} records of one event for {topic.name}")
    for data in given:
        if type(data) is not dict and not isinstance(data, Mapping):  # the first is the rule, and costs nothing
            raise Permanent(f"{route.__name__} gave a {type(data).__name__} for {topic.name}, no record")
        key = key_of(topic, data)
        ordinal = ordinals.get(key, 0)
        ordinals[key] = ordinal + 1
        records.append(Made(topic, derived_id(event, topic.name, key, ordinal), key, data))
    return records


def event_of(made: Made, source: str, parent: Event[Any]) -> Event[Any]:
    """Give a record that was made of an event as one of its own; `source` names what a flow makes."""
    kind = made.topic.schema.event_type
    return Event(made.id, parent.time, made.data, source, kind, made.key, parent.traceparent)


def route_to_list(route: Any, event: Event[Any]) -> list[Mapping[str, Any]]:
    """Run a route to its end, which may never come: it may be a generator, which raises only while it is read."""
    return list(islice(route(event), MOST + 1))


def run(body: Any, *arguments: Any) -> Any:
    """Call a step or route; what it raises by mistake is the event's fault.

    So is an exit, which would end the thread of the flow, and each worker in turn that takes the event.
    """
    try:
        return body(*arguments)
    except (TrunklineError, OSError, TimeoutError):
        raise
    except BaseException as error:
        name = getattr(arguments[0], "__name__", "") if body is route_to_list else body.__name__
        raise bug(name, error) from error


async def waited(body: Step, made: Awaitable[Any]) -> Any:
    """Await what a step gave; what it raises by mistake is the event's fault."""
    try:
        return await made
    except (TrunklineError, OSError, TimeoutError):
        raise
    except BaseException as error:
        raise bug(body.__name__, error) from error


def bug(name: str, error: BaseException) -> Permanent:
    """Say that a step, a route or a body did not mean to raise this, unless it asks us to end: then raise it again."""
    pass_on(error)
    return Permanent(f"bug in {name}: {type(error).__name__}: {error}")


def stamp(bus: Bus, flow: Publish, event: Event[Any]) -> Event[Any]:
    """Give an event of a source its place on the bus: source, type and key.

    Raises:
        Permanent: the event lacks the field that is its topic's key.
    """
    return Event(
        id=event.id,
        time=event.time,
        data=event.data,
        source=source_of(bus, flow),
        type=flow.to.schema.event_type,
        key=key_of(flow.to, event.data),
        traceparent=event.traceparent,
    )


def key_of(topic: Topic | Table, data: Mapping[str, Any]) -> str | None:
    """Give the key of a record: the declared field as text; None when no key is declared or the field is null.

    Raises:
        Permanent: the record has no such field, or its value is no text that can be written as UTF-8.
    """
    if topic.key is None:
        return None
    if topic.key not in data:
        raise Permanent(f"the record for {topic.name} has no {topic.key}, which is the topic's key")
    if (value := data[topic.key]) is None:
        return None
    key = str(value)
    try:
        key.encode()
    except UnicodeEncodeError:
        raise Permanent(f"the {topic.key} of the record for {topic.name} is no text: {key!r}") from None
    return key
