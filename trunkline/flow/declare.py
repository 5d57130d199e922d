"""What a topology is made of.

Frozen values: building them opens nothing, reads no secret and never raises; `check` names every mistake at once,
each with the line that made it.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from trunkline.adapters import Sink, Source
from trunkline.avro.files import Schema, schema_of
from trunkline.errors import UsageError, meant
from trunkline.event import Drop, Event, Stream
from trunkline.flow.credentials import Credentials
from trunkline.settings import Env, Secret
from trunkline.verdict import Retry

Step = Callable[..., Event[Any] | Drop | Awaitable[Event[Any] | Drop]]
Route = Callable[[Event[Any]], Iterable[Mapping[str, Any]]]
Body = Callable[[Stream[Any], timedelta], AsyncIterator[Event[Any]]]

LIBRARY = str(Path(__file__).parent.parent)


def minutes(count: float) -> timedelta:
    """Give a duration."""
    return timedelta(minutes=count)


def days(count: float) -> timedelta:
    """Give a duration."""
    return timedelta(days=count)


@dataclass(frozen=True)
class Wait:
    """For how many seconds a missing row is waited for."""

    seconds: float


def wait(seconds: float) -> Wait:
    """Wait so long for a missing row: the event's key waits, all others go on."""
    return Wait(seconds)


def declared_at() -> str:
    """Give `file:line` of the first caller outside the library, relative to the working directory."""
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to a caller without building a traceback
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith((LIBRARY, "<")) or "abc.py" in frame.f_code.co_filename
    ):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{here}:{frame.f_lineno}"


@dataclass(frozen=True, eq=False)
class Declared:
    """Anything written in topology.py: it knows its line."""

    where: str = field(default_factory=declared_at, kw_only=True, repr=False)


@dataclass(frozen=True)
class Limit:
    """At most `events` calls per second or minute, by all workers together (D13).

    Calls are spread evenly, but for the fiftieth of a second that makes up for a late timer. `burst` is how many may
    come at once after a rest, in addition to what its time allows.
    """

    events: float
    per: Literal["second", "minute"] = "second"
    burst: float | None = None


@dataclass(frozen=True)
class Breaker:
    """When to leave a target alone that fails: connections refused, timeouts and 5xx, never a refused event or a 429.

    It opens when `failures` of the last calls failed, and seven in ten of twice as many, or of all that ended in the
    last second where these are more. Then nothing is called for `pause`, and after each trial that fails twice as long,
    up to a minute. A trial is the next event: one call, and one more with each that succeeds; after `probes` of them in
    a row all is as before.
    """

    failures: int = 10
    pause: timedelta = timedelta(seconds=5)
    probes: int = 5


@dataclass(frozen=True)
class Tls:
    """Certificates of a target, as PEM.

    `ca` is of those whose signature under the target's certificate counts, besides those that the system trusts, and
    `certificate` with its `key` shows the target who we are (mTLS). Nothing switches the check of its certificate off.
    """

    ca: Env | None = None
    certificate: Env | None = None
    key: Secret | None = None


@dataclass(frozen=True, eq=False)
class Target(Declared):
    """A remote system: all sinks that name it share one connection pool, one limit and one breaker.

    Addresses that are not public are not called, unless they lie in one of the networks that `allow` names or that the
    operator allows for all targets. Calls go through `proxy` if there is one, and then those rules are for its address.
    """

    name: str
    url: Env
    auth: Credentials | None = None
    limit: Limit | None = None
    breaker: Breaker | None = field(default_factory=Breaker)
    allow: Sequence[str] = ()
    tls: Tls | None = None
    proxy: Env | None = None


@dataclass(frozen=True, eq=False)
class Topic(Declared):
    """A topic, the record on it, and the field of the record whose order is kept."""

    name: str
    record: type
    key: str | None = None
    partitions: int = 6
    keep: timedelta = timedelta(days=7)

    @cached_property
    def schema(self) -> Schema:
        """The schema file of the record."""
        return schema_of(self.record)


