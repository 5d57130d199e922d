"""The world around the dispatchers, in plain Python: a broker's logs, the ledger's rules, a target that answers.

The ledger does what `trunkline.ledger` does in SQL, statement by statement (D2-D4, D12, R2, L1).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from tests.trunkline.simulator.oracle import FINAL, LETTERS, PERSON, Oracle
from trunkline.errors import Permanent, Unknown
from trunkline.kafka.events import Record, Slot
from trunkline.ledger.deliveries import Row, State
from trunkline.ledger.intents import GO, Ambiguous, Finished, Parked, Standing, Superseded, Wait
from trunkline.verdict import Verdict, judge, of_exception

MAIN = "main"
REPLAY = "replay"
KEYS = [bytes([65 + n]) for n in range(8)]
NO_ANSWER = Unknown("no answer")
NO_CONNECTION = of_exception(OSError("connection refused"))
BUG = of_exception(KeyError("sku"))


@dataclass(slots=True)
class Happening:
    """An event as its source knows it."""

    number: int
    key: int | None
    partition: int
    size: int
    poison: bool
    stubborn: bool
    """The target refuses it until everything has healed."""
    claims: int = -1
    """The event whose id it has, with another content than that event had."""
    offset: int = -1


@dataclass(slots=True)
class Entry:
    """A record in a log."""

    record: Record
    happening: Happening
    run: str


@dataclass(slots=True)
class Broker:
    """Logs with gaps, and committed offsets."""

    logs: dict[Slot, list[Entry]]
    committed: dict[Slot, int] = field(default_factory=lambda: defaultdict(int))
    ends: dict[Slot, int] = field(default_factory=lambda: defaultdict(int))
    refuses_letters: bool = False

    def append(self, slot: Slot, happening: Happening, run: str, *, gap: int) -> int:
        """Write a record and give its offset; an event's first one is its origin."""
        offset = self.ends[slot] + gap
        self.ends[slot] = offset + 1
        if happening.offset < 0:
            happening.offset = offset
        key = None if happening.key is None else KEYS[happening.key]
        record = Record(slot, offset, key, b"", (), happening.number)
        self.logs[slot].append(Entry(record, happening, run))
        return offset


@dataclass(slots=True, eq=False)
class Intent:
    """A call about to be made."""

    happening: Happening
    owner: str
    now: float
    deadline: float
    run: str
    overwrite: bool
    payload: bytes


@dataclass(slots=True, eq=False)
class Outcome:
    """What a worker wants recorded."""

    worker: int
    happening: Happening
    state: State
    owner: str
    attempts: int
    park: bool
    payload: bytes
    run: str
    at: float
    written: bool = False
    """It was committed once, although the answer may have been lost."""


