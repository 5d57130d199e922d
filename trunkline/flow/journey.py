"""What became of a request or an event on its way through the bus, as values: hop by hop, and added up."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trunkline.event import Drop, Event
from trunkline.requests import Request
from trunkline.verdict import Verdict


@dataclass(frozen=True)
class Parsed:
    """A source made an event of the request."""

    flow: str
    topic: str
    event: Event[Any]


@dataclass(frozen=True)
class Stepped:
    """A step was run: what it was given, what it gave or what stopped it, and the rows it asked for."""

    flow: str
    step: str
    before: Event[Any]
    after: Event[Any] | Drop | Verdict
    asked: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    """By table the keys that it looked up, and whether there was a row."""


@dataclass(frozen=True)
class Took:
    """A route was asked for records of an event: those it gave, none or what stopped it."""

    flow: str
    route: str
    topic: str
    event: Event[Any]
    records: Sequence[Event[Any]]
    failure: Verdict | None = None
    saw: Mapping[str, Any] = field(default_factory=dict)
    """The fields that it read, by JSON pointer."""
    why: str = ""
    """Of a route with a condition, what became of that."""


@dataclass(frozen=True)
class Called:
    """A sink was asked what to send for one event or for a batch: the request, or None when it could not say.

    `key` is the idempotency key, "" where the target knows none, and `headers` are those that carry it. `means` says
    what each status of an answer would mean; `verdicts` is what the answer of this journey meant for each event.
    """

    flow: str
    sink: str
    target: str
    events: Sequence[Event[Any]]
    request: Request | None
    verdicts: Sequence[Verdict]
    key: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    call: str = ""
    """Which of a composite's calls it is."""
    means: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hidden:
    """An event goes where nothing is known of it: to a sink that makes its calls itself, or to an agent."""

    flow: str
    why: str
    event: Event[Any]


Hop = Parsed | Stepped | Took | Called | Hidden


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
    hops: list[Hop] = field(default_factory=list)
    """All of that in the order in which it happened, with what led to it."""


class Looked(Mapping[str, Mapping[str, Any]]):
    """The rows of a table, which remember the keys they were asked for."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._rows = rows
        self.looked_up: dict[str, bool] = {}

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        self.looked_up[key] = key in self._rows
        return self._rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
