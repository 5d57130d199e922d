"""What became of deliveries, on a topic that is kept for ever: the audit trail, and what a ledger is rebuilt from (L4).

An entry is appended and acknowledged before the ledger counts what it says; of an event and a sink, the last one holds.
It names the event and where it stood; what the event held is not in it.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from trunkline.deadletter import Origin
from trunkline.event import Headers

HEADERS: Headers = (("content-type", b"application/json"),)


@dataclass(frozen=True, slots=True)
class Entry:
    """One delivery that came to one of DEAD, PARKED, AMBIGUOUS, SUPERSEDED, DISCARDED, or in a replay to DONE."""

    at: datetime
    flow: str
    sink: str
    source: str
    event: str
    time: datetime
    """When the event happened: `ce_time`."""
    origin: Origin
    """Where it first stood."""
    key: str | None
    """The digest of the record's key in hex, as the ledger keeps it; None without a key."""
    payload: str
    """The digest of its content in hex, as the ledger keeps it."""
    state: str
    """The name of a ledger's state."""
    attempts: int
    run: str = ""
    """The replay that ended so, if one did."""
    kind: str = ""
    """Why, as a class: poison, permanent, exhausted, unknown, parked, skipped …"""
    who: str = ""
    """The person who decided it, if one did."""
    why: str = ""
    """That person's reason. What a target said stands in the dead letter alone."""


class Sent(NamedTuple):
    """An entry in the form in which `kafka.events.Sender.send` takes it."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers


def record_of(topic: str, entry: Entry) -> Sent:
    """Give the record that says it, keyed by the event's id."""
    return Sent(topic, entry.event.encode(), write(entry), HEADERS)


def write(entry: Entry) -> bytes:
    """Write an entry as one JSON object."""
    return orjson.dumps(asdict(entry))


def entry_of(value: bytes | None) -> Entry | None:
    """Read an entry; None where there is none."""
    try:
        return read(value)
    except ValueError:
        return None


def read(value: bytes | None) -> Entry:
    """Read an entry; fields that a newer version has added are passed over.

    Raises:
        ValueError: it is none.
    """
    try:
        found: dict[str, Any] = orjson.loads(value or b"")
        known = {name: found[name] for name in Entry.__dataclass_fields__ if name in found}
        return Entry(
            **known
            | {
                "at": datetime.fromisoformat(found["at"]),
                "time": datetime.fromisoformat(found["time"]),
                "origin": Origin(**found["origin"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no entry of the outcomes: {error}") from None
