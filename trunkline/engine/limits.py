"""How fast a target may be called: what we declare, what it tells, what it asks. Pure: the clock is an argument.

A limit is shared by everybody who calls the target, without anybody between them (D13): each flow has the share that
its weight and its partitions give it, so that all shares together are at most one.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from trunkline.engine.breaker import ANY
from trunkline.flow.declare import Limit
from trunkline.verdict import LONGEST_WISH, wished

SECONDS = {"second": 1.0, "minute": 60.0}
CATCH_UP = 0.02
"""Seconds of a limit's calls that are made up for when a timer was late: without them every lateness is lost."""
FIRST_STOP, LONGEST_STOP = 1.0, 60.0
"""Seconds that a 429 stops a target which does not say how long; each that follows it without a success doubles it."""
PACING = 60.0
"""Seconds of a policy's window up to which its quota is a pace; a day's quota is not to be spread over the day."""
SHORTEST_WINDOW = 1.0
"""Seconds of a window at least: resets are told in whole ones, and 0 when it is over in less."""
LONGEST_FIELD = 1_000
"""Characters of a header that are read."""
LATEST_EPOCH = 1_000_000_000
"""A reset above this is a moment, in seconds since 1970; below it is seconds from now."""
MILLISECONDS = 100 * LATEST_EPOCH
"""A reset above this is such a moment in milliseconds: in seconds it would be in the year 5138."""
ALMOST = 1e-9


class Limiter:
    """A flow's share of a limit: a bucket of calls that fills evenly, empty at first.

    It may go into debt, by calls that could not wait; what comes next waits the longer.
    """

    def __init__(self, limit: Limit) -> None:
        self._rate = limit.events / SECONDS[limit.per]
        self._burst = limit.burst or 0.0
        self.rate = 0.0
        """Calls a second."""
        self._most = 0.0
        self._held = 0.0
        self._at = 0.0

    def divide(self, share: float, now: float) -> None:
        """Have another share from now on.

        A smaller one takes away at once what it does not hold, a larger one begins with what there was: while shares
        go from hand to hand, all buckets together hold no more than one would (but one call each).
        """
        self._fill(now)
        self.rate = self._rate * share
        self._most = max(1.0 + self.rate * CATCH_UP, self._burst * share) if share > 0 else 0.0
        self._held = min(self._held, self._most)

    def room(self, now: float) -> int:
        """Say how many calls may begin now."""
        if now != self._at:
            self._fill(now)
        held = self._held + ALMOST
        return int(held) if held >= 1 else 0

    def take(self, now: float, calls: int = 1) -> None:
        """Make a call, or several."""
        if now != self._at:
            self._fill(now)
        self._held -= calls

    def wait(self, now: float) -> float:
        """Give the seconds until there is room for one call; infinite without a share."""
        self._fill(now)
        return max(0.0, (1 - self._held) / self.rate) if self.rate > 0 else math.inf

    def _fill(self, now: float) -> None:
        self._held = min(self._most, self._held + (now - self._at) * self.rate)
        self._at = now


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer says of the target's limit, of several the strictest."""

    remaining: float | None = None
    """Calls that are left until `reset`, to everybody who has our credentials."""
    reset: float | None = None
    """Seconds from now."""
    quota: Limit | None = None
    """What it allows altogether."""


