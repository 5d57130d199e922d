"""What the ledger knows, over both databases: states, intents, parked keys, attempts, positions, runs, claims."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trunkline.event import Event
from trunkline.ledger import claims, deliveries, identity, progress, runs
from trunkline.ledger.attempts import WORDS, Attempt, attempts_of, tried
from trunkline.ledger.database import Connection, Ledger
from trunkline.ledger.deliveries import Outcome, Place, Row, State, owner_of
from trunkline.ledger.intents import GO, Ambiguous, Finished, Intent, Parked, Standing, Superseded, Wait, withdraw
from trunkline.ledger.intents import intend as ask
from trunkline.ledger.parks import parked_keys

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS = NOW.timestamp()
KEY, OTHER = b"k" * 16, b"o" * 16
PAYLOAD = b"p" * 16


@pytest.fixture
def db(ledger: Ledger) -> Iterator[Connection]:
    with ledger.connect() as db:
        yield db


def place(event: str) -> Place:
    return deliveries.place_of("store", Event(event, NOW, {}, source="t/till"))


def ended(event: str, state: State, offset: int = 0, **more: Any) -> Outcome:
    return Outcome(place(event), 1, state, KEY, 0, offset, PAYLOAD, 1, NOW)._replace(**more)


def call(event: str, owner: str = "a:1", offset: int = 0, **more: Any) -> Intent:
    intent = Intent(place(event), 1, KEY, 0, offset, PAYLOAD, owner, SECONDS + 22, SECONDS, keyed=False)
    return replace(intent, **more)


def record(db: Connection, *outcomes: Outcome) -> set[bytes]:
    with db.transaction():
        return deliveries.record(db, outcomes).freed


def intend(db: Connection, intent: Intent) -> Standing:
    with db.transaction():
        return ask(db, [intent])[intent.place]


def state_of(db: Connection, event: str) -> State | None:
    row = deliveries.look_up(db, [place(event)]).get(place(event))
    return None if row is None else row.state


def test_a_row_keeps_what_was_first_and_says_how_it_stands(db: Connection) -> None:
    assert deliveries.look_up(db, [place("a")]) == {}
    record(db, ended("a", State.DEAD, 7, attempts=3))
    record(db, ended("a", State.DEAD, 9, attempts=2, payload=b"x" * 16, at=NOW + timedelta(minutes=1)))
    assert deliveries.look_up(db, [place("a"), place("b")]) == {place("a"): Row(State.DEAD, PAYLOAD, 5)}
    stood = db.run('SELECT partition, "offset", at FROM deliveries')
    assert stood == [(0, 7, int(SECONDS * 1000) + 60_000)]


def test_more_than_one_statement_holds_is_written_and_found(db: Connection) -> None:
    many = [ended(f"{number}", State.DONE, number) for number in range(1_234)]
    record(db, *many, *many[:3])
    found = deliveries.look_up(db, [one.place for one in many])
    assert found == {one.place: Row(State.DONE, PAYLOAD, 1) for one in many}


@pytest.mark.parametrize("late", [state for state in State if state is not State.INTENT])
@pytest.mark.parametrize("owner", ["", "a:1"])
def test_done_is_never_taken_back(db: Connection, late: State, owner: str) -> None:
    record(db, ended("a", State.DONE))
    record(db, ended("a", late, owner=owner, at=NOW + timedelta(days=1)))
    assert deliveries.look_up(db, [place("a")])[place("a")] == Row(State.DONE, PAYLOAD, 1)
    for run in ("", "r"):
        assert intend(db, call("a", run=run)) == Finished(State.DONE)
    assert state_of(db, "a") is State.DONE


@pytest.mark.parametrize("first", [state for state in State if state is not State.INTENT])
def test_done_always_counts(db: Connection, first: State) -> None:
    record(db, ended("a", first))
    record(db, ended("a", State.DONE, owner="late", at=NOW + timedelta(days=1)))
    assert state_of(db, "a") is State.DONE


@pytest.mark.parametrize("first", [State.SUPERSEDED, State.DISCARDED])
def test_what_was_given_up_is_not_dead_again(db: Connection, first: State) -> None:
    record(db, ended("a", first))
    record(db, ended("a", State.DEAD, at=NOW + timedelta(days=1)))
    assert state_of(db, "a") is first
    assert intend(db, call("a", run="r")) == Finished(first)


def test_the_same_outcome_again_counts_once(db: Connection) -> None:
    once = ended("a", State.DEAD, attempts=4)
    record(db, once, once)
    record(db, once)
    assert deliveries.look_up(db, [place("a")])[place("a")].attempts == 4


def test_a_call_to_a_target_without_keys_is_announced(db: Connection) -> None:
    assert intend(db, call("a")) is GO
    assert deliveries.look_up(db, [place("a")])[place("a")] == Row(State.INTENT, PAYLOAD, 0, "a:1", SECONDS + 22)
    assert intend(db, call("a", deadline=SECONDS + 50, now=SECONDS + 30)) is GO, "its own call again"
    assert intend(db, call("a", "b:1", now=SECONDS + 49)) == Wait(SECONDS + 50)
    assert intend(db, call("a", "b:1", now=SECONDS + 50)) == Ambiguous()
    record(db, ended("a", State.DEAD, owner="a:1"))
    assert deliveries.look_up(db, [place("a")])[place("a")] == Row(State.DEAD, PAYLOAD, 1)


def test_a_call_to_a_target_with_keys_needs_no_announcement(db: Connection) -> None:
    assert intend(db, call("a", keyed=True)) is GO
    assert state_of(db, "a") is None


def test_of_late_results_only_success_counts(db: Connection) -> None:
    intend(db, call("a", "old"))
    record(db, ended("a", State.DEAD, owner="other"))
    assert state_of(db, "a") is State.INTENT, "another owner, and the deadline has not passed"
    over = NOW + timedelta(seconds=22)
    record(db, ended("a", State.DEAD, owner="other", at=over))
    assert state_of(db, "a") is State.INTENT, "it may have been applied, so it is AMBIGUOUS and nothing else"
    given_up = ended("a", State.AMBIGUOUS, at=over)
    record(db, given_up)
    record(db, given_up)  # the answer may have been lost
    assert state_of(db, "a") is State.AMBIGUOUS
    record(db, ended("a", State.DEAD, owner="old", at=over))
    assert state_of(db, "a") is State.AMBIGUOUS
    record(db, ended("a", State.DONE, owner="old", at=over))
    assert state_of(db, "a") is State.DONE


@pytest.mark.parametrize("first", [State.DEAD, State.AMBIGUOUS, State.PARKED])
@pytest.mark.parametrize("owner", ["", "b:1"])
def test_what_a_replay_brought_counts(db: Connection, first: State, owner: str) -> None:
    record(db, ended("a", first))
    record(db, ended("a", State.DEAD, owner=owner, at=NOW + timedelta(minutes=1)))
    assert deliveries.look_up(db, [place("a")])[place("a")] == Row(State.DEAD, PAYLOAD, 2)
    record(db, ended("a", State.SUPERSEDED, owner=owner, at=NOW + timedelta(minutes=2)))
    assert state_of(db, "a") is State.SUPERSEDED


@pytest.mark.parametrize("first", [None, State.DEAD, State.AMBIGUOUS, State.PARKED])
def test_a_call_that_was_not_made_is_taken_back(db: Connection, first: State | None) -> None:
    if first is not None:
        record(db, ended("a", first, attempts=2))
    ours = owner_of("a", 1, "r")
    assert intend(db, call("a", ours, run="r")) is GO
    assert intend(db, call("a", ours, run="r")) is GO
    assert state_of(db, "a") is State.INTENT
    with db.transaction():
        withdraw(db, place("a"), owner_of("another", 1, "r"))
    assert state_of(db, "a") is State.INTENT
    with db.transaction():
        withdraw(db, place("a"), ours)
    assert state_of(db, "a") is first
    if first is not None:
        assert deliveries.look_up(db, [place("a")])[place("a")] == Row(first, PAYLOAD, 2)


@pytest.mark.parametrize("state", [State.DEAD, State.AMBIGUOUS, State.PARKED])
@pytest.mark.parametrize("keyed", [True, False])
def test_only_a_replay_opens_what_had_ended(db: Connection, state: State, keyed: bool) -> None:  # noqa: FBT001
    record(db, ended("a", state))
    assert intend(db, call("a", keyed=keyed)) == Finished(state)
    assert state_of(db, "a") is state
    assert intend(db, call("a", keyed=keyed, run="r")) is GO
    assert state_of(db, "a") is (state if keyed else State.INTENT)


def test_a_replay_does_not_call_again_what_it_called_and_nobody_knows_how_it_ended(db: Connection) -> None:
    """Whoever finds that out, and be it not by a copy of the replay (D4, R2)."""
    record(db, ended("a", State.AMBIGUOUS))
    crashed = owner_of("old", 7, "r")
    assert intend(db, call("a", crashed, run="r")) is GO
    over: dict[str, Any] = {"now": SECONDS + 22, "deadline": SECONDS + 44}
    assert intend(db, call("a", "next:1:", **over)) == Ambiguous()
    record(db, ended("a", State.AMBIGUOUS, owner="next:1:", at=NOW + timedelta(seconds=22)))
    assert intend(db, call("a", owner_of("next", 2, "r"), run="r", **over)) == Finished(State.AMBIGUOUS)
    assert intend(db, call("a", owner_of("next", 3, "s"), run="s", **over)) is GO, "another replay is another matter"


@pytest.mark.parametrize("then", ["withdraws", "ends", "is lost too"])
def test_another_replay_does_not_let_the_first_call_again(db: Connection, then: str) -> None:
    """Two runs at once, and a crash: the first one's call was given up, the second one comes between (D4, R2)."""
    later = NOW + timedelta(seconds=22)
    over: dict[str, Any] = {"now": SECONDS + 22, "deadline": SECONDS + 44}
    record(db, ended("a", State.AMBIGUOUS))
    assert intend(db, call("a", owner_of("old", 1, "first"), run="first")) is GO
    record(db, ended("a", State.AMBIGUOUS, owner="next:1:", at=later))
    second = owner_of("next", 2, "second")
    assert intend(db, call("a", second, run="second", **over)) is GO
    if then == "withdraws":
        with db.transaction():
            withdraw(db, place("a"), second)
        assert intend(db, call("a", owner_of("next", 3, "second"), run="second", **over)) is GO, "it has not called"
        with db.transaction():
            withdraw(db, place("a"), owner_of("next", 3, "second"))
    elif then == "ends":
        record(db, ended("a", State.DEAD, owner=second, run="second", at=later))
    else:
        record(db, ended("a", State.AMBIGUOUS, owner="last:1:", at=later + timedelta(seconds=22)))
    assert intend(db, call("a", owner_of("last", 2, "first"), run="first", **over)) == Finished(
        State.DEAD if then == "ends" else State.AMBIGUOUS
    )
    assert isinstance(intend(db, call("a", owner_of("last", 3, "third"), run="third", **over)), type(GO))


