"""Deliveries: one row per event and sink, written before anything counts as done (D2, D3, D4, D12, L1)."""

import enum
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from trunkline.event import Event, digest
from trunkline.ledger.database import Connection

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

    `payload` is the first one. `owner` and `deadline` (epoch seconds): whose call an INTENT is, and when it is over.
    `run` is the replay that ended so, if one did.
    """

    state: State
    payload: bytes
    attempts: int
    owner: str = ""
    deadline: float = 0.0
    run: str = ""


class Outcome(NamedTuple):
    """How a delivery ended, to be recorded.

    `owner` is that of the intent, empty where there was none. `park`: park the key in the same transaction.
    `latest`: remember a delivered event as the newest of its key. `run`: the replay that sent it, if one did.
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


@dataclass(frozen=True, slots=True)
class Intent:
    """A call about to be made. `now` and `deadline`, at which it is over at the latest, are epoch seconds.

    `run` is the live replay that sends it, empty when none does; `owner` names one life of one process. `latest`: the
    target stores the last state of a key.
    """

    place: Place
    sink: int
    key: bytes | None
    partition: int
    offset: int
    payload: bytes
    owner: str
    deadline: float
    now: float
    run: str = ""
    overwrite: bool = False
    keyed: bool = True
    latest: bool = False


@dataclass(frozen=True, slots=True)
class Go:
    """Nothing stands against the call; for a target without keys the ledger holds its INTENT now."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The event needs no call."""

    state: State


@dataclass(frozen=True, slots=True)
class Wait:
    """Another process may be making the call: ask again after `deadline` (epoch seconds)."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Another process may have made the call and has not told how it ended."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """A replay would bring back an older state: a later event of the key is delivered."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A replay would overtake: an earlier event of the parked key is not finished."""


