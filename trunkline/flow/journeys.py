"""Journeys as plain data, in JSON's terms: for programs, for people, and for comparing two versions of a bus."""

import base64
import hashlib
import json
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, assert_never

from trunkline.event import Drop, Event
from trunkline.flow.composite import Composite, call_of
from trunkline.flow.credentials import (
    ApiKey,
    Basic,
    Bearer,
    ClientCredentials,
    Credentials,
    Hmac,
    RefreshToken,
    Rotation,
    SignedWebhook,
)
from trunkline.flow.declare import LIBRARY, Bus, Deliver, Target, sink_identity
from trunkline.flow.journey import Called, Hidden, Journey, Parsed, Stepped, Took
from trunkline.formats import form, xml
from trunkline.formats.multipart import Part
from trunkline.formats.plain import text_of
from trunkline.redact import marked
from trunkline.requests import Request
from trunkline.responses import KINDS
from trunkline.verdict import Delivered, Superseded, Verdict

Data = dict[str, Any]
"""A journey, or a part of one."""


def data_of(bus: Bus, journey: Journey) -> Data:
    """Give a journey as data: its hops in their order, and what became of every event."""
    flows = dict(bus.named())
    hops: list[Data] = []
    for hop in journey.hops:
        match hop:
            case Parsed():
                hops.append({"hop": "parsed", "flow": hop.flow, "topic": hop.topic, "event": event_data(hop.event)})
            case Stepped():
                hops.append({"hop": "step", "flow": hop.flow, "step": hop.step, **stepped(hop)})
            case Took():
                hops.append({"hop": "route", "flow": hop.flow, "route": hop.route, "topic": hop.topic, **took(hop)})
            case Called():
                flow = flows[hop.flow]
                assert isinstance(flow, Deliver)
                hops.append({"hop": "call", **called(flow, hop)})
            case Hidden():
                hops.append({"hop": "unknown", "flow": hop.flow, "why": hop.why, "event": event_data(hop.event)})
            case _:
                assert_never(hop)
    return {
        "sensitive": sorted(sensitive(bus, journey)),
        "hops": hops,
        "events": {topic: [event_data(event) for event in events] for topic, events in journey.events.items()},
        "filtered": {flow: list(reasons) for flow, reasons in journey.filtered.items()},
        "unrouted": {flow: [event_data(event) for event in events] for flow, events in journey.unrouted.items()},
        "dead": {name: [verdict_data(verdict) for verdict in verdicts] for name, verdicts in journey.dead.items()},
    }


def sensitive(bus: Bus, journey: Journey) -> set[str]:
    """Give the texts of the fields that the topics' schemas mark as sensitive: nobody is shown them."""
    return {
        text
        for topic in bus.topics
        for event in journey.events.get(topic.name, ())
        for text in marked(topic.schema.definition, event.data)
    }


def stepped(hop: Stepped) -> Data:
    """Tell what a step did to an event."""
    told: Data = {"event": identity(hop.before), "before": plain(hop.before.data)}
    match hop.after:
        case Event() as after:
            told["after"] = plain(after.data)
            if identity(after) != identity(hop.before):
                told["became"] = identity(after)
        case Drop(reason):
            told["dropped"] = reason
        case verdict:
            told["failed"] = verdict_data(verdict)
    return told | {"asked": {table: dict(keys) for table, keys in hop.asked.items()}}


def took(hop: Took) -> Data:
    """Tell what a route made of an event."""
    failed = {} if hop.failure is None else {"failed": verdict_data(hop.failure)}
    records = [event_data(record) for record in hop.records]
    return {"event": identity(hop.event), "records": records, "saw": plain(hop.saw), "why": hop.why, **failed}


def called(flow: Deliver, hop: Called) -> Data:
    """Tell what a sink sends, and what answers would mean."""
    sink = flow.to
    target: Target = sink.target_of(call_of(hop.call)) if isinstance(sink, Composite) else sink.target
    return {
        "flow": hop.flow,
        "sink": hop.sink,
        "sink_identity": sink_identity(sink),
        "call": hop.call,
        "events": [identity(event) for event in hop.events],
        "idempotency_key": hop.key,
        "request": None if hop.request is None else request_data(target, hop.request, hop.headers),
        "verdicts": [verdict_data(verdict) for verdict in hop.verdicts],
        "means": {str(status): word for status, word in hop.means.items()},
    }


