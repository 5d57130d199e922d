"""One raw request through the whole bus without any I/O, clock or retry: what every source, step, route and sink does.

Serves users' tests, explanations and documentation; the engine runs the same functions.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trunkline.adapters import Item, Request, Response, Sink, Source, WebhookRequest, judged
from trunkline.avro.codec import HEAD, Codec
from trunkline.errors import TrunklineError, UsageError
from trunkline.event import Event, idempotency_key
from trunkline.flow.declare import Bus, Deliver, Process, Publish, Table, Topic, flow_name, sink_identity, source_of
from trunkline.flow.transform import Filtered, Routed, Rows, stamp, transform
from trunkline.verdict import Bury, Verdict, decide, of_exception

OK = Response(200)
EXAMPLES = Path("producers/examples")
"""Raw requests as they really arrive, in a folder per source."""


@dataclass(frozen=True)
class Journey:
    """What became of a request; the mappings are by topic, flow or sink name and hold only what happened."""

    events: dict[str, list[Event[Any]]] = field(default_factory=lambda: defaultdict(list))
    """Events by the topic they were written to."""
    filtered: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Reasons for which a flow's steps dropped an event."""
    unrouted: dict[str, list[Event[Any]]] = field(default_factory=lambda: defaultdict(list))
    """Events of which a flow's routes made nothing."""
    requests: dict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))
    """Requests by sink: one for each event, or for each batch."""
    verdicts: dict[str, list[Verdict]] = field(default_factory=lambda: defaultdict(list))
    """What each sink made of the answers, for each event."""
    dead: dict[str, list[Verdict]] = field(default_factory=lambda: defaultdict(list))
    """What becomes a dead letter at once, by sink, or by flow where a step failed."""


def walk(
    bus: Bus,
    source: Source,
    request: str | bytes | WebhookRequest,
    *,
    tables: Mapping[Table, Rows] | None = None,
    answers: Mapping[str, Response] | None = None,
) -> Journey:
    """Follow one request of `source`: an example's file name, a body, or a whole request; its signature is not checked.

    `tables` holds rows by key for every table that a step uses (absent: empty); `answers` what a target would answer,
    by sink (absent: 200).

    Raises:
        Rejected: the request is wrong, as the sender would be told.
        UsageError: there is no such example.
    """
    journey = Journey()
    rows = {table.name: found for table, found in (tables or {}).items()}
    rows = {table.name: rows.get(table.name, {}) for table in bus.tables}
    for flow in bus.flows:
        match flow:
            case Publish() if flow.source is source:
                for event in source.events(read(source, request)):
                    stamped = stamp(bus, flow, event)
                    journey.events[flow.to.name].append(through(flow.to, stamped))
            case Process():
                for event in journey.events.get(flow.topic.name, ()):
                    process(journey, bus, flow, event, rows)
            case Deliver():
                answer = (answers or {}).get(flow.to.name, OK)
                for batch in batches(journey.events.get(flow.topic.name, ()), flow.to.together):
                    deliver(journey, flow, [item_of(bus, flow.to, event) for event in batch], answer)
            case Publish():
                pass
    return journey


def read(source: Source, request: str | bytes | WebhookRequest) -> WebhookRequest:
    """Give a request of a source from an example's name or from a body."""
    match request:
        case WebhookRequest():
            return request
        case bytes():
            return WebhookRequest({"content-type": "application/json"}, request)
        case str():
            return WebhookRequest({"content-type": "application/json"}, example(source, request).read_bytes())


def example(source: Source, name: str = "") -> Path:
    """Find an example of a source by its file's name, or its first one.

    Raises:
        UsageError: there is none.
    """
    folder = EXAMPLES / source.name
    found = sorted(path for path in folder.glob("*") if path.is_file())
    chosen = next((path for path in found if name in ("", path.name, path.stem)), None)
    if chosen is None:
        names = ", ".join(path.name for path in found) or "none"
        raise UsageError(f"there is no example {name or 'of ' + source.name} in {folder}; there are: {names}.")
    return chosen


def through(topic: Topic, event: Event[Any]) -> Event[Any]:
    """Write an event to Avro and read it back, as the topic would."""
    codec = Codec(topic.schema.text)
    return event.having(codec.decode(codec.encode(event.data, 0)[HEAD:]))


def process(journey: Journey, bus: Bus, flow: Process, event: Event[Any], rows: Mapping[str, Rows]) -> None:
    """Run one event through steps and routes and note what came of it."""
    name = flow_name(flow)
    try:
        match transform(flow, source_of(bus, flow), event, rows):
            case Routed(records):
                written: Sequence[tuple[Topic, Event[Any]]] = [(topic, through(topic, made)) for topic, made in records]
                for topic, made in written:
                    journey.events[topic.name].append(made)
            case Filtered(reason):
                journey.filtered[name].append(reason)
            case _:
                journey.unrouted[name].append(event)
    except (TrunklineError, OSError) as error:
        journey.dead[name].append(of_exception(error))


def batches(events: Sequence[Event[Any]], most: int) -> Iterator[list[Event[Any]]]:
    """Give events in the calls that they go in: in order, none with two events of one key (D10)."""
    batch: list[Event[Any]] = []
    for event in events:
        if len(batch) == most or any(other.key is not None and other.key == event.key for other in batch):
            yield batch
            batch = []
        batch.append(event)
    if batch:
        yield batch


def item_of(bus: Bus, sink: Sink, event: Event[Any]) -> Item[Any]:
    """Give an event with its idempotency key."""
    if sink.idempotency is None:
        return Item(event, "")
    key = idempotency_key(bus.identity, sink_identity(sink), event.source, event.id)
    return Item(event, sink.idempotency.cut(key))


def deliver(journey: Journey, flow: Deliver, items: Sequence[Item[Any]], answer: Response) -> None:
    """Ask the sink for its request, give it the answer, and note what came of it for each event."""
    sink = flow.to
    verdicts: Sequence[Verdict]
    try:
        request = sink.batch(items)
    except Exception as error:  # noqa: BLE001 - as in the engine: whatever an adapter raises is judged
        if len(items) > 1:
            for item in items:
                deliver(journey, flow, [item], answer)
            return
        verdicts = [of_exception(error)]
    else:
        journey.requests[sink.name].append(request)
        verdicts = judged(sink, replace(answer, method=request.method), items)
    for verdict in verdicts:
        journey.verdicts[sink.name].append(verdict)
        keyed = sink.idempotency is not None
        action = decide(verdict, attempt=1, elapsed=0.0, retry=flow.retry, random=lambda: 0.0, keyed=keyed)
        if isinstance(action, Bury):
            journey.dead[sink.name].append(verdict)
