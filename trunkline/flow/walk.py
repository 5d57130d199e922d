"""One raw request through the whole bus without any I/O, clock or retry: what every source, step, route and sink does.

Serves users' tests, explanations and documentation; the engine runs the same functions.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trunkline.adapters import Item, Request, Response, Sink, Source, WebhookRequest, judged
from trunkline.avro.codec import HEAD, Codec
from trunkline.errors import Permanent, Poison, TrunklineError, UsageError
from trunkline.event import Event, idempotency_key
from trunkline.flow.composite import (
    Close,
    Composite,
    Course,
    End,
    Ended,
    GiveUp,
    Made,
    Make,
    State,
    advance,
    call_of,
    kept_of,
    noted,
    result_of,
    undoes,
    write,
)
from trunkline.flow.declare import (
    Bus,
    Deliver,
    Process,
    Publish,
    Table,
    Topic,
    flow_name,
    results_of,
    sink_identity,
    source_of,
)
from trunkline.flow.rows import Rows, asked
from trunkline.flow.transform import Filtered, Routed, stamp, transform
from trunkline.verdict import Bury, Delivered, Superseded, Verdict, decide, of_exception

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
    """Requests by sink: one for each event, for each batch, or for each call of a composite."""
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
    by sink, or by "sink/call" for a composite's (absent: 200, and of what a call keeps the name). Of a sink that makes
    its calls itself nothing is known.

    Raises:
        Rejected: the request is wrong, as the sender would be told.
        UsageError: there is no such example.
    """
    journey = Journey()
    rows = {table.name: found for table, found in (tables or {}).items()}
    rows = {table.name: asked(table, rows.get(table.name, {})) for table in bus.tables}
    for flow in bus.flows:
        match flow:
            case Publish() if flow.source is source:
                for event in source.events(read(source, request)):
                    stamped = stamp(bus, flow, event)
                    journey.events[flow.to.name].append(through(flow.to, stamped))
            case Process():
                for event in journey.events.get(flow.topic.name, ()):
                    process(journey, bus, flow, event, rows)
            case Deliver() if isinstance(flow.to, Composite):
                for event in journey.events.get(flow.topic.name, ()):
                    compose(journey, bus, flow, flow.to, event, answers or {})
            case Deliver() if hasattr(flow.to, "deliver"):
                pass
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
        request.encode()  # as it would be written: what cannot be is found here
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
        conclude(journey, flow, verdict)


def compose(
    journey: Journey, bus: Bus, flow: Deliver, sink: Composite, event: Event[Any], answers: Mapping[str, Response]
) -> None:
    """Make the calls of a composite one after the other, as far as one attempt comes, and note what came of it."""
    course, tried = Course(), dict[str, Verdict]()
    while True:
        match advance(sink, course, busy=(), tried=tried, now=0.0):
            case Make(steps):
                for step in steps:
                    verdict, made = call(journey, flow, sink, step, event, course, answers)
                    if made is None:
                        tried[step] = verdict
                    else:
                        course = noted(course, Ended(course.round, step, made))
            case GiveUp() | Close() as change:
                course = noted(course, change)
            case End(verdict, outcome):
                topic = results_of(flow.to)
                if topic is not None and outcome is not None:
                    told = result_of(bus, flow, topic, event, course.round, outcome)
                    journey.events[topic.name].append(through(topic, told))
                return conclude(journey, flow, verdict)
            case _:
                return conclude(journey, flow, next(iter(tried.values())))


def call(
    journey: Journey,
    flow: Deliver,
    sink: Composite,
    step: str,
    event: Event[Any],
    course: Course,
    answers: Mapping[str, Response],
) -> tuple[Verdict, Made | None]:
    """Make one call of a composite; None when it has no end yet."""
    made = next(one for one in sink.calls if one.name == call_of(step))
    canned = Response(200, body=json.dumps({name: f"{made.name}.{name}" for name in made.keep}).encode())
    try:
        request = write(sink, step, event, course.answers)
        request.encode()
        journey.requests[flow.to.name].append(request)
        answer = answers.get(f"{flow.to.name}/{step}", answers.get(flow.to.name, canned))
        verdict = sink.verdict(replace(answer, method=request.method))
        if isinstance(verdict, Delivered | Superseded):
            return verdict, Made(State.DONE, {} if undoes(step) else kept_of(made, answer))
    except Exception as error:  # noqa: BLE001 - as in the engine: whatever an adapter raises is judged
        verdict = of_exception(error)
    return verdict, Made(State.FAILED, why=str(verdict)) if isinstance(verdict, Permanent | Poison) else None


def conclude(journey: Journey, flow: Deliver, verdict: Verdict) -> None:
    """Note what an answer means for an event, and whether it becomes a dead letter."""
    journey.verdicts[flow.to.name].append(verdict)
    keyed = flow.to.idempotency is not None
    action = decide(verdict, attempt=1, elapsed=0.0, retry=flow.retry, random=lambda: 0.0, keyed=keyed)
    if isinstance(action, Bury):
        journey.dead[flow.to.name].append(verdict)
