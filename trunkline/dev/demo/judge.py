"""What the witnesses and the bus say of every hop, compared. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.dev.demo.report import (
    INPUT,
    LEDGER,
    METRICS,
    PROMISE,
    SENDER,
    SUM,
    TARGET,
    TOPICS,
    Claim,
    Hop,
    Report,
    equation,
)
from trunkline.dev.demo.scenario import Expected, Fact, Scenario
from trunkline.dev.demo.witness import Api, Metrics, Seen
from trunkline.flow.declare import (
    Agent,
    Bus,
    Deliver,
    Process,
    Publish,
    dead_letters_of,
    identity_of,
    inputs_of,
    replay_of,
    source_of,
)

ANSWERS = ("published", "rejected", "duplicate")
"""What may become of a posted event."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the witnesses have seen, and what the bus says.

    `refused` are the facts that must be dead now, `answers` counts by source what the gateway answered to the sender:
    published, duplicate, rejected or unanswered. `committed` is by flow, then topic and partition; `apis` and `ledger`
    by sink.
    """

    expected: Expected
    refused: Collection[Fact]
    answers: Mapping[str, Mapping[str, int]]
    records: Mapping[str, Sequence[Seen]]
    committed: Mapping[str, Mapping[tuple[str, int], int]]
    apis: Mapping[str, Api]
    metrics: Metrics
    ledger: Mapping[str, Mapping[str, int]]


def judge(bus: Bus, scenario: Scenario, evidence: Evidence) -> Report:
    """Compare what the witnesses and the bus say of every hop."""
    return Judge(bus, scenario, evidence).report()


class Judge:
    """Goes through the flows of a bus, hop by hop."""

    def __init__(self, bus: Bus, scenario: Scenario, evidence: Evidence) -> None:
        self._bus = bus
        self._scenario = scenario
        self._seen = evidence
        self._claims: list[Claim] = []
        self._hops: list[Hop] = []
        source = bus.publishing[scenario.source]
        self._published = {record.id: record.at for record in evidence.records[source.to.name]}
        self._milliseconds: list[float] = []

    def report(self) -> Report:
        """Judge every flow."""
        sources, flows, sinks = {}, {}, {}
        for name, flow in self._bus.named():
            match flow:
                case Publish():
                    sources[flow.source.name] = self._source(flow)
                case Process():
                    flows[name] = self._process(name, flow)
                case Agent():
                    flows[name] = self._agent(name, flow)
                case Deliver():
                    sinks[flow.to.name] = self._sink(name, flow)
        return Report(
            self._seen.expected.input,
            sources,
            flows,
            sinks,
            tuple(sorted(self._milliseconds)),
            tuple(self._claims),
            tuple(self._hops),
        )

    def _source(self, flow: Publish) -> dict[str, int]:
        name = flow.source.name
        answers = Counter(self._seen.answers.get(name, {}))
        wanted = len(self._seen.expected.facts.get(flow.to.name, ()))
        written = [one for one in self._seen.records[flow.to.name] if one.source == source_of(self._bus, flow)]
        said = {what: self._count("source_events", what, source=name) for what in ("received", *ANSWERS)}
        counts = {
            "received": answers.total(),
            "published": distinct(written),
            "rejected": answers["rejected"],
            "duplicate": answers["duplicate"],
        }
        parts = sum(counts[answer] for answer in ANSWERS)
        hop = [
            Claim(name, "received", {INPUT: wanted, SENDER: answers.total(), METRICS: said["received"], SUM: parts}),
            Claim(
                name,
                "published",
                {
                    INPUT: wanted,
                    TOPICS: counts["published"],
                    SENDER: answers["published"],
                    METRICS: said["published"],
                },
            ),
            Claim(name, "rejected", {SENDER: answers["rejected"], METRICS: said["rejected"]}),
            Claim(name, "duplicate", {SENDER: answers["duplicate"], METRICS: said["duplicate"]}),
            Claim(name, "left without an answer", {PROMISE: 0, SENDER: answers["unanswered"]}),
            *self._content(name, flow.to.name, written),
        ]
        self._add(hop, f"{name} → {flow.to.name}", equation(counts, "received", ANSWERS))
        return counts

    def _process(self, name: str, flow: Process) -> dict[str, Any]:
        expected = Counter(self._seen.expected.outcomes.get(name, {}))
        read, in_flight = self._progress(name, flow.topic.name)
        written = {
            topic.name: [one for one in self._seen.records[topic.name] if one.source == source_of(self._bus, flow)]
            for topic in flow.to
        }
        causes = {
            self._scenario.fact(topic, one.data)[:1]
            for topic, records in written.items()
            for one in records
            if one.data
        }
        said = {
            what: self._count("process_events", what, flow=name)
            for what in ("read", "routed", "filtered", "unrouted", "dead")
        }
        counts: dict[str, Any] = {
            "read": read + in_flight,
            "routed": len(causes),
            "emitted": {topic: distinct(records) for topic, records in written.items()},
            "filtered": expected["filtered"],
            "unrouted": expected["unrouted"],
            "dead": distinct(self._seen.records[dead_letters_of(identity_of(flow))]),
            "in_flight": in_flight,
        }
        parts = sum(counts[what] for what in ("routed", "filtered", "unrouted", "dead", "in_flight"))
        hop = [
            Claim(name, "read", {TOPICS: counts["read"], METRICS: said["read"], SUM: parts}),
            Claim(name, "routed", {INPUT: expected["routed"], TOPICS: counts["routed"], METRICS: said["routed"]}),
            Claim(name, "filtered", {INPUT: expected["filtered"], METRICS: said["filtered"]}),
            Claim(name, "unrouted", {INPUT: expected["unrouted"], METRICS: said["unrouted"]}),
            Claim(name, "dead", {PROMISE: 0, TOPICS: counts["dead"], METRICS: said["dead"]}),
            Claim(name, "in flight", {PROMISE: 0, TOPICS: in_flight}),
        ]
        short = name.removeprefix(f"{flow.topic.name}.")
        outcomes = ("routed", "filtered", "unrouted", "dead", "in_flight")
        self._add(hop, f"{flow.topic.name} → {short}", equation(counts, "read", outcomes))
        for topic, records in written.items():
            self._add(
                self._emitted(name, topic, records),
                f"{short} → {topic}",
                f"{distinct(records):,} emitted" if records else "",
            )
        return counts

    def _agent(self, name: str, flow: Agent) -> dict[str, Any]:
        topic, joined = flow.to.name, " + ".join(one.name for one in inputs_of(flow))
        progress = [self._progress(name, one.name) for one in inputs_of(flow)]
        read, in_flight = (sum(counts) for counts in zip(*progress, strict=True))
        written = [one for one in self._seen.records[topic] if one.source == source_of(self._bus, flow)]
        said = {what: self._count("process_events", what, flow=name) for what in ("read", "taken", "dead")}
        dead = distinct(self._seen.records[dead_letters_of(identity_of(flow))])
        counts: dict[str, Any] = {
            "read": read + in_flight,
            "taken": read - dead,
            "emitted": {topic: distinct(written)},
            "dead": dead,
            "in_flight": in_flight,
        }
        hop = [
            Claim(name, "read", {TOPICS: counts["read"], METRICS: said["read"]}),
            Claim(name, "taken", {TOPICS: counts["taken"], METRICS: said["taken"]}),
            Claim(name, "dead", {PROMISE: 0, TOPICS: dead, METRICS: said["dead"]}),
            Claim(name, "in flight", {PROMISE: 0, TOPICS: in_flight}),
        ]
        short = name.removeprefix(f"{flow.topic.name}.")
        self._add(hop, f"{joined} → {short}", equation(counts, "read", ("taken", "dead", "in_flight")))
        due = len(self._seen.expected.facts.get(topic, ()))
        self._add(
            self._emitted(name, topic, written),
            f"{short} → {topic}",
            f"{distinct(written):,} emitted of {due:,} due" if written else "",
        )
        return counts

    def _sink(self, flow_name: str, flow: Deliver) -> dict[str, int]:
        name, topic = flow.to.name, flow.topic.name
        records = {one.id: one for one in self._seen.records[topic]}
        letters = self._seen.records[dead_letters_of(identity_of(flow))]
        replayed = len(self._seen.records[replay_of(identity_of(flow))])
        api = self._seen.apis.get(name, Api())
        asked = {self._scenario.asked(name, one.id, one.data): one for one in records.values() if one.data}
        effects: Counter[Fact] = Counter()
        ever_dead = {letter.id for letter in letters}
        for effect in api.effects:
            got = self._scenario.got(name, effect.path, effect.body)
            effects[got] += effect.times
            if got in asked and (one := asked[got]).id not in ever_dead:
                cause = self._scenario.fact(topic, one.data)[0]
                self._milliseconds.append((effect.at - self._published.get(cause, one.at)) * 1000)
        delivered = {one.id for got, one in asked.items() if got in effects}
        dead = (ever_dead & records.keys()) - delivered
        committed = self._seen.committed.get(flow_name, {})
        open_ = [one for one in records.values() if one.id not in delivered and one.id not in dead]
        lost = [one for one in open_ if one.offset < committed.get((topic, one.partition), 0)]
        ledger = Counter(self._seen.ledger.get(name, {}))
        refused = Counter(self._seen.refused)
        due = len(self._seen.expected.facts.get(topic, ()))
        read, _ = self._progress(flow_name, topic)
        counts = {
            "read": len(records),
            "delivered": len(delivered),
            "dead": len(dead),
            **{what: ledger[what] for what in ("parked", "ambiguous", "superseded", "discarded", "expired")},
            "in_flight": len(open_) - len(lost),
            "attempts": api.attempts,
            "effects": effects.total(),
            "duplicates": sum(times - 1 for times in effects.values()),
            "lost": len(lost),
        }
        outcomes = ("delivered", "dead", "parked", "ambiguous", "superseded", "discarded", "expired", "in_flight")
        said = {
            what: self._count("sink_events", what, flow=flow_name, sink=name) for what in ("read", "delivered", "dead")
        }
        tried = self._seen.metrics.count("delivery_attempts", flow=flow_name, sink=name)
        struck = Counter(self._scenario.fact(topic, records[one].data) for one in dead if records[one].data)
        here = refused.total() if name == self._scenario.incident.sink else 0
        hop = [
            Claim(flow_name, "read", {TOPICS: counts["read"], SUM: sum(counts[what] for what in outcomes)}),
            Claim(flow_name, "read, replays too", {TOPICS: read + replayed, METRICS: said["read"]}),
            Claim(
                flow_name,
                "delivered",
                {
                    INPUT: due - here,
                    TARGET: counts["delivered"],
                    METRICS: said["delivered"],
                    LEDGER: ledger["done"],
                },
            ),
            Claim(flow_name, "dead", {INPUT: here, TOPICS: counts["dead"], LEDGER: ledger["dead"]}),
            Claim(flow_name, "dead letters", {TOPICS: len(letters), METRICS: said["dead"]}),
            Claim(flow_name, "attempts", {TARGET: counts["attempts"], METRICS: tried}),
            Claim(flow_name, "effects", {TARGET: counts["effects"], TOPICS: counts["delivered"]}),
            Claim(flow_name, "duplicate effects", {PROMISE: 0, TARGET: counts["duplicates"]}),
            Claim(flow_name, "lost", {PROMISE: 0, TARGET: counts["lost"]}),
            Claim(flow_name, "in flight", {PROMISE: 0, TOPICS: counts["in_flight"]}),
        ]
        if name == self._scenario.incident.sink:
            wrong = (struck - refused).total() + (refused - struck).total()
            hop.append(Claim(flow_name, "dead, or not, against the input", {PROMISE: 0, TOPICS: wrong}))
        self._add(hop, f"{topic} → {name}", equation(counts, "read", (*outcomes, "lost")))
        return counts

    def _emitted(self, name: str, topic: str, records: Sequence[Seen]) -> list[Claim]:
        """Compare what a flow has written to a topic with what the input and the flow itself say."""
        counts = {
            INPUT: len(self._seen.expected.facts.get(topic, ())),
            TOPICS: distinct(records),
            METRICS: self._seen.metrics.count("process_emitted", flow=name, topic=topic),
        }
        return [Claim(name, f"emitted to {topic}", counts), *self._content(name, topic, records)]

    def _content(self, hop: str, topic: str, records: Sequence[Seen]) -> Iterator[Claim]:
        """Compare what the records of a topic say with what the input says."""
        wanted = Counter(self._seen.expected.facts.get(topic, ()))
        facts = Counter(
            self._scenario.fact(topic, one.data) for one in {one.id: one for one in records}.values() if one.data
        )
        twice = len(records) - distinct(records)
        yield Claim(hop, f"on {topic} but not from the input", {PROMISE: 0, TOPICS: (facts - wanted).total()})
        yield Claim(hop, f"from the input but not on {topic}", {PROMISE: 0, TOPICS: (wanted - facts).total()})
        yield Claim(hop, f"on {topic} twice", {PROMISE: 0, TOPICS: twice})

    def _progress(self, flow: str, topic: str) -> tuple[int, int]:
        """Count the distinct records of a topic that a flow has read, and those that it has not, by its offsets."""
        committed = self._seen.committed.get(flow, {})
        ids = {one.id: one.offset < committed.get((topic, one.partition), 0) for one in self._seen.records[topic]}
        read = sum(ids.values())
        return read, len(ids) - read

    def _count(self, name: str, outcome: str, **labels: str) -> int:
        return self._seen.metrics.count(name, outcome=outcome, **labels)

    def _add(self, claims: Sequence[Claim], hop: str, counts: str) -> None:
        self._claims += claims
        holds = all(claim.holds for claim in claims)
        if counts or not holds:
            self._hops.append(Hop(hop, counts or "nothing", holds))


def distinct(records: Sequence[Seen]) -> int:
    """Count events, each once."""
    return len({one.id for one in records})
