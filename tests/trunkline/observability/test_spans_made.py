"""What is exported of a span is what OpenTelemetry's own tracer would have exported; it decides what is sampled."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, Status, StatusCode, set_span_in_context

from tests.trunkline.support import WHEN
from trunkline import Event, Permanent
from trunkline.engine import spans
from trunkline.observe import TRACE

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ABOVE = f"00-{TRACE_ID}-{SPAN_ID}-01"
EVENT: Event[Any] = Event("1", WHEN, {}, traceparent=ABOVE)


class Made:
    """The spans that a process makes."""

    def __init__(self, sampler: Sampler) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        processor = SimpleSpanProcessor(self.exporter)
        self.provider.add_span_processor(processor)
        self.recorder = spans.recorder_of(self.provider, processor)

    def told(self) -> list[dict[str, Any]]:
        """Give what was exported, without numbers of its own and times."""
        return [plain(one) for one in self.exporter.get_finished_spans()]


def plain(span: ReadableSpan) -> dict[str, Any]:
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 <= span.end_time - span.start_time < 60e9
    found: dict[str, Any] = json.loads(span.to_json())
    del found["context"]["span_id"], found["start_time"], found["end_time"]
    return found


@pytest.fixture
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    found = Made(getattr(request, "param", ParentBased(ALWAYS_ON)))
    monkeypatch.setattr(spans.Exporting, "recorder", found.recorder)
    token = TRACE.set(None)
    yield found
    TRACE.reset(token)


def test_a_call_is_told_as_the_library_would_tell_it(made: Made) -> None:
    span = spans.calling("shelf", "marks.shelf", "store", [EVENT], replayed=False)
    spans.ended(span, 422, [Permanent("no")])
    above = spans.place_of(ABOVE)
    assert above is not None
    own = made.provider.get_tracer("trunkline").start_span(
        "deliver shelf",
        set_span_in_context(NonRecordingSpan(above)),
        SpanKind.CLIENT,
        {"trunkline.flow": "marks.shelf", "trunkline.target": "store", "trunkline.events": 1},
    )
    own.set_attributes({"http.response.status_code": 422, "error.type": "permanent"})
    own.set_status(Status(StatusCode.ERROR))
    own.end()
    ours, theirs = made.told()
    assert ours == theirs
    assert span is not None
    assert TRACE.get() == span.traceparent
    assert span.traceparent.startswith(f"00-{TRACE_ID}-")


def test_a_call_for_several_is_told_as_the_library_would_tell_it(made: Made) -> None:
    span = spans.calling("shelf", "marks.shelf", "store", [EVENT, EVENT], replayed=False)
    spans.ended(span, 200, [])
    above = spans.place_of(ABOVE)
    assert above is not None
    own = made.provider.get_tracer("trunkline").start_span(
        "deliver shelf",
        kind=SpanKind.CLIENT,
        attributes={"trunkline.flow": "marks.shelf", "trunkline.target": "store", "trunkline.events": 2},
        links=[Link(above), Link(above)],
    )
    own.set_attribute("http.response.status_code", 200)
    own.end()
    ours, theirs = made.told()
    del ours["context"]["trace_id"], theirs["context"]["trace_id"]
    assert ours == theirs


@pytest.mark.parametrize("made", [ParentBased(ALWAYS_OFF)], indirect=True)
def test_a_trace_that_the_sampler_does_not_want_goes_on_so(made: Made) -> None:
    """Whoever comes next must not begin another one."""
    span = spans.receiving("desk", None)
    assert span is not None
    assert span.traceparent.endswith("-00")
    event, below = spans.carried("publish", "marks", Event[Any]("1", WHEN, {}), {})
    assert below is None
    assert event.traceparent == span.traceparent
    span.end("500")
    assert made.told() == []


@pytest.mark.parametrize("made", [ALWAYS_OFF, ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF)], indirect=True)
def test_a_sampler_that_wants_nothing_is_heeded_below_a_parent_too(made: Made) -> None:
    span = spans.calling("shelf", "marks.shelf", "store", [EVENT], replayed=False)
    assert span is not None
    assert (span.traceparent[:36], span.traceparent[-3:]) == (f"00-{TRACE_ID}-", "-00")
    spans.ended(span, 200, [])
    assert made.told() == []