def request_data(target: Target, request: Request, keyed: Mapping[str, str]) -> Data:
    """Give a request as it would be sent, with the names of settings in the place of address and secrets."""
    content, headers = request.encode()
    headers |= {name.lower(): value for name, value in keyed.items()}
    headers |= proof(target.auth)
    shown, _ = replace(request, gzip=False).encode() if request.gzip else (content, headers)
    query = f"?{target.auth.query}=[{target.auth.secret.name}]" if isinstance(target.auth, ApiKey) else ""
    return {
        "target": target.name,
        "address": f"${target.url.name}",
        "method": request.method,
        "path": request.path,
        "credentials_in_query": query if isinstance(target.auth, ApiKey) and target.auth.query else "",
        "headers": headers,
        "body": body_data(request, shown),
        "digest": "" if content is None else hashlib.sha256(content).hexdigest()[:16],
    }


def body_data(request: Request, content: bytes | None) -> Data | None:
    """Give a body as its reader has it: JSON and XML as trees, forms and parts by name, else text or base64."""
    if content is None:
        return None
    with suppress(ValueError):  # longer or deeper than is read as a tree
        if request.json is not None:
            return {"json": json.loads(content)}
        if request.xml is not None:
            return {"xml": xml.loads(content)}
        if request.form is not None:
            return {"form": form.loads(content)}
        if request.multipart is not None:
            named = ((name, parts_data(value)) for name, value in request.multipart.items())
            return {"multipart": {name: parts for name, parts in named if parts}}
    return octets(content)


def parts_data(value: object) -> list[Data]:
    """Give the parts of one name, each by its type as a body is."""
    each = value if isinstance(value, list | tuple) else [value]
    return [part_data(one) if isinstance(one, Part) else {"text": text_of(one)} for one in each if one is not None]


def part_data(part: Part) -> Data:
    """Give one part."""
    said = {"type": part.type} | ({"filename": part.filename} if part.filename else {})
    with suppress(ValueError):
        if KINDS["json"].match(part.type):
            return said | {"json": json.loads(part.content)}
        if KINDS["xml"].match(part.type):
            return said | {"xml": xml.loads(part.content)}
    return said | octets(part.content)


def octets(content: bytes) -> Data:
    """Give bytes as text, or in base64 where they are none."""
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def proof(auth: Credentials | None) -> dict[str, str]:
    """Give the headers in which credentials stand, with the names of their settings in brackets."""
    match auth:
        case None:
            return {}
        case ApiKey(secret, header, query):
            return {} if query else {header.lower(): f"[{secret.name}]"}
        case Basic(user, password):
            return {"authorization": f"Basic [{user.name}, {password.name}]"}
        case Bearer(token):
            return {"authorization": f"Bearer [{token.name}]"}
        case ClientCredentials() | RefreshToken():
            scope = f", scope {auth.scope}" if auth.scope else ""
            return {"authorization": f"Bearer [of {auth.token_url.name} for {auth.client.name}{scope}]"}
        case Hmac(key, secret):
            return {"signature": f"[by {key.name} with {secret.name}]"}
        case SignedWebhook(secret):
            return {"webhook-signature": f"[{secret.name}]"}
        case Rotation(first, second):
            told = proof(first)
            return told | {name: f"{told.get(name, '')} or {value}" for name, value in proof(second).items()}
        case _:
            assert_never(auth)


def identity(event: Event[Any]) -> Data:
    """Give what an event is known by."""
    return {"source": event.source, "id": event.id, "key": event.key}


def event_data(event: Event[Any]) -> Data:
    """Give an event."""
    return {**identity(event), "type": event.type, "time": moment(event.time), "data": plain(event.data)}


def verdict_data(verdict: Verdict) -> Data:
    """Give what an answer or a mistake means."""
    kind = type(verdict).__name__.lower()
    if isinstance(verdict, Delivered | Superseded):
        return {"verdict": kind, "status": verdict.status}
    at = raised_at(verdict)
    return {"verdict": kind, "why": str(verdict)} | ({"at": at} if at else {})


def raised_at(error: BaseException) -> str:
    """Give `file:line` of the project's code that raised what became an error; "" when it was none."""
    cause = error.__cause__ or error
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if not frame.filename.startswith(LIBRARY)]
    if not frames:
        return ""
    path = Path(frames[-1].filename)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{frames[-1].lineno}"


def moment(at: datetime) -> str:
    """Write a time to the microsecond, in UTC."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """Give a decoded value in JSON's terms without losing a digit: decimals and times become strings, bytes hex."""
    match value:
        case Mapping():
            return {name: plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case bytes():
            return value.hex()
        case datetime() | date() | time():
            return value.isoformat()
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
