"""What a target's answer means, and what to do about it: two pure functions over two closed unions.

    answer or exception ──judge──▶ Verdict ──decide──▶ Action

The table is the whole policy; adapters that know better return a Verdict of their own.
"""

import contextlib
import email.utils
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, assert_never

from trunkline.errors import Halt, Permanent, Poison, Retryable, Unknown, pass_on
from trunkline.redact import CUT, redact

KEPT = 200
"""Characters of a target's own words that are kept in a verdict."""
LOOKED_AT = 4096
"""Characters of them that are searched for secrets: a page of 64 KiB would hold up all other calls."""
SENTENCES = ("detail", "message", "error_description", "error", "title")
"""Where JSON errors keep their sentence, as RFC 9457, RFC 6749 and most others do."""
REUSED = re.compile(rb"(?i)idempotency_error|reuse|mismatch|not match|different|another (payload|body)")
"""How targets say that an idempotency key came before with another payload."""
READING = ("GET", "HEAD", "OPTIONS", "TRACE")
"""Methods that write nothing (RFC 9110 §9.2.1)."""
LEFT = ("x-ratelimit-remaining", "x-rate-limit-remaining", "ratelimit-remaining")
"""Headers that say how many calls are left."""
LONGEST_WISH = 3600.0
"""Seconds for which a target's Retry-After is honoured at most."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The target has it."""

    status: int


@dataclass(frozen=True, slots=True)
class Superseded:
    """The target holds a later state of the key: this event is no longer due."""

    status: int


Verdict = Delivered | Superseded | Retryable | Permanent | Unknown | Poison | Halt


@dataclass(frozen=True, slots=True)
class Retry:
    """How long one event is tried before it becomes a dead letter, and how the waits grow (full jitter)."""

    give_up_after: timedelta = timedelta(minutes=15)
    longest: timedelta = timedelta(minutes=1)
    first: timedelta = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True)
class Done:
    """Record the delivery."""


@dataclass(frozen=True, slots=True)
class Supersede:
    """Record that the event is no longer due."""


@dataclass(frozen=True, slots=True)
class Again:
    """Call again after `seconds`; the lane waits."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Bury:
    """Write a dead letter of this kind."""

    kind: Literal["poison", "permanent", "exhausted", "unknown"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Pause the sink, keep its offsets, tell a person why."""

    reason: Halt


Action = Done | Supersede | Again | Bury | Stop


def judge(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    method: str = "POST",
    keyed: bool = True,
    latest: bool = False,
) -> Verdict:
    """Say what an HTTP answer to `method` means.

    RFC 9110; 409 and 422 under our key as in draft-ietf-httpapi-idempotency-key-header-07. `keyed` says that the
    request carried our idempotency key, `latest` that the target stores the last state of a key; `now` is the wall
    clock that a Retry-After date is measured against.
    """
    if 200 <= status < 300:
        return Delivered(status)
    said = f"answered {status}{words(body)}"
    running = f"{said.rstrip('.')}: an earlier attempt is still running"
    match status:
        case 401 | 407:
            return Halt(
                f"the target {said.rstrip('.')}: it does not accept our credentials. Check the secret of this target."
            )
        case _ if 300 <= status < 400:
            told = "redirects are never followed. Put the new address in the target's URL."
            return Halt(f"the target {said.rstrip('.')}: {told}")
        case 404 | 410 if method == "DELETE":
            return Delivered(status)
        case 400 | 409 | 422 if keyed and reused(status, body):
            told = "its idempotency key came before with another payload, so one of the two is not applied"
            return Permanent(f"{said.rstrip('.')}: {told}", status=status, alarm=True)
        case 409 if keyed and about_the_key(body):
            return Retryable(running, status=status, after=wished(headers, now))
        case 409 | 412 if latest and method not in READING:
            return Superseded(status)
        case 409 if keyed:
            return Retryable(running, status=status, after=wished(headers, now))
        case 408 | 425 | 429:
            return Retryable(said, status=status, after=wished(headers, now))
        case 403 | 413 if passes(status, headers, now):
            return Retryable(said, status=status, after=wished(headers, now))
        case _ if 400 <= status < 500:
            return Permanent(said, status=status)
        case _:
            return Retryable(said, status=status, after=wished(headers, now))


def passes(status: int, headers: Mapping[str, str], now: datetime) -> bool:
    """Say whether a refusal passes by its own word: with Retry-After (RFC 9110 §15.5.14), or as no calls are left.

    Some answer 403 to what is a 429 elsewhere; GitHub is one.
    """
    return wished(headers, now) is not None or (status == 403 and any(headers.get(name) == "0" for name in LEFT))


def about_the_key(body: bytes) -> bool:
    """Say whether an answer speaks of the idempotency key."""
    return b"idempoten" in body.lower()


def reused(status: int, body: bytes) -> bool:
    """Say whether an answer says that the key came before with another payload.

    422 is the status that the draft has for just this; others say it with 400 (`idempotency_error`) or 409.
    """
    return about_the_key(body) and (status == 422 or REUSED.search(body) is not None)


