"""What the ledger forgets, and when (L2).

The deliveries of a day go together, some time after the last of them was written; the date of the day itself says
nothing, for events may be years old. An event that keeps its key parked never goes.
"""

import asyncio
import enum
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from trunkline.errors import Unavailable
from trunkline.ledger import calls, delivered
from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import HOUR, State, milliseconds
from trunkline.ledger.writer import Writer

EVERY = timedelta(hours=1)
PAUSE = 0.05
"""Seconds between two steps: other writes go first."""
ASKED_AGAIN = timedelta(days=1)
"""For so long the ledger knows which keys it has freed."""
LIVES = 6
"""A dead letter may fail three replays more, each time kept anew, and topics are cleaned up late."""


@dataclass(frozen=True, slots=True)
class Keep:
    """How long rows are kept after their day's last write: the rest at least as long as dead letters are."""

    rest: timedelta
    done: timedelta = timedelta(days=14)


class Due(enum.Enum):
    """What may go of a day."""

    DONE = "only what is delivered"
    ALL = "everything"


def due(written: Mapping[int, int], now: datetime, keep: Keep) -> dict[int, Due]:
    """Decide what may go of each day; `written` are the epoch milliseconds of the days' last writes."""
    found = {}
    for day, last in sorted(written.items()):
        age = timedelta(milliseconds=milliseconds(now) - last - HOUR)  # a write within the hour was not noted
        if age >= max(keep.done, keep.rest):
            found[day] = Due.ALL
        elif age >= keep.done:
            found[day] = Due.DONE
    return found


def sweep(db: Connection, now: datetime, keep: Keep) -> bool:
    """Take one small step, inside a transaction; say whether there may be another one to take."""
    written = dict(db.run("SELECT day, written FROM days"))
    for day, what in due(written, now, keep).items():
        # Whoever writes to the day at the same time waits for us, or we for him and leave it.
        ours = db.run("UPDATE days SET written = written WHERE day = ? AND written = ? RETURNING 1", day, written[day])
        if ours and take(db, day, what):
            return True
    return forget(db, now, keep)


def take(db: Connection, day: int, what: Due) -> bool:
    """Take a step on a day; say whether it took anything."""
    if what is Due.DONE:
        return remove(db, DELIVERED, day)
    if db.run(ATTEMPTS, day, day, day):
        return True
    parked = db.run("SELECT 1 FROM parks WHERE day = ? AND freed IS NULL LIMIT 1", day)
    if not parked and calls.forget(db, day):
        return True
    if not parked and db.end_day(day):
        db.run("DELETE FROM days WHERE day = ?", day)
        delivered.end_day(db, day)
        return True
    return remove(db, DELIVERIES, day)


def remove(db: Connection, statement: str, day: int) -> bool:
    """Remove some deliveries of a day; say whether there were any."""
    gone = db.join(statement, "integer", [(day,)])
    fewer = Counter((sink, day) for sink, state in gone if state == State.DONE)
    delivered.add(db, Counter({one: -many for one, many in fewer.items()}))
    return bool(gone)


def forget(db: Connection, now: datetime, keep: Keep) -> bool:
    """Take a step on what is kept by itself: claims as long as deliveries, the newest event of a key much longer."""
    db.run("DELETE FROM parks WHERE freed < ?", milliseconds(now - ASKED_AGAIN))
    db.run("DELETE FROM writers WHERE at < ?", milliseconds(now - LIVES * keep.rest))
    old = (now - max(keep.done, keep.rest)).timestamp()
    oldest = (now - LIVES * keep.rest).timestamp() // 86_400
    return bool(db.run(CLAIMS, old, old) or db.run(LATEST, oldest, oldest))


ATTEMPTS = """
DELETE FROM attempts WHERE day = ? AND (id, at) IN (
    SELECT a.id, a.at FROM attempts a
    WHERE a.day = ? AND a.id NOT IN (SELECT id FROM parks WHERE day = ? AND freed IS NULL) LIMIT 500
) RETURNING 1
"""

DELIVERIES = """
WITH given (day) AS (:rows)
DELETE FROM :deliveries WHERE day IN (SELECT day FROM given) AND id IN (
    SELECT d.id FROM given CROSS JOIN :deliveries d WHERE d.day = given.day
        AND d.id NOT IN (SELECT p.id FROM given CROSS JOIN parks p WHERE p.day = given.day AND p.freed IS NULL)
    LIMIT 500
) RETURNING sink, state
"""

DELIVERED = """
WITH given (day) AS (:rows)
DELETE FROM :deliveries WHERE day IN (SELECT day FROM given) AND id IN (
    SELECT d.id FROM given CROSS JOIN :deliveries d WHERE d.day = given.day AND d.state = 1 LIMIT 500
) RETURNING sink, state
"""

CLAIMS = """
DELETE FROM claims WHERE deadline < ? AND id IN (SELECT id FROM claims WHERE deadline < ? LIMIT 500) RETURNING 1
"""

LATEST = """
DELETE FROM latest WHERE day < ? AND (sink, key) IN (SELECT sink, key FROM latest WHERE day < ? LIMIT 500) RETURNING 1
"""


async def keep_sweeping(writer: Writer, keep: Keep, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
    """Sweep now and every hour until cancelled; a ledger that fails is asked again at the next hour."""
    while True:
        more = False
        with suppress(Unavailable):
            more = await writer.write(lambda db: sweep(db, clock(), keep))
        await asyncio.sleep(PAUSE if more else EVERY.total_seconds())