class Throttle:
    """What a target asks of us: to stop for a while, or to make so many calls at most until then.

    It stops every sink of the target in this process. Other processes hear of it by their own calls.
    """

    def __init__(self) -> None:
        self.until = 0.0
        """Nothing begins before."""
        self.why = ""
        self.share = 0.0
        """Of what the target allows, what is this process's."""
        self.stopped = 0.0
        """Seconds for which it was stopped last without having said how long; none since a call has succeeded."""
        self.flying = 0
        """Calls that have begun and not ended."""
        self._left: float | None = None
        self._reset = 0.0
        self._most = self._window = 0.0
        """The most calls that were ever left, and the longest time until a reset: what the next window is taken for."""
        self._quota: Limit | None = None
        self._learnt: Limiter | None = None

    @property
    def limited(self) -> bool:
        """Whether the target has named a number of calls."""
        return self._left is not None or self._learnt is not None

    def divide(self, share: float, now: float) -> None:
        """Have another share from now on."""
        self.share = share
        if self._learnt is not None:
            self._learnt.divide(share, now)

    def room(self, now: float) -> int:
        """Say how many calls may begin now."""
        if now < self.until:
            return 0
        room = ANY
        if self._left is not None:
            if now >= self._reset:
                self._renew(now)
            room = max(0, math.floor(self._left + ALMOST))
        if self._learnt is not None:
            room = min(room, self._learnt.room(now))
        return room

    def wait(self, now: float) -> float:
        """Give the seconds until there is room by itself."""
        wait = self.until - now
        if self._left is not None and self._left < 1:
            wait = max(wait, self._reset - now)
        if self._learnt is not None:
            wait = max(wait, self._learnt.wait(now))
        return max(0.0, wait)

    def begin(self, now: float) -> None:
        """Make a call."""
        self.flying += 1
        if self._left is not None:
            self._left -= 1
        if self._learnt is not None:
            self._learnt.take(now)

    def unmade(self, now: float) -> None:
        """Take a call back that was not made."""
        self.flying -= 1
        if self._left is not None:
            self._left += 1
        if self._learnt is not None:
            self._learnt.take(now, -1)

    def ended(
        self, began: float, status: int | None, headers: Mapping[str, str], now: float, wall: Callable[[], datetime]
    ) -> None:
        """Take the end of a call that began at some time; `status` is None when there was no answer."""
        self.flying -= 1
        if status is None:
            return
        if not SAYING.isdisjoint(headers) and (said := told(headers, wall())) is not None:
            self._learn(said, now)
        elif status < 400:  # it tells no more
            self._left = None
        if status == 429:
            new = now >= self.until
            if new:
                self.stopped = min(LONGEST_STOP, max(FIRST_STOP, 2 * self.stopped))
            self.stop(now, max(self.stopped if new else 0.0, wished(headers, wall()) or 0.0), "it answered 429")
        elif status >= 500 or status == 403:
            if (wish := wished(headers, wall())) is not None:
                self.stop(now, wish, f"it answered {status} with Retry-After")
        elif status < 400 and began >= self.until:
            self.stopped = 0.0

    def stop(self, now: float, seconds: float, why: str) -> None:
        """Let nothing begin for so long, an hour at most."""
        until = now + min(seconds, LONGEST_WISH)
        if until > self.until:
            self.until, self.why = until, why

    def go_on(self, now: float) -> None:
        """End every stop: a person says so."""
        self.until = min(self.until, now)
        self._left, self.stopped = None, 0.0

    def _learn(self, said: Told, now: float) -> None:
        if said.remaining is not None and said.reset is not None:
            reset = min(said.reset, LONGEST_WISH)
            if said.remaining <= 0 and reset <= 0:  # as of one who counts nothing, or whose clock is behind
                self._left = None
                return
            if said.remaining <= 0:
                self.stop(now, reset, "it allows no more calls until then")
            self._most, self._window = max(self._most, said.remaining), max(self._window, reset, SHORTEST_WINDOW)
            # Whether what is in flight is counted already, nobody tells.
            self._left, self._reset = said.remaining * self.share - self.flying, now + reset
        elif said.quota is not None and said.quota != self._quota:
            self._quota, self._learnt = said.quota, Limiter(said.quota)
            self._learnt.divide(self.share, now)

    def _renew(self, now: float) -> None:
        """Begin another window as the last one was, until an answer tells of it: all that wait would begin at once."""
        self._left = max(1.0, self._most * self.share)
        self._reset += self._window * (1 + (now - self._reset) // self._window)


POLICY, STATE, OLD = "ratelimit-policy", "ratelimit", "-remaining"
PREFIXES = ("ratelimit", "x-ratelimit", "x-rate-limit")
SAYING = frozenset({POLICY, STATE, *(prefix + OLD for prefix in PREFIXES)})
"""An answer without one of these headers says nothing of a limit."""
ITEM = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z*][A-Za-z0-9_\-.:/*]*|[0-9]+)\s*((?:;[^,;"]*(?:"[^"]*")?)*)')
PARAMETER = re.compile(r';\s*([a-z*][a-z0-9_\-.*]*)=("[^"]*"|[^;,"\s]+)')
PAIRED = re.compile(r"\s*(limit|remaining|reset)=([0-9]+)\s*,?")
DIGITS = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?")


def told(headers: Mapping[str, str], wall: datetime) -> Told | None:
    """Read what an answer says of the target's limit; None when it says nothing that can be understood.

    `RateLimit` and `RateLimit-Policy` as draft-ietf-httpapi-ratelimit-headers has them now, the forms that its seventh
    version and those before had, and the `X-RateLimit-…` that GitHub and others send, where a reset is seconds or a
    moment, with a fraction or in milliseconds too.
    """
    if STATE in headers or POLICY in headers:
        found = structured(headers)
        if found is not None:
            return found
    if PAIRED.match(headers.get(STATE, "")):
        pairs = dict(PAIRED.findall(headers[STATE][:LONGEST_FIELD]))
        return Told(number(pairs.get("remaining")), number(pairs.get("reset")))
    for prefix in PREFIXES:
        if (remaining := number(headers.get(prefix + OLD))) is None:
            continue
        reset = number(headers.get(f"{prefix}-reset"))
        if reset is not None and reset > LATEST_EPOCH:
            reset = max(0.0, (reset / 1000 if reset > MILLISECONDS else reset) - wall.timestamp())
        return Told(remaining, reset)
    return None


def structured(headers: Mapping[str, str]) -> Told | None:
    """Read the two fields of the draft: what is left comes from the one, the window it is left of from the other."""
    policies = dict(items(headers.get(POLICY, "")))
    of_calls = {name for name, policy in policies.items() if policy.get("qu", '"requests"').strip('"') == "requests"}
    left: list[Told] = []
    for name, state in items(headers.get(STATE, "")):
        if name in policies and name not in of_calls:
            continue
        remaining = number(state.get("r"))
        reset = number(state.get("t"))
        if reset is None:
            reset = number(policies.get(name, {}).get("w"))
        if remaining is not None and reset is not None:
            left.append(Told(remaining, reset))
    if left:
        return min(left, key=lambda one: (one.remaining or 0.0, -(one.reset or 0.0)))
    rates = [
        quota / window
        for name in of_calls
        if (quota := number(policies[name].get("q"))) and 0 < (window := number(policies[name].get("w")) or 0) <= PACING
    ]
    return Told(quota=Limit(min(rates))) if rates else None


def items(field: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the items of a list of structured fields (RFC 9651) with their parameters; stop where it is none."""
    field, at = field[:LONGEST_FIELD], 0
    while (found := ITEM.match(field, at)) is not None:
        yield found[1], dict(PARAMETER.findall(found[2]))
        at = found.end() + 1
        if field[found.end() : at] != ",":
            return


def number(text: str | None) -> float | None:
    """Read a count or seconds; of several the smallest, None when it is neither."""
    if text is None:
        return None
    parts = [part.strip() for part in text[:LONGEST_FIELD].split(",")]
    if not all(DIGITS.fullmatch(part) for part in parts):
        return None
    return min(float(part) for part in parts)
