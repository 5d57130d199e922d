"""Deliveries: one row per event and sink, written before anything counts as done (D2, D3, L1)."""

import enum
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trunkline.event import Event, digest

SHORT = 16
"""Bytes kept of a digest: 2^64 events before two are likely to share one."""


class State(enum.IntEnum):
    """How a delivery ended. From the main topic either is final; a live replay opens a DEAD one again."""

    DONE = 1
    DEAD = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a delivery's row is: day of the event and digest of its identity."""

    day: int
    id: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """What the ledger knows of one delivery."""

    state: State
    payload: bytes
    attempts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery ended, to be recorded."""

    place: Place
    sink: int
    state: State
    key: bytes | None
    partition: int
    offset: int
    payload: bytes
    attempts: int
    at: datetime


def place_of(sink: str, event: Event[Any]) -> Place:
    """Give the place of an event's row for a sink."""
    return Place(int(event.time.timestamp() // 86_400), digest(sink, event.source, event.id)[:SHORT])


def payload_of(body: bytes) -> bytes:
    """Identify a payload: its Avro body, without the schema id in front."""
    return digest(body)[:SHORT]


def number_of(db: sqlite3.Connection, sink: str) -> int:
    """Give the number that stands for a sink in the ledger, made when new."""
    db.execute("INSERT INTO sinks (name) VALUES (?) ON CONFLICT DO NOTHING", (sink,))
    number: int = db.execute("SELECT number FROM sinks WHERE name = ?", (sink,)).fetchone()[0]
    return number


def look_up(db: sqlite3.Connection, places: Sequence[Place]) -> dict[Place, Row]:
    """Find what is known of these deliveries, in one query; absent ones are not in the result."""
    if not places:
        return {}
    wanted = ", ".join(["(?, ?)"] * len(places))
    rows = db.execute(
        f"WITH wanted (day, id) AS (VALUES {wanted}) "  # noqa: S608 - only question marks
        "SELECT d.day, d.id, d.state, d.payload, d.attempts FROM wanted "
        "CROSS JOIN deliveries d ON d.day = wanted.day AND d.id = wanted.id",
        [value for place in places for value in (place.day, place.id)],
    )
    return {Place(day, id_): Row(State(state), payload, tried) for day, id_, state, payload, tried in rows}


def record(db: sqlite3.Connection, outcomes: Iterable[Outcome]) -> None:
    """Write outcomes; DONE is never taken back, and where the event first stood is kept."""
    db.executemany(
        "INSERT INTO deliveries (day, id, sink, state, key, partition, offset, payload, attempts, at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (day, id) DO UPDATE SET "
        "state = min(state, excluded.state), attempts = attempts + excluded.attempts, at = excluded.at",
        (
            (
                outcome.place.day,
                outcome.place.id,
                outcome.sink,
                outcome.state,
                outcome.key,
                outcome.partition,
                outcome.offset,
                outcome.payload,
                outcome.attempts,
                int(outcome.at.timestamp() * 1000),
            )
            for outcome in outcomes
        ),
    )


def count(db: sqlite3.Connection, sink: str) -> Counter[State]:
    """Count the deliveries of a sink by state."""
    rows = db.execute(
        "SELECT state, count(*) FROM deliveries JOIN sinks ON number = sink WHERE name = ? GROUP BY state", (sink,)
    )
    return Counter({State(state): many for state, many in rows})