def test_a_row_remembers_no_more_replays_than_may_be_under_way(db: Connection) -> None:
    runs = [f"20261129T0000{number:02}Z-abcdef" for number in range(60)]
    for number, run in enumerate(runs):
        record(db, ended("a", State.DEAD, run=run, at=NOW + timedelta(minutes=number)))
        record(db, ended("a", State.DEAD, run=run, at=NOW + timedelta(minutes=number)))
    kept = deliveries.look_up(db, [place("a")])[place("a")].runs.split()
    assert kept == runs[-len(kept) :]
    assert 1 <= len(kept) <= 20


def test_a_replay_does_not_bring_an_older_state_back(db: Connection) -> None:
    record(db, ended("old", State.DEAD, 5), ended("older", State.DEAD, 3))
    record(db, ended("new", State.DONE, 6, latest=True), ended("newer", State.DONE, 4, latest=True))
    record(db, ended("late", State.DONE, 1, latest=True))
    replayed = call("old", offset=5, run="r", keyed=True, latest=True)
    assert intend(db, replayed) == Superseded()
    assert intend(db, replace(replayed, keyed=False)) == Superseded()
    assert intend(db, replace(replayed, overwrite=True)) is GO
    assert intend(db, replace(replayed, latest=False)) is GO
    assert intend(db, replace(replayed, key=OTHER)) is GO
    assert intend(db, replace(replayed, offset=6)) is GO, "it is the newest itself"
    assert intend(db, replace(replayed, run="")) == Finished(State.DEAD)


