"""What the engine says about itself: one hook that takes one frozen record. Metrics and logs implement it."""

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal, get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

What = Literal[
    # a source, per event
    "received", "published", "rejected", "duplicate",
    # a process flow, per event, after its transaction is committed; of its steps one run in many
    "read", "routed", "filtered", "unrouted", "emitted", "step",
    # an agent, per event that its body has finished
    "taken",
    # both kinds of reading flow
    "dead", "stuck", "halted",
    # a delivering flow
    "repeat", "calling", "attempt", "delivered", "parked", "ambiguous", "superseded", "discarded", "resumed",
    "replayed",
    # a target
    "circuit", "told to wait", "announced",
    # a person's command that holds from now: `flow` is the sink or target, `outcome` says what, `detail` who and why
    "ordered",
    # a table: it has been read to its end, or what was on disk is thrown away
    "table",
    # a look-up: so many keys were asked for
    "looked up",
    # moments that tests stop the world at; the last also says that a flow moves on
    "begun", "produced", "offered", "prepared", "answered", "buried", "recorded",
]  # fmt: skip


@dataclass(slots=True)  # nobody changes one; frozen would cost three times as much for every call
class Observed:
    """One thing that happened `count` times in a flow; the other fields are filled where they mean something."""

    what: What
    flow: str
    count: int = 1
    topic: str = ""
    sink: str = ""
    event: str = ""
    detail: str = ""
    status: int | None = None
    seconds: float = 0.0
    took: Sequence[float] = ()
    """Of calls that ended alike, told together: the seconds of each."""
    attempt: int = 0
    """Which call for its event it was; of one that failed."""
    lane: str = ""
    """Its key, hashed."""
    target: str = ""
    outcome: str = ""
    """Of a dead letter its class, of a call that failed its verdict, of a step or a replay what came out; how a circuit
    is now; what a target announces: deprecation, sunset or warning."""
    ages: Sequence[float] = ()
    """Of delivered events: seconds from when each happened (`ce_time`) to when its delivery was durable."""


disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series, and nobody asks for them

Observer = Callable[[Observed], None]
"""May have an attribute `wants`: then it is told of these only."""

ALL: frozenset[What] = frozenset(get_args(What))
CALLED = frozenset[What]({"calling", "answered"})
"""What happens at every call and is of no interest to most; so it is asked before it is told."""

