"""Claims: what a source has posted, so that a repeat is recognised and never published twice (G1)."""

import enum
from collections.abc import Iterable
from typing import Literal

from trunkline.event import digest
from trunkline.ledger.database import Connection

PATIENCE = 15.0
"""Seconds for which a claim is its owner's: longer than the producer tries."""

SCHEMA = 4
"""Bytes with which a payload begins: the id of the schema that it is written with."""

Answer = Literal["ours", "published", "pending", "conflict"]


class State(enum.IntEnum):
    """How far a posted event is."""

    PENDING = 1
    PUBLISHED = 2


def id_of(source: str, event_id: str) -> bytes:
    """Give the claim's id."""
    return digest(source, event_id)[:16]


def take(db: Connection, claim: bytes, payload: bytes, owner: str, now: float) -> Answer:
    """Claim an event before it is published.

    "ours": publish it. "published": it is on the topic already. "pending": another post of it is under way, come back
    later. "conflict": the id was used for another payload. Payloads of two schemas do not tell whether their contents
    differ: it may be a repeat of before the schema had a new version, or from a worker that has none yet.
    """
    if db.run(
        "INSERT INTO claims (id, payload, state, owner, deadline) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING "
        "RETURNING 1",
        *(claim, payload, State.PENDING, owner, now + PATIENCE),
    ):
        return "ours"
    [(theirs, state)] = db.run("SELECT payload, state FROM claims WHERE id = ?", claim)
    if theirs != payload and theirs[:SCHEMA] == payload[:SCHEMA]:
        return "conflict"
    if state == State.PUBLISHED:
        return "published"
    taken = db.run(
        "UPDATE claims SET owner = ?, deadline = ? WHERE id = ? AND state = ? AND deadline <= ? RETURNING 1",
        *(owner, now + PATIENCE, claim, State.PENDING, now),
    )
    return "ours" if taken else "pending"


def publish(db: Connection, claim: bytes) -> None:
    """Note that the broker has acknowledged the event."""
    db.run("UPDATE claims SET state = ? WHERE id = ?", State.PUBLISHED, claim)


def release(db: Connection, claims: Iterable[bytes], owner: str) -> None:
    """Give claims up after a failure, so that the sender's next try may take them at once."""
    for claim in claims:
        db.run("UPDATE claims SET deadline = 0 WHERE id = ? AND owner = ? AND state = ?", claim, owner, State.PENDING)
