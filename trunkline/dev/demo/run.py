"""One run of a scenario: post, wait, report."""

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import orjson

from trunkline.dev.demo import witness
from trunkline.dev.demo.judge import Evidence, judge
from trunkline.dev.demo.place import SETTLING
from trunkline.dev.demo.posting import Posted, post
from trunkline.dev.demo.report import Report
from trunkline.dev.demo.scenario import Fact, Scenario
from trunkline.dev.demo.targets import api_of
from trunkline.dev.demo.witness import Topics
from trunkline.dev.demo.worker import alive
from trunkline.errors import UsageError
from trunkline.flow.declare import Bus, Deliver, dead_letters_of, group_of, identity_of, replay_of, sink_identity
from trunkline.kafka.cluster import Cluster
from trunkline.kafka.topics import reading
from trunkline.ledger import deliveries, reach
from trunkline.settings import Settings

STALLED = 30.0
"""Seconds without progress after which nothing more is waited for."""

Tell = Callable[[int, int], None]
"""Hears how much is done of how much."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that is up."""

    settings: Settings
    cluster: Cluster
    gateway: str
    database: Path
    worker: subprocess.Popen[bytes]
    log: Path


class Run:
    """One run of a scenario on a stage, a context manager: post, wait, report."""

    def __init__(self, bus: Bus, scenario: Scenario, stage: Stage) -> None:
        self.posted = 0
        self.answers: dict[str, Counter[str]] = {name: Counter() for name in bus.publishing}
        self._bus = bus
        self._scenario = scenario
        self._stage = stage
        topics = {topic.name for topic in bus.topics}
        letters = {dead_letters_of(identity_of(flow)) for flow in reading(bus).values()}
        replays = {replay_of(identity_of(flow)) for flow in bus.delivering.values()}
        self._topics = Topics(stage.cluster, stage.gateway, topics | letters | replays)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._topics.close()

    def post(self, count: int, rate: float, tell: Callable[[int], None]) -> Counter[str]:
        """Post the next events to the gateway, `rate` a second (0: as fast as possible); `tell` hears how many are.

        Give the posts that had no answer, by what failed; each was posted again.
        """
        first = Posted(self._scenario.source, b"")
        chains = [
            [replace(first, body=orjson.dumps(body))]
            + [Posted(name, orjson.dumps(more)) for name, more in self._scenario.following(number, body)]
            for number, body in enumerate(self._scenario.requests(self.posted, count), self.posted)
        ]
        if len(chains) < count:
            raise UsageError(f"the input has only {self.posted + len(chains)} events. Take fewer: --events.")
        sources = {name: flow.source for name, flow in self._bus.publishing.items()}
        unanswered = asyncio.run(post(self._stage.gateway, sources, chains, rate, self.answers, tell))
        self.posted += count
        return unanswered

    def finished(self) -> dict[str, Counter[str]]:
        """Count what the ledger has, by sink and state."""
        with reach(self._stage.settings.ledger).connect() as db:
            return {
                sink.name: Counter(
                    {state.name.lower(): count for state, count in deliveries.count(db, sink_identity(sink)).items()}
                )
                for sink in self._bus.sinks
            }

    def due(self) -> int:
        """Count the deliveries that must come of what was posted."""
        facts = self._scenario.expected(self.posted).facts
        return sum(len(facts.get(flow.topic.name, ())) for flow in self._bus.delivering.values())

    def wait(self, tell: Tell) -> None:
        """Wait until every delivery has an outcome, or until nothing moves any more: the report says then what lacks.

        Raises:
            Unavailable: the worker has ended.
        """
        due, done, since = self.due(), -1, time.monotonic()
        while True:
            now = sum(counts.total() for counts in self.finished().values())
            tell(now, due)
            if now != done:
                done, since = now, time.monotonic()
            if done >= due or time.monotonic() - since > STALLED:
                return
            alive(self._stage.worker, self._stage.gateway, self._stage.log)
            time.sleep(0.1)

    def report(self, refused: Collection[Fact], tell: Tell) -> Report:
        """Let the witnesses speak; offsets and counters are asked again while they lag behind what has happened."""
        expected = self._scenario.expected(self.posted)
        until = time.monotonic() + SETTLING
        while True:
            self._topics.read(tell)
            apis = self.apis()
            evidence = Evidence(
                expected=expected,
                refused=refused,
                answers=self.answers,
                records=self._topics.records,
                committed={
                    name: self._topics.committed(group_of(self._bus, identity_of(flow)))
                    for name, flow in reading(self._bus).items()
                },
                apis=apis,
                metrics=witness.metrics(self._stage.gateway),
                ledger=self.finished(),
            )
            report = judge(self._bus, self._scenario, evidence)
            if report.balanced or time.monotonic() > until:
                return report
            time.sleep(0.2)

    def apis(self) -> dict[str, witness.Api]:
        """Read what the target has recorded, by sink."""
        found = witness.apis(self._stage.database)
        flows: list[Deliver] = list(self._bus.delivering.values())
        return {flow.to.name: found.get(api_of(flow.to.target), witness.Api()) for flow in flows}