def test_offsets_of_another_topic_of_the_sink_supersede_nothing(db: Connection) -> None:
    """The sink was moved to a topic with more partitions, or reads two."""
    record(db, ended("old", State.DEAD, 5, topic="new"))
    before = ended("before", State.DONE, 1_000, latest=True, topic="old")
    record(db, before, ended("new", State.DONE, 4, latest=True, topic="new"))
    replayed = call("old", offset=5, run="r", keyed=True, latest=True, topic="new")
    assert intend(db, replayed) is GO, "nothing later of its key is delivered"
    record(db, ended("newer", State.DONE, 6, latest=True, topic="new"), before._replace(place=place("again")))
    assert intend(db, replayed) == Superseded()
    assert intend(db, replace(replayed, topic="old")) == Superseded()
    db.run("UPDATE latest SET topic = '' WHERE topic = 'new'")
    assert intend(db, replayed) == Superseded(), "a row of an older Trunkline"


def test_a_key_is_parked_until_its_last_unfinished_event_has_ended(db: Connection) -> None:
    assert record(db, ended("a", State.DEAD, 1, park=True), ended("b", State.DEAD, 2, key=OTHER)) == set()
    record(db, ended("c", State.PARKED, 3), ended("d", State.PARKED, 4))
    assert (parked_keys(db, 1), parked_keys(db, 2)) == ({KEY}, set())
    assert intend(db, call("c", offset=3, run="r")) == Parked(), "one before it is still dead"
    assert intend(db, call("a", offset=1, run="r")) is GO
    assert intend(db, call("c", offset=3, run="r")) == Parked(), "one before it is being sent"
    assert record(db, ended("a", State.DONE, 1, owner="a:1")) == set()
    assert record(db, ended("c", State.DISCARDED, 3)) == set()
    assert intend(db, call("d", offset=4, run="r")) is GO
    assert parked_keys(db, 1) == {KEY}, "what is being sent again keeps its key"
    last = ended("d", State.DONE, 4, owner="a:1")
    assert record(db, last) == {KEY}
    assert parked_keys(db, 1) == set()
    assert record(db, last) == {KEY}, "the answer may have been lost"
    record(db, ended("e", State.DEAD, 5, park=True))
    assert parked_keys(db, 1) == {KEY}