@dataclass(frozen=True, eq=False)
class Table(Declared):
    """A compacted topic, held on disk by every worker that enriches from it: the last row of each key.

    `missing` says what it means that a step asks for a row which is not there: nothing ("null": `get` gives None), a
    dead letter ("dead"), or `wait(seconds)`, then a dead letter (P4).
    """

    name: str
    record: type
    key: str
    partitions: int = 1
    missing: Literal["null", "dead"] | Wait = "null"

    @cached_property
    def schema(self) -> Schema:
        """The schema file of a row."""
        return schema_of(self.record)


@dataclass(frozen=True, eq=False)
class Lookup(Declared):
    """What a target answers to GET, by key: a row as `record` has it, or none where it answers 404 or 410.

    `key` names the field of the event whose values are the keys that the step will ask for; "parts.number" reaches into
    lists. All that a batch needs is asked for before its transaction begins (P2). `path` has a place {key}.

    An answer is used for `ttl`, and that there is no row for `absent`. If the target fails, an answer may be used for
    `stale` longer; else the flow waits, and nothing goes dead. An API that takes several keys in one request is asked
    for up to `together`: `path` has a place {keys}, which gets them with commas between, and `split(answer)` is the row
    of each key that there is, by key, of the answer's JSON.
    """

    name: str
    target: Target
    path: str
    record: type
    key: str
    ttl: timedelta = timedelta(minutes=5)
    absent: timedelta = timedelta(minutes=1)
    stale: timedelta = timedelta(0)
    together: int = 1
    split: Callable[[Any], Mapping[str, Any]] | None = None


@dataclass(frozen=True, eq=False)
class Enrich(Declared):
    """A step that looks things up: `step(event, rows, …)` gets a read-only mapping of key to row of each part."""

    step: Step
    parts: tuple[Table | Lookup, ...]

    def __init__(self, step: Step, *parts: Table | Lookup) -> None:
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "where", declared_at())


@dataclass(frozen=True, eq=False)
class Publish(Declared):
    """Events that a source posts, onto a topic; `was` is the name that the source had before."""

    source: Source
    to: Topic
    name: str = ""
    was: str = ""


@dataclass(frozen=True, eq=False)
class Process(Declared):
    """Events of a topic through steps, then by one route per output topic onto these, in transactions.

    `was` is the name that the flow had before: what Kafka and the ledger know it by stays as it was (I1). `weight` is
    the flow's share of the limit of a target that its look-ups ask, beside those of the other flows that call it.
    """

    topic: Topic
    steps: Sequence[Step | Enrich]
    to: Mapping[Topic, Route]
    name: str = ""
    was: str = ""
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Agent(Declared):
    """Events of a topic through a body that knows how late it is, onto another topic: windows, absence, joins in time.

    `body(stream, window)` is an async generator: of what it reads it yields `event.having(record)`, for each record one
    event that the record is made of. It runs once for each partition and remembers what it likes in its own variables.
    `window` is for how long it remembers an event, by the times of the records: after a restart it is given again what
    is not older (docs/agents.md). With `join`, partition n of that topic comes on the same stream as partition n of
    `topic`. `was` is the name that the flow had before: what Kafka knows it by stays as it was (I1).
    """

    topic: Topic
    body: Body
    to: Topic
    window: timedelta | Env
    join: Topic | None = None
    name: str = ""
    was: str = ""


@dataclass(frozen=True, eq=False)
class Deliver(Declared):
    """Events of a topic to a target, in order per key; what cannot be delivered becomes a dead letter of this flow.

    `after_dead` says what becomes of the later events of a key whose event died, until that one is replayed or
    discarded: they are delivered all the same ("continue"), become parked dead letters beside it ("park_key"), or wait
    in the topic ("block"), where enough of them stop their partition. `was` is the name that the flow had before: what
    Kafka knows it by stays as it was (I1); a sink that was renamed says so itself. `weight` is the flow's share of a
    target's limit, beside those of the other flows that call the target.
    """

    topic: Topic
    to: Sink
    retry: Retry = field(default_factory=Retry)
    name: str = ""
    after_dead: Literal["continue", "park_key", "block"] = "continue"
    was: str = ""
    weight: float = 1.0


