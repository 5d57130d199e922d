"""Pause a target and let it go on, with every flow that calls it; and see what each may do there."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trunkline.engine.limits import SECONDS
from trunkline.engine.targets import order_name, weights_of
from trunkline.errors import UsageError
from trunkline.flow.declare import Bus, Target, targets_of
from trunkline.kafka import orders
from trunkline.kafka.orders import Change, Command, Orders
from trunkline.operate.control import Answer, Desk, topic_of

IDLE, FULL = 0.5, 0.9
"""Of a share: what is left unused at least, and what is used at least where more would be, to be worth a word."""


def target_of(bus: Bus, name: str) -> Target:
    """Find a target.

    Raises:
        UsageError: there is none of this name.
    """
    known = bus.targets
    if name not in known:
        called = next(([one.name for one in targets_of(sink)] for sink in bus.sinks if sink.name == name), None)
        hint = f"It is a sink, which calls {' and '.join(called)}. " if called else ""
        raise UsageError(f"there is no target {name}. {hint}The targets are: {', '.join(known)}.")
    return known[name]


def callers(bus: Bus, name: str) -> list[str]:
    """Name the flows that call a target."""
    return [flow for flow, target in weights_of(bus) if target == name]


def pause(desk: Desk, name: str, command: Command) -> Answer:
    """Let no call to a target begin; those in flight end as they would.

    Raises:
        UsageError: the control topic is missing.
        Unavailable: the command was not acknowledged by the broker.
    """
    return give(desk, name, orders.pausing(order_name(name), command))


def resume(desk: Desk, name: str, command: Command) -> Answer:
    """Let a target be called that was paused, has asked to wait, or was found down; raises as `pause` does."""
    return give(desk, name, orders.resuming(order_name(name), command))


def give(desk: Desk, name: str, changes: Iterable[Change]) -> Answer:
    """Write changes and wait for the workers of every flow that calls the target."""
    topic = topic_of(desk.bus, desk.control)
    last = orders.send(desk.sender, topic, changes)[-1].offset
    return desk.wait(topic, callers(desk.bus, name), last)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is declared of one target, whether a person has paused it, and how it stands."""

    target: Target
    shares: dict[str, float]
    """Of its limit, by flow."""
    paused: Command | None
    workers: int = 0
    """Live ones that call it."""
    paces: Mapping[str, float] = field(default_factory=dict)
    """Calls a second that each flow made lately, where there is a limit."""
    told: Mapping[str, int] = field(default_factory=dict)
    """How it stands at those where it is not simply called, "down" say, and at how many."""

    def left(self, flow: str) -> tuple[float, float]:
        """Give what a flow leaves of its share of the limit, and that share, in calls per the limit's own unit."""
        limit = self.target.limit
        if limit is None:
            return 0.0, 0.0
        share = self.shares[flow] * limit.events
        return max(0.0, share - self.paces.get(flow, 0.0) * SECONDS[limit.per]), share

    def idle(self) -> tuple[list[str], list[str]]:
        """Name the flows that leave half of their share or more, and those that have used theirs up meanwhile (D13)."""
        if self.target.limit is None or not self.workers:
            return [], []
        full = [flow for flow in self.shares if self.left(flow)[0] <= (1 - FULL) * self.left(flow)[1]]
        idle = [flow for flow in self.shares if self.left(flow)[0] >= IDLE * self.left(flow)[1]]
        return (idle, full) if idle and full else ([], [])


def standings(bus: Bus, held: Orders, now: datetime) -> list[Standing]:
    """Say how every target stands, as the workers said last."""
    weights = weights_of(bus)
    found = []
    for name, target in bus.targets.items():
        flows = callers(bus, name)
        workers = orders.running(held, flows, now)
        told = Counter(word for said in workers if (word := said.targets.get(name)) is not None)
        shares = {flow: weights[flow, name] for flow in flows}
        paces = {flow: sum(said.paces.get(name, {}).get(flow, 0.0) for said in workers) for flow in flows}
        paused = held.paused.get(order_name(name))
        found.append(Standing(target, shares, paused, len(workers), {} if target.limit is None else paces, told))
    return found


def troubled(found: Iterable[Standing]) -> dict[str, tuple[str, ...]]:
    """Say by flow which of the targets that it calls are paused, or not simply called by every worker."""
    said: dict[str, list[str]] = {}
    for one in found:
        name, live = one.target.name, f"{one.workers} worker{'' if one.workers == 1 else 's'}"
        if (who := one.paused) is not None:
            words = [f"{name} is paused by {who.by}"]
        else:
            words = [f"{name} is {word} at {number} of {live}" for word, number in one.told.items()]
        for flow in one.shares if words else ():
            said.setdefault(flow, []).extend(words)
    return {flow: tuple(words) for flow, words in said.items()}


def unused(found: Iterable[Standing]) -> dict[str, tuple[str, ...]]:
    """Say by flow what it leaves of limits while another flow of the same target has used its share up (D13)."""
    said: dict[str, list[str]] = {}
    for one in found:
        idle, full = one.idle()
        for flow in idle:
            left, share = one.left(flow)
            per = "" if one.target.limit is None else one.target.limit.per
            words = f"{left:,.0f} of its {share:,.0f} calls a {per} of {one.target.name}, while {' and '.join(full)}"
            said.setdefault(flow, []).append(f"{words} {'has' if len(full) == 1 else 'have'} used all")
    return {flow: tuple(words) for flow, words in said.items()}