def test_an_outcome_that_came_too_late_frees_nothing(db: Connection) -> None:
    record(db, ended("a", State.DEAD, 1, park=True))
    assert intend(db, call("a", offset=1, run="r")) is GO
    assert record(db, ended("a", State.DISCARDED, 1)) == set(), "it is being sent again"
    assert (state_of(db, "a"), parked_keys(db, 1)) == (State.INTENT, {KEY})


def test_an_outcome_that_came_too_late_parks_nothing(db: Connection) -> None:
    record(db, ended("a", State.DONE))
    record(db, ended("a", State.DEAD, park=True), ended("b", State.DEAD, key=None, park=True))
    assert parked_keys(db, 1) == set()


@pytest.mark.parametrize("state", [State.DEAD, State.PARKED, State.SUPERSEDED])
def test_an_outcome_that_another_workers_call_came_before_is_told_so(db: Connection, state: State) -> None:
    """As when a worker that does not know that its partition went away skips an event by order (D4, D12, L5)."""
    assert intend(db, call("a", owner="next:1")) is GO
    late = ended("a", state, park=True)
    with db.transaction():
        freed, against = deliveries.record(db, [late, ended("b", State.DONE), ended("c", State.DEAD)])
    assert freed == set()
    assert against == {place("a"): Row(State.INTENT, PAYLOAD, 0, "next:1", SECONDS + 22)}
    assert parked_keys(db, 1) == set(), "nothing is parked by what did not count"
    withdraw(db, place("a"), "next:1")
    with db.transaction():
        assert deliveries.record(db, [late]).against == {}
        assert deliveries.record(db, [late]).against == {}, "the answer may have been lost"
    assert state_of(db, "a") is state


def test_an_outcome_that_success_came_before_has_ended_so(db: Connection) -> None:
    record(db, ended("a", State.DONE))
    with db.transaction():
        [(where, row)] = deliveries.record(db, [ended("a", State.AMBIGUOUS)]).against.items()
    assert (where, row.state) == (place("a"), State.DONE)


