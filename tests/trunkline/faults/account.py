"""What became of every event, from witnesses that are no part of the bus: kafka-python, SQLite and the target's file.

Nothing here asks Trunkline anything. Identities are worked out anew, so a change of one is noticed too.
"""

import hashlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.trunkline.support import header, read

STATES = {1: "done", 2: "dead", 3: "intent", 4: "ambiguous", 5: "parked", 6: "superseded", 7: "discarded"}
BURIED = {"dead", "parked", "ambiguous"}
"""The states of an event that has a letter."""


CALLS = """
WITH calls AS (
    SELECT seq, replace(path, '/annex-', '/') AS path, status, at, body_sha256 FROM attempts
    WHERE name = :name AND (path LIKE '/annex-%') = :annex ORDER BY seq),
applied AS (
    SELECT rowid AS number, replace(path, '/annex-', '/') AS path, times, repeats FROM effects
    WHERE name = :name AND (path LIKE '/annex-%') = :annex AND NOT :stores
    UNION ALL
    SELECT number, path || '/' || version, 1, 0 FROM changes WHERE name = :name AND :stores)
"""


class Place(NamedTuple):
    """Where an event first stood."""

    partition: int
    offset: int


@dataclass(frozen=True)
class Input:
    """One event, however many copies of it the topic holds; `path` is what the shelf is called with for it."""

    source: str
    id: str
    key: str
    path: str
    place: Place


@dataclass
class Account:
    """The balance of one sink."""

    inputs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    repeats: int = 0
    """Calls that found their effect applied already."""
    lost: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    inversions: list[str] = field(default_factory=list)
    unaccounted: list[str] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)
    """Calls of one key, of two of its events, at the target at once."""
    doubled: list[str] = field(default_factory=list)
    """Calls of one event at the target at once."""
    ahead: list[str] = field(default_factory=list)
    """Offsets that are committed past events that are not finished."""
    stale: list[str] = field(default_factory=list)
    """Letters of events that were delivered after all."""
    leaks: list[str] = field(default_factory=list)

    def check(self, *, doubled: int = 0, stale: int = 0, crossed: int = 0) -> None:
        """Fail, with the name of the invariant, unless everything balances."""
        for name, found, most in (
            ("lost", self.lost, 0),
            ("duplicates", self.duplicates, 0),
            ("inversions", self.inversions, 0),
            ("unaccounted", self.unaccounted, 0),
            ("ahead", self.ahead, 0),
            ("crossed", self.crossed, crossed),
            ("doubled", self.doubled, doubled),
            ("stale", self.stale, stale),
            ("leaks", self.leaks, 0),
        ):
            assert len(found) <= most, f"invariant {name}: {len(found)}, at most {most} allowed: {found[:5]}"

    def __str__(self) -> str:
        states = " ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        return (
            f"{self.inputs} events: {states}; {self.attempts} calls, {self.repeats} repeats; lost {len(self.lost)}, "
            f"duplicates {len(self.duplicates)}, inversions {len(self.inversions)}, unaccounted "
            f"{len(self.unaccounted)}, two calls of a key at once {len(self.crossed)}+{len(self.doubled)}, "
            f"leaks {len(self.leaks)}"
        )


def digest(*parts: str | None) -> bytes:
    """Hash parts with their lengths."""
    joined = b"".join(
        b"\xff" * 8 if part is None else len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts
    )
    return hashlib.sha256(joined).digest()


def inputs_of(bootstrap: str, topic: str, poison: Collection[Place] = ()) -> list[Input]:
    """Read what came in, in order; a place of `poison` is an event of its own, which nothing is called with."""
    found: dict[tuple[str, str], Input] = {}
    for record in read(bootstrap, topic):
        place = Place(record.partition, record.offset)
        key = (record.key or b"").decode(errors="replace")
        if place in poison:
            one = Input(f"kafka:{topic}", f"{place.partition}@{place.offset}", key, "", place)
        else:
            event_id = header(record, "ce_id")
            box, _, number = event_id.rpartition("-")
            one = Input(header(record, "ce_source"), event_id, key, f"/{box}/{number}", place)
        found.setdefault((one.source, one.id), one)
    return list(found.values())


