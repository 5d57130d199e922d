"""Replay runs: which are live, and what they meant to do."""

import sqlite3
from datetime import datetime


def begin(db: sqlite3.Connection, run: str, sink: str, planned: int, now: datetime) -> None:
    """Start a run: from now its records open dead letters again."""
    db.execute(
        "INSERT INTO runs (id, sink, planned, started) VALUES (?, ?, ?, ?)", (run, sink, planned, now.isoformat())
    )


def finish(db: sqlite3.Connection, run: str, now: datetime) -> None:
    """End a run: what is left of its records counts no more."""
    db.execute("UPDATE runs SET finished = ? WHERE id = ?", (now.isoformat(), run))


def live(db: sqlite3.Connection, sink: str) -> set[str]:
    """Give the runs of a sink that are under way."""
    return {run for (run,) in db.execute("SELECT id FROM runs WHERE sink = ? AND finished IS NULL", (sink,))}
