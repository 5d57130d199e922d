"""Deliveries: one row per event and sink, written before anything counts as done (D2, D3, D4, D12, L1)."""

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from trunkline.event import Event, digest, digest_after
from trunkline.ledger import delivered
from trunkline.ledger.database import Connection
from trunkline.ledger.parks import Park, any_parked, free, park

SHORT = 16
"""Bytes kept of a digest: 2^64 events before two are likely to share one."""

HOUR = 3_600_000
"""Milliseconds for which the last write of a day may be noted too early, so that few writes note it."""


class State(enum.IntEnum):
    """How far a delivery is. DONE is never taken back, SUPERSEDED and DISCARDED only by DONE.

    From the main topic everything but INTENT is finished; a live replay opens DEAD, AMBIGUOUS and PARKED again.
    """

    DONE = 1
    DEAD = 2
    INTENT = 3
    """A call to a target without keys is about to be made, or was when its process ended."""
    AMBIGUOUS = 4
    """Such a call was made, and nobody knows whether it had its effect."""
    PARKED = 5
    """Not tried: an earlier event of its key waits for a person."""
    SUPERSEDED = 6
    """Not sent again: a later event of its key was delivered, and the target stores the last state of a key."""
    DISCARDED = 7
    """Given up by a person."""


class Place(NamedTuple):
    """Where a delivery's row is: day of the event and digest of its identity."""

    day: int
    id: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """What the ledger knows of one delivery.

    `payload` is the first one. `owner` and `deadline` (epoch seconds): whose call an INTENT is, and when it is over; of
    AMBIGUOUS, `owner` is whose call was given up.
    `runs` are the replays that have called it, however that ended, or by which it ended: with a space between, the
    last at the end. Several may be under way at once, and each calls it once.
    """

    state: State
    payload: bytes
    attempts: int
    owner: str = ""
    deadline: float = 0.0
    runs: str = ""


class Outcome(NamedTuple):
    """How a delivery ended, to be recorded.

    `owner` is that of the intent, empty where there was none. `park`: park the key in the same transaction.
    `latest`: remember a delivered event as the newest of its key in its `topic`. `run`: the replay that sent it, if one
    did.
    """

    place: Place
    sink: int
    state: State
    key: bytes | None
    partition: int
    offset: int
    payload: bytes
    attempts: int
    at: datetime
    owner: str = ""
    park: bool = False
    latest: bool = False
    run: str = ""
    topic: str = ""


def place_of(sink: str, event: Event[Any]) -> Place:
    """Give the place of an event's row for a sink."""
    return Place(day_of(event), id_of(sink, event.source, event.id))