TRACE: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The W3C `traceparent` of what is being done: whoever calls another system sends it along, if there is one."""

CALLS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
AGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 21_600, 86_400)
STEPS = (0.000001, 0.0000025, 0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.001, 0.01, 0.1, 1)
CIRCUITS = {"closed": 0, "probing": 1, "open": 2}


class Metrics:
    """The figures of one process's life, for Prometheus; no id, key or address is ever a label.

    docs/operating.md says what each one means.
    """

    wants = ALL - CALLED

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sources = self._counter("source_events", "Events of a source by outcome.", "source", "outcome")
        self.last_event = self._gauge(
            "source_last_event_timestamp_seconds", "When a source last published an event.", "source"
        )
        self.process = self._counter("process_events", "Input events of a process flow by outcome.", "flow", "outcome")
        self.emitted = self._counter("process_emitted", "Records written by a process flow.", "flow", "topic")
        self.steps = self._spread(
            "step_duration_seconds",
            "How long a step took, of one run in many.",
            STEPS,
            *("flow", "step", "outcome"),
        )
        self.sinks = self._counter("sink_events", "Events of a sink by outcome.", "flow", "sink", "outcome")
        self.repeats = self._counter(
            "ledger_duplicates", "Events that came again and were not delivered again.", "flow", "sink"
        )
        self.attempts = self._counter(
            "delivery_attempts",
            "Calls to a target by verdict and class of answer.",
            *("flow", "sink", "target", "outcome", "status_class"),
        )
        self.duration = self._spread(
            "delivery_duration_seconds", "How long calls to a target took.", CALLS, "flow", "sink", "target"
        )
        self.ages = self._spread(
            "event_age_seconds", "From when an event happened to when it was delivered.", AGES, "flow", "sink"
        )
        self.letters = self._counter("deadletter_events", "Dead letters written, by class.", "flow", "reason")
        self.replays = self._counter("replay_events", "Events that a replay brought to an end.", "flow", "outcome")
        self.lookups = self._counter(
            "lookup_keys", "Keys that a target was asked for, by what came of it.", "flow", "lookup", "outcome"
        )
        self.asking = self._spread(
            "lookup_duration_seconds", "How long requests of a look-up took.", CALLS, "flow", "lookup", "target"
        )
        self.halted = self._gauge("flow_halted", "1 while a flow is halted.", "flow")
        self.progress = self._gauge(
            "flow_progress_timestamp_seconds", "When a flow last finished an event, or had none left.", "flow"
        )
        self.circuits = self._gauge(
            "circuit_state", "0 while calls to a target are made, 1 while it is probed, 2 while none are.", "target"
        )
        self.notices = self._gauge(
            "target_notice_timestamp_seconds",
            "A target announces something of its API: the earliest moment that it names, 0 for none.",
            *("target", "kind"),
        )
        self.waits = self._gauge(
            "target_wait_until_timestamp_seconds", "Until when a target has asked not to be called.", "target"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trunkline_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"trunkline_{name}", text, labels, registry=self.registry)

    def _spread(self, name: str, text: str, bounds: Sequence[float], *labels: str) -> "Histogram":
        found = Histogram(f"trunkline_{name}", text, bounds, labels)
        self.registry.register(found)
        return found

    def __call__(self, seen: Observed) -> None:
        """Count it."""
        of = labelled
        match seen.what:
            case (
                "stuck"
                | "table"
                | "ordered"
                | "begun"
                | "produced"
                | "offered"
                | "prepared"
                | "calling"
                | "answered"
                | "buried"
            ):
                pass
            case "attempt":
                observe = of(self.duration, seen.flow, seen.sink, seen.target).observe
                for seconds in seen.took or (seen.seconds,):
                    observe(seconds)
                klass = "none" if seen.status is None else f"{seen.status // 100}xx"
                outcome = seen.outcome or "delivered"
                of(self.attempts, seen.flow, seen.sink, seen.target, outcome, klass).inc(seen.count)
            case "recorded":
                self.progressed(seen.flow)
            case "published":
                of(self.sources, seen.flow, seen.what).inc(seen.count)
                of(self.last_event, seen.flow).set_to_current_time()
            case "received" | "rejected" | "duplicate":
                of(self.sources, seen.flow, seen.what).inc(seen.count)
            case "emitted":
                of(self.emitted, seen.flow, seen.topic).inc(seen.count)
            case "step":
                of(self.steps, seen.flow, seen.detail, seen.outcome).observe(seen.seconds)
            case "looked up":
                of(self.lookups, seen.flow, seen.detail, seen.outcome).inc(seen.count)
                if seen.outcome == "answered":
                    of(self.asking, seen.flow, seen.detail, seen.target).observe(seen.seconds)
            case "halted":
                of(self.halted, seen.flow).set(1)
            case "resumed":
                of(self.halted, seen.flow).set(0)
            case "repeat":
                of(self.repeats, seen.flow, seen.sink).inc(seen.count)
            case "replayed":
                of(self.replays, seen.flow, seen.outcome).inc(seen.count)
            case "circuit":
                of(self.circuits, seen.target).set(CIRCUITS[seen.outcome])
            case "announced":
                of(self.notices, seen.target, seen.outcome).set(seen.seconds)
            case "told to wait":
                of(self.waits, seen.target).set(time.time() + seen.seconds)
            case _:
                self._came_to(seen)

    def _came_to(self, seen: Observed) -> None:
        """Count what became of events."""
        if seen.sink:
            labelled(self.sinks, seen.flow, seen.sink, seen.what).inc(seen.count)
        else:
            labelled(self.process, seen.flow, seen.what).inc(seen.count)
        match seen.what:
            case "dead" | "parked":
                labelled(self.letters, seen.flow, seen.outcome or seen.what).inc(seen.count)
            case "read" if not seen.sink:
                self.progressed(seen.flow)
            case "delivered" if seen.ages:
                observe = labelled(self.ages, seen.flow, seen.sink).observe
                for age in seen.ages:
                    observe(age)
            case _:
                pass

    def progressed(self, flow: str) -> None:
        """Note that a flow has finished something now, or has nothing to do."""
        labelled(self.progress, flow).set_to_current_time()


class Series:
    """One histogram of one set of labels."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histogram(Collector):
    """A histogram at a seventh of the cost of the library's, which locks; so each series is observed by one thread."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(bounds)
        self._names = [*map(floatToGoString, bounds), "+Inf"]
        self._labels = tuple(labels)
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> Series:
        """Give the series of these labels."""
        return self._series.setdefault(values, Series(self._bounds))

    def describe(self) -> Iterator[Metric]:
        """Give the name, for the registry's check that no other metric has it."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """Give every series."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._series.copy().items():
            buckets = list(zip(self._names, accumulate(series.counts), strict=True))
            family.add_metric(values, buckets, series.total)
        yield family


