"""Targets: every sink that names one shares its connections, its credentials, its limit and its breaker.

dispatch ─ room? ─▶ Gate (a flow's share of the limit) ─▶ Access (stops, breaker, orders) ─▶ Transport

`Access` and `Gate` decide, with the clock as an argument; `Targets` has the connections and wakes who waits.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import httpx

from trunkline.engine.breaker import ANY, CLOSED, OPEN, Circuit
from trunkline.engine.limits import SAYING, Limiter, Throttle
from trunkline.errors import Permanent, Retryable, Unavailable, Unknown
from trunkline.flow.declare import Bus, Deliver, Process, Target, targets_called
from trunkline.http import transport
from trunkline.http.client import client_of
from trunkline.http.guard import Network
from trunkline.http.notices import Notice, notices_of
from trunkline.http.opening import open_to
from trunkline.http.proofs import NoToken, utc
from trunkline.http.transport import Transport
from trunkline.kafka import events
from trunkline.kafka.orders import Command, Orders
from trunkline.observe import Observed, Observer
from trunkline.requests import Idempotency, Request
from trunkline.responses import Response
from trunkline.sinks.composite import CompositeSink
from trunkline.verdict import Delivered, Verdict

NOTHING: Mapping[str, str] = MappingProxyType({})
WAITING = "asking us to wait"
"""How a target stands that lets nothing begin for a while by its own word."""
SOONEST = 0.002
"""Seconds after which room is looked for again at the earliest: less costs more than it gains."""
ANNOUNCED = 8
"""Things that a target announces of its API, at most: a text that differs with every answer is not told each time."""


Begun = tuple[float, int]
"""One request that is being made: when it began, and in which state of its target's breaker."""


class Access:
    """Whether a target may be called from this process: by its breaker, by its own word and by order of a person."""

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self.throttle = Throttle()
        self.circuit = None if target.breaker is None else Circuit(target.breaker)
        self.paused = False
        self.calm = True
        """Whether nothing is known against the target and nobody waits to hear so: most calls begin and end then."""
        self.gates: list[Gate] = []
        self._stood = 0.0
        self._seen = 0.0
        self._well = 0.0

    @property
    def closed(self) -> bool:
        """Whether nothing is known against the target."""
        return self.circuit is None or self.circuit.state is CLOSED

    def is_plain(self, now: float) -> bool:
        """Say whether nothing is known against the target, nor how much of it there is."""
        return self.closed and not self.paused and now >= self.throttle.until and not self.throttle.limited

    def is_down(self, since: float) -> bool:
        """Say whether failures may be the target's and no event's, so that no event loses patience by them.

        They may be as long as it has not answered well `since` then, however few calls there were to open its breaker.
        The time is that of a clock which rests while the target stands still.
        """
        return self.circuit is not None and (self.circuit.state is not CLOSED or self._well < since)

    def stood(self, now: float) -> float:
        """Give the seconds for which the target has stood still so far: they count towards no event's patience."""
        since, self._seen = self._seen, now
        until = self.throttle.until
        if self.paused or ((circuit := self.circuit) is not None and circuit.state is not CLOSED):
            self._stood += now - since
        elif until > since:
            self._stood += min(now, until) - since
        return self._stood

    def room(self, now: float) -> int:
        """Say how many calls may begin now, of all flows."""
        if self.calm:
            return ANY
        if self.paused:
            return 0
        room = self.throttle.room(now)
        if room > 0 and self.circuit is not None and (tried := self.circuit.room(now)) < room:
            return tried
        return room

    def wait(self, now: float) -> float:
        """Give the seconds until there may be room by itself; infinite when an order or a trial's end brings it."""
        if self.paused:
            return math.inf
        wait = self.throttle.wait(now)
        if self.circuit is not None and self.circuit.state is OPEN:
            wait = max(wait, self.circuit.until - now)
        elif self.circuit is not None and self.circuit.room(now) <= 0:
            return math.inf
        return wait

    def begin(self, now: float) -> Begun:
        """Make a call."""
        circuit = self.circuit
        if self.calm:
            self.throttle.flying += 1
            return now, 0 if circuit is None else circuit.epoch
        self.throttle.begin(now)
        return now, 0 if circuit is None else circuit.begin(now)

    def unmade(self, call: Begun, now: float) -> None:
        """Take a call back that was not made."""
        self.throttle.unmade(now)
        if self.circuit is not None:
            self.circuit.ended(call[1], now, failed=None)

    def ended(
        self, call: Begun, verdict: Verdict, response: Response | None, now: float, wall: Callable[[], datetime]
    ) -> None:
        """Take the end of a call: what became of it, and the answer if there was one; `wall` gives the time of day."""
        throttle, circuit = self.throttle, self.circuit
        if self.calm and response is not None and response.status < 400 and SAYING.isdisjoint(response.headers):
            throttle.flying -= 1
            if circuit is not None:
                circuit.ended(call[1], now, failed=False)
                self._well = now - self._stood
            return
        stood = self.stood(now)
        status, headers = (None, NOTHING) if response is None else (response.status, response.headers)
        throttle.ended(call[0], status, headers, now, wall)
        if circuit is not None:
            failed = is_failure(verdict, status)
            circuit.ended(call[1], now, failed=failed)
            if failed is False:
                self._well = now - stood
        self.calm = self.calm and self.is_plain(now)

    def stop(self, now: float, seconds: float, why: str) -> None:
        """Let nothing begin for so long."""
        self.stood(now)
        self.calm = False
        self.throttle.stop(now, seconds, why)

    def pause(self, now: float, *, paused: bool) -> None:
        """Obey an order to stand still, or its end."""
        self.stood(now)
        self.calm = False
        self.paused = paused

    def go_on(self, now: float) -> None:
        """Obey an order to go on: no stop holds any more, and a breaker that is open tries at once."""
        self.stood(now)
        self.throttle.go_on(now)
        if self.circuit is not None:
            self.circuit.try_now(now)

    def divide(self, now: float) -> None:
        """Know what share of the target is this process's."""
        self.throttle.divide(sum(gate.share for gate in self.gates), now)

    def says(self, now: float) -> tuple[str, float]:
        """Say in a word how the target stands, and for how many seconds more if that ends by itself."""
        if self.paused:
            return "paused", 0.0
        if self.circuit is not None and self.circuit.state is OPEN:
            return "down", max(0.0, self.circuit.until - now)
        if now < self.throttle.until:
            return WAITING, self.throttle.until - now
        return "running" if self.closed else "probing", 0.0


