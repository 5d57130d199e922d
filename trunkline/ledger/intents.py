"""What is asked of the ledger and announced there before a call: nobody sends what another may have sent (D4)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from trunkline.ledger.database import Connection
from trunkline.ledger.deliveries import KINDS, RUNS, WRITE, Place, Row, State, look_up, may_reopen, open_days, run_of


@dataclass(frozen=True, slots=True)
class Intent:
    """A call about to be made. `now` and `deadline`, at which it is over at the latest, are epoch seconds.

    `awaited` is the deadline of another's call whose end was awaited by a clock that nobody puts back: what `now` says
    of it, which another clock than its own may, counts no more.
    `run` is the live replay that sends it, empty when none does; `owner` names one life of one process. `latest`: the
    target stores the last state of a key. `topic` is where partition and offset are.
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
    topic: str = ""
    awaited: float = 0.0


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
                over = intent.now >= row.deadline or intent.awaited == row.deadline
                return Ambiguous() if over else Wait(row.deadline)
            if row.state is not State.INTENT and not may_reopen(row, intent.run):
                return Finished(row.state)
        if intent.place in newest:
            return Superseded()
        return Parked() if intent.place in overtaking else GO

    return judge


def delivered_latest(db: Connection, intents: Sequence[Intent]) -> set[Place]:
    """Say for which of these a later event of the key is delivered."""
    return beside(
        db,
        intents,
        "CROSS JOIN latest l WHERE l.sink = given.sink AND l.key = given.key AND l.partition = given.partition "
        # A row of an older Trunkline does not name its topic.
        'AND l.topic IN (given.topic, \'\') AND l."offset" > given."offset"',
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
    given = 'WITH given (day, id, sink, key, partition, "offset", topic) AS (:rows) '
    rows = db.join(
        f"{given} SELECT given.day, given.id FROM given {what}",  # noqa: S608 - written above
        "integer bytea integer bytea integer bigint text",
        map(whereabouts, keyed(intents)),
    )
    return {Place(day, id_) for day, id_ in rows}


def keyed(intents: Iterable[Intent]) -> Iterator[Intent]:
    """Leave those without a key out: they have no order to keep."""
    return (intent for intent in intents if intent.key is not None)


def whereabouts(intent: Intent) -> tuple[object, ...]:
    """Give an intent's place, and where its event first stood."""
    return (
        intent.place.day, intent.place.id, intent.sink, intent.key, intent.partition, intent.offset, intent.topic
    )  # fmt: skip


def announce(db: Connection, intents: Sequence[Intent], *, reopens: bool) -> None:
    """Write INTENT where there is nothing yet, or the same owner's; a replay also opens what it may open again."""
    rows = [
        (
            *(one.place.day, one.place.id, one.sink, State.INTENT, one.key, one.partition, one.offset, one.payload, 0),
            *(int(one.now * 1000), one.owner, one.deadline, one.run or None),
        )
        for one in intents
    ]
    db.join(REOPEN if reopens else ANNOUNCE, KINDS, rows)


def withdraw(db: Connection, place: Place, owner: str) -> None:
    """Take an INTENT back, because the call was not made: what the ledger knew before is true again."""
    db.join(RESTORE, "integer bytea text text", [(place.day, place.id, owner, run_of(owner))])
    db.join(REMOVE, "integer bytea text", [(place.day, place.id, owner)])


RESTORE = """
WITH given (day, id, owner, run) AS (:rows)
UPDATE :deliveries SET state = before, owner = NULL, deadline = NULL, before = NULL,
    run = nullif(trim(replace(' ' || run || ' ', ' ' || (SELECT run FROM given) || ' ', ' ')), '')
WHERE (day, id) IN (SELECT day, id FROM given) AND owner IN (SELECT owner FROM given)
    AND state = 3 AND before IS NOT NULL
"""

REMOVE = """
WITH given (day, id, owner) AS (:rows)
DELETE FROM :deliveries
WHERE (day, id) IN (SELECT day, id FROM given) AND owner IN (SELECT owner FROM given)
    AND state = 3 AND before IS NULL
"""

ANNOUNCE = f"""{WRITE}
    at = excluded.at, deadline = excluded.deadline
WHERE deliveries.state = 3 AND deliveries.owner = excluded.owner
"""

REOPEN = f"""{WRITE}
    state = 3, at = excluded.at, owner = excluded.owner, deadline = excluded.deadline,
    before = CASE WHEN deliveries.state = 3 THEN deliveries.before ELSE deliveries.state END,
    run = CASE WHEN deliveries.state = 3 THEN deliveries.run ELSE {RUNS} END
WHERE (deliveries.state = 3 AND deliveries.owner = excluded.owner) OR deliveries.state IN (2, 4, 5)
"""