@lru_cache(maxsize=1024)
def labelled(metric: Any, *values: str) -> Any:
    """Give a metric's series; the library's own look-up costs more than counting."""
    return metric.labels(*values)


class Log:
    """Says what a person should know of: failures, not successes.

    Of failed attempts at most ten a second and sink are told, the next with the number of those that were not: a target
    that is down must not fill a disk. Why a flow waits is told once a minute. A dead letter is always told.
    """

    wants = ALL - CALLED

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logger = structlog.get_logger("trunkline")
        self._told: dict[str, tuple[int, int]] = {}
        """By sink: the second, and how many failed attempts it has had."""
        self._stuck: dict[tuple[str, str, str], tuple[float, int]] = {}
        """By flow, sink and reason without its numbers: when it was told, and how often it came since."""

    def __call__(self, seen: Observed) -> None:
        """Log it, if it is worth it."""
        match seen.what:
            case "attempt":
                if seen.status is None or seen.status >= 300:
                    self._failed(seen)
            case "stuck":
                self._waits(seen)
            case "dead" | "parked" | "ambiguous":
                self._logger.warning(NAMES.get(seen.what, seen.what), **facts(seen))
            case "halted":
                self._logger.error("halted", **facts(seen))
            case "announced":
                self._logger.warning("target announces", target=seen.target, what=seen.outcome, why=seen.detail)
            case "resumed":
                self._logger.info("resumed", **facts(seen))
            case "ordered":
                who = {"event_id": seen.event} if seen.event else {}
                self._logger.info("order", what=seen.outcome, of=seen.flow, **who, by=seen.detail)
            case "rejected":
                self._logger.info("rejected", source=seen.flow, why=seen.detail)
            case "table":
                self._logger.info("table", table=seen.flow, seconds=round(seen.seconds, 3), what=seen.detail)
            case _:
                pass

    def _failed(self, seen: Observed) -> None:
        now = int(self._clock())
        second, count = self._told.get(seen.sink, (now, 0))
        untold = max(0, count - TOLD) if second != now else 0
        if second != now:
            count = 0
        self._told[seen.sink] = now, count + 1
        if count < TOLD:
            more = {"untold": untold} if untold else {}
            self._logger.info("attempt failed", **facts(seen), **more)

    def _waits(self, seen: Observed) -> None:
        now, why = self._clock(), (seen.flow, seen.sink, NUMBERS.sub("", seen.detail))
        at, untold = self._stuck.get(why, (now - QUIET, 0))
        if now - at < QUIET:
            self._stuck[why] = at, untold + 1
            return
        self._stuck = {one: told for one, told in list(self._stuck.items()) if now - told[0] < QUIET}
        self._stuck[why] = now, 0
        more = {"untold": untold} if untold else {}
        self._logger.warning("stuck", **facts(seen), **more)


QUIET = 60.0
"""Seconds for which the reason why a flow waits is not told again."""
NUMBERS = re.compile(r"\d+")
TOLD = 10
"""Failed attempts of a sink that are told in a second."""
NAMES = {"dead": "dead letter"}


def facts(seen: Observed) -> dict[str, Any]:
    """Give what is known of something, without what it does not have."""
    found = {
        "flow": seen.flow,
        "sink": seen.sink,
        "event_id": seen.event,
        "lane": seen.lane,
        "attempt": seen.attempt,
        "status": seen.status,
        "seconds": round(seen.seconds, 3),
        "why": seen.detail,
    }
    return {name: value for name, value in found.items() if value}


def wanted(observer: Observer) -> frozenset[What]:
    """Give what an observer is to be told of."""
    return getattr(observer, "wants", ALL)


class Every:
    """Observers joined into one: each is told of what it wants."""

    def __init__(self, *observers: Observer) -> None:
        self.wants = frozenset[What]().union(*map(wanted, observers))
        self._who = {what: [one for one in observers if what in wanted(one)] for what in self.wants}

    def __call__(self, seen: Observed) -> None:
        """Tell them."""
        for observer in self._who.get(seen.what, ()):
            observer(seen)


NOBODY = Every()
