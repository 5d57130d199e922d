"""What a run came to: every hop's numbers, each from whoever can know it, and every difference named. Pure."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trunkline.dev.scenario import Expected, Fact, Scenario
from trunkline.dev.witness import Api, Metrics, Seen
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

INPUT = "the input file"
SENDER = "the sender"
TOPICS = "the topics"
TARGET = "the target"
METRICS = "the bus's metrics"
LEDGER = "the bus's ledger"
PROMISE = "the promise"
SUM = "the sum of its parts"

EFFECTS = ("effects", "duplicates", "lost")


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


@dataclass(frozen=True, slots=True)
class Claim:
    """One number of one hop, and who says what it is."""

    hop: str
    what: str
    said: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Whether all say the same."""
        return len(set(self.said.values())) == 1

    def __str__(self) -> str:
        return f"{self.hop}, {self.what}: " + ", ".join(f"{count:,} by {who}" for who, count in self.said.items())


@dataclass(frozen=True, slots=True)
class Hop:
    """One line of the screen."""

    name: str
    counts: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of one run; those of a hop come from the witnesses, never from the bus alone."""

    input: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]]
    flows: Mapping[str, Mapping[str, Any]]
    sinks: Mapping[str, Mapping[str, int]]
    milliseconds: tuple[float, ...]
    """From the source's topic to the target, of every effect that was no dead letter before, in rising order."""
    claims: tuple[Claim, ...]
    hops: tuple[Hop, ...]
    replay: Mapping[str, Any] = field(default_factory=dict)

    @property
    def differences(self) -> list[str]:
        """Every claim on which somebody disagrees, one line each."""
        return [str(claim) for claim in self.claims if not claim.holds]

    @property
    def balanced(self) -> bool:
        """Whether all witnesses and the bus agree on every number."""
        return not self.differences

    @property
    def verdict(self) -> str:
        """Say in a word whether it balanced."""
        many = len(self.differences)
        return "balanced" if not many else f"{many} difference{'s' if many > 1 else ''}"

    def latency(self, share: float) -> float | None:
        """Give the milliseconds within which this share of the effects happened."""
        if not self.milliseconds:
            return None
        return round(self.milliseconds[max(0, math.ceil(share * len(self.milliseconds)) - 1)], 1)

    def as_data(self) -> dict[str, Any]:
        """Give the report for programs."""
        return {
            "input": dict(self.input),
            "sources": {name: dict(counts) for name, counts in self.sources.items()},
            "flows": {name: dict(counts) for name, counts in self.flows.items()},
            "sinks": {name: dict(counts) for name, counts in self.sinks.items()},
            "latency_ms": {"p50": self.latency(0.5), "p99": self.latency(0.99)},
            "balanced": self.balanced,
            "differences": self.differences,
            **({"replay": dict(self.replay)} if self.replay else {}),
        }


def judge(bus: Bus, scenario: Scenario, evidence: Evidence) -> Report:
    """Compare what the witnesses and the bus say of every hop."""
    return Judge(bus, scenario, evidence).report()


def with_replay(
    last: Report, broken: Report, sink: str, dead: int, before: Mapping[str, Api], after: Mapping[str, Api]
) -> Report:
    """Add to the last report what was seen while the target was broken, and what the replay did.

    `dead` is how many events the input says must have been dead; `before` and `after` are what targets had then.
    """
    done = len(after[sink].effects) - len(before[sink].effects)
    elsewhere = {name: api.attempts - before[name].attempts for name, api in after.items() if name != sink}
    was_dead, lacking = broken.sinks[sink]["dead"], last.sinks[sink]["dead"]
    claims = [
        Claim("replay", "dead before", {INPUT: dead, TOPICS: was_dead}),
        Claim("replay", f"effects at {sink}", {INPUT: dead, TARGET: done}),
        *(Claim("replay", f"calls of {name}", {PROMISE: 0, TARGET: calls}) for name, calls in elsewhere.items()),
    ]
    counts = {"dead": was_dead, "delivered": done, "still_dead": lacking}
    earlier = (replace(claim, hop=f"while {sink} was broken, {claim.hop}") for claim in broken.claims)
    hop = Hop(
        f"dead letters → {sink}",
        equation(counts, "dead", ("delivered", "still_dead")),
        all(claim.holds for claim in claims),
    )
    return replace(
        last,
        claims=(*earlier, *last.claims, *claims),
        hops=(*last.hops, hop),
        replay={"sink": sink, **counts, "calls_elsewhere": elsewhere},
    )


@dataclass(frozen=True, slots=True)
class Story:
    """What the last screen tells besides the reports."""

    incident: str
    rate: float
    first_seconds: float | None
    seconds: float
    folder: str
    stays: bool
    """Whether the bus stays up."""
    commands: Sequence[tuple[str, str]]
    """What to type next, and what it does."""