Flow = Publish | Process | Agent | Deliver
Reading = Process | Agent | Deliver


def body_of(step: Step | Enrich) -> Step:
    """Give the function of a step."""
    return step.step if isinstance(step, Enrich) else step


def tables_of(step: Step | Enrich) -> tuple[Table, ...]:
    """Give the tables that a step looks things up in."""
    return tuple(part for part in parts_of(step) if isinstance(part, Table))


def lookups_of(step: Step | Enrich) -> tuple[Lookup, ...]:
    """Give what a step has asked of targets."""
    return tuple(part for part in parts_of(step) if isinstance(part, Lookup))


def parts_of(step: Step | Enrich) -> tuple[Table | Lookup, ...]:
    """Give everything that a step looks things up in, in the order of its parameters."""
    return step.parts if isinstance(step, Enrich) else ()


def flow_name(flow: Flow) -> str:
    """Give a flow's name: what people call it; see `identity_of` for what its data is known by."""
    if flow.name:
        return flow.name
    match flow:
        case Publish():
            return flow.source.name
        case Deliver():
            return f"{flow.topic.name}.{flow.to.name}"
        case Agent():
            return f"{flow.topic.name}.{getattr(flow.body, '__name__', 'agent')}"
        case Process():
            first = body_of(flow.steps[0]) if flow.steps else next(iter(flow.to.values()), None)
            return f"{flow.topic.name}.{getattr(first, '__name__', 'process')}"


def identity_of(flow: Flow) -> str:
    """Give what a flow's group, topics and events are known by: its name, or the one it had before (I1)."""
    match flow:
        case Publish():
            return flow.was or flow.source.name
        case Deliver(was="", name=""):
            return f"{flow.topic.name}.{sink_identity(flow.to)}"
        case _:
            return flow.was or flow_name(flow)


def sink_identity(sink: Sink) -> str:
    """Give what the ledger and the idempotency keys know a sink by: its name, or the one it had before (I1)."""
    return sink.was or sink.name


