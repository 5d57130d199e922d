"""Spans of OpenTelemetry, from the request of a source to the call of a target.

    receive ─▶ publish ─▶ process ─▶ … ─▶ deliver ─▶ the target's own
      gateway    per event   per event      per call

Each is below the one before: its place travels as `traceparent` (W3C Trace Context, level 1) in the header of the
request, of every record, and of the call. Spans are made and exported (OTLP over HTTP) only where
OTEL_EXPORTER_OTLP_ENDPOINT is set; the other OTEL_ variables mean what OpenTelemetry says. Without it what came is
passed on as it came. Of a trace that its beginner does not sample there are no spans here either.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

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
LEAVING = 2.0
"""Seconds that the last spans may take to be exported when a process ends."""


class Exporting:
    """Whether this process makes spans: as the library has it, one provider for a process."""

    tracer: trace.Tracer | None = None


class Span:
    """One thing that is being done; it is exported once it has ended."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        here = span.get_span_context()
        self.traceparent = f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"

    def end(self, error: str = "", attributes: Attributes | None = None) -> None:
        """Say that it is done, and in one word why it failed if it did."""
        self._span.set_attributes({} if attributes is None else attributes)
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def begin(
    what: What, about: str, parent: str | None, attributes: Attributes, old: Iterable[str | None] = ()
) -> Span | None:
    """Begin a span below a traceparent, or a new trace with links to old ones; None when none is to be made."""
    if (tracer := Exporting.tracer) is None:
        return None
    links = [Link(where) for one in old if (where := place_of(one)) is not None]
    above = place_of(parent)
    known = [link.context for link in links] if above is None else [above]
    if known and not any(where.trace_flags.sampled for where in known):
        return None
    context = Context() if above is None else trace.set_span_in_context(NonRecordingSpan(above), Context())
    span = tracer.start_span(f"{what} {about}", context, KINDS[what], attributes, links)
    return Span(span)


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
    if Exporting.tracer is not None:
        about: Attributes = {"trunkline.flow": flow, "trunkline.target": target, "trunkline.events": len(events)}
        links = [event.traceparent for event in events] if replayed or len(events) > 1 else []
        span = begin("deliver", sink, None if links else single, about, links)
        if span is not None:
            TRACE.set(span.traceparent)
            return span
    TRACE.set(single if single is not None and FORM.fullmatch(single) else None)
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
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    Exporting.tracer = provider.get_tracer("trunkline")
    try:
        yield
    finally:
        Exporting.tracer = None
        # A collector that does not answer must not hold up the end of the process.
        leaving = threading.Thread(target=provider.shutdown, name="spans", daemon=True)
        leaving.start()
        leaving.join(LEAVING)
