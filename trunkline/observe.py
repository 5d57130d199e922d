"""What the engine says about itself: one hook that takes one frozen record. Metrics and logs implement it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

What = Literal[
    # a source, per event
    "received", "published", "rejected", "duplicate",
    # a process flow, per event, after its transaction is committed
    "read", "routed", "filtered", "unrouted", "emitted",
    # both kinds of reading flow
    "dead", "stuck", "halted",
    # a delivering flow
    "repeat", "calling", "attempt", "delivered", "parked", "ambiguous", "superseded", "discarded", "resumed",
    # moments that tests stop the world at
    "produced", "prepared", "answered", "buried", "recorded",
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
    attempt: int = 0
    """Which call for its event it was; of one that failed."""
    lane: str = ""
    """Its key, hashed."""


disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series, and nobody asks for them

Observer = Callable[[Observed], None]

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


class Metrics:
    """The counters of one process's life, for Prometheus; no id, key or address is ever a label."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sources = self._counter("source_events", "Events of a source by outcome.", "source", "outcome")
        self.process = self._counter("process_events", "Input events of a process flow by outcome.", "flow", "outcome")
        self.emitted = self._counter("process_emitted", "Records written by a process flow.", "flow", "topic")
        self.sinks = self._counter("sink_events", "Events of a sink by outcome.", "flow", "sink", "outcome")
        self.attempts = self._counter(
            "delivery_attempts", "Calls to a target by class of answer.", "flow", "sink", "status_class"
        )
        self.duration = Histogram(
            "trunkline_delivery_duration_seconds",
            "How long calls to a target took.",
            ["flow", "sink"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "trunkline_delivery_in_flight", "Calls that have no answer yet.", ["flow", "sink"], registry=self.registry
        )
        self.halted = Gauge("trunkline_flow_halted", "1 while a flow is halted.", ["flow"], registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"trunkline_{name}", text, labels, registry=self.registry)

    def __call__(self, seen: Observed) -> None:
        """Count it."""
        of = labelled
        match seen.what:
            case "stuck" | "produced" | "prepared" | "answered" | "buried" | "recorded":
                pass
            case "calling":
                of(self.in_flight, seen.flow, seen.sink).inc()
            case "attempt":
                of(self.in_flight, seen.flow, seen.sink).dec()
                of(self.duration, seen.flow, seen.sink).observe(seen.seconds)
                klass = "none" if seen.status is None else f"{seen.status // 100}xx"
                of(self.attempts, seen.flow, seen.sink, klass).inc()
            case "received" | "published" | "rejected" | "duplicate":
                of(self.sources, seen.flow, seen.what).inc(seen.count)
            case "emitted":
                of(self.emitted, seen.flow, seen.topic).inc(seen.count)
            case "halted":
                of(self.halted, seen.flow).set(1)
            case "resumed":
                of(self.halted, seen.flow).set(0)
            case _:
                if seen.sink:
                    of(self.sinks, seen.flow, seen.sink, seen.what).inc(seen.count)
                else:
                    of(self.process, seen.flow, seen.what).inc(seen.count)


@lru_cache(maxsize=1024)
def labelled(metric: Any, *values: str) -> Any:
    """Give a metric's series; the library's own look-up costs more than counting."""
    return metric.labels(*values)


class Log:
    """Says what a person should know of: failures, not successes.

    Of failed attempts at most ten a second and sink are told, the next with the number of those that were not: a target
    that is down must not fill a disk. A dead letter is always told.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logger = structlog.get_logger("trunkline")
        self._told: dict[str, tuple[int, int]] = {}
        """By sink: the second, and how many failed attempts it has had."""

    def __call__(self, seen: Observed) -> None:
        """Log it, if it is worth it."""
        match seen.what:
            case "attempt":
                if seen.status is None or seen.status >= 300:
                    self._failed(seen)
            case "dead" | "parked" | "ambiguous" | "stuck":
                self._logger.warning(NAMES.get(seen.what, seen.what), **facts(seen))
            case "halted":
                self._logger.error("halted", **facts(seen))
            case "resumed":
                self._logger.info("resumed", **facts(seen))
            case "rejected":
                self._logger.info("rejected", source=seen.flow, why=seen.detail)
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


def every(*observers: Observer) -> Observer:
    """Join observers into one."""

    def observe(seen: Observed) -> None:
        for observer in observers:
            observer(seen)

    return observe
