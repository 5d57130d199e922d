"""One raw request through the whole bus without any I/O, clock or retry: what every source, step, route and sink does.

Serves users' tests, explanations and documentation; the engine runs the same functions.
"""

import functools
import json
import mimetypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trunkline.adapters import Item, Sink, Source, judged
from trunkline.avro.codec import HEAD, Codec
from trunkline.errors import Permanent, Poison, TrunklineError, UsageError
from trunkline.event import Drop, Event, batch_key, idempotency_key
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
    Agent,
    Bus,
    Deliver,
    Lookup,
    Process,
    Publish,
    Table,
    Topic,
    body_of,
    flow_name,
    parts_of,
    results_of,
    sink_identity,
    source_of,
)
from trunkline.flow.functions import name_of
from trunkline.flow.journey import Called, Hidden, Journey, Looked, Parsed, Stepped, Took
from trunkline.flow.reading import Saw
from trunkline.flow.rows import Given, Known, Rows, RowsOf, asked
from trunkline.flow.transform import event_of, records_of, stamp, step_of
from trunkline.flow.where import Where
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.verdict import (
    Action,
    Again,
    Bury,
    Delivered,
    Done,
    Stop,
    Supersede,
    Superseded,
    Verdict,
    checked,
    decide,
    of_exception,
)
from trunkline.webhooks import WebhookRequest

OK = Response(200)
EXAMPLES = Path("producers/examples")
"""Raw requests as they really arrive, in a folder per source."""


MEANINGS = (200, 400, 401, 404, 409, 412, 422, 429, 500)
"""Statuses whose meaning a hop tells."""


def walk(
    bus: Bus,
    source: Source,
    request: str | bytes | WebhookRequest,
    *,
    tables: RowsOf | None = None,
    answers: Mapping[str, Response] | None = None,
) -> Journey:
    """Follow one request of `source`: an example's file name, a body, or a whole request; its signature is not checked.

    `tables` holds rows by key for every table and look-up that a step uses (absent: empty); `answers` what a target
    would answer, by sink, or by "sink/call" for a composite's (absent: 200, and of what a call keeps the name). Of a
    sink that makes its calls itself nothing is known.

    Raises:
        Rejected: the request is wrong, as the sender would be told.
        UsageError: there is no such example.
    """
    journey = Journey()
    flow = next((flow for flow in bus.publishing.values() if flow.source is source), None)
    for event in () if flow is None else source.events(read(source, request)):
        assert flow is not None
        written = through(flow.to, stamp(bus, flow, event))
        journey.events[flow.to.name].append(written)
        journey.hops.append(Parsed(flow_name(flow), flow.to.name, written))
    return travel(journey, bus, {} if tables is None else tables, answers or {})


def follow(
    bus: Bus,
    topic: Topic,
    events: Iterable[Event[Any]],
    *,
    tables: RowsOf | None = None,
    answers: Mapping[str, Response] | None = None,
) -> Journey:
    """Follow events that lie on a topic; the rest is as for `walk`."""
    journey = Journey()
    journey.events[topic.name] += events
    return travel(journey, bus, {} if tables is None else tables, answers or {})


def travel(journey: Journey, bus: Bus, tables: RowsOf, answers: Mapping[str, Response]) -> Journey:
    """Let what lies on topics go on through every flow that reads them, in the order of the topology."""
    parts: Sequence[Table | Lookup] = [*bus.tables, *bus.lookups]
    given: Mapping[str, Rows] = {part.name: found for part, found in tables.items()}
    rows = {part.name: given.get(part.name, {}) for part in parts}
    for flow in bus.flows:
        if isinstance(flow, Publish):
            continue
        events = journey.events.get(flow.topic.name, ())
        match flow:
            case Process():
                for event in events:
                    process(journey, bus, flow, event, rows)
            case Deliver() if isinstance(flow.to, Composite):
                for event in events:
                    compose(journey, bus, flow, flow.to, event, answers)
            case Deliver() if hasattr(flow.to, "deliver"):
                told = f"{flow.to.name} makes its calls itself (deliver)"
                journey.hops.extend(Hidden(flow_name(flow), told, event) for event in events)
            case Agent():
                told = f"{flow_name(flow)} is an agent, whose work depends on other events and on time"
                journey.hops.extend(Hidden(flow_name(flow), told, event) for event in events)
            case Deliver():
                answer = answers.get(flow.to.name, OK)
                for batch in batches(events, flow.to.together):
                    deliver(journey, flow, [item_of(bus, flow.to, event) for event in batch], answer)
    return journey


