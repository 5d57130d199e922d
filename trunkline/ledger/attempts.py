"""Attempts that did not deliver: kept as long as their delivery, for whoever asks what happened to an event."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import Place, milliseconds


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that did not deliver; `words` say why, without secrets or bodies."""

    place: Place
    at: datetime
    status: int | None
    seconds: float
    words: str


def tried(db: Connection, attempts: Iterable[Attempt]) -> None:
    """Keep attempts that did not deliver, as long as their delivery."""
    rows = [
        (
            one.place.day,
            one.place.id,
            milliseconds(one.at),
            one.status,
            one.seconds,
            one.words.replace("\0", "").encode(errors="replace").decode()[:WORDS],
        )
        for one in attempts
    ]
    db.join(
        "WITH given (day, id, at, status, seconds, words) AS (:rows) "
        "INSERT INTO attempts (day, id, at, status, seconds, words) "
        "SELECT * FROM given WHERE true ON CONFLICT DO NOTHING",
        "integer bytea bigint integer float8 text",
        rows,
    )


WORDS = 500
"""Characters kept of what an attempt says."""


def attempts_of(db: Connection, places: Iterable[Place]) -> list[Attempt]:
    """Give the attempts that did not deliver these, in the order of time."""
    rows = db.join(
        "WITH given (day, id) AS (:rows) SELECT a.day, a.id, a.at, a.status, a.seconds, a.words FROM given "
        "CROSS JOIN attempts a WHERE a.day = given.day AND a.id = given.id",
        "integer bytea",
        ((place.day, place.id) for place in places),
    )
    found = [
        Attempt(Place(day, id_), datetime.fromtimestamp(at / 1000, UTC), status, seconds, words)
        for day, id_, at, status, seconds, words in rows
    ]
    return sorted(found, key=lambda attempt: attempt.at)
