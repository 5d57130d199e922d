"""Keys that are held back, and by which of their events: one is free when all of these are finished (D12)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trunkline.ledger.database import Connection


class Park(NamedTuple):
    """An event that keeps its key parked: its sink, key and row, and where it first stood."""

    sink: int
    key: bytes
    day: int
    id: bytes
    partition: int
    offset: int


def park(db: Connection, events: Sequence[Park]) -> None:
    """Let events keep their keys parked, inside a transaction."""
    hold(db, (one.sink for one in events))
    db.join(
        'WITH given (sink, key, day, id, partition, "offset") AS (:rows) '
        'INSERT INTO parks (sink, key, day, id, partition, "offset") SELECT * FROM given WHERE true '
        "ON CONFLICT (sink, key, day, id) DO UPDATE SET freed = NULL",
        "integer bytea integer bytea integer bigint",
        sorted(events),
    )


def any_parked(db: Connection) -> bool:
    """Say whether any key is parked or was lately."""
    return bool(db.run("SELECT 1 FROM parks LIMIT 1"))


def free(db: Connection, events: Iterable[tuple[Park, int]]) -> set[bytes]:
    """Let events, finished then (epoch milliseconds), park their keys no longer; give the keys that are free."""
    finished = sorted(events)
    keys = db.join(
        "WITH given (sink, key) AS (:rows) SELECT DISTINCT p.sink, p.key FROM given "
        "CROSS JOIN parks p WHERE p.sink = given.sink AND p.key = given.key",
        "integer bytea",
        [(one.sink, one.key) for one, _ in finished],
    )
    hold(db, (sink for sink, _ in keys))
    db.join(
        "WITH given (sink, key, day, id, at) AS (:rows) UPDATE parks SET freed = given.at FROM given "
        "WHERE parks.sink = given.sink AND parks.key = given.key AND parks.day = given.day AND parks.id = given.id "
        "AND parks.freed IS NULL",
        "integer bytea integer bytea bigint",
        [(one.sink, one.key, one.day, one.id, at) for one, at in finished if (one.sink, one.key) in keys],
    )
    freed = db.join(
        "WITH given (sink, key) AS (:rows) SELECT given.key FROM given CROSS JOIN parks p "
        "WHERE p.sink = given.sink AND p.key = given.key GROUP BY given.sink, given.key "
        "HAVING count(p.freed) = count(*)",
        "integer bytea",
        keys,
    )
    return {key for (key,) in freed}


def hold(db: Connection, sinks: Iterable[int]) -> None:
    """Let nobody else park or free keys of these sinks until the transaction ends.

    Else two who finish the last two events of a key would each see the other's, and neither free it.
    """
    for sink in sorted(set(sinks)):
        db.run("UPDATE sinks SET name = name WHERE number = ?", sink)


def holding(db: Connection, sink: int, key: bytes) -> list[tuple[int, bytes]]:
    """Give the rows, as day and id, of the events that keep a key parked."""
    return [
        (day, id_)
        for day, id_ in db.run("SELECT day, id FROM parks WHERE sink = ? AND key = ? AND freed IS NULL", sink, key)
    ]


def parked_keys(db: Connection, sink: int) -> set[bytes]:
    """Give the keys of a sink that are parked."""
    return {key for (key,) in db.run("SELECT DISTINCT key FROM parks WHERE sink = ? AND freed IS NULL", sink)}
