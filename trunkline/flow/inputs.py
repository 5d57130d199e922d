"""What is walked, as plain data that another process can be given: posted requests, records of a topic, rows of tables.

    {"inputs": {"web/one.json": {"source", "headers", "body"}, "orders 0@7": {"topic", "schema", …}},
     "tables": {"customers": {"7": {"city": "Bern"}}}, "rows": {"customers": [{"key", "schema", "value"}, …]}}

Bytes are in base64.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import ValidationError

from trunkline.avro.files import schema_of
from trunkline.errors import Rejected, TrunklineError, pass_on
from trunkline.event import Event, from_headers
from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Flow,
    Lookup,
    Process,
    Publish,
    Route,
    Table,
    Topic,
    body_of,
    identity_of,
)
from trunkline.flow.draw import span
from trunkline.flow.functions import name_of
from trunkline.flow.journeys import Data, data_of
from trunkline.flow.walk import EXAMPLES, codec_of, examples_of, follow, kind_of, walk
from trunkline.flow.where import Where
from trunkline.formats.shapes import validator
from trunkline.responses import Response
from trunkline.webhooks import WebhookRequest

TABLES = EXAMPLES / "tables.json"
"""Rows that examples are walked with, by table and key."""


def examples(sources: Iterable[str], folder: Path = EXAMPLES) -> dict[str, Data]:
    """Read every example of these sources, by `<source>/<file>`."""
    return {
        f"{name}/{path.name}": posted(name, path.name, path.read_bytes())
        for name in sources
        for path in examples_of(name, folder)
    }


def posted(source: str, file: str, body: bytes) -> Data:
    """Give a request as input, as a file of that name would be posted."""
    return {"source": source, "headers": {"content-type": kind_of(file)}, "body": base64.b64encode(body).decode()}


def walked(bus: Bus, job: Data, answers: Mapping[str, Response] | None = None) -> Data:
    """Walk every input, and tell of each its journey, or why there is none."""
    notes: list[str] = []
    parts: Sequence[Table | Lookup] = [*bus.tables, *bus.lookups]
    tables = {part: dict(rows_of(part, job, notes)) for part in parts}
    unknown = sorted(set(job["tables"]) - {part.name for part in tables})
    notes += [f"rows are given for {name}, which is no table that a step looks up" for name in unknown]
    notes += [
        f"{lookup.name} is not asked, so it has no rows: write those down that are to be found, for --tables"
        for lookup in bus.lookups
        if lookup.name not in job["tables"]
    ]
    journeys = {name: one(bus, given, tables, answers) for name, given in job["inputs"].items()}
    return {"bus": facts(bus), "journeys": journeys, "notes": notes}


def one(
    bus: Bus, given: Data, tables: Mapping[Table | Lookup, Mapping[str, Any]], answers: Mapping[str, Response] | None
) -> Data:
    """Walk one input."""
    try:
        if "poison" in given:
            return {"failed": given["poison"]}
        if "topic" in given:
            topic = next((topic for topic in bus.topics if topic.name == given["topic"]), None)
            if topic is None:
                return {"absent": f"there is no topic {given['topic']}"}
            found = follow(bus, topic, [event_of(topic, given)], tables=tables, answers=answers)
        else:
            flow = bus.publishing.get(given["source"])
            if flow is None:
                return {"absent": f"there is no source {given['source']}"}
            request = WebhookRequest(given["headers"], base64.b64decode(given["body"]))
            found = walk(bus, flow.source, request, tables=tables, answers=answers)
        return data_of(bus, found)
    except Rejected as error:
        fields = "; ".join(f"{field}: {why}" for field, why in error.fields)
        return {"rejected": f"{error.status} {error.title}: {error} {fields}".rstrip()}
    except TrunklineError as error:
        return {"failed": str(error)}
    except BaseException as error:  # noqa: BLE001 - a source may raise anything, and the gateway would answer 500
        pass_on(error)
        return {"failed": f"bug in the source: {type(error).__name__}: {error}"}


def event_of(topic: Topic, given: Data) -> Event[Any]:
    """Read a record of a topic as its flows would.

    Raises:
        Poison: it is no event.
    """
    data = codec_of(given["schema"]).decode(base64.b64decode(given["value"]), codec_of(topic.schema.text))
    headers = [(name, None if value is None else base64.b64decode(value)) for name, value in given["headers"]]
    key = None if given["key"] is None else base64.b64decode(given["key"])
    return from_headers(headers, key, data)


def rows_of(part: Table | Lookup, job: Data, notes: list[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give rows by key: the real ones of a table and those written down; what is no row of it is noted."""
    for given in job.get("rows", {}).get(part.name, ()):
        try:
            wanted = codec_of(schema_of(part.record).text)
            data = codec_of(given["schema"]).decode(base64.b64decode(given["value"]), wanted)
            yield base64.b64decode(given["key"]).decode(errors="surrogateescape"), data
        except TrunklineError as error:
            notes.append(f"a row of {part.name} cannot be read: {error}")
    for key, fields in job["tables"].get(part.name, {}).items():
        try:
            yield key, row_of(part, fields)
        except ValueError as error:
            notes.append(f"the row {key} of {part.name} is left out: {error}")


