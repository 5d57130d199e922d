"""What the engine says about itself: one hook that takes one frozen record. Metrics and logs implement it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
    "repeat", "calling", "attempt", "delivered",
    # moments that tests stop the world at
    "produced", "answered", "recorded",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
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
        match seen.what:
            case "received" | "published" | "rejected" | "duplicate":
                self.sources.labels(seen.flow, seen.what).inc(seen.count)
            case "emitted":
                self.emitted.labels(seen.flow, seen.topic).inc(seen.count)
            case "calling":
                self.in_flight.labels(seen.flow, seen.sink).inc()
            case "attempt":
                self.in_flight.labels(seen.flow, seen.sink).dec()
                self.duration.labels(seen.flow, seen.sink).observe(seen.seconds)
                klass = "none" if seen.status is None else f"{seen.status // 100}xx"
                self.attempts.labels(seen.flow, seen.sink, klass).inc()
            case "halted":
                self.halted.labels(seen.flow).set(1)
            case "stuck" | "produced" | "answered" | "recorded":
                pass
            case "read" | "routed" | "filtered" | "unrouted" | "dead" | "delivered" | "repeat":
                if seen.sink:
                    self.sinks.labels(seen.flow, seen.sink, seen.what).inc(seen.count)
                else:
                    self.process.labels(seen.flow, seen.what).inc(seen.count)


def log(seen: Observed) -> None:
    """Log what a person should know of: failures, not successes."""
    logger = structlog.get_logger("trunkline")
    match seen.what:
        case "dead":
            logger.warning("dead letter", flow=seen.flow, event_id=seen.event, why=seen.detail)
        case "stuck":
            logger.warning("stuck", flow=seen.flow, event_id=seen.event, why=seen.detail)
        case "halted":
            logger.error("halted", flow=seen.flow, why=seen.detail)
        case "rejected":
            logger.info("rejected", source=seen.flow, why=seen.detail)
        case _:
            pass


def every(*observers: Observer) -> Observer:
    """Join observers into one."""

    def observe(seen: Observed) -> None:
        for observer in observers:
            observer(seen)

    return observe
