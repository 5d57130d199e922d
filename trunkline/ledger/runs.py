"""Replay runs: which are live, and what they meant to do."""

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
) -> None:
    """Start a run: from now its records open dead letters again."""
    db.run(
        "INSERT INTO runs (id, sink, planned, started, overwrite, keys) VALUES (?, ?, ?, ?, ?, '') "
        "ON CONFLICT DO NOTHING",
        *(run, sink, planned, now.isoformat(), int(overwrite)),
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