@dataclass(frozen=True, eq=False)
class Bus(Declared):
    """Everything that flows: a name and flows in the order in which an event travels.

    `was` is the name that the bus had before: what Kafka, the ledger and targets know it by stays as it was (I1).
    `retired` names the sinks and flows that left the topology for good, whatever is still waiting for them (L5).
    """

    name: str
    flows: Sequence[Flow]
    was: str = ""
    retired: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "flows", tuple(self.flows))

    @property
    def identity(self) -> str:
        """What the bus is known by: its name, or the one it had before (I1)."""
        return self.was or self.name

    def named(self) -> Iterator[tuple[str, Flow]]:
        """Yield every flow with its name."""
        return ((flow_name(flow), flow) for flow in self.flows)

    def chosen(self, names: Collection[str]) -> list[Flow]:
        """Give the flows with these names, in the order of the topology; all of them when none is given.

        Raises:
            UsageError: one of them is not in the topology.
        """
        known = dict(self.named())
        for name in names:
            if name not in known:
                hint = meant(name, known) or f"The flows are: {', '.join(known)}."
                raise UsageError(f"there is no flow {name}. {hint}")
        return [flow for name, flow in known.items() if not names or name in names]

    @property
    def publishing(self) -> dict[str, Publish]:
        """The flows that begin at a source, by the source's name: the last part of the gateway's path."""
        return {flow.source.name: flow for flow in self.flows if isinstance(flow, Publish)}

    @property
    def processing(self) -> dict[str, Process]:
        """The flows from topic to topics, by name."""
        return {name: flow for name, flow in self.named() if isinstance(flow, Process)}

    @property
    def watching(self) -> dict[str, Agent]:
        """The flows from topic to topic in time, by name."""
        return {name: flow for name, flow in self.named() if isinstance(flow, Agent)}

    @property
    def delivering(self) -> dict[str, Deliver]:
        """The flows that end at a target, by name."""
        return {name: flow for name, flow in self.named() if isinstance(flow, Deliver)}

    @property
    def sources(self) -> list[Source]:
        """Every source."""
        return [flow.source for flow in self.publishing.values()]

    @property
    def sinks(self) -> list[Sink]:
        """Every sink."""
        return [flow.to for flow in self.delivering.values()]

    @property
    def topics(self) -> list[Topic]:
        """Every topic that a flow writes or reads, in order of first use."""
        used: dict[str, Topic] = {}
        for flow in self.flows:
            match flow:
                case Publish():
                    used.setdefault(flow.to.name, flow.to)
                case Process():
                    for topic in (flow.topic, *flow.to):
                        used.setdefault(topic.name, topic)
                case Agent():
                    for topic in (*inputs_of(flow), flow.to):
                        used.setdefault(topic.name, topic)
                case Deliver():
                    used.setdefault(flow.topic.name, flow.topic)
                    if (results := results_of(flow.to)) is not None:
                        used.setdefault(results.name, results)
        return list(used.values())

    @property
    def tables(self) -> list[Table]:
        """Every table that a step enriches from, in order of first use."""
        found = (table for flow in self.processing.values() for step in flow.steps for table in tables_of(step))
        return list({table.name: table for table in found}.values())

    @property
    def lookups(self) -> list[Lookup]:
        """Everything that a step has asked of a target, in order of first use."""
        found = (lookup for flow in self.processing.values() for step in flow.steps for lookup in lookups_of(step))
        return list({lookup.name: lookup for lookup in found}.values())

    @property
    def calling(self) -> dict[str, list[Target]]:
        """The targets that each flow calls, by the flow's name; flows that call none are not there."""
        found = {name: targets_called(flow) for name, flow in self.named()}
        return {name: targets for name, targets in found.items() if targets}

    @property
    def targets(self) -> dict[str, Target]:
        """Every target that a flow calls, by name."""
        return {target.name: target for targets in self.calling.values() for target in targets}


def inputs_of(flow: Reading) -> list[Topic]:
    """Give the topics whose events a flow reads, its own first."""
    return [flow.topic, flow.join] if isinstance(flow, Agent) and flow.join is not None else [flow.topic]


def results_of(sink: Sink) -> Topic | None:
    """Give the topic that a sink publishes what came of its deliveries to; None when it tells nobody."""
    topic: Topic | None = getattr(sink, "results", None)
    return topic


def targets_of(sink: Sink) -> list[Target]:
    """Give every target that a sink calls, its own first."""
    others: Mapping[str, Target] = getattr(sink, "others", {})
    return list({target.name: target for target in (sink.target, *others.values())}.values())


def targets_called(flow: Flow) -> list[Target]:
    """Give every target that a flow calls: a sink's, and those of look-ups."""
    match flow:
        case Publish() | Agent():
            return []
        case Process():
            found = (lookup.target for step in flow.steps for lookup in lookups_of(step))
            return list({target.name: target for target in found}.values())
        case Deliver():
            return targets_of(flow.to)


def group_of(bus: Bus, identity: str) -> str:
    """Give the consumer group of a flow, also the head of its transactional id."""
    return f"{bus.identity}.{identity}"


def dead_letters_of(identity: str) -> str:
    """Give the dead-letter topic of a flow."""
    return f"{identity}.dlq"


def replay_of(identity: str) -> str:
    """Give the topic that only this flow reads, and that only a replay writes."""
    return f"{identity}.replay"


def source_of(bus: Bus, flow: Flow) -> str:
    """Give the source of the events that a flow writes: half of their identity (I2)."""
    return f"{bus.identity}/{identity_of(flow)}"


def schemas_of(bus: Bus) -> str:
    """Give the topic of the embedded schema registry."""
    return f"trunkline.{bus.identity}.schemas"