Standing = Go | Finished | Wait | Ambiguous | Superseded | Parked
GO = Go()


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that did not deliver; `words` say why, without secrets or bodies."""

    place: Place
    at: datetime
    status: int | None
    seconds: float
    words: str


def place_of(sink: str, event: Event[Any]) -> Place:
    """Give the place of an event's row for a sink."""
    return Place(int(event.time.timestamp() // 86_400), id_of(sink, event.source, event.id))


def id_of(sink: str, source: str, event_id: str) -> bytes:
    """Give the digest that names a delivery."""
    return digest(sink, source, event_id)[:SHORT]


def payload_of(body: bytes) -> bytes:
    """Identify a payload: its Avro body, without the schema id in front."""
    return digest(body)[:SHORT]


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


def find(db: Connection, ids: Collection[bytes]) -> dict[Place, Row]:
    """Find deliveries by their ids on whatever day."""
    return look_up(db, (Place(day, id_) for (day,) in db.run("SELECT day FROM days") for id_ in ids))


def intend(db: Connection, intents: Sequence[Intent]) -> dict[Place, Standing]:
    """Say what stands against calls about to be made; inside a transaction.

    Where nothing does and the target has no keys, the INTENT is written: durable with the transaction, so that
    whoever comes after a crash knows that the call may have been made (D4).
    """
    judge = judging(db, intents)
    rows = look_up(db, (intent.place for intent in intents))
    standings = {intent.place: judge(intent, rows.get(intent.place)) for intent in intents}
    announced = [intent for intent in intents if standings[intent.place] is GO and not intent.keyed]
    if announced:
        at = {intent.place.day: int(intent.now * 1000) for intent in announced}
        open_days(db, at)
        for reopens in (False, True):
            announce(db, [intent for intent in announced if bool(intent.run) is reopens], reopens=reopens)
        rows = look_up(db, (intent.place for intent in announced))
        for intent in announced:
            row = rows[intent.place]
            ours = row.state is State.INTENT and row.owner == intent.owner
            standings[intent.place] = GO if ours else judge(intent, row)
    return standings


def judging(db: Connection, intents: Sequence[Intent]) -> Callable[[Intent, Row | None], Standing]:
    """Read what bears on the keys of replayed events, and give the judgement that follows from it."""
    newest = delivered_latest(db, [one for one in intents if one.run and one.latest and not one.overwrite])
    overtaking = after_unfinished(db, [one for one in intents if one.run])

    def judge(intent: Intent, row: Row | None) -> Standing:
        if row is not None:
            if row.state is State.INTENT and row.owner != intent.owner:
                return Wait(row.deadline) if intent.now < row.deadline else Ambiguous()
            if row.state is not State.INTENT and not may_reopen(row, intent.run):
                return Finished(row.state)
        if intent.place in newest:
            return Superseded()
        return Parked() if intent.place in overtaking else GO

    return judge


def may_reopen(row: Row, run: str) -> bool:
    """Say whether a live replay opens a delivery again; what it has itself brought to an end it does not call twice."""
    return bool(run) and row.state in REOPENED and (row.state is State.PARKED or row.run != run)


REOPENED = frozenset({State.DEAD, State.AMBIGUOUS, State.PARKED})
"""What a live replay moves back to open (R2)."""
FINAL = frozenset({State.DONE, State.SUPERSEDED, State.DISCARDED})
"""What no replay opens again."""


def delivered_latest(db: Connection, intents: Sequence[Intent]) -> set[Place]:
    """Say for which of these a later event of the key is delivered."""
    return beside(
        db,
        intents,
        "CROSS JOIN latest l WHERE l.sink = given.sink AND l.key = given.key AND l.partition = given.partition "
        'AND l."offset" > given."offset"',
    )


def after_unfinished(db: Connection, intents: Sequence[Intent]) -> set[Place]:
    """Say which of these have a parked key, of which an earlier event is not finished."""
    return beside(
        db,
        intents,
        "CROSS JOIN parks p WHERE p.sink = given.sink AND p.key = given.key AND p.freed IS NULL "
        'AND p.partition = given.partition AND p."offset" < given."offset"',
    )


def beside(db: Connection, intents: Sequence[Intent], what: str) -> set[Place]:
    """Find those of the intents with a key that have `what` (the rest of a SELECT from `given`) beside them."""
    rows = db.join(
        f'WITH given (day, id, sink, key, partition, "offset") AS (:rows) SELECT given.day, given.id FROM given {what}',  # noqa: S608 - written above
        "integer bytea integer bytea integer bigint",
        map(whereabouts, keyed(intents)),
    )
    return {Place(day, id_) for day, id_ in rows}


def keyed(intents: Iterable[Intent]) -> Iterator[Intent]:
    """Leave those without a key out: they have no order to keep."""
    return (intent for intent in intents if intent.key is not None)


def whereabouts(intent: Intent) -> tuple[object, ...]:
    """Give an intent's place, and where its event first stood."""
    return (
        intent.place.day, intent.place.id, intent.sink, intent.key, intent.partition, intent.offset
    )  # fmt: skip


def announce(db: Connection, intents: Sequence[Intent], *, reopens: bool) -> None:
    """Write INTENT where there is nothing yet, or the same owner's; a replay also opens what it may open again."""
    rows = [
        (
            *(one.place.day, one.place.id, one.sink, State.INTENT, one.key, one.partition, one.offset, one.payload, 0),
            *(int(one.now * 1000), one.owner, one.deadline, None),
        )
        for one in intents
    ]
    db.join(REOPEN if reopens else ANNOUNCE, KINDS, rows)


def withdraw(db: Connection, place: Place, owner: str) -> None:
    """Take an INTENT back, because the call was not made: what the ledger knew before is true again."""
    db.join(RESTORE, "integer bytea text", [(place.day, place.id, owner)])
    db.join(REMOVE, "integer bytea text", [(place.day, place.id, owner)])


RESTORE = """
WITH given (day, id, owner) AS (:rows)
UPDATE :deliveries SET state = before, owner = NULL, deadline = NULL, before = NULL
WHERE (day, id) IN (SELECT day, id FROM given) AND owner IN (SELECT owner FROM given)
    AND state = 3 AND before IS NOT NULL
"""

REMOVE = """
WITH given (day, id, owner) AS (:rows)
DELETE FROM :deliveries
WHERE (day, id) IN (SELECT day, id FROM given) AND owner IN (SELECT owner FROM given)
    AND state = 3 AND before IS NULL
"""

KINDS = "integer bytea integer integer bytea integer bigint bytea integer bigint text float8 text"
"""Of the columns that the next three write."""

ANNOUNCE = """
WITH given (day, id, sink, state, key, partition, "offset", payload, attempts, at, owner, deadline, run)
    AS (:rows)
INSERT INTO :deliveries AS deliveries
    (day, id, sink, state, key, partition, "offset", payload, attempts, at, owner, deadline, run)
SELECT * FROM given WHERE true
ON CONFLICT (day, id) DO UPDATE SET at = excluded.at, deadline = excluded.deadline
WHERE deliveries.state = 3 AND deliveries.owner = excluded.owner
"""

REOPEN = """
WITH given (day, id, sink, state, key, partition, "offset", payload, attempts, at, owner, deadline, run)
    AS (:rows)
INSERT INTO :deliveries AS deliveries
    (day, id, sink, state, key, partition, "offset", payload, attempts, at, owner, deadline, run)
SELECT * FROM given WHERE true
ON CONFLICT (day, id) DO UPDATE SET
    state = 3, at = excluded.at, owner = excluded.owner, deadline = excluded.deadline,
    before = CASE WHEN deliveries.state = 3 THEN deliveries.before ELSE deliveries.state END
WHERE (deliveries.state = 3 AND deliveries.owner = excluded.owner) OR deliveries.state IN (2, 4, 5)
"""

RECORD = """
WITH given (day, id, sink, state, key, partition, "offset", payload, attempts, at, owner, deadline, run)
    AS (:rows)
INSERT INTO :deliveries AS deliveries
    (day, id, sink, state, key, partition, "offset", payload, attempts, at, owner, deadline, run)
SELECT * FROM given WHERE true
ON CONFLICT (day, id) DO UPDATE SET
    state = excluded.state, at = excluded.at, deadline = NULL, before = NULL, run = excluded.run,
    -- Whose call was given up stays, so that what it says later is known to come too late.
    owner = CASE WHEN deliveries.state = 3 AND deliveries.owner <> coalesce(excluded.owner, '')
        THEN deliveries.owner END,
    -- The same outcome written again, because the answer to the first commit was lost, counts once.
    attempts = deliveries.attempts
        + CASE WHEN deliveries.at = excluded.at AND deliveries.state = excluded.state THEN 0 ELSE excluded.attempts END
WHERE deliveries.state <> 1 AND (
    excluded.state = 1
    OR (deliveries.state IN (2, 4, 5) AND coalesce(deliveries.owner, '') <> coalesce(excluded.owner, '.'))
    OR (deliveries.state = 3 AND (deliveries.owner = excluded.owner OR deliveries.deadline * 1000 <= excluded.at))
)
"""


def record(db: Connection, outcomes: Sequence[Outcome]) -> set[bytes]:
    """Write outcomes, inside a transaction; give the keys among them that were parked and are free now.

    DONE always counts and is never taken back. Any other outcome counts where there is no row yet, over what a replay
    may open again unless its own call was given up there, and over the INTENT of its own owner or of one whose
    deadline has passed; else it came too late (D4). Where the event first stood and its payload are kept. A key is free
    when every event that parked it, or was PARKED because of it, is DONE, SUPERSEDED or DISCARDED (D12). Recording the
    same again changes nothing and gives the same answer.
    """
    last: dict[int, int] = {}
    for one in outcomes:
        last[one.place.day] = max(last.get(one.place.day, 0), milliseconds(one.at))
    open_days(db, last)
    for group in apart(outcomes):
        db.join(RECORD, KINDS, map(columns, group))
    db.join(
        'WITH given (sink, key, partition, "offset", day) AS (:rows) '
        'INSERT INTO latest (sink, key, partition, "offset", day) SELECT * FROM given WHERE true '
        'ON CONFLICT (sink, key) DO UPDATE SET partition = excluded.partition, "offset" = excluded."offset", '
        'day = excluded.day WHERE latest.partition <> excluded.partition OR latest."offset" < excluded."offset"',
        "integer bytea integer bigint integer",
        newest(outcomes),
    )
    park(db, [one for one in outcomes if one.park or one.state is State.PARKED])
    return free(db, outcomes)


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
    """Give the newest delivered event of every key whose last one is to be remembered."""
    found: dict[tuple[int, bytes], Outcome] = {}
    for one in outcomes:
        if one.latest and one.state is State.DONE and one.key is not None:
            other = found.get((one.sink, one.key))
            if other is None or other.offset < one.offset:
                found[one.sink, one.key] = one
    return [
        (*key, found[key].partition, found[key].offset, int(found[key].at.timestamp() // 86_400))
        for key in sorted(found)
    ]


def park(db: Connection, outcomes: Sequence[Outcome]) -> None:
    """Let these keep their key parked, unless another outcome counted for them."""
    rows = look_up(db, (one.place for one in outcomes))
    held = {one.place: one for one in outcomes if one.key is not None and rows[one.place].state in REOPENED}
    hold(db, (one.sink for one in held.values()))
    db.join(
        'WITH given (sink, key, day, id, partition, "offset") AS (:rows) '
        'INSERT INTO parks (sink, key, day, id, partition, "offset") SELECT * FROM given WHERE true '
        "ON CONFLICT (sink, key, day, id) DO UPDATE SET freed = NULL",
        "integer bytea integer bytea integer bigint",
        [
            (one.sink, one.key, one.place.day, one.place.id, one.partition, one.offset)
            for _, one in sorted(held.items())
        ],
    )


def free(db: Connection, outcomes: Iterable[Outcome]) -> set[bytes]:
    """Let those that are finished park their key no longer, and give those of the keys that are free."""
    finished = {one.place: one for one in outcomes if one.state in FINAL and one.key is not None}
    if not finished or not db.run("SELECT 1 FROM parks LIMIT 1"):
        return set()
    rows = look_up(db, (place for place, one in finished.items() if one.state is not State.DONE))
    finished = {place: one for place, one in finished.items() if place not in rows or rows[place].state in FINAL}
    keys = db.join(
        "WITH given (sink, key) AS (:rows) SELECT DISTINCT p.sink, p.key FROM given "
        "CROSS JOIN parks p WHERE p.sink = given.sink AND p.key = given.key",
        "integer bytea",
        [(one.sink, one.key) for one in finished.values()],
    )
    hold(db, (sink for sink, _ in keys))
    db.join(
        "WITH given (sink, key, day, id, at) AS (:rows) UPDATE parks SET freed = given.at FROM given "
        "WHERE parks.sink = given.sink AND parks.key = given.key AND parks.day = given.day AND parks.id = given.id "
        "AND parks.freed IS NULL",
        "integer bytea integer bytea bigint",
        [
            (one.sink, one.key, one.place.day, one.place.id, milliseconds(one.at))
            for _, one in sorted(finished.items())
            if (one.sink, one.key) in keys
        ],
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


def parked(db: Connection, sink: int, partitions: Collection[int] | None = None) -> set[bytes]:
    """Give the keys of a sink that are parked, of some partitions or all."""
    rows = db.run("SELECT DISTINCT key, partition FROM parks WHERE sink = ? AND freed IS NULL", sink)
    return {key for key, partition in rows if partitions is None or partition in partitions}


def tried(db: Connection, attempts: Iterable[Attempt]) -> None:
    """Keep attempts that did not deliver, as long as their delivery."""
    rows = [
        (
            one.place.day,
            one.place.id,
            milliseconds(one.at),
            one.status,
            one.seconds,
            one.words.replace("\0", "")[:WORDS],
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


def count(db: Connection, sink: str) -> Counter[State]:
    """Count the deliveries of a sink by state."""
    rows = db.run(
        "SELECT state, count(*) FROM deliveries JOIN sinks ON number = sink WHERE name = ? GROUP BY state", sink
    )
    return Counter({State(state): many for state, many in rows})


def milliseconds(at: datetime) -> int:
    """Give a time as epoch milliseconds."""
    return int(at.timestamp() * 1000)