def test_failed_attempts_are_kept_for_whoever_asks(db: Connection) -> None:
    first = Attempt(place("a"), NOW, 503, 0.25, "answered 503")
    second = Attempt(place("a"), NOW + timedelta(seconds=2), None, 20.0, "no answer\0 \ud800" + "!" * 600)
    tried(db, [second, first])
    tried(db, [first])
    told = replace(second, words=("no answer ?" + "!" * 600)[:WORDS])
    assert attempts_of(db, [place("a"), place("b")]) == [first, told]


def test_positions_only_advance(db: Connection) -> None:
    progress.advance(db, "store", {("t", 0): 5, ("t", 1): 7})
    progress.advance(db, "store", {("t", 0): 4, ("t", 1): 8})
    progress.advance(db, "other", {("t", 0): 1})
    assert progress.read(db, "store") == {("t", 0): 5, ("t", 1): 8}
    assert progress.read(db, "nobody") == {}


def test_a_ledger_has_one_identity(db: Connection) -> None:
    assert identity.read(db) is None
    made = identity.create(db)
    assert (made.epoch, identity.create(db), identity.read(db)) == (1, made, made)


def test_runs_are_live_until_they_end(db: Connection) -> None:
    runs.begin(db, "plain", "store", 2, NOW)
    runs.begin(db, "over", "store", 2, NOW, overwrite=True)
    runs.begin(db, "elsewhere", "other", 2, NOW, overwrite=True)
    assert runs.live(db, "store") == {"plain", "over"}
    assert runs.overwriting(db, "store") == {"over"}
    runs.finish(db, "over", NOW)
    assert (runs.live(db, "store"), runs.overwriting(db, "store")) == ({"plain"}, set())


def test_a_claim_is_its_owners_until_its_deadline(db: Connection) -> None:
    claim = claims.id_of("t/till", "a")
    assert claims.take(db, claim, b"0001x", "one", 100.0) == "ours"
    assert claims.take(db, claim, b"0001x", "two", 100.0) == "pending"
    assert claims.take(db, claim, b"0001y", "two", 100.0) == "conflict"
    assert claims.take(db, claim, b"0002y", "two", 100.0) == "pending", "as a newer version of the schema has it"
    assert claims.take(db, claim, b"0001x", "two", 100.0 + claims.PATIENCE) == "ours"
    claims.release(db, [claim], "one")
    assert claims.take(db, claim, b"0001x", "one", 100.0 + claims.PATIENCE) == "pending"
    claims.release(db, [claim], "two")
    assert claims.take(db, claim, b"0001x", "one", 100.0) == "ours"
    claims.publish(db, claim)
    assert claims.take(db, claim, b"0001x", "two", 1e9) == "published"


def test_a_claim_is_found_again_by_later_versions() -> None:
    """Under another id, or with another state, what was posted before an upgrade would be published a second time."""
    assert claims.id_of("t/till", "a").hex() == "e8beaeffc356afb3639fee9fd72dc863"
    assert {state.name: state.value for state in claims.State} == {"PENDING": 1, "PUBLISHED": 2}


def test_a_sink_keeps_its_number(db: Connection) -> None:
    numbers = [deliveries.number_of(db, name) for name in ("store", "other", "store")]
    assert numbers[0] == numbers[2] != numbers[1]


def test_deliveries_are_counted_by_sink_and_state(db: Connection) -> None:
    number = deliveries.number_of(db, "store")
    record(db, *(ended(event, State.DONE, sink=number) for event in "abc"), ended("d", State.DEAD, sink=number))
    assert deliveries.count(db, "store") == {State.DONE: 3, State.DEAD: 1}
    record(db, ended("a", State.DONE, sink=number), ended("a", State.DEAD, sink=number))
    record(db, *(ended("d", State.DONE, sink=number, offset=offset) for offset in range(2)))
    assert deliveries.count(db, "store") == {State.DONE: 4}, "what is recorded twice counts once"
    assert not deliveries.count(db, "other")


def test_what_two_connections_record_is_counted_together(ledger: Ledger) -> None:
    with ledger.connect() as one, ledger.connect() as two:
        number = deliveries.number_of(one, "store")
        record(one, ended("a", State.DONE, sink=number))
        record(two, ended("b", State.DONE, sink=number))
        assert deliveries.count(one, "store") == deliveries.count(two, "store") == {State.DONE: 2}