class Ledger:
    """One row per event, those that keep keys parked, the newest delivered event of each key, runs, watermarks."""

    def __init__(self, oracle: Oracle, *, keyed: bool, latest: bool) -> None:
        self.oracle = oracle
        self.keyed = keyed
        self.latest = latest
        self.rows: dict[int, Row] = {}
        """A letter's `owner` is whose call was given up for it: what that one says later comes too late."""
        self.before: dict[int, Row | None] = {}
        """What an INTENT replaced."""
        self.holders: dict[int, dict[int, int]] = {}
        """Of each key that was ever parked, the events that keep it so, with their offsets."""
        self.newest: dict[int, int] = {}
        self.runs: dict[str, bool] = {}
        """Runs under way, and whether they overwrite."""
        self.progress: dict[Slot, int] = {}

    def parked(self) -> list[bytes]:
        """Give the keys that are parked."""
        return [KEYS[key] for key in sorted(self.holders) if self.holders[key]]

    def intend(self, intent: Intent) -> Standing:
        """Say what stands against a call; when nothing does and the target has no keys, the INTENT is written."""
        happening = intent.happening
        number, key = happening.number, happening.key
        row = self.rows.get(number)
        if row is not None:
            if row.state is State.INTENT:
                if row.owner != intent.owner:
                    return Wait(row.deadline) if intent.now < row.deadline else Ambiguous()
            elif not (
                intent.run and row.state in LETTERS and (row.state is State.PARKED or not called_by(row, intent.run))
            ):
                return Finished(row.state)
        if intent.run and key is not None:
            if self.latest and not intent.overwrite and self.newest.get(key, -1) > happening.offset:
                return Superseded()
            if any(offset < happening.offset for offset in self.holders.get(key, {}).values()):
                return Parked()
        if not self.keyed:
            if row is None or row.state is not State.INTENT:
                self.before[number] = row
            runs = with_run("" if row is None else row.runs, intent.run)
            self.rows[number] = Row(State.INTENT, intent.payload, 0, intent.owner, intent.deadline, runs)
            self.oracle.intended(number, intent.owner)
        return GO

    def withdraw(self, happening: Happening, owner: str) -> None:
        """Take an INTENT back: what was known before is true again."""
        number = happening.number
        row = self.rows.get(number)
        if row is None or row.state is not State.INTENT or row.owner != owner:
            return
        before = self.before.pop(number)
        if before is None:
            del self.rows[number]
        else:
            self.rows[number] = replace(before, owner="")
        self.oracle.withdrawn(number, None if before is None else before.state)

    def record(self, outcomes: list[Outcome]) -> tuple[list[bytes], dict[int, Row]]:
        """Write outcomes in one transaction; give those of their keys that are free after it, and what did not count.

        Of that, what stands instead.
        """
        for one in outcomes:
            self._write(one)
        rows = self.rows
        for one in outcomes:
            key, number = one.happening.key, one.happening.number
            if key is not None and (one.park or one.state is State.PARKED) and rows[number].state in LETTERS:
                holders = self.holders.setdefault(key, {})
                if not holders:
                    self.oracle.parked_now(key)
                holders[number] = one.happening.offset
        freed = self._free([one.happening for one in outcomes if one.state in FINAL])
        doubtful = (one for one in outcomes if one.state is not State.DONE)
        return freed, {
            one.happening.number: row for one in doubtful if (row := rows[one.happening.number]).state is not one.state
        }

    def discard(self, happening: Happening) -> None:
        """Give up a letter, as a person does."""
        self.rows[happening.number] = Row(State.DISCARDED, self.rows[happening.number].payload, 0)
        self.oracle.recorded(PERSON, happening.number, State.DISCARDED, "", "")
        self._free([happening])

    def _free(self, ended: list[Happening]) -> list[bytes]:
        freed: dict[bytes, None] = {}
        for one in ended:
            if one.key is None or (holders := self.holders.get(one.key)) is None:
                continue
            if self.rows[one.number].state in FINAL and holders.pop(one.number, None) is not None and not holders:
                self.oracle.freed(one.key)
            if not holders:
                freed[KEYS[one.key]] = None
        self.oracle.stands()
        return list(freed)

    def _write(self, one: Outcome) -> None:
        number, key = one.happening.number, one.happening.key
        row = self.rows.get(number)
        ours = row is not None and row.owner == one.owner
        counts = row is None or (
            row.state is not State.DONE
            and (
                one.state is State.DONE
                or (row.state in LETTERS and not (ours and one.owner))
                or (row.state is State.INTENT and (ours or (one.state is State.AMBIGUOUS and row.deadline <= one.at)))
            )
        )
        if counts and not (one.written and row is not None and row.state is one.state):
            self.before.pop(number, None)
            payload = one.payload if row is None else row.payload
            overruled = "" if row is None or ours else row.owner
            runs = with_run("" if row is None else row.runs, one.run)
            self.rows[number] = Row(one.state, payload, one.attempts, overruled, runs=runs)
            self.oracle.recorded(one.worker, number, one.state, one.run, one.owner)
        one.written = True
        if key is not None and one.state is State.DONE:
            self.newest[key] = max(self.newest.get(key, -1), one.happening.offset)


def called_by(row: Row, run: str) -> bool:
    """Say whether a replay has called an event, and ended so or not told how."""
    return run in row.runs.split()


def with_run(runs: str, run: str) -> str:
    """Give the replays that have called an event, and one more."""
    return " ".join(dict.fromkeys([*runs.split(), *run.split()]))


