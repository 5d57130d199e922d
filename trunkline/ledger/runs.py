"""Replay runs: which are live, and what they meant to do."""

from collections.abc import Collection
from datetime import datetime

from trunkline.ledger.database import Connection


def begin(
    db: Connection,
    run: str,
    sink: str,
    planned: int,
    now: datetime,
    *,
    overwrite: bool = False,
    keys: Collection[bytes] = (),
) -> None:
    """Start a run: from now its records open dead letters again.

    `keys` are digests of the parked keys that it replays: while it runs, what is parked of them belongs to it.
    """
    db.run(
        "INSERT INTO runs (id, sink, planned, started, overwrite, keys) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        *(run, sink, planned, now.isoformat(), int(overwrite), " ".join(sorted(key.hex() for key in keys))),
    )


def finish(db: Connection, run: str, now: datetime) -> None:
    """End a run: what is left of its records counts no more."""
    db.run("UPDATE runs SET finished = ? WHERE id = ?", now.isoformat(), run)


def live(db: Connection, sink: str) -> set[str]:
    """Give the runs of a sink that are under way."""
    return {run for (run,) in db.run("SELECT id FROM runs WHERE sink = ? AND finished IS NULL", sink)}


def overwriting(db: Connection, sink: str) -> set[str]:
    """Give those under way that deliver even what a later event of the same key has superseded (R2)."""
    rows = db.run("SELECT id FROM runs WHERE sink = ? AND finished IS NULL AND overwrite = 1", sink)
    return {run for (run,) in rows}


def keys(db: Connection, sink: str) -> set[bytes]:
    """Give the parked keys of a sink that are being replayed."""
    rows = db.run("SELECT keys FROM runs WHERE sink = ? AND finished IS NULL", sink)
    return {bytes.fromhex(key) for (text,) in rows for key in text.split()}
