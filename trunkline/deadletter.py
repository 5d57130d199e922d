"""A dead letter: the record as it was, byte for byte, and headers that say why it could not be delivered.

The `__connect.errors.*` names are Kafka Connect's (KIP-298), so existing tools read them; `trunkline-*` are ours.
The first origin is written once and survives replays; what describes the last failure is replaced.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from trunkline.event import Event, Headers

Kind = Literal["poison", "permanent", "exhausted", "unknown", "parked", "skipped"]
"""Why: it is no event, refused, tried for too long, perhaps applied, behind a dead one of its key, skipped by order."""
ORIGIN = ("trunkline-origin-topic", "trunkline-origin-partition", "trunkline-origin-offset")
REFERENCE = "trunkline-reference-sha256"
"""On a letter without its value: the digest of the value that stands at its origin."""
REPLAY_RUN = "trunkline-replay-run"
REPLAY_COUNT = "trunkline-replay-count"
FIRST_FAILED = "trunkline-first-failed-at"
NEVER = datetime.fromtimestamp(0, UTC)
"""The time of a record that is no event: one that a replay of the record shares."""
KEPT_ON_REPLAY = {*ORIGIN, REPLAY_COUNT, FIRST_FAILED}
OURS = {
    *KEPT_ON_REPLAY,
    REFERENCE,
    REPLAY_RUN,
    *(f"trunkline-{name}" for name in ("last-failed-at", "flow", "class", "stage", "attempts", "http-status")),
    *(f"__connect.errors.{name}" for name in ("topic", "partition", "offset", "connector.name", "stage")),
    *(f"__connect.errors.exception.{name}" for name in ("class.name", "message")),
}
"""The headers that a letter or a replay adds; every other header is the event's own."""
NAMING = {*ORIGIN, "trunkline-class", "ce_source", "ce_id"}
LONGEST = 2048
"""Characters of a message that a header keeps: all our headers together stay far below 16 KiB (D5)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record first stood."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an event is dead; `stage` is decode, process or deliver."""

    flow: str
    kind: Kind
    stage: str
    error: str
    message: str
    attempts: int
    status: int | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """What the headers of a dead letter say."""

    origin: Origin
    failure: Failure
    first_failed_at: datetime
    replays: int


def sent_again(headers: Headers, here: Origin) -> tuple[Origin, str]:
    """Give the first origin and the run of a record of a replay topic; `here` and "" when a replay did not write it."""
    try:
        found = ours(headers)
        return origin_in(found), found[REPLAY_RUN]
    except (KeyError, ValueError):
        return here, ""


def who_of(headers: Headers) -> tuple[str, str]:
    """Give source and id of the event of a dead letter, and read no more of it than that takes.

    Raises:
        KeyError, ValueError: the record is not a dead letter of ours.
    """
    found = {name: value.decode() for name, value in headers if name in NAMING and value is not None}
    if found["trunkline-class"] != "poison":
        return found["ce_source"], found["ce_id"]
    event = stray(origin_in(found))
    return event.source, event.id


def origin_in(found: Mapping[str, str]) -> Origin:
    """Read where a record first stood from headers as text.

    Raises:
        KeyError, ValueError: they do not say so, or no topic has such a place.
    """
    topic, partition, offset = found[ORIGIN[0]], int(found[ORIGIN[1]]), int(found[ORIGIN[2]])
    if not (0 <= partition < 1 << 31 and 0 <= offset < 1 << 63):
        raise ValueError(f"no topic has such a place: {partition}@{offset}")
    return Origin(topic, partition, offset)


