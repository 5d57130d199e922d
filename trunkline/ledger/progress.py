"""Progress: how far every sink was when it last committed its offsets, so that a rewound ledger is noticed (L3)."""

from collections.abc import Mapping
from typing import TypeVar

from trunkline.ledger.database import Connection

Slot = TypeVar("Slot", bound=tuple[str, int])
"""Topic and partition."""


def advance(db: Connection, sink: str, positions: Mapping[Slot, int]) -> None:
    """Note the offsets before which everything is finished, before they are committed to Kafka.

    One that is behind what is known changes nothing.
    """
    db.join(
        'WITH given (sink, topic, partition, "offset") AS (:rows) '
        'INSERT INTO progress (sink, topic, partition, "offset") SELECT * FROM given WHERE true '
        'ON CONFLICT (sink, topic, partition) DO UPDATE SET "offset" = excluded."offset" '
        'WHERE progress."offset" < excluded."offset"',
        "text text integer bigint",
        [(sink, topic, partition, offset) for (topic, partition), offset in sorted(positions.items())],
    )


def sinks(db: Connection) -> set[str]:
    """Name every sink of which the ledger knows anything."""
    return {name for (name,) in db.run("SELECT name FROM sinks UNION SELECT sink FROM progress")}


def read(db: Connection, sink: str) -> dict[tuple[str, int], int]:
    """Give the positions that the ledger knows of a sink."""
    rows = db.run('SELECT topic, partition, "offset" FROM progress WHERE sink = ?', sink)
    return {(topic, partition): offset for topic, partition, offset in rows}
