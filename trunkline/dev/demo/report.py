"""What a run came to: every hop's numbers, each from whoever can know it, and every difference named. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trunkline.dev.demo.witness import Api

INPUT = "the input file"
SENDER = "the sender"
TOPICS = "the topics"
TARGET = "the target"
METRICS = "the bus's metrics"
LEDGER = "the bus's ledger"
PROMISE = "the promise"
SUM = "the sum of its parts"


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


def equation(counts: Mapping[str, Any], total: str, parts: Sequence[str]) -> str:
    """Write a balance, leaving out what is zero; nothing when everything is."""
    present = [f"{counts[part]:,} {part.replace('_', ' ')}" for part in parts if counts[part]]
    if not present and not counts[total]:
        return ""
    return f"{counts[total]:,} {total} = {' + '.join(present) or '0'}"
