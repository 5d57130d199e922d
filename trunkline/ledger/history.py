"""What the ledger knows of single events, for whoever asks what happened to them. It only reads."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from trunkline.ledger import claims, deliveries
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import Place, Row


@dataclass(frozen=True, slots=True)
class Fate:
    """A delivery's row, where its event first stood in the sink's topic, and when the row last changed."""

    row: Row
    partition: int
    offset: int
    key: bytes | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """What a source has posted: whether it is published, and the time before which that was tried last."""

    published: bool
    until: datetime


def days(db: Connection, today: int) -> set[int]:
    """Give the days, since 1970, of which anything may be known; what is being tried may have no day noted yet."""
    return {day for (day,) in db.run("SELECT day FROM days")} | {today - 1, today, today + 1}


def fates(db: Connection, places: Collection[Place]) -> dict[Place, Fate]:
    """Find deliveries, with where their events stood."""
    rows = deliveries.look_up(db, places)
    stood = db.join(
        'WITH given (day, id) AS (:rows) SELECT d.day, d.id, d.partition, d."offset", d.key, d.at FROM given '
        "CROSS JOIN :deliveries d WHERE d.day = given.day AND d.id = given.id",
        "integer bytea",
        [(place.day, place.id) for place in rows],
    )
    return {
        Place(day, id_): Fate(rows[Place(day, id_)], partition, offset, key, datetime.fromtimestamp(at / 1000, UTC))
        for day, id_, partition, offset, key, at in stood
    }


def claimed(db: Connection, ids: Iterable[bytes]) -> dict[bytes, Claim]:
    """Find claims by their ids."""
    rows = db.join(
        "WITH given (id) AS (:rows) SELECT c.id, c.state, c.deadline FROM given CROSS JOIN claims c "
        "WHERE c.id = given.id",
        "bytea",
        [(id_,) for id_ in ids],
    )
    return {
        id_: Claim(state == claims.State.PUBLISHED, datetime.fromtimestamp(deadline, UTC))
        for id_, state, deadline in rows
    }


def holding(db: Connection, sink: int, key: bytes) -> tuple[int, int] | None:
    """Say where the earliest event stood that holds a key back; None when none does."""
    rows = db.run(
        'SELECT partition, "offset" FROM parks WHERE sink = ? AND key = ? AND freed IS NULL '
        'ORDER BY partition, "offset" LIMIT 1',
        *(sink, key),
    )
    return (rows[0][0], rows[0][1]) if rows else None
