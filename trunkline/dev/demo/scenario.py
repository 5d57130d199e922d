"""What a project gives to the demo: its input, and what must come of it.

A scenario shares no code with the bus: what it expects is worked out from the input files alone. It names records by
facts, tuples of text that say what a record is about in the project's own terms.
"""

import importlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from trunkline.errors import UsageError
from trunkline.flow.declare import Bus

Fact = tuple[str, ...]
"""What a record says, short. The first part is the id of the source's event that it came of."""


class Expected(Protocol):
    """What must come of the first events of the input."""

    @property
    def input(self) -> Mapping[str, int]:
        """How much there is in the input, and how much of it is odd."""
        ...

    @property
    def outcomes(self) -> Mapping[str, Mapping[str, int]]:
        """By process flow: how many of its input events are `routed`, `filtered` and `unrouted`."""
        ...

    @property
    def facts(self) -> Mapping[str, Collection[Fact]]:
        """By topic: the fact of every record that belongs on it, as often as there are such records."""
        ...


class Incident(Protocol):
    """What goes wrong in the second act: the target of one sink refuses some of its requests."""

    @property
    def sink(self) -> str:
        """The sink."""
        ...

    @property
    def match(self) -> str:
        """Which requests: a glob on the path below the API, or FIELD=GLOB on a field of the body."""
        ...

    @property
    def status(self) -> int:
        """How it refuses them."""
        ...

    @property
    def detail(self) -> str:
        """The sentence that it says."""
        ...

    @property
    def events(self) -> int:
        """How many more events of the source are posted meanwhile."""
        ...

    def strikes(self, fact: Fact) -> bool:
        """Say whether a record of the sink's topic is refused."""
        ...


class Scenario(Protocol):
    """An input with its witness. Every sink with traffic has an API of its own."""

    @property
    def source(self) -> str:
        """The source that the input is posted to."""
        ...

    @property
    def incident(self) -> Incident:
        """What goes wrong."""
        ...

    def requests(self, first: int, count: int) -> Iterator[Mapping[str, Any]]:
        """Yield the JSON bodies of `count` events after the `first` ones; one event each, never the same twice."""
        ...

    def following(self, number: int, body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield what other sources post because of the event with this number, counted from 0: source and JSON body.

        Each is posted as soon as the event has been taken.
        """
        ...

    def rows(self) -> Mapping[str, Iterable[Mapping[str, Any]]]:
        """Give the rows of every table by its name."""
        ...

    def expected(self, count: int) -> Expected:
        """Work out what must come of the first `count` events."""
        ...

    def fact(self, topic: str, data: Mapping[str, Any]) -> Fact:
        """Say what a record on a topic is about, in the terms of `Expected.facts`."""
        ...

    def asked(self, sink: str, event: str, data: Mapping[str, Any]) -> Fact:
        """Say what the sink's target must have been asked for a record, whose event id is `event`."""
        ...

    def got(self, sink: str, path: str, body: str) -> Fact:
        """Say what an effect at the sink's target is; equal to what `asked` says of its record."""
        ...


def find(name: str) -> Scenario:
    """Import a scenario by `module:name`.

    Raises:
        UsageError: there is none.
    """
    module, colon, attribute = name.partition(":")
    try:
        if colon:
            found: Scenario = getattr(importlib.import_module(module), attribute)
            return found
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the scenario {name} cannot be loaded: {error}.") from error
    raise UsageError(f"{name} names no scenario. Write it as module:name.")


def check(bus: Bus, scenario: Scenario) -> None:
    """Compare the names of a scenario with those of the topology.

    Raises:
        UsageError: it names something that the bus has not.
    """
    sinks = [sink.name for sink in bus.sinks]
    if scenario.source not in bus.publishing:  # those of `following` are looked up when they are posted
        raise UsageError(f"the scenario's source {scenario.source} is not one of: {', '.join(bus.publishing)}.")
    if scenario.incident.sink not in sinks:
        raise UsageError(f"the scenario's sink {scenario.incident.sink} is not one of: {', '.join(sinks)}.")


def refused(scenario: Scenario, bus: Bus, before: int, after: int) -> list[Fact]:
    """Give the facts of the sink's records that the incident strikes: what comes of the events between two counts."""
    incident = scenario.incident
    [topic] = [flow.topic.name for flow in bus.delivering.values() if flow.to.name == incident.sink]
    early, late = (Counter(scenario.expected(count).facts.get(topic, ())) for count in (before, after))
    return [fact for fact in (late - early).elements() if incident.strikes(fact)]