def read(source: Source, request: str | bytes | WebhookRequest) -> WebhookRequest:
    """Give a request of a source from an example's name or from a body."""
    match request:
        case WebhookRequest():
            return request
        case bytes():
            return WebhookRequest({"content-type": kind_of("")}, request)
        case str():
            path = example(source, request)
            return WebhookRequest({"content-type": kind_of(path.name)}, path.read_bytes())


def kind_of(file: str) -> str:
    """Give the content type under which a file is posted: what its name says, JSON when it says nothing."""
    for mode in ("cloudevents", "cloudevents-batch"):
        if file.endswith(f".{mode}.json"):
            return f"application/{mode}+json"
    return mimetypes.guess_type(file)[0] or "application/json"


def examples_of(source: str, folder: Path = EXAMPLES) -> list[Path]:
    """List the examples of a source; hidden files are a desktop's or an editor's."""
    return sorted(path for path in (folder / source).glob("*") if path.is_file() and not path.name.startswith("."))


def example(source: Source, name: str = "") -> Path:
    """Find an example of a source by its file's name, or its first one.

    Raises:
        UsageError: there is none.
    """
    folder = EXAMPLES / source.name
    found = examples_of(source.name)
    chosen = next((path for path in found if name in ("", path.name, path.stem)), None)
    if chosen is None:
        names = ", ".join(path.name for path in found)
        hint = f"there are: {names}." if names else "put a request there as it arrives, <name>.json or <name>.xml."
        raise UsageError(f"there is no example {name or 'of ' + source.name} in {folder}; {hint}")
    return chosen


@functools.cache
def codec_of(text: str) -> Codec:
    """Give the codec of a schema, built once."""
    return Codec(text)


def through(topic: Topic, event: Event[Any]) -> Event[Any]:
    """Write an event to Avro and read it back, as the topic would."""
    codec = codec_of(topic.schema.text)
    return event.having(codec.decode(codec.encode(event.data, 0)[HEAD:]))