def letters_of(bootstrap: str, topic: str) -> dict[tuple[str, str], list[str]]:
    """Give the classes of the letters of each event."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in read(bootstrap, topic):
        kind = header(record, "trunkline-class")
        if kind == "poison":
            place = f"{header(record, 'trunkline-origin-partition')}@{header(record, 'trunkline-origin-offset')}"
            found[f"kafka:{header(record, 'trunkline-origin-topic')}", place].append(kind)
        else:
            found[header(record, "ce_source"), header(record, "ce_id")].append(kind)
    return found


def states_of(ledger: Path | str) -> dict[bytes, str]:
    """Give the state of every row, of a file or of a server by its address."""
    query = "SELECT id, state FROM deliveries"
    if isinstance(ledger, str):
        with psycopg.connect(ledger) as server:
            return {bytes(row): STATES[state] for row, state in server.execute(query)}
    with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as db:
        return {bytes(row): STATES[state] for row, state in db.execute(query)}


class Target:
    """What one API at the target has seen of one sink.

    The paths of the sink `annex` have a prefix. Where the API `stores`, an effect is a change of a path's value.
    """

    def __init__(self, database: Path, name: str, sink: str, *, stores: bool = False) -> None:
        self._database = database
        self._values = {"name": name, "annex": sink == "annex", "stores": stores}

    def rows(self, query: str) -> list[Any]:
        """Ask the tables `calls` and `applied`: attempts and effects of this sink, with the paths of the events."""
        with closing(sqlite3.connect(f"{self._database.as_uri()}?mode=ro", uri=True)) as db:
            return db.execute(CALLS + query, self._values).fetchall()

    @property
    def effects(self) -> Counter[str]:
        """How often each path had an effect."""
        return Counter(dict(self.rows("SELECT path, sum(times) FROM applied GROUP BY path")))

    @property
    def applied(self) -> list[str]:
        """The paths in the order in which they first had an effect."""
        return [path for (path,) in self.rows("SELECT path FROM applied ORDER BY number")]

    @property
    def attempts(self) -> int:
        [(count,)] = self.rows("SELECT count(*) FROM calls")
        return int(count)

    @property
    def repeats(self) -> int:
        [(count,)] = self.rows("SELECT coalesce(sum(repeats), 0) FROM applied")
        return int(count)

    @property
    def statuses(self) -> Counter[int | None]:
        """How many calls had which answer; None is none."""
        return Counter(dict(self.rows("SELECT status, count(*) FROM calls GROUP BY status")))

    @property
    def overlaps(self) -> list[tuple[str, str, bool]]:
        """Pairs of paths that were called at once though their first segment is the same, and whether for one event."""
        return self.rows(
            "SELECT other.path, one.path, other.path = one.path AND other.body_sha256 = one.body_sha256 "
            "FROM overlaps JOIN calls one USING (seq) JOIN calls other ON other.seq = beside ORDER BY one.seq"
        )

    def steps_back(self) -> list[tuple[str, int]]:
        """Give by how many versions a stored value went back, each time that it did."""
        newest: dict[str, int] = {}
        found = []
        for path in self.applied:
            box, _, version = path.rpartition("/")
            if int(version) < newest.get(box, -1):
                found.append((path, newest[box] - int(version)))
            newest[box] = max(int(version), newest.get(box, -1))
        return found


def account(
    inputs: Collection[Input],
    *,
    sink: str,
    states: Mapping[bytes, str],
    letters: Mapping[tuple[str, str], list[str]],
    target: Target,
    committed: Mapping[int, int],
    under_way: bool = False,
) -> Account:
    """Balance what came in against what became of it; `under_way` leaves aside what the ledger does not know yet."""
    found = Account(len(inputs), attempts=target.attempts, repeats=target.repeats)
    effects = target.effects
    state_of = {one: states.get(digest(sink, one.source, one.id)[:16], "") for one in inputs}
    for one, state in state_of.items():
        found.states[state or "none"] += 1
        times, classes = effects[one.path], letters.get((one.source, one.id), [])
        told = f"{one.id} ({state or 'no row'}, {times} effects, letters {classes})"
        open_yet = under_way and state in {"", "intent"}
        if not times and not classes and not open_yet and state not in {"superseded", "discarded"}:
            found.lost.append(told)
        if times > 1:
            found.duplicates.append(told)
        if state == "done" and classes:
            found.stale.append(told)
        balanced = {
            "done": times > 0,
            "dead": bool(classes) and not times,
            "parked": bool(classes) and not times,
            "ambiguous": bool(classes),
            "superseded": True,
            "discarded": True,
        }.get(state, open_yet)
        if not balanced:
            found.unaccounted.append(told)
        if not state and one.place.offset < committed.get(one.place.partition, 0):
            found.ahead.append(told)
    known = {one.path for one in inputs}
    found.unaccounted += [f"{path}: an effect that nothing asked for" for path in effects if path not in known]
    found.inversions = inversions(inputs, target.applied)
    for before, path, same in target.overlaps:
        (found.doubled if same else found.crossed).append(f"{path} beside {before}")
    return found


def inversions(inputs: Collection[Input], applied: Collection[str]) -> list[str]:
    """Find the effects that came after the effect of a later event of their key."""
    of_path = {one.path: one for one in inputs}
    latest: dict[str, Input] = {}
    found = []
    for path in applied:
        if (one := of_path.pop(path, None)) is None:
            continue
        before = latest.get(one.key)
        if before is not None and one.place < before.place:
            found.append(f"{one.id} after {before.id}")
        else:
            latest[one.key] = one
    return found
