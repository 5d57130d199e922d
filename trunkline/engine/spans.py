"""Spans of OpenTelemetry, from the request of a source to the call of a target.

    receive ─▶ publish ─▶ process ─▶ … ─▶ deliver ─▶ the target's own
      gateway    per event   per event      per call

Each is below the one before: its place travels as `traceparent` (W3C Trace Context, level 1) in the header of the
request, of every record, and of the call. Spans are made and exported (OTLP over HTTP) only where
OTEL_EXPORTER_OTLP_ENDPOINT is set; the other OTEL_ variables mean what OpenTelemetry says, but for its limits: a span
here has five attributes at most, each of a few words. Without it what came is
passed on as it came. Of a trace that its beginner does not sample there are no spans here either.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from trunkline.event import Event
from trunkline.observe import TRACE
from trunkline.verdict import Delivered, Verdict

Attributes = Mapping[str, str | int]
What = Literal["receive", "publish", "process", "deliver"]

KINDS: Mapping[What, SpanKind] = {
    "receive": SpanKind.SERVER,
    "publish": SpanKind.PRODUCER,
    "process": SpanKind.CONSUMER,
    "deliver": SpanKind.CLIENT,
}
FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
"""Of a traceparent; nothing else may become a header of a record or a call."""
FOLLOWS = "remoteParentSampled:AlwaysOnSampler"
"""What a sampler says of itself that takes whatever the beginner of a trace has taken, as all that OTEL_TRACES_SAMPLER
names by `parentbased_…` do, of which one is the default."""
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
UNSET, FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
LEAVING = 2.0
"""Seconds that the last spans may take to be exported when a process ends."""


class Span:
    """One thing that is being done; it is exported once it has ended, unless the sampler wants none of its trace."""

    __slots__ = ("_about", "_attributes", "_began", "_recorder", "traceparent")

    def __init__(self, recorder: "Recorder", about: "About | None", number: int, attributes: Attributes) -> None:
        self._recorder = recorder
        self._about = about
        self._attributes = attributes
        self._began = time.time_ns()
        here = recorder.ids.generate_span_id() if about is None else about.here.span_id
        self.traceparent = f"00-{number:032x}-{here:016x}-{'00' if about is None else '01'}"

    def end(self, error: str = "", attributes: Attributes | None = None) -> None:
        """Say that it is done, and in one word why it failed if it did."""
        if self._about is None:
            return
        found = {**self._attributes, **(attributes or {})}
        status = UNSET
        if error:
            found["error.type"] = error
            status = FAILED
        self._recorder.give(self._about, found, status, self._began)


class About(NamedTuple):
    """What is known of a span when it begins."""

    name: str
    kind: SpanKind
    here: SpanContext
    above: SpanContext | None
    links: Sequence[Link]


class Recorder:
    """Makes the spans of a process, as its provider decides.

    What is exported is made when a span has ended: a span of the library's own, which may change until then and is
    locked for it, takes longer than all the rest of a call.
    """

    def __init__(self, provider: Any, give: Callable[[About, Attributes, Status, int], None]) -> None:
        """Ask the `provider` for numbers and decisions; `give` takes what has ended, and when it began (Unix, ns)."""
        self.ids = provider.id_generator
        self.give = give
        self._sampler = provider.sampler
        self._follows = FOLLOWS in provider.sampler.get_description()

    def begin(
        self, name: str, kind: SpanKind, above: SpanContext | None, links: Sequence[Link], attributes: Attributes
    ) -> Span:
        """Begin a span; what is `above` it is sampled."""
        number = self.ids.generate_trace_id() if above is None else above.trace_id
        if above is None or not self._follows:  # to ask takes as long as all the rest
            here = Context() if above is None else trace.set_span_in_context(NonRecordingSpan(above), Context())
            if not self._sampler.should_sample(here, number, name, kind, attributes, links).decision.is_sampled():
                return Span(self, None, number, attributes)
        place = SpanContext(number, self.ids.generate_span_id(), is_remote=False, trace_flags=SAMPLED)
        return Span(self, About(name, kind, place, above, links), number, attributes)


class Exporting:
    """Whether this process makes spans: as the library has it, one provider for a process."""

    recorder: Recorder | None = None


def begin(
    what: What, about: str, parent: str | None, attributes: Attributes, old: Iterable[str | None] = ()
) -> Span | None:
    """Begin a span below a traceparent, or a new trace with links to old ones; None when none is to be made."""
    if (recorder := Exporting.recorder) is None:
        return None
    links = [Link(where, {}) for one in old if (where := place_of(one)) is not None]
    above = place_of(parent)
    if above is not None:
        if not above.trace_flags.sampled:
            return None
    elif links and not any(link.context.trace_flags.sampled for link in links):
        return None
    return recorder.begin(f"{what} {about}", KINDS[what], above, links, attributes)


def receiving(source: str, traceparent: str | None) -> Span | None:
    """Begin the span of a request to a source, and let what comes of it in this task be below it."""
    came = traceparent if traceparent is not None and valid(traceparent) else None
    span = begin("receive", source, came, {})
    TRACE.set(came if span is None else span.traceparent)
    return span


def carried(what: What, about: str, event: Event[Any], attributes: Attributes) -> tuple[Event[Any], Span | None]:
    """Begin a span of an event, and give the event as it travels below it."""
    parent = event.traceparent or TRACE.get()
    span = begin(what, about, parent, attributes)
    here = parent if span is None else span.traceparent
    return (event if here == event.traceparent else replace(event, traceparent=here)), span


def calling(sink: str, flow: str, target: str, events: Sequence[Event[Any]], *, replayed: bool) -> Span | None:
    """Begin the span of a call, and let whatever is sent in this task from now on carry it.

    A call for several events, and one that a replay makes, begins a trace of its own with links to those of the events.
    """
    single = events[0].traceparent if len(events) == 1 else None
    if Exporting.recorder is not None:
        about: Attributes = {"trunkline.flow": flow, "trunkline.target": target, "trunkline.events": len(events)}
        links = [event.traceparent for event in events] if replayed or len(events) > 1 else []
        span = begin("deliver", sink, None if links else single, about, links)
        if span is not None:
            TRACE.set(span.traceparent)
            return span
    TRACE.set(single if single is not None and valid(single) else None)
    return None


def ended(span: Span | None, status: int | None, verdicts: Sequence[Verdict]) -> None:
    """End the span of a call, with the class of the first verdict that is no delivery, if there is one."""
    if span is None:
        return
    failed = [type(verdict).__name__.lower() for verdict in verdicts if not isinstance(verdict, Delivered)]
    attributes: Attributes = {} if status is None else {"http.response.status_code": status}
    span.end(failed[0] if failed else "", attributes)


def valid(traceparent: str) -> bool:
    """Say whether it is a traceparent."""
    return FORM.fullmatch(traceparent) is not None


def place_of(traceparent: str | None) -> SpanContext | None:
    """Read a traceparent; None when it is none."""
    if traceparent is None or not valid(traceparent):
        return None
    _, number, span, flags = traceparent.split("-")
    return SpanContext(int(number, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16) & 1))


@contextmanager
def exporting(bus: str, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Export the spans of this process, if the environment says where to."""
    if not environment.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield
        return
    # Here, because they take a fifth of a second to import.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    named = {"service.name": environment.get("OTEL_SERVICE_NAME", "trunkline"), "service.namespace": bus}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter())
    provider.add_span_processor(processor)
    Exporting.recorder = recorder_of(provider, processor)
    try:
        yield
    finally:
        Exporting.recorder = None
        # A collector that does not answer must not hold up the end of the process.
        leaving = threading.Thread(target=provider.shutdown, name="spans", daemon=True)
        leaving.start()
        leaving.join(LEAVING)


def recorder_of(provider: Any, processor: Any) -> Recorder:
    """Make spans as a provider of OpenTelemetry's decides, and give those that have ended to a processor of its."""
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 - as above
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

    resource, scope = provider.resource, InstrumentationScope("trunkline")

    def give(about: About, attributes: Attributes, status: Status, began: int) -> None:
        processor.on_end(
            ReadableSpan(
                name=about.name,
                context=about.here,
                parent=about.above,
                resource=resource,
                attributes=attributes,
                links=about.links,
                kind=about.kind,
                status=status,
                start_time=began,
                end_time=time.time_ns(),
                instrumentation_scope=scope,
            )
        )

    return Recorder(provider, give)
