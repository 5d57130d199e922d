"""Who reads a field, in any code: the examples are walked, and records tell who looks for a field that is gone."""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from trunkline.adapters import Item
from trunkline.avro.compat import plain, short
from trunkline.event import Drop, Event, Moment
from trunkline.flow.composite import Composite
from trunkline.flow.declare import Agent, Bus, Deliver, Lookup, Process, Table, Topic, inputs_of, parts_of
from trunkline.flow.journey import Journey
from trunkline.flow.proposals import Gone
from trunkline.flow.readers import Reading
from trunkline.flow.rows import Known
from trunkline.flow.transform import records_of, step_of
from trunkline.flow.walk import codec_of, compose, walk
from trunkline.webhooks import WebhookRequest

AllRows = Mapping[Table | Lookup, Mapping[str, Any]]

WINDOW = timedelta(minutes=1)
"""How long an agent remembers in an example, where a setting says how long at work."""
PATIENCE = 10
"""Seconds that an agent has for the examples."""


class Watched(str):
    """The name of a field that is gone, as a record's key: it tells who looks for it, in any copy of the record too."""

    __slots__ = ("gone", "told")

    gone: Gone
    told: "Told"

    def __eq__(self, other: object) -> bool:
        """Compare as text does; a dict asks this of its key when it is asked for one that may be the same."""
        if (found := str.__eq__(self, other)) is True:
            self.told.read(self.gone)
        return found

    __hash__ = str.__hash__


class Told:
    """Who has read a field that is gone: the nearest line of the project."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int, str, str], Reading] = {}
        self.line = ""
        """Where what runs now is declared: the place of a read that no line of the project makes itself."""
        self._here = str(Path.cwd())
        self._elsewhere = (str(Path(__file__).parent.parent), sys.prefix)

    def read(self, gone: Gone) -> None:
        """Take note of a read that is under way."""
        frame = sys._getframe(1)  # noqa: SLF001 - the only way to see who reads
        path, line = "", 0
        while frame is not None and not path:
            file = frame.f_code.co_filename
            if file.startswith(self._here) and not file.startswith(self._elsewhere):
                path, line = str(Path(file).relative_to(self._here)), frame.f_lineno
            frame = frame.f_back  # type: ignore[assignment]  # None at the end
        if not path:
            path, _, number = self.line.rpartition(":")
            line = int(number or 0)
        self.found.setdefault((path, line, gone.type_name, gone.field), Reading(path, line, gone, "reads"))

    def watch(self, part: Topic | Table, value: Any, gone: Sequence[Gone]) -> Any:
        """Give a record of a topic or table whose readers are told of."""
        held = part.schema.name, part.schema.version
        own = [one for one in gone if (one.proposal.old.name, one.proposal.old.version) == held]
        by_record: dict[str, dict[str, Gone]] = defaultdict(dict)
        for one in own:
            by_record["" if one.type_name == one.proposal.old.type_name else one.record][one.field] = one
        codec = codec_of(part.schema.text)
        return self._wrap(codec.schema, value, codec.named, by_record, top=True)

    def _wrap(
        self, schema: Any, value: Any, named: Mapping[str, Any], gone: Mapping[str, Mapping[str, Gone]], *, top: bool
    ) -> Any:
        match plain(schema, named):
            case {"fields": fields, "name": name} if isinstance(value, Mapping):
                kinds = {field["name"]: field["type"] for field in fields}
                known = gone.get("" if top else short(name), {})
                return {
                    self._name(field, known): self._wrap(kinds[field], one, named, gone, top=False)
                    if field in kinds
                    else one
                    for field, one in value.items()
                }
            case {"items": items} if isinstance(value, list):
                return [self._wrap(items, one, named, gone, top=False) for one in value]
            case {"values": values} if isinstance(value, Mapping):
                return {key: self._wrap(values, one, named, gone, top=False) for key, one in value.items()}
            case list() as union:
                for kind in union:
                    if is_of(plain(kind, named), value):
                        return self._wrap(kind, value, named, gone, top=False)
        return value

    def _name(self, field: str, gone: Mapping[str, Gone]) -> str:
        """Give the key of a field: one that tells, when the field is gone."""
        if (found := gone.get(field)) is None:
            return field
        name = Watched(field)
        name.gone, name.told = found, self
        return name


def is_of(schema: Any, value: Any) -> bool:
    """Say whether a value of a union is of this record, array or map."""
    match schema:
        case {"fields": fields}:
            return isinstance(value, Mapping) and value.keys() <= {field["name"] for field in fields}
        case {"items": _}:
            return isinstance(value, list)
        case {"values": _}:
            return isinstance(value, Mapping)
    return False


def exercised(
    bus: Bus, inputs: Mapping[str, Sequence[WebhookRequest]], rows: AllRows, gone: Sequence[Gone]
) -> list[Reading]:
    """Walk requests by source, give every event on the way to the code that reads it, and tell what that reads."""
    told = Told()
    watched = {
        table.name: {key: told.watch(table, row, gone) for key, row in rows.get(table, {}).items()}
        for table in bus.tables
    }
    streams: dict[Agent, list[Event[Any]]] = {flow: [] for flow in bus.flows if isinstance(flow, Agent)}
    for name, flow in bus.publishing.items():
        for request in inputs.get(name, ()):
            with suppress(Exception):  # whatever the source makes of it: what is not read cannot be told
                journey = walk(bus, flow.source, request, tables=rows)
                for reader in bus.flows:
                    if isinstance(reader, Process | Deliver):
                        for event in journey.events.get(reader.topic.name, ()):
                            told.line = reader.where
                            seen = event.having(told.watch(reader.topic, event.data, gone))
                            given(bus, reader, seen, watched)
                for agent, stream in streams.items():
                    for topic in inputs_of(agent):
                        for event in journey.events.get(topic.name, ()):
                            stream.append(event.having(told.watch(topic, event.data, gone)))
    for agent, stream in streams.items():
        told.line = agent.where
        with suppress(Exception):
            asyncio.run(asyncio.wait_for(listened(agent, stream), PATIENCE))
    return list(told.found.values())


async def listened(agent: Agent, events: Sequence[Event[Any]]) -> None:
    """Give events to the body of an agent, and then the time in which it forgets them."""
    window = agent.window if isinstance(agent.window, timedelta) else WINDOW
    at = datetime(2000, 1, 1, tzinfo=UTC)

    async def stream() -> AsyncIterator[Moment[Any]]:
        for event in events:
            yield Moment(at, event)
        yield Moment(at + window, None)
        yield Moment(at + 3 * window, None)

    async for _ in agent.body(stream(), window):
        pass


def given(bus: Bus, flow: Process | Deliver, event: Event[Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Give an event to the code of a flow, whatever comes of it."""
    with suppress(Exception):
        match flow:
            case Process():
                for step in flow.steps:
                    tables = {
                        part.name: rows.get(part.name, {}) if isinstance(part, Table) else Known({})
                        for part in parts_of(step)
                    }
                    after = step_of(step, event, tables)
                    if isinstance(after, Drop):
                        return
                    event = after
                for topic, route in flow.to.items():
                    with suppress(Exception):
                        records_of(route, topic, event)
            case Deliver() if isinstance(flow.to, Composite):
                compose(Journey(), bus, flow, flow.to, event, {})
            case Deliver():
                flow.to.batch([Item(event, "")])