def told(first: Report, second: Report, story: Story) -> dict[str, Any]:
    """Give what the last screen tells, as JSON has it: a recorded one can be drawn again."""
    return {
        "events": sum(source["received"] for source in first.sources.values()),
        "act_one": [asdict(hop) for hop in first.hops],
        "act_two": asdict(second.hops[-1]),
        "calls_elsewhere": dict(second.replay["calls_elsewhere"]),
        "effects": {name: sum(sink[name] for sink in second.sinks.values()) for name in EFFECTS},
        "latency_ms": {"p50": first.latency(0.5), "p99": first.latency(0.99)},
        "reports": {
            file: {"balanced": report.balanced, "verdict": report.verdict, "differences": report.differences}
            for file, report in {"report.json": first, "report-replay.json": second}.items()
        },
        **asdict(story),
    }


def screen(told: Mapping[str, Any]) -> list[str]:
    """Write the last screen: every hop on a line that begins with ✓ or ✗, every difference, and what to type next."""
    width = max(len(hop["name"]) for hop in (*told["act_one"], told["act_two"]))
    elsewhere = ", ".join(
        f"{name} received {'nothing' if not calls else f'{calls:,}'}" for name, calls in told["calls_elsewhere"].items()
    )
    pace = f"at {told['rate']:g} events a second" if told["rate"] else "at full speed"
    lines = [
        f"Act one: {told['events']:,} events",
        *(line(hop, width) for hop in told["act_one"]),
        "",
        f"Act two: {told['incident']}",
        line(told["act_two"], width),
        *([f"  {elsewhere} meanwhile"] if elsewhere else []),
        "",
        "{effects:,} effects at the targets, {duplicates:,} duplicates, {lost:,} lost".format(**told["effects"]),
        "latency p50 {p50} ms, p99 {p99} ms".format(**told["latency_ms"])
        + f" {pace}, from the source's topic to the target",
        f"first delivered after {seconds(told['first_seconds'])}, both acts after {seconds(told['seconds'])}",
    ]
    for file, report in told["reports"].items():
        lines.append(f"{'✓' if report['balanced'] else '✗'} {told['folder']}/{file}: {report['verdict']}")
        lines += [f"✗   {difference}" for difference in report["differences"]]
    width = max(len(command) for command, _ in told["commands"])
    lines += ["", "Next, in another terminal:" if told["stays"] else "Run on a terminal, the bus stays up for these:"]
    return lines + [f"  {command:<{width}}  {why}" for command, why in told["commands"]]


def line(hop: Mapping[str, Any], width: int) -> str:
    """Write one hop."""
    return f"{'✓' if hop['holds'] else '✗'} {hop['name']:<{width}}  {hop['counts']}"


def seconds(count: float | None) -> str:
    """Write a duration; a dash for what never came."""
    return "-" if count is None else f"{count:.1f} s"


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
        said = {what: self._count("source_events", what, source=name) for what in ("received", *answers_known())}
        counts = {
            "received": answers.total(),
            "published": distinct(written),
            "rejected": answers["rejected"],
            "duplicate": answers["duplicate"],
        }
        parts = counts["published"] + counts["rejected"] + counts["duplicate"]
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
        self._add(hop, f"{name} → {flow.to.name}", equation(counts, "received", ("published", "rejected", "duplicate")))
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
            emitted = [
                Claim(
                    name,
                    f"emitted to {topic}",
                    {
                        INPUT: len(self._seen.expected.facts.get(topic, ())),
                        TOPICS: distinct(records),
                        METRICS: self._seen.metrics.count("process_emitted", flow=name, topic=topic),
                    },
                ),
                *self._content(name, topic, records),
            ]
            self._add(emitted, f"{short} → {topic}", f"{distinct(records):,} emitted" if records else "")
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
        emitted = [
            Claim(
                name,
                f"emitted to {topic}",
                {
                    INPUT: len(self._seen.expected.facts.get(topic, ())),
                    TOPICS: distinct(written),
                    METRICS: self._seen.metrics.count("process_emitted", flow=name, topic=topic),
                },
            ),
            *self._content(name, topic, written),
        ]
        due = len(self._seen.expected.facts.get(topic, ()))
        self._add(emitted, f"{short} → {topic}", f"{distinct(written):,} emitted of {due:,} due" if written else "")
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


def answers_known() -> tuple[str, ...]:
    """Name what may become of a posted event."""
    return ("published", "rejected", "duplicate")


def distinct(records: Sequence[Seen]) -> int:
    """Count events, each once."""
    return len({one.id for one in records})


def equation(counts: Mapping[str, Any], total: str, parts: Sequence[str]) -> str:
    """Write a balance, leaving out what is zero; nothing when everything is."""
    present = [f"{counts[part]:,} {part.replace('_', ' ')}" for part in parts if counts[part]]
    if not present and not counts[total]:
        return ""
    return f"{counts[total]:,} {total} = {' + '.join(present) or '0'}"