def time_of(text: str) -> datetime:
    """Read a time of ours.

    Raises:
        ValueError: it is none, has no offset, or is none in UTC.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"the time has no offset: {text}")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{error}: {text}") from None


def stray(origin: Origin) -> Event[Any]:
    """Give the identity of a record that is no event: the place where it first stood, whatever its headers claim."""
    return Event(f"{origin.partition}@{origin.offset}", NEVER, {}, source=f"kafka:{origin.topic}")


def write(headers: Headers, origin: Origin, failure: Failure) -> Headers:
    """Give the headers of the dead letter: the event's own, untouched and in order, then ours."""
    at = failure.at.isoformat().encode()
    first, replays = history(headers, at)
    added: list[tuple[str, bytes | None]] = [
        ("__connect.errors.topic", origin.topic.encode()),
        ("__connect.errors.partition", str(origin.partition).encode()),
        ("__connect.errors.offset", str(origin.offset).encode()),
        ("__connect.errors.connector.name", failure.flow.encode()),
        ("__connect.errors.stage", failure.stage.encode()),
        ("__connect.errors.exception.class.name", failure.error.encode()),
        ("__connect.errors.exception.message", failure.message[:LONGEST].encode(errors="replace")),
        (ORIGIN[0], origin.topic.encode()),
        (ORIGIN[1], str(origin.partition).encode()),
        (ORIGIN[2], str(origin.offset).encode()),
        (FIRST_FAILED, first),
        ("trunkline-last-failed-at", at),
        ("trunkline-flow", failure.flow.encode()),
        ("trunkline-class", failure.kind.encode()),
        ("trunkline-stage", failure.stage.encode()),
        ("trunkline-attempts", str(failure.attempts).encode()),
        (REPLAY_COUNT, replays),
    ]
    if failure.status is not None:
        added.append(("trunkline-http-status", str(failure.status).encode()))
    return (*original(headers), *added)


def history(headers: Headers, at: bytes) -> tuple[bytes, bytes]:
    """Give when an event first failed and how many replays it has been through; `at` and none if it does not say so.

    Whoever writes to a topic may use our names: a letter with what is none of ours could not be read.
    """
    try:
        found = ours(headers)
        first, replays = time_of(found[FIRST_FAILED]), int(found[REPLAY_COUNT])
    except (KeyError, ValueError):
        return at, b"0"
    return first.isoformat().encode(), str(replays).encode()


def by_reference(headers: Headers, value: bytes | None) -> Headers:
    """Give the headers of a letter that is too large to hold its value: where to find it is its origin (D5)."""
    return (*headers, (REFERENCE, hashlib.sha256(value or b"").hexdigest().encode()))


def original(headers: Headers) -> Headers:
    """Give the event's own headers: what the record had before it first failed."""
    return tuple((name, value) for name, value in headers if name not in OURS)


def ours(headers: Headers) -> dict[str, str]:
    """Give the headers that a letter or a replay has added, as text.

    Raises:
        ValueError: one is no UTF-8.
    """
    return {name: value.decode() for name, value in headers if name in OURS and value is not None}


def read(headers: Headers) -> Letter:
    """Read a dead letter's headers.

    Raises:
        KeyError, ValueError: the record is not a dead letter of ours.
    """
    found = ours(headers)
    status = found.get("trunkline-http-status")
    kind: Kind | None = next((kind for kind in get_args(Kind) if kind == found["trunkline-class"]), None)
    if kind is None:
        raise ValueError(f"no class of dead letters: {found['trunkline-class']}")
    return Letter(
        origin=origin_in(found),
        failure=Failure(
            flow=found["trunkline-flow"],
            kind=kind,
            stage=found["trunkline-stage"],
            error=found["__connect.errors.exception.class.name"],
            message=found["__connect.errors.exception.message"],
            attempts=int(found["trunkline-attempts"]),
            status=None if status is None else int(status),
            at=time_of(found["trunkline-last-failed-at"]),
        ),
        first_failed_at=time_of(found[FIRST_FAILED]),
        replays=int(found[REPLAY_COUNT]),
    )


def replayed(headers: Headers, run: str) -> Headers:
    """Give the headers of the record that a replay sends: the event's own, its origin, and the run that sent it."""
    kept = tuple((name, value) for name, value in headers if name in KEPT_ON_REPLAY and name != REPLAY_COUNT)
    count = int(ours(headers).get(REPLAY_COUNT, "0")) + 1
    return (*original(headers), *kept, (REPLAY_COUNT, str(count).encode()), (REPLAY_RUN, run.encode()))