def row_of(part: Table | Lookup, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read a row that a person has written in JSON; what may be null may be left out, and so may what no step reads.

    Raises:
        ValueError: the record has no such field, or its value is of another type.
    """
    hints = get_type_hints(part.record)
    row: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in hints:
            raise ValueError(f"{part.record.__name__} has no {name}")
        try:
            row[name] = validator(hints[name]).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']}") from None
    return {name: None for name, hint in hints.items() if name not in row and may_be_null(hint)} | row


def may_be_null(hint: Any) -> bool:
    """Say whether a field may be null."""
    try:
        validator(hint).validate_python(None, strict=True)
    except ValidationError:
        return False
    return True


def facts(bus: Bus) -> Data:
    """Tell what there is: what every flow is, what it is known by, and what is declared of it."""
    flows = [
        {
            "name": name,
            "identity": f"{type(flow).__name__} {identity_of(flow)}",
            "kind": type(flow).__name__.lower(),
            "title": title(name, flow),
            "sink": flow.to.name if isinstance(flow, Deliver) else "",
            "declared": declared_of(flow),
        }
        for name, flow in bus.named()
    ]
    return {"identity": bus.identity, "flows": flows, "sources": list(bus.publishing)}


def title(name: str, flow: Flow) -> str:
    """Name a flow for a person."""
    match flow:
        case Publish():
            return f"Publish {name} → {flow.to.name}"
        case Process() | Agent():
            return f"{type(flow).__name__} {name}"
        case Deliver():
            return f"Deliver {flow.topic.name} → {flow.to.name}"


def declared_of(flow: Flow) -> Data:
    """Tell what is declared of a flow and shows in no request: by its name, in words."""
    match flow:
        case Publish():
            return {"topic": topic_words(flow.to)}
        case Process():
            routes = {
                f"route to {topic.name}": f"{route_words(route)}, {topic_words(topic)}"
                for topic, route in flow.to.items()
            }
            return {"steps": ", ".join(name_of(body_of(step)) for step in flow.steps) or "none", **routes}
        case Agent():
            return {"topic": topic_words(flow.to), "window": str(flow.window)}
        case Deliver():
            target, retry = flow.to.target, flow.retry
            return {
                "give_up_after": span(retry.give_up_after),
                "waits": f"{span(retry.first)} to {span(retry.longest)}",
                "after_dead": flow.after_dead,
                "weight": f"{flow.weight:g}",
                "writes": flow.to.writes,
                "together": str(flow.to.together),
                "speaks": flow.to.speaks or "nothing said",
                "limit": "none" if target.limit is None else f"{target.limit.events:g} a {target.limit.per}",
                "breaker": str(target.breaker),
            }


def topic_words(topic: Topic) -> str:
    """Say what lies on a topic."""
    keyed = f"{topic.record.__name__} by {topic.key or 'no key'}"
    return f"{keyed}, {topic.partitions} partitions, kept for {span(topic.keep)}"


def route_words(route: Route) -> str:
    """Name a route, with its condition if it has one."""
    if not isinstance(route, Where):
        return name_of(route)
    return f"{name_of(route)} where {route.condition}" + (", of the rest" if route.unless else "")