def day_of(event: Event[Any]) -> int:
    """Give the UTC day on which an event happened."""
    return int(event.time.timestamp() // 86_400)


def id_of(sink: str, source: str, event_id: str) -> bytes:
    """Give the digest that names a delivery."""
    return digest_after((sink, source), event_id)[:SHORT]


def payload_of(body: bytes) -> bytes:
    """Identify a payload: its Avro body, without the schema id in front."""
    return digest(body)[:SHORT]


@lru_cache(maxsize=16_384)
def key_of(key: bytes) -> bytes:
    """Identify the key of a record."""
    return digest(key)[:SHORT]


def number_of(db: Connection, sink: str) -> int:
    """Give the number that stands for a sink in the ledger, made when new."""
    db.run("INSERT INTO sinks (name) VALUES (?) ON CONFLICT DO NOTHING", sink)
    number: int = db.run("SELECT number FROM sinks WHERE name = ?", sink)[0][0]
    return number


def look_up(db: Connection, places: Iterable[Place]) -> dict[Place, Row]:
    """Find what is known of these deliveries, in one query for 500; absent ones are not in the result."""
    rows = db.join(
        "WITH given (day, id) AS (:rows) "
        "SELECT d.day, d.id, d.state, d.payload, d.attempts, d.owner, d.deadline, d.run FROM given "
        "CROSS JOIN :deliveries d WHERE d.day = given.day AND d.id = given.id",
        "integer bytea",
        ((place.day, place.id) for place in places),
    )
    found = {}
    for day, id_, state, payload, attempts, owner, deadline, run in rows:
        found[Place(day, id_)] = Row(State(state), payload, attempts, owner or "", deadline or 0.0, run or "")
    return found


def may_reopen(row: Row, run: str) -> bool:
    """Say whether a live replay opens a delivery again.

    What it has itself brought to an end, or begun in a call whose end nobody knows, it does not call twice.
    """
    return bool(run) and row.state in REOPENED and (row.state is State.PARKED or run not in row.runs.split())


def owner_of(process: str, number: int, run: str) -> str:
    """Name the owner of a call that a process announces; `run` is the live replay that it is of, empty without one."""
    return f"{process}:{number}:{run}"


def run_of(owner: str) -> str:
    """Give the live replay that an announced call is of; empty when it is of none."""
    return owner.rpartition(":")[2]


REOPENED = frozenset({State.DEAD, State.AMBIGUOUS, State.PARKED})
"""What lies in the dead letters until a live replay moves it back to open (R2)."""

FINAL = frozenset({State.DONE, State.SUPERSEDED, State.DISCARDED})
"""What no replay opens again."""

ENDED = frozenset(state.name for state in FINAL)
"""The same as the audit trail names it."""

RUNS = """CASE
        WHEN deliveries.run IS NULL OR length(deliveries.run) > 400 THEN excluded.run
        WHEN replace(' ' || deliveries.run || ' ', ' ' || excluded.run || ' ', '') <> ' ' || deliveries.run || ' '
            THEN deliveries.run
        ELSE deliveries.run || ' ' || excluded.run
    END"""
"""The runs of a row and one more, once: of more than a dozen the last, for those of long ago are over."""

KINDS = "integer bytea integer integer bytea integer bigint bytea integer bigint text float8 text"
"""Of the columns that are written."""

WRITE = """
WITH given (day, id, sink, state, key, partition, "offset", payload, attempts, at, owner, deadline, run)
    AS (:rows)
INSERT INTO :deliveries AS deliveries
    (day, id, sink, state, key, partition, "offset", payload, attempts, at, owner, deadline, run)
SELECT * FROM given WHERE true
ON CONFLICT (day, id) DO UPDATE SET"""
"""The beginning of every statement that writes rows; what follows says what becomes of one that is there."""

RECORD = f"""{WRITE}
    state = excluded.state, at = excluded.at, deadline = NULL, before = NULL,
    run = CASE WHEN excluded.run IS NULL THEN deliveries.run ELSE {RUNS} END,
    -- Whose call was given up stays, so that what it says later is known to come too late.
    owner = CASE WHEN deliveries.owner <> coalesce(excluded.owner, '') THEN deliveries.owner END,
    -- The same outcome written again, because the answer to the first commit was lost, counts once.
    attempts = deliveries.attempts
        + CASE WHEN deliveries.at = excluded.at AND deliveries.state = excluded.state THEN 0 ELSE excluded.attempts END
WHERE deliveries.state <> 1 AND (
    excluded.state = 1
    OR (deliveries.state IN (2, 4, 5) AND coalesce(deliveries.owner, '') <> coalesce(excluded.owner, '.'))
    OR (deliveries.state = 3 AND (
        deliveries.owner = excluded.owner OR (excluded.state = 4 AND deliveries.deadline * 1000 <= excluded.at)
    ))
)
RETURNING state, sink, day
"""


class Recorded(NamedTuple):
    """What stands after outcomes were written."""

    freed: set[bytes]
    """The keys among them that were parked and are free now."""
    against: dict[Place, Row]
    """What the ledger holds instead of those that did not count."""


def record(db: Connection, outcomes: Sequence[Outcome]) -> Recorded:
    """Write outcomes, inside a transaction.

    DONE always counts and is never taken back. Any other outcome counts where there is no row yet, over what a replay
    may open again unless its own call was given up there, and over the INTENT of its own owner; AMBIGUOUS also over one
    whose deadline has passed; else it came too late (D4). Where the event first stood and its payload are kept. A key
    is free when every event that parked it, or was PARKED because of it, is DONE, SUPERSEDED or DISCARDED (D12).
    Recording the same again changes nothing and gives the same answer.
    """
    last: dict[int, int] = {}
    for one in outcomes:
        last[one.place.day] = max(last.get(one.place.day, 0), milliseconds(one.at))
    open_days(db, last)
    written = [row for group in apart(outcomes) for row in db.join(RECORD, KINDS, map(columns, group))]
    delivered.add(db, Counter((sink, day) for state, sink, day in written if state == State.DONE))
    db.join(
        'WITH given (sink, key, topic, partition, "offset", day) AS (:rows) '
        'INSERT INTO latest (sink, key, topic, partition, "offset", day) SELECT * FROM given WHERE true '
        'ON CONFLICT (sink, key, topic) DO UPDATE SET partition = excluded.partition, "offset" = excluded."offset", '
        'day = excluded.day WHERE latest.partition <> excluded.partition OR latest."offset" < excluded."offset"',
        "integer bytea text integer bigint integer",
        newest(outcomes),
    )
    doubtful = [one for one in outcomes if one.state is not State.DONE]
    rows = look_up(db, (one.place for one in doubtful))
    if held := holding(doubtful, rows):
        park(db, held)
    ended = finished(outcomes, rows) if any_parked(db) else []
    freed = free(db, ended) if ended else set()
    return Recorded(freed, {one.place: row for one in doubtful if (row := rows[one.place]).state is not one.state})


def apart(outcomes: Sequence[Outcome]) -> Iterator[list[Outcome]]:
    """Give outcomes in groups in which none is of the same event: one statement may not write a row twice."""
    left = outcomes
    while left:
        group: dict[Place, Outcome] = {}
        for one in left:
            group.setdefault(one.place, one)
        yield [group[place] for place in sorted(group)]
        left = [one for one in left if group[one.place] is not one]


def columns(one: Outcome) -> tuple[object, ...]:
    """Give an outcome as a row."""
    return (
        one.place.day, one.place.id, one.sink, one.state, one.key, one.partition, one.offset, one.payload, one.attempts,
        milliseconds(one.at), one.owner or None, None, one.run or None,
    )  # fmt: skip


def newest(outcomes: Iterable[Outcome]) -> list[tuple[object, ...]]:
    """Give the newest delivered event of a topic for every key whose last one is to be remembered."""
    found: dict[tuple[int, bytes, str], Outcome] = {}
    for one in outcomes:
        if one.latest and one.state is State.DONE and one.key is not None:
            other = found.get((one.sink, one.key, one.topic))
            if other is None or other.offset < one.offset:
                found[one.sink, one.key, one.topic] = one
    return [
        (*key, one.partition, one.offset, int(one.at.timestamp() // 86_400))
        for key, one in sorted(found.items(), key=itemgetter(0))
    ]


def holding(outcomes: Iterable[Outcome], rows: Mapping[Place, Row]) -> list[Park]:
    """Give the events that keep their key parked, unless another outcome counted for them."""
    held = {
        one.place: park
        for one in outcomes
        if (one.park or one.state is State.PARKED) and (park := park_of(one)) and rows[one.place].state in REOPENED
    }
    return list(held.values())


def finished(outcomes: Iterable[Outcome], rows: Mapping[Place, Row]) -> list[tuple[Park, int]]:
    """Give the events that are finished and may have kept their key parked, and when they were."""
    ended = {one.place: one for one in outcomes if one.state in FINAL}
    sure = [one for place, one in ended.items() if place not in rows or rows[place].state in FINAL]
    return [(park, milliseconds(one.at)) for one in sure if (park := park_of(one)) is not None]


def park_of(one: Outcome) -> Park | None:
    """Give what may hold its key back; None without a key."""
    return None if one.key is None else Park(one.sink, one.key, *one.place, one.partition, one.offset)


def open_days(db: Connection, at: Mapping[int, int]) -> None:
    """Note that rows of these days are written, and when (epoch milliseconds): a day goes some time after the last."""
    known = dict(
        db.join(
            "WITH given (day) AS (:rows) SELECT d.day, d.written FROM given CROSS JOIN days d WHERE d.day = given.day",
            "integer",
            [(day,) for day in at],
        )
    )
    for day in sorted(at):
        if known.get(day, 0) < at[day] - HOUR:
            db.run(
                "INSERT INTO days (day, written) VALUES (?, ?) ON CONFLICT (day) DO UPDATE SET "
                "written = excluded.written WHERE days.written < excluded.written",
                *(day, at[day]),
            )
            db.begin_day(day)  # it may have ended while another one's row was waited for


def count(db: Connection, sink: str) -> Counter[State]:
    """Count the deliveries of a sink by state."""
    rows = db.run(
        "SELECT state, count(*) FROM sinks CROSS JOIN deliveries WHERE name = ? AND sink = number AND state <> 1 "
        "GROUP BY state",
        sink,
    )
    found = Counter({State(state): many for state, many in rows})
    if many := delivered.count(db, sink):
        found[State.DONE] = many
    return found


def letters(db: Connection) -> dict[str, tuple[int, datetime]]:
    """Count what waits for a person, by sink, and say since when the oldest of it does.

    The index of what is not delivered finds these rows, so that it may be asked often.
    """
    rows = db.run(
        "SELECT name, many, oldest FROM sinks JOIN ("
        "SELECT sink, count(*) AS many, min(at) AS oldest FROM deliveries WHERE state <> 1 AND state IN (2, 4, 5) "
        "GROUP BY sink"
        ") AS waiting ON number = sink"
    )
    return {name: (many, datetime.fromtimestamp(oldest / 1000, UTC)) for name, many, oldest in rows}


def milliseconds(at: datetime) -> int:
    """Give a time as epoch milliseconds."""
    return int(at.timestamp() * 1000)