def of_exception(error: BaseException) -> Verdict:
    """Say what an exception from an adapter or a call means; a Python bug is the event's fault (under the guard).

    So is an exit, or whatever else is no Exception, unless it asks us to end: then it is raised again.
    """
    pass_on(error)
    match error:
        case Retryable() | Permanent() | Unknown() | Poison() | Halt():
            return error
        case OSError() | TimeoutError():
            return Retryable(f"{type(error).__name__}: {error}")
        case _:
            return Permanent(f"bug in the adapter: {type(error).__name__}: {error}")


def checked(found: object) -> Verdict:
    """Pass what an adapter gives as its verdict.

    Raises:
        TypeError: it is none; most often a `return` is missing.
    """
    if isinstance(found, Verdict):
        return found
    raise TypeError(f"it gives {type(found).__name__} where a verdict is wanted")


def decide(
    verdict: Verdict,
    *,
    attempt: int,
    elapsed: float | None,
    retry: Retry,
    random: Callable[[], float],
    keyed: bool = True,
) -> Action:
    """Turn a verdict into what happens next.

    `attempt` counts from 1, `elapsed` is the seconds since the first one, None while time is no reason to give up, and
    `random` gives numbers in [0, 1). `keyed` says that the target knows idempotency keys: without them an unknown
    outcome is never called again (D4). A wait is the longer of our own and the target's wish, and the wish counts up to
    an hour and to what is left of the patience.
    """
    match verdict:
        case Delivered():
            return Done()
        case Superseded():
            return Supersede()
        case Halt():
            return Stop(verdict)
        case Permanent():
            return Bury("permanent")
        case Poison():
            return Bury("poison")
        case Unknown() if not keyed:
            return Bury("unknown")
        case Retryable() | Unknown():
            left = retry.give_up_after.total_seconds() - (elapsed or 0.0)
            wait = backoff(attempt, retry, random)
            if wait > left and elapsed is not None:
                return Bury("unknown" if isinstance(verdict, Unknown) else "exhausted")
            asked = verdict.after if isinstance(verdict, Retryable) else None
            return Again(wait if asked is None else max(wait, min(asked, LONGEST_WISH, left)))
        case _:
            assert_never(verdict)


def backoff(attempt: int, retry: Retry, random: Callable[[], float]) -> float:
    """Seconds to wait after the attempt: exponential with full jitter, never above `retry.longest`."""
    longest = retry.longest.total_seconds()
    return random() * min(longest, retry.first.total_seconds() * 2.0 ** min(attempt - 1, 32))


def wished(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read Retry-After as seconds from now (RFC 9110 §10.2.3); None when absent or neither a number nor a date.

    Of several numbers the largest counts. A date in the past is 0; one without a zone is UTC, as in asctime's form.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if re.fullmatch(r"[0-9]+([ \t]*,[ \t]*[0-9]+)*", value):
        return max(float(number) for number in value.split(","))
    try:
        date = email.utils.parsedate_to_datetime(value)
        aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return max(0.0, (aware - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def words(body: bytes) -> str:
    """Give what the target said on one line, harmless to a terminal: a JSON error's sentence, else the start."""
    said = body.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(body) if b"{" in body[:KEPT] else None
        if isinstance(found, dict):
            said = next((found[name] for name in SENTENCES if isinstance(found.get(name), str)), said)
    text = redact(" ".join(said.split())[:LOOKED_AT])  # before it is cut to size: nobody finds half a secret
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    plain = text if len(text) <= KEPT else text[: KEPT - 1] + CUT
    return f": {plain}" if plain else ""


def fingerprint(verdict: Permanent) -> str:
    """Give what alike refusals have in common: the status, else the message without its numbers and quoted parts."""
    if verdict.status is not None:
        return str(verdict.status)
    return re.sub(r"""'[^']*'|"[^"]*"|[0-9]+""", "…", str(verdict))


@dataclass(slots=True)
class Guard:
    """Notices that it is not the event but everything: counts refusals in a row (DESIGN §5, SEMANTICS D11).

    Twenty permanent failures of one kind in a row over at least five keys, or a 403 or 410 for five different keys in
    a row, are a Halt: a bad release dead-letters twenty events and not a topic.
    """

    kind: str = ""
    count: int = 0
    keys: set[bytes | None] = field(default_factory=set)
    barred: set[bytes | None] = field(default_factory=set)

    def consider(self, verdict: Verdict, key: bytes | None) -> Verdict:
        """Return the verdict, or a Halt in its place when too many in a row are alike."""
        match verdict:
            case Permanent():
                return self._refused(verdict, key)
            case Retryable() | Unknown() | Poison():
                return verdict
            case Delivered() | Superseded() | Halt():
                if self.count or self.barred:
                    self._begin("")
                    self.barred.clear()
                return verdict
            case _:
                assert_never(verdict)

    def _refused(self, verdict: Permanent, key: bytes | None) -> Verdict:
        if (kind := fingerprint(verdict)) != self.kind:
            self._begin(kind)
        self.count += 1
        if len(self.keys) < 5:
            self.keys.add(key)
        if verdict.status not in (403, 410):
            self.barred.clear()
        else:
            self.barred.add(key)
            if len(self.barred) >= 5:
                return Halt(f"{len(self.barred)} different keys in a row were refused: {verdict}")
        if self.count > 20 and len(self.keys) >= 5:
            return Halt(f"{self.count - 1} events in a row were refused alike: {verdict}")
        return verdict

    def _begin(self, kind: str) -> None:
        self.kind, self.count = kind, 0
        self.keys.clear()
