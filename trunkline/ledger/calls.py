"""Calls of composite deliveries: how far each is, so that a retry, a restart or a replay goes on where it stood.

The rows of a delivery are changed under a lock of their own, by the rule of `flow.composite.noted`: whoever else works
on the same delivery, a worker that was thought dead, sees every change or waits for it.
"""

import json

from trunkline.flow.composite import Change, Course, Made, Open, State, noted
from trunkline.ledger import deliveries
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import Place

SQLITE = (
    # How far the calls of a delivery are: one row for each composite delivery, gone with its day (L2).
    """
    CREATE TABLE courses (
        day INTEGER NOT NULL,
        id BLOB NOT NULL,
        round INTEGER NOT NULL,     -- a replay of what was taken back begins another
        began REAL NOT NULL,        -- epoch seconds
        given_up TEXT NOT NULL,     -- why it is being taken back
        closed INTEGER NOT NULL,
        run TEXT NOT NULL,          -- the replay that it was last opened for
        PRIMARY KEY (day, id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE calls (
        day INTEGER NOT NULL,
        id BLOB NOT NULL,
        step TEXT NOT NULL,         -- the call, or what undoes it
        round INTEGER NOT NULL,     -- in which it was begun: part of its idempotency key
        state INTEGER NOT NULL,     -- flow.composite.State
        begun INTEGER NOT NULL,     -- how often, without an end that is known
        told TEXT NOT NULL,         -- JSON of what is kept of the answer, or why it was refused
        PRIMARY KEY (day, id, step)
    ) WITHOUT ROWID
    """,
)
POSTGRES = tuple(
    statement.replace("BLOB", "bytea").replace("REAL", "float8").replace("WITHOUT ROWID", "") for statement in SQLITE
)


def change(db: Connection, place: Place, wanted: Change) -> Course:
    """Note a change inside a transaction, and give what stands after it."""
    if isinstance(wanted, Open):
        deliveries.open_days(db, {place.day: int(wanted.now * 1000)})
        db.run("INSERT INTO courses VALUES (?, ?, 0, 0, '', 0, '') ON CONFLICT DO NOTHING", *place)
    db.run("UPDATE courses SET closed = closed WHERE day = ? AND id = ?", *place)  # nobody else until we have ended
    before = read(db, place)
    after = noted(before, wanted)
    if before is None or header(before) != header(after):
        values = (after.round, after.began, after.given_up, int(after.closed), after.run)
        db.run(
            "UPDATE courses SET round = ?, began = ?, given_up = ?, closed = ?, run = ? WHERE day = ? AND id = ?",
            *(*values, *place),
        )
    known = {} if before is None else before.made
    for step in known.keys() - after.made.keys():
        db.run("DELETE FROM calls WHERE day = ? AND id = ? AND step = ?", *place, step)
    for step, made in after.made.items():
        if known.get(step) != made:
            told = made.why if made.state is State.FAILED else json.dumps(dict(made.kept))
            db.run(KEEP, *place, step, made.round, made.state, made.open, told.replace("\0", ""))
    return after


def read(db: Connection, place: Place) -> Course | None:
    """Give how far the calls of a delivery are; None when none was ever begun."""
    rows = db.run("SELECT round, began, given_up, closed, run FROM courses WHERE day = ? AND id = ?", *place)
    if not rows or rows[0][0] == 0:
        return None
    [(round_, began, given_up, closed, run)] = rows
    made = {}
    for step, number, state, begun, told in db.run(
        "SELECT step, round, state, begun, told FROM calls WHERE day = ? AND id = ?", *place
    ):
        failed = state == State.FAILED
        made[step] = Made(State(state), {} if failed else json.loads(told), told if failed else "", begun, number)
    return Course(round_, began, given_up, bool(closed), run, made)


def header(course: Course) -> tuple[object, ...]:
    """Give what is known of a course besides its calls."""
    return (course.round, course.began, course.given_up, course.closed, course.run)


def forget(db: Connection, day: int) -> bool:
    """Take a step on removing what is known of a day; say whether there was anything."""
    gone = db.run(FORGET_CALLS, day, day) or db.run(FORGET_COURSES, day, day)
    return bool(gone)


KEEP = """
INSERT INTO calls (day, id, step, round, state, begun, told) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (day, id, step) DO UPDATE SET
    round = excluded.round, state = excluded.state, begun = excluded.begun, told = excluded.told
"""
FORGET_CALLS = """
DELETE FROM calls WHERE day = ? AND id IN (SELECT id FROM calls WHERE day = ? LIMIT 500) RETURNING 1
"""
FORGET_COURSES = """
DELETE FROM courses WHERE day = ? AND id IN (SELECT id FROM courses WHERE day = ? LIMIT 500) RETURNING 1
"""
