"""What travels: an event with one identity for its whole life, and the headers that carry it (CloudEvents 1.0).

Identity is (source, id). It is minted once at the edge; everything made from it is derived by hashing
length-prefixed parts, so that the same input always gives the same output (SEMANTICS I2).
"""

import hashlib
import struct
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

from trunkline.errors import Poison

D = TypeVar("D", bound=Mapping[str, Any])
E = TypeVar("E", bound=Mapping[str, Any])

Header = tuple[str, bytes | None]
Headers = tuple[Header, ...]

NOTHING: Mapping[str, Any] = {}
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
"""Two characters for every ten bits (RFC 4648 §6): twice as fast as the standard library's base32."""
PARENT = "trunkline-parent"
"""The header that says of which event, and where it stood, a derived one was made."""
SPECVERSION: Header = ("ce_specversion", b"1.0")
CONTENT_TYPE: Header = ("content-type", b"application/avro")
UNREADABLE: Header = ("trunkline-unreadable", b"the name of a header is no UTF-8")
"""What stands for the headers of a record that cannot be told, as one of them has no name."""
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)
TIMES = "an event happens after 1970, at most a day ahead of now, and its time has an offset"
"""What holds of the time of every event that is let in (L2)."""
REQUIRED = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time")


HEAD_OF_DIGEST = struct.Struct(">QQI").unpack
LENGTHS = [length.to_bytes(8, "big") for length in range(1024)]
ABSENT = b"\xff" * 8


@dataclass(frozen=True, init=False)  # with slots, Python 3.11 cannot call Event[X](…)
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

    def __init__(  # in a third of the time that dataclass takes: it sets the fields of a frozen class one by one
        self,
        id: str,  # noqa: A002 - the field's name
        time: datetime,
        data: D,
        source: str = "",
        type: str = "",  # noqa: A002 - the field's name
        key: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.__dict__.update(id=id, time=time, data=data, source=source, type=type, key=key, traceparent=traceparent)

    def having(self, data: E) -> "Event[E]":
        """Return the same event with other data: what an enriching step gives back."""
        return Event(self.id, self.time, data, self.source, self.type, self.key, self.traceparent)


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
    return b"".join([framed(part) for part in parts])


def framed(part: str | bytes | None) -> bytes:
    """Give a part with its length in front."""
    if part is None:
        return ABSENT
    raw = part.encode() if isinstance(part, str) else part
    length = len(raw)
    return (LENGTHS[length] if length < 1024 else length.to_bytes(8, "big")) + raw


framed_once = lru_cache(maxsize=1024)(framed)
"""For parts that come again and again, such as the names of topics."""


@lru_cache(maxsize=256)
def beginning(parts: tuple[str, ...]) -> bytes:
    """Join parts that many digests begin with."""
    return prefixed(parts)


def digest_after(parts: tuple[str, ...], *more: str) -> bytes:
    """Give the digest of all these parts; the first ones are joined once for all digests that begin with them."""
    joined = beginning(parts)
    for part in more:
        joined += framed(part)
    return hashlib.sha256(joined).digest()


def name_of(digested: bytes) -> str:
    """Give 32 lower-case base32 characters of a digest: short enough for every target's key limit."""
    p = PAIRS
    a, b, c = HEAD_OF_DIGEST(digested[:20])
    return (
        f"{p[a >> 54]}{p[a >> 44 & 1023]}{p[a >> 34 & 1023]}{p[a >> 24 & 1023]}{p[a >> 14 & 1023]}{p[a >> 4 & 1023]}"
        f"{p[(a & 15) << 6 | b >> 58]}{p[b >> 48 & 1023]}{p[b >> 38 & 1023]}{p[b >> 28 & 1023]}{p[b >> 18 & 1023]}"
        f"{p[b >> 8 & 1023]}{p[(b & 255) << 2 | c >> 30]}{p[c >> 20 & 1023]}{p[c >> 10 & 1023]}{p[c & 1023]}"
    )


def derived_id(parent: Event[Any], topic: str, key: str | None, ordinal: int) -> str:
    """Give the id of a record that a route made; `ordinal` counts the parent's records of that topic and key (I2)."""
    place = framed_once(str(ordinal))
    parts = framed_once(parent.source) + framed(parent.id) + framed_once(topic) + framed(key) + place
    return name_of(hashlib.sha256(parts).digest())


def idempotency_key(bus: str, sink: str, source: str, event_id: str, call: str = "") -> str:
    """Give the key sent to a target: the same for every attempt, worker, restart and replay; 32 ASCII characters."""
    return name_of(digest_after((bus, sink, source), event_id, call))


def batch_key(keys: Sequence[str]) -> str:
    """Give the key of one call for several events: the same for the same events in the same order (D10)."""
    return keys[0] if len(keys) == 1 else name_of(digest(*keys))


def to_headers(event: Event[Any]) -> Headers:
    """Write an event's identity as Kafka headers (CloudEvents Kafka binding 1.0.2, binary mode)."""
    key = None if event.key is None else event.key.encode()
    time = written(event.time)
    return tuple(headed(event.id, kind_of(event.source, event.type), time, key, event.traceparent))


def kind_of(source: str, type: str) -> tuple[Header, Header]:  # noqa: A002 - the field's name
    """Give the headers that all events of one kind share."""
    return ("ce_source", source.encode()), ("ce_type", type.encode())


def headed(
    event_id: str, kind: tuple[Header, Header], time: bytes, key: bytes | None, traceparent: str | None
) -> list[Header]:
    """Give the headers of an event of this kind; `time` is as `written`."""
    source, type_ = kind
    headers = [SPECVERSION, ("ce_id", event_id.encode()), source, type_, ("ce_time", time), CONTENT_TYPE]
    if key is not None:
        headers.append(("ce_subject", key))
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    return headers


def is_timely(time: datetime, now: datetime) -> bool:
    """Say whether an event that is let in now may have happened then (L2)."""
    return time.tzinfo is not None and FIRST <= time <= now + AHEAD


def written(time: datetime) -> bytes:
    """Write a time as RFC 3339 has it, in UTC."""
    there = time if time.tzinfo is UTC else time.astimezone(UTC)
    return there.isoformat().encode()[:-6] + b"Z"


def from_headers(
    headers: Iterable[tuple[str, bytes | None]], key: bytes | None, data: Mapping[str, Any] = NOTHING
) -> Event[Mapping[str, Any]]:
    """Read an event's identity back and give the event with its data.

    Raises:
        Poison: a required CloudEvents header is missing or no UTF-8, the time is no RFC 3339 time, the key no UTF-8.
    """
    found: dict[str, Any] = dict(headers)
    get = found.get
    event_id, source, kind, at = get("ce_id"), get("ce_source"), get("ce_type"), get("ce_time")
    if not (event_id and source and kind and at and get("ce_specversion")):
        if UNREADABLE[0] in found:
            raise Poison("the name of a header of the record is no UTF-8, so it is no event")
        missing = ", ".join(name for name in REQUIRED if not get(name))
        raise Poison(f"the record has no {missing} header, so it is no event")
    try:
        trace = get("traceparent")
        time = datetime.fromisoformat(at.decode())
        if time.tzinfo is not UTC:
            if time.tzinfo is None:
                raise Poison(f"the ce_time of the record has no offset: {time.isoformat()}")
            time = time.astimezone(UTC)
        return Event(
            event_id.decode(),
            time,
            data,
            source.decode(),
            kind.decode(),
            None if key is None else key.decode(),
            None if trace is None else trace.decode(),
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
