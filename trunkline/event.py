"""What travels: an event with one identity for its whole life, and the headers that carry it (CloudEvents 1.0).

Identity is (source, id). It is minted once at the edge; everything made from it is derived by hashing
length-prefixed parts, so that the same input always gives the same output (SEMANTICS I2).
"""

import hashlib
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

from trunkline.errors import Poison

D = TypeVar("D", bound=Mapping[str, Any])
E = TypeVar("E", bound=Mapping[str, Any])

Headers = tuple[tuple[str, bytes | None], ...]

NOTHING: Mapping[str, Any] = {}
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
"""Two characters for every ten bits (RFC 4648 §6): twice as fast as the standard library's base32."""
PARENT = "trunkline-parent"
"""The header that says of which event, and where it stood, a derived one was made."""
REQUIRED = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time")


@dataclass(frozen=True)  # with slots, Python 3.11 cannot call Event[X](…)
class Event(Generic[D]):
    """One thing that happened.

    A source gives `id`, `time` (aware; when it happened) and `data`; the bus adds `source`, `type` and `key`.
    `key` is the value whose order is kept, as text; None when the topic declares no key.
    """

    id: str
    time: datetime
    data: D
    source: str = ""
    type: str = ""
    key: str | None = None
    traceparent: str | None = None

    def having(self, data: E) -> "Event[E]":
        """Return the same event with other data: what an enriching step gives back."""
        return replace(self, data=data)  # type: ignore[arg-type, return-value]


@dataclass(frozen=True, slots=True)
class Drop:
    """A step's answer for an event that goes no further; it is counted as filtered under `reason`."""

    reason: str


class Moment(NamedTuple, Generic[D]):
    """What the body of an agent is given: an event and when it was published, or that time has come so far (`None`).

    `at` is the time of the record, never the `time` at which the event happened: events may be years old.
    """

    at: datetime
    event: Event[D] | None


Stream = AsyncIterable[Moment[D]]
"""What the body of an agent reads, one partition of its topic: at work a Faust stream, in a test any async iterable."""


class Parent(NamedTuple):
    """The event that a derived one was made of, and where it stood in the topic of the flow that made it."""

    partition: int
    offset: int
    source: str
    id: str


def digest(*parts: str | bytes | None) -> bytes:
    """SHA-256 over length-prefixed parts; None differs from the empty string."""
    return hashlib.sha256(prefixed(parts)).digest()


def prefixed(parts: Iterable[str | bytes | None]) -> bytes:
    """Join parts, each with its length in front."""
    joined: list[bytes] = []
    for part in parts:
        if part is None:
            joined.append(b"\xff" * 8)
            continue
        raw = part.encode() if isinstance(part, str) else part
        joined += (len(raw).to_bytes(8, "big"), raw)
    return b"".join(joined)


@lru_cache(maxsize=256)
def beginning(parts: tuple[str, ...]) -> bytes:
    """Join parts that many digests begin with."""
    return prefixed(parts)


def digest_after(parts: tuple[str, ...], *more: str) -> bytes:
    """Give the digest of all these parts; the first ones are joined once for all digests that begin with them."""
    return hashlib.sha256(beginning(parts) + prefixed(more)).digest()


def name_of(digested: bytes) -> str:
    """Give 32 lower-case base32 characters of a digest: short enough for every target's key limit."""
    number = int.from_bytes(digested[:20], "big")
    return "".join([PAIRS[number >> shift & 1023] for shift in range(150, -10, -10)])


def derived_id(parent: Event[Any], topic: str, key: str | None, ordinal: int) -> str:
    """Give the id of a record that a route made; `ordinal` counts the parent's records of that topic and key (I2)."""
    return name_of(digest(parent.source, parent.id, topic, key, str(ordinal)))


def idempotency_key(bus: str, sink: str, source: str, event_id: str, call: str = "") -> str:
    """Give the key sent to a target: the same for every attempt, worker, restart and replay; 32 ASCII characters."""
    return name_of(digest_after((bus, sink, source), event_id, call))


def batch_key(keys: Sequence[str]) -> str:
    """Give the key of one call for several events: the same for the same events in the same order (D10)."""
    return keys[0] if len(keys) == 1 else name_of(digest(*keys))


def to_headers(event: Event[Any]) -> Headers:
    """Write an event's identity as Kafka headers (CloudEvents Kafka binding 1.0.2, binary mode)."""
    headers: list[tuple[str, bytes | None]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.id.encode()),
        ("ce_source", event.source.encode()),
        ("ce_type", event.type.encode()),
        ("ce_time", event.time.astimezone(UTC).isoformat().replace("+00:00", "Z").encode()),
        ("content-type", b"application/avro"),
    ]
    if event.key is not None:
        headers.append(("ce_subject", event.key.encode()))
    if event.traceparent is not None:
        headers.append(("traceparent", event.traceparent.encode()))
    return tuple(headers)


def from_headers(
    headers: Iterable[tuple[str, bytes | None]], key: bytes | None, data: Mapping[str, Any] = NOTHING
) -> Event[Mapping[str, Any]]:
    """Read an event's identity back and give the event with its data.

    Raises:
        Poison: a required CloudEvents header is missing or no UTF-8, the time is no RFC 3339 time, the key no UTF-8.
    """
    found = {name: value for name, value in headers if value is not None}
    if missing := [name for name in REQUIRED if not found.get(name)]:
        raise Poison(f"the record has no {', '.join(missing)} header, so it is no event")
    try:
        trace = found.get("traceparent")
        time = datetime.fromisoformat(found["ce_time"].decode())
        if time.tzinfo is not UTC:
            if time.tzinfo is None:
                raise Poison(f"the ce_time of the record has no offset: {time.isoformat()}")
            time = time.astimezone(UTC)
        return Event(
            id=found["ce_id"].decode(),
            source=found["ce_source"].decode(),
            type=found["ce_type"].decode(),
            time=time,
            key=None if key is None else key.decode(),
            traceparent=None if trace is None else trace.decode(),
            data=data,
        )
    except (ValueError, OverflowError) as error:
        raise Poison(f"a header or the key of the record cannot be read: {error}") from None


def to_parent(parent: Event[Any], partition: int, offset: int) -> tuple[str, bytes]:
    """Give the header of what is made of an event that stands there."""
    return PARENT, f"{partition}@{offset} {parent.source} {parent.id}".encode()


def parent_of(headers: Headers) -> Parent | None:
    """Read of which event another was made; None where no header says so."""
    found = dict(headers).get(PARENT)
    try:
        place, source, event_id = (found or b"").decode().split(" ", 2)
        partition, offset = place.split("@")
        return Parent(int(partition), int(offset), source, event_id)
    except ValueError:
        return None