def answers(*, keyed: bool, latest: bool) -> dict[int, Verdict]:
    """Give what a target's answers mean."""
    now = datetime.now(UTC)
    headers = {429: {"retry-after": "7"}, 503: {"retry-after": "3"}}
    return {
        status: judge(status, headers.get(status, {}), b"", now=now, keyed=keyed, latest=latest)
        for status in (200, 401, 403, 409, 412, 422, 429, 500, 503)
    }


ANSWERS = {(keyed, latest): answers(keyed=keyed, latest=latest) for keyed in (True, False) for latest in (True, False)}


Given = tuple[Happening, str, bool]
"""An event of a request, the replay it is sent by, and whether nobody waits for it any more."""


class Target:
    """Applies events, with or without idempotency keys, and answers well or badly."""

    def __init__(
        self, oracle: Oracle, chance: Callable[[], float], *, keyed: bool, latest: bool, trouble: float
    ) -> None:
        self.oracle = oracle
        self.chance = chance
        self.keyed = keyed
        self.latest = latest
        self.trouble = trouble
        """The share of calls in which something goes wrong."""
        self.down = False
        self.refuses_all = 0
        """The status that it answers to everything, as after a bad release."""
        self.has: set[int] = set()
        self.newest: dict[int, int] = {}
        self.answers = ANSWERS[keyed, latest]

    def handle(self, given: Sequence[Given]) -> Sequence[Verdict]:
        """Apply events or not, and give the verdicts on what is answered; none when several are refused as a whole.

        A bug in an adapter's verdicts is met after the fact, one in its request before.
        """
        if len(given) == 1:
            return [self._handle(given[0])]
        answers, x = self.answers, self.chance()
        if self.down or self.refuses_all:
            verdict = answers[self.refuses_all] if self.refuses_all else NO_CONNECTION if x < 0.5 else answers[503]
            return [] if isinstance(verdict, Permanent) else [verdict] * len(given)
        if self.trouble and any(happening.stubborn for happening, _, _ in given) and x < 0.5:
            return []
        if (x := self.chance()) >= self.trouble:
            return [self._handle(one) for one in given]
        x /= self.trouble
        if x < 0.5:
            applied = self.chance()
            for one in given:
                if self.chance() < applied:
                    self._apply(one)
            return [NO_ANSWER] * len(given)
        if x < 0.6:
            for one in given:
                self._apply(one)
            return [BUG] * len(given)
        if x < 0.7:
            return []
        return [answers[503 if x < 0.8 else 429 if x < 0.9 else 401]] * len(given)

    def _handle(self, given: Given) -> Verdict:
        happening = given[0]
        answers, x = self.answers, self.chance()
        if self.down:
            return NO_CONNECTION if x < 0.5 else answers[503]
        if self.refuses_all:
            return answers[self.refuses_all]
        if happening.stubborn and self.trouble:
            return answers[422] if x < 0.8 else BUG
        known = self.keyed and happening.number in self.has
        newer = happening.key is not None and self.newest.get(happening.key, -1) > happening.offset
        if self.latest and newer and not known and x < 0.5:
            return answers[412 if x < 0.3 else 409]
        if x >= self.trouble:
            return self._apply(given)
        x /= self.trouble
        if x < 0.25:
            self._apply(given)
            return NO_ANSWER
        if x < 0.45:
            return NO_ANSWER
        if x < 0.60:
            return answers[503]
        if x < 0.70:
            return answers[429]
        if known or x < 0.80:
            return answers[500 if self.latest else 409] if self.keyed else answers[500]
        if x < 0.93:
            return answers[422]
        if x < 0.95:
            return answers[403]
        if x < 0.97:
            return answers[401]
        return NO_CONNECTION

    def _apply(self, given: Given) -> Verdict:
        happening, run, late = given
        if not (self.keyed and happening.number in self.has):
            self.has.add(happening.number)
            if happening.key is not None:
                self.newest[happening.key] = max(self.newest.get(happening.key, -1), happening.offset)
            self.oracle.applied(happening.number, run, late=late)
        return self.answers[200]
