"""How many events of each sink and day are recorded as delivered: nearly all rows, so they are counted as they come."""

from collections import Counter

from trunkline.ledger.database import Connection

SQLITE = (
    """
    CREATE TABLE delivered (
        sink INTEGER NOT NULL,
        day INTEGER NOT NULL,
        writer INTEGER NOT NULL,    -- a connection: two that write at once never change the same row
        many INTEGER NOT NULL,
        PRIMARY KEY (sink, day, writer)
    ) WITHOUT ROWID
    """,
    "INSERT INTO delivered SELECT sink, day, 0, count(*) FROM deliveries WHERE state = 1 GROUP BY sink, day",
    # The others are few, and found here whatever their day.
    "CREATE INDEX deliveries_undone ON deliveries (sink, state) WHERE state <> 1",
)
POSTGRES = tuple(statement.replace("many INTEGER", "many bigint").replace("WITHOUT ROWID", "") for statement in SQLITE)


def add(db: Connection, more: Counter[tuple[int, int]]) -> None:
    """Count so many more of sink and day, or fewer, in the transaction that writes or removes their rows."""
    for (sink, day), many in sorted(more.items()):
        db.run(
            "INSERT INTO delivered (sink, day, writer, many) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (sink, day, writer) DO UPDATE SET many = delivered.many + excluded.many",
            *(sink, day, db.number, many),
        )


def end_day(db: Connection, day: int) -> None:
    """Forget a day of which no row is left."""
    db.run("DELETE FROM delivered WHERE day = ?", day)


def count(db: Connection, sink: str) -> int:
    """Give how many there are of a sink."""
    [(many,)] = db.run("SELECT sum(many) FROM delivered JOIN sinks ON number = sink WHERE name = ?", sink)
    return int(many or 0)