class Gate:
    """What one flow may do at one target: its own share of the limit, and what holds for all flows there."""

    def __init__(self, access: Access, target: Target, weight: float) -> None:
        """Give the flow `weight`, a share of the target beside all other flows that call it."""
        self.access = access
        self.share = 0.0
        self.limiter = None if target.limit is None else Limiter(target.limit)
        self.made = 0
        """Calls that have begun."""
        self.wake: Callable[[], None] = lambda: None
        """Called on the loop when there may be room again."""
        self._dues = [] if self.limiter is None else [(self.limiter, 1)]
        """The limits that a call counts for, and how often."""
        self._weight = weight
        self._timer: asyncio.TimerHandle | None = None
        access.gates.append(self)

    def divide(self, owned: float, now: float) -> None:
        """Have the share that belongs to so much of the flow's partitions: nothing for none, all of it for 1."""
        self.share = self._weight * owned
        if self.limiter is not None:
            self.limiter.divide(self.share, now)
        self.access.divide(now)

    def lead_to(self, calls: Mapping["Gate", int]) -> None:
        """Let what begins here make so many calls at these gates, and count for all of them when it begins."""
        self._dues = [(gate.limiter, many) for gate, many in calls.items() if gate.limiter is not None]

    def room(self, now: float) -> int:
        """Say how many calls of the flow may begin now."""
        access = self.access
        room = ANY if access.calm else access.room(now)
        for limiter, calls in self._dues:
            if room > 0 and (ours := -(-limiter.room(now) // calls)) < room:  # rounded up: the last goes into debt
                room = ours
        return room

    def begin(self, now: float) -> Begun:
        """Make a call."""
        self.made += 1
        for limiter, calls in self._dues:
            limiter.take(now, calls)
        return self.access.begin(now)

    def begin_one(self, now: float, *, counted: bool) -> Begun:
        """Make one of several calls for an event, even where there is no room: others are made already.

        It is `counted` when it was as the event began.
        """
        self.made += 1
        if self.limiter is not None and not counted:
            self.limiter.take(now)
        return self.access.begin(now)

    def wait(self, now: float) -> float:
        """Give the seconds until there may be room by itself; infinite when nothing but a message brings it."""
        return max(self.access.wait(now), *(limiter.wait(now) for limiter, _ in self._dues), 0.0)

    def rest(self, now: float) -> None:
        """Be woken when there may be room by itself, unless that is so already."""
        if self._timer is None and (wait := self.wait(now)) < math.inf:
            self._timer = asyncio.get_running_loop().call_later(max(SOONEST, wait), self._woken)

    def stir(self) -> None:
        """Be woken at once."""
        if self._timer is not None:
            self._timer.cancel()
        self._woken()

    def _woken(self) -> None:
        self._timer = None
        self.wake()


class Targets:
    """The open targets of one worker, an async context manager."""

    def __init__(
        self,
        bus: Bus,
        flows: Collection[str],
        *,
        allow: Sequence[Network],
        connections: int,
        observe: Observer = lambda _: None,
    ) -> None:
        """Read the addresses and secrets of what these flows call; targets may be in the networks `allow`.

        Raises:
            UsageError: an address or secret is not set, or cannot be used.
        """
        self._stack = AsyncExitStack()
        self._transports: dict[str, Transport] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._accesses: dict[str, Access] = {}
        self._gates: dict[tuple[str, str], Gate] = {}
        self._resumed: Mapping[str, Command] | None = None
        self._observe = observe
        self._told: dict[str, str] = {}
        self._notices: dict[str, dict[str, Notice]] = {}
        self._began = events.clock()
        self._counted: dict[tuple[str, str], tuple[int, float]] = {}
        weights, calling, delivering = weights_of(bus), bus.calling, bus.delivering
        for flow in flows:
            for target in calling[flow]:
                if target.name not in self._transports:
                    one = open_to(target, allow=allow, connections=connections, deadline=transport.DEADLINE)
                    access = Access(target)
                    one.noticed, one.lacking = partial(self._noticed, target.name), partial(self._lacking, access)
                    self._transports[target.name], self._accesses[target.name] = one, access
                gate = Gate(self._accesses[target.name], target, weights[flow, target.name])
                self._gates[flow, target.name] = gate
            sink = delivering[flow].to if flow in delivering else None
            if isinstance(sink, CompositeSink):
                gates = Counter(self.gate(flow, sink.target_of(call.name)) for call in sink.calls)
                self.gate(flow, sink.target).lead_to(gates)

    async def __aenter__(self) -> Self:
        for one in self._transports.values():
            await self._stack.enter_async_context(one)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def gate(self, flow: str, target: Target) -> Gate:
        """Give what stands between a flow and a target."""
        return self._gates[flow, target.name]

    def client(self, target: Target) -> httpx.AsyncClient:
        """Give the client with which a hand-written sink calls a target."""
        if target.name not in self._clients:
            self._clients[target.name] = client_of(self._transports[target.name])
        return self._clients[target.name]

    def divide(self, flow: str, owned: float) -> None:
        """Let a flow have so much of its partitions, at every target that it calls."""
        now = events.clock()
        for (name, _), gate in self._gates.items():
            if name == flow:
                gate.divide(owned, now)
                asyncio.get_running_loop().call_soon(gate.stir)

    def send(
        self, target: Target, request: Request, key: str, under: Idempotency | None, *, again: bool
    ) -> Coroutine[Any, Any, Response]:
        """Make one call that has begun, with the idempotency key as the target takes it; without when `under` is None.

        `again` says that an earlier one for its event may have hidden its status.

        Raises:
            Retryable, Unknown, Permanent: as `Transport.send`.
            Unavailable: there are no credentials now; nothing was sent, and the target stands still for a while.
        """
        return self._transports[target.name].send(request, key, under, again=again)

    async def call(
        self,
        flow: str,
        target: Target,
        request: Request,
        key: str,
        under: Idempotency | None,
        *,
        again: bool,
        counted: bool = False,
    ) -> Response:
        """Make one of several calls for an event: begin it, send it, and take its end.

        It is `counted` when the limit of its target was charged as the event began.

        Raises:
            Retryable, Unknown, Permanent: as `Transport.send`.
            Unavailable: the target stands still, and nothing was sent.
        """
        gate, now = self.gate(flow, target), events.clock()
        if gate.access.room(now) <= 0:
            word, _ = gate.access.says(now)
            raise Unavailable(f"target {target.name} is not called now: it is {word}")
        call = gate.begin_one(now, counted=counted)
        try:
            response = await self.send(target, request, key, under, again=again)
        except (Retryable, Unknown) as error:
            self.ended(gate, call, error, None)
            raise
        except BaseException:
            self.unmade(gate, call)
            raise
        self.ended(gate, call, meaning(response), response)
        return response

    def ended(self, gate: Gate, call: Begun, verdict: Verdict, response: Response | None) -> None:
        """Take the end of a call that was begun, and wake who waits for it."""
        access, now = gate.access, events.clock()
        access.ended(call, verdict, response, now, utc)
        if access.calm:
            return
        if access.name in self._told or not access.is_plain(now):
            self._changed(access, now)
        elif not access.throttle.stopped:
            access.calm = True

    def unmade(self, gate: Gate, call: Begun) -> None:
        """Take a call back that was begun and not made."""
        now = events.clock()
        gate.made -= 1
        gate.access.unmade(call, now)
        if not gate.access.closed:
            self._changed(gate.access, now)

    def obey(self, orders: Orders) -> None:
        """Bring the orders that hold into force (L5)."""
        now = events.clock()
        before, self._resumed = self._resumed, orders.resumed
        for name, access in self._accesses.items():
            known = order_name(name)
            access.pause(now, paused=known in orders.paused)
            resumed = orders.resumed.get(known)
            if before is not None and resumed is not None and resumed != before.get(known):
                access.go_on(now)
            self._changed(access, now)

    def standing(self) -> dict[str, str]:
        """Say in a word how each target stands that is not simply called."""
        return dict(self._told)

    def paces(self) -> dict[str, dict[str, float]]:
        """Give the calls a second that each flow has made of each target with a limit since this was last asked."""
        found: dict[str, dict[str, float]] = {}
        now = events.clock()
        for (flow, target), gate in list(self._gates.items()):
            if gate.limiter is not None:
                made, at = self._counted.get((flow, target), (0, self._began))
                self._counted[flow, target] = gate.made, now
                found.setdefault(target, {})[flow] = round(max(0, gate.made - made) / max(now - at, 0.001), 3)
        return found

    def notices(self) -> dict[str, list[str]]:
        """Say what targets announce of their APIs, by target; may be asked from any thread."""
        return {target: list(found) for target, found in self._notices.copy().items()}

    def _noticed(self, target: str, headers: Mapping[str, str]) -> None:
        """Tell what a target announces, once for each thing it says."""
        known = self._notices.get(target, {})
        for notice in notices_of(headers):
            if notice.text in known or len(known) >= ANNOUNCED:
                continue
            known = {**known, notice.text: notice}
            self._notices[target] = known
            times = [one.at.timestamp() for one in known.values() if one.kind == notice.kind and one.at is not None]
            self._observe(
                Observed(
                    "announced",
                    "",
                    target=target,
                    outcome=notice.kind,
                    seconds=min(times, default=0.0),
                    detail=notice.text,
                )
            )

    def _lacking(self, access: Access, error: NoToken) -> None:
        """Let a target stand still for which there are no credentials."""
        now = events.clock()
        access.stop(now, error.after, str(error))
        self._changed(access, now)

    def _changed(self, access: Access, now: float) -> None:
        """Wake whoever waits for a target, and tell how it stands when that is news."""
        for gate in access.gates:
            asyncio.get_running_loop().call_soon(gate.stir)
        word, seconds = access.says(now)
        if word == self._told.get(access.name, "running"):
            return
        if word == "running":
            del self._told[access.name]
        else:
            self._told[access.name] = word
        circuit = CLOSED if access.circuit is None else access.circuit.state
        self._observe(Observed("circuit", "", target=access.name, outcome=circuit.value, detail=word))
        if word == WAITING:
            why = access.throttle.why
            self._observe(Observed("told to wait", "", target=access.name, seconds=seconds, detail=why))


def weights_of(bus: Bus) -> dict[tuple[str, str], float]:
    """Divide each target among the flows that call it, in this process or another, by their declared weight (D13)."""
    calling = [
        (name, target.name, flow.weight)
        for name, flow in bus.named()
        if isinstance(flow, Process | Deliver)
        for target in targets_called(flow)
    ]
    total: dict[str, float] = {}
    for _, target, weight in calling:
        total[target] = total.get(target, 0.0) + weight
    return {(flow, target): weight / total[target] for flow, target, weight in calling}


def order_name(target: str) -> str:
    """Give the name under which orders speak of a target; no sink has such a one."""
    return f"target:{target}"


def is_failure(verdict: Verdict, status: int | None) -> bool | None:
    """Say whether a call failed by the target's fault; None when its end says nothing of that."""
    if status is None:  # a hand-written sink says without an answer that the target has it
        return True if isinstance(verdict, Retryable | Unknown) else False if isinstance(verdict, Delivered) else None
    return (status >= 500 or status == 408) and isinstance(verdict, Retryable)


def meaning(response: Response) -> Verdict:
    """Give what an answer says of its target, whatever it means for the event."""
    return Retryable("", status=response.status) if response.status >= 500 else Permanent("", status=response.status)