def process(journey: Journey, bus: Bus, flow: Process, event: Event[Any], rows: Mapping[str, Rows]) -> None:
    """Run one event through steps and routes and note what came of it."""
    name = flow_name(flow)
    for step in flow.steps:
        looked = {part.name: Looked(rows[part.name]) for part in parts_of(step)}
        given: Given = {
            part.name: asked(part, looked[part.name]) if isinstance(part, Table) else Known(looked[part.name])
            for part in parts_of(step)
        }
        after: Event[Any] | Drop | Verdict
        try:
            after = step_of(step, event, given)
        except (TrunklineError, OSError) as error:
            after = of_exception(error)
        keys = {table: found.looked_up for table, found in looked.items()}
        journey.hops.append(Stepped(name, name_of(body_of(step)), event, after, keys))
        match after:
            case Event():
                event = after
            case Drop(reason):
                journey.filtered[name].append(reason)
                return
            case verdict:
                journey.dead[name].append(verdict)
                return
    made: list[Took] = []
    for topic, route in flow.to.items():
        records, failure, saw, why = [], None, Saw(), ""
        watched = event.having(saw.watch(dict(event.data)))
        try:
            why = route.told(watched.data) if isinstance(route, Where) else ""
            found = records_of(route, topic, watched)
            records = [through(topic, event_of(one, source_of(bus, flow), watched)) for one in found]
        except (TrunklineError, OSError) as error:
            failure = of_exception(error)
        made.append(Took(name, name_of(route), topic.name, event, records, failure, saw.fields, why))
        if failure is not None:
            break
    journey.hops.extend(made)
    if made and made[-1].failure is not None:
        journey.dead[name].append(made[-1].failure)
    elif not any(took.records for took in made):
        journey.unrouted[name].append(event)
    else:
        for took in made:
            for record in took.records:
                journey.events[took.topic].append(record)


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
    request, means = None, dict[int, str]()
    try:
        request = sink.batch(items)
        request.encode()  # as it would be written: what cannot be is found here
    except BaseException as error:  # noqa: BLE001 - as in the engine: whatever an adapter raises is judged
        if len(items) > 1:
            for item in items:
                deliver(journey, flow, [item], answer)
            return
        verdicts, request = [of_exception(error)], None
    else:
        journey.requests[sink.name].append(request)
        verdicts = judged(sink, replace(answer, method=request.method), items)
        means = meanings(flow, request, lambda response: judged(sink, response, items)[0])
    keys = [item.key for item in items]
    key = batch_key(keys) if sink.idempotency is not None else ""
    called = Called(
        flow_name(flow),
        sink.name,
        sink.target.name,
        [item.event for item in items],
        request,
        verdicts,
        key,
        {} if sink.idempotency is None else sink.idempotency.headers(key),
        means=means,
    )
    journey.hops.append(called)
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
                    verdict, made = call(journey, bus, flow, sink, step, event, course, answers)
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
    bus: Bus,
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
    request, means, ended = None, dict[int, str](), None
    try:
        request = write(sink, step, event, course.answers)
        request.encode()
        journey.requests[flow.to.name].append(request)
        means = meanings(flow, request, sink.verdict)
        answer = answers.get(f"{flow.to.name}/{step}", answers.get(flow.to.name, canned))
        verdict = checked(sink.verdict(replace(answer, method=request.method)))
        if isinstance(verdict, Delivered | Superseded):
            ended = Made(State.DONE, {} if undoes(step) else kept_of(made, answer))
    except BaseException as error:  # noqa: BLE001 - as in the engine: whatever an adapter raises is judged
        verdict = of_exception(error)
    key = idempotency_key(bus.identity, sink_identity(flow.to), event.source, event.id, course.key(step))
    headers = {} if flow.to.idempotency is None else flow.to.idempotency.headers(key)
    target = sink.target_of(made.name).name
    journey.hops.append(
        Called(flow_name(flow), flow.to.name, target, [event], request, [verdict], key, headers, step, means)
    )
    if ended is None and isinstance(verdict, Permanent | Poison):
        ended = Made(State.FAILED, why=str(verdict))
    return verdict, ended


def conclude(journey: Journey, flow: Deliver, verdict: Verdict) -> None:
    """Note what an answer means for an event, and whether it becomes a dead letter."""
    journey.verdicts[flow.to.name].append(verdict)
    if isinstance(action_of(flow, verdict), Bury):
        journey.dead[flow.to.name].append(verdict)


def action_of(flow: Deliver, verdict: Verdict) -> Action:
    """Say what the engine does after a first attempt that ended so."""
    keyed = flow.to.idempotency is not None
    return decide(verdict, attempt=1, elapsed=0.0, retry=flow.retry, random=lambda: 0.0, keyed=keyed)


def meanings(flow: Deliver, request: Request, judge: Callable[[Response], Verdict]) -> dict[int, str]:
    """Say in a word what answers of the usual statuses would mean for an event."""
    told = {}
    for status in MEANINGS:
        try:
            verdict = checked(judge(Response(status, method=request.method)))
        except BaseException as error:  # noqa: BLE001 - as in the engine: whatever an adapter raises is judged
            verdict = of_exception(error)
        told[status] = word(flow, verdict)
    return told


def word(flow: Deliver, verdict: Verdict) -> str:
    """Say in a word what becomes of an event."""
    match action_of(flow, verdict):
        case Done():
            return "delivered"
        case Supersede():
            return "superseded"
        case Again():
            return "retried"
        case Bury():
            return "dead"
        case Stop():
            return "halted"
