import tracemalloc
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.trunkline.support import Shelf, notes
from trunkline import Deliver, Target, deadletter, env
from trunkline.cli.discard import digests
from trunkline.deadletter import Failure, Kind, Origin
from trunkline.errors import Unavailable, UsageError
from trunkline.event import Event, Headers, from_headers, to_headers
from trunkline.kafka.control import Record
from trunkline.kafka.events import Slot
from trunkline.ledger.deliveries import Outcome, State, place_of, record
from trunkline.ledger.deliveries import key_of as key_digest
from trunkline.ledger.sqlite import File
from trunkline.operate.browse import OTHER, REASONS, Ahead, Gone, behind, gather, opened, value_of
from trunkline.operate.replay import Known, Progress, Replay, key_of, next_of, plan, select
from trunkline.redact import hashed

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def letter(
    event: str,
    *,
    key: str = "k",
    origin: tuple[int, int] = (0, 0),
    replays: int = 0,
    offset: int = 0,
    kind: Kind = "permanent",
) -> Record:
    """Give a record of a dead-letter topic; each replay failed a minute later."""
    seen: Event[Any] = Event(event, AT, {}, source="t/till", type="t.Order.v1", key=key)
    at = AT + timedelta(minutes=replays)
    gone = (deadletter.FIRST_FAILED, at.isoformat().encode()), (deadletter.REPLAY_COUNT, str(replays).encode())
    before: Headers = (*to_headers(seen), *gone)
    failure = Failure("f", kind, "deliver", "Permanent", "answered 422", 1, 422, at)
    written = deadletter.write(before, Origin("t.lines", *origin), failure)
    return Record("f.dlq", origin[0], offset, key.encode(), b"value", written, AT + timedelta(days=1))


def ids(dead: Any) -> list[str]:
    return [one.id for one in dead]


def test_letters_of_one_event_are_one_entry_with_its_newest_letter() -> None:
    records = [letter("a"), letter("b", offset=1), letter("a", replays=1, offset=2)]
    found = gather([*records, Record("f.dlq", 0, 3, None, b"x", (), AT)])
    assert [(dead.id, dead.letters, dead.replays) for dead in found.dead] == [("a", 2, 1), ("b", 1, 0)]
    assert found.foreign == 1


def test_garbage_under_the_id_of_an_event_is_not_that_event() -> None:
    failure = Failure("f", "poison", "decode", "Poison", "no Avro", 1, None, AT)
    own = letter("a")
    garbage = Record(
        "f.dlq", 3, 0, b"k", b"\0", deadletter.write(own.headers, Origin("t.lines", 3, 99), failure), own.timestamp
    )
    assert sorted(ids(gather([own, garbage]).dead)) == ["3@99", "a"]


def test_a_letter_that_is_no_event_is_named_by_where_it_first_stood() -> None:
    failure = Failure("f", "poison", "decode", "Poison", "no event", 1, None, AT)
    headers = deadletter.write((("colour", b"red"),), Origin("t.lines", 3, 99), failure)
    [dead] = gather([Record("f.dlq", 3, 0, b"\xff", b"\x01", headers, AT)]).dead
    assert (dead.source, dead.id) == ("kafka:t.lines", "3@99")


class Topic:
    """Reads one dead-letter topic as the control plane does."""

    def __init__(self, *records: Record) -> None:
        self.records = records

    def read(self, topic: str, *, partition: int, start: Mapping[int, int]) -> Generator[Record, None, None]:
        yield from (one for one in self.records if one.topic == topic and one.offset >= start[partition])

    def pick(self, _: str, places: Collection[tuple[int, int]]) -> Iterator[Record]:
        yield from (one for one in self.records if (one.partition, one.offset) in places)

    def ends(self, _: object) -> dict[Slot, int]:
        return {}


def test_large_values_are_read_when_they_are_wanted_and_not_kept_by_the_thousand() -> None:
    small, large = letter("small"), replace(letter("large", offset=7), value=b"x" * 100_000)
    there: Any = Topic(small, large)
    found = {dead.id: one for dead, one in opened(there, "f.dlq", gather([small, large]).dead)}
    assert (found["small"].record.value, found["large"].record.value) == (b"value", None)
    assert [value_of(there, found[name]) for name in ("small", "large")] == [small.value, large.value]
    later: Any = Topic(small, replace(large, offset=8))
    with pytest.raises(Unavailable, match="the dead letter of event large has gone"):
        value_of(later, found["large"])
    with pytest.raises(Gone, match="the dead letter of event large has gone"):
        Ahead(later, "f.dlq").open(gather([large]).dead[0])
    assert [dead.id for dead, _ in opened(later, "f.dlq", gather([large, small]).dead)] == ["small"], "a list goes on"


def test_of_many_letters_little_is_kept_and_no_more_reasons_than_anybody_reads() -> None:
    def written(count: int) -> Iterator[Record]:
        for number in range(count):
            one = letter(f"{number:036d}", key=f"{number:016d}", offset=number)
            failure = Failure("f", "permanent", "deliver", "Permanent", f"answered 422: {number}" * 9, 1, 422, AT)
            yield replace(one, headers=deadletter.write(one.headers, Origin("t.lines", 0, number), failure))

    tracemalloc.start()
    try:
        found = gather(written(5_000))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / len(found.dead) < 600
    assert len({dead.why for dead in found.dead}) <= REASONS
    assert Counter(dead.why.reason for dead in found.dead)[OTHER] > 3_900


def known(
    *records: Record, held: str = "", overtaken: tuple[str, ...] = (), states: Mapping[str, State] | None = None
) -> Known:
    states = states or {}
    dead = gather(records).dead
    return Known(
        dead,
        {one.who: states[one.id] for one in dead if one.id in states},
        [one.key for one in dead if one.key is not None and key_of(one) == held],
        [one.who for one in dead if one.id in overtaken],
    )


def test_a_plan_sends_in_order_of_origin_and_leaves_out_what_is_done_or_goes_round() -> None:
    found = known(
        letter("late", origin=(1, 9)),
        letter("early", origin=(1, 2)),
        letter("other", origin=(0, 5)),
        letter("done", origin=(0, 1)),
        letter("old", origin=(0, 2)),
        letter("given up", origin=(0, 3)),
        letter("round", origin=(0, 0), replays=3),
        states={
            "early": State.DEAD,
            "other": State.AMBIGUOUS,
            "done": State.DONE,
            "old": State.SUPERSEDED,
            "given up": State.DISCARDED,
        },
    )
    planned = plan(found)
    assert ids(planned.send) == ["other", "early", "late"]
    assert ids(planned.finished) == ["done", "old", "given up"]
    assert ids(planned.refused) == ["round"]
    assert planned.selected == 7
    assert planned.counts() == {State.AMBIGUOUS: 1, State.DEAD: 1, None: 1}
    assert ids(plan(found, ["round"]).send) == ["round"], "a person may try again"


def test_a_plan_says_what_a_later_event_has_overtaken() -> None:
    found = known(letter("a", origin=(0, 1)), letter("b", origin=(0, 2)), overtaken=("a",), states={"a": State.DEAD})
    assert ids(plan(found).superseded) == ["a"]
    assert plan(found, overwrite=True).superseded == []
    assert ids(plan(found).send) == ["a", "b"], "the worker decides, when it is sent"


PARKED_KEY = (
    letter("first", origin=(0, 1)),
    letter("second", origin=(0, 2), offset=1, kind="parked"),
    letter("third", origin=(0, 3), offset=2, kind="parked"),
    letter("free", key="other", origin=(0, 0), offset=3),
)
STATES = {"first": State.DEAD, "second": State.PARKED, "third": State.PARKED, "free": State.DEAD}


def test_the_whole_of_a_parked_key_goes_in_order() -> None:
    found = known(*PARKED_KEY, held="k", states=STATES)
    by_key, whole = plan(found, keys=["k"]), plan(found)
    assert ids(by_key.send) == ["first", "second", "third"]
    assert ids(whole.send) == ["free", "first", "second", "third"]
    assert by_key.keys == whole.keys == {found.held[0]}  # type: ignore[index]  # it is a list
    assert ids(plan(found, keys=[f"#{hashed(b'k')}"]).send) == ids(by_key.send), "as a sensitive key is shown"


def test_single_events_of_a_parked_key_begin_with_its_earliest() -> None:
    found = known(*PARKED_KEY, held="k", states=STATES)
    for chosen in (["second"], ["first", "third"], ["free", "third"]):
        with pytest.raises(UsageError, match=r"event .* would overtake .* --key k replays all 3 of them in order"):
            plan(found, chosen)
    with pytest.raises(UsageError, match=r"--key '#a b' replays"):  # what begins with # is none to a shell
        plan(found, ["second"], name=lambda _: "#a b")
    assert ids(plan(found, ["second", "first"]).send) == ["first", "second"]
    assert plan(found, ["first"]).keys == frozenset(), "only that one was asked for"
    assert ids(plan(found, ["free"]).send) == ["free"]
    assert ids(plan(known(*PARKED_KEY, held="k", states=STATES | {"first": State.DONE}), ["second"]).send) == ["second"]
    assert ids(plan(known(*PARKED_KEY, states=STATES), ["third"]).send) == ["third"], "nothing is held back"


def test_what_waits_for_a_refused_event_of_a_parked_key_is_refused_with_it() -> None:
    found = known(letter("first", origin=(0, 1), replays=3), *PARKED_KEY[1:], held="k", states=STATES)
    planned = plan(found)
    assert (ids(planned.send), ids(planned.refused)) == (["free"], ["first", "second", "third"])
    assert planned.keys == frozenset()
    assert ids(plan(found, keys=["k"]).send) == ["first", "second", "third"]
    parked = letter("second", origin=(0, 2), kind="parked", replays=7)
    assert ids(plan(known(parked, states={"second": State.PARKED})).send) == ["second"], "it was never tried"


def test_of_a_parked_key_nothing_follows_a_dead_event_before_that_is_delivered() -> None:
    first, second, third, free = sorted(gather(PARKED_KEY).dead, key=lambda dead: (dead.id == "free", dead.origin))
    assert first.key is not None
    progress = Progress("r", [first, second, third, free])
    for expected in (first, free, None):
        sent = next_of(progress, {first.key})
        assert sent == expected
        if sent is not None:
            progress.unsent.remove(sent)
            progress.open.append(sent)
    progress.open.remove(first)
    assert next_of(progress, {first.key}) == second
    progress.unsent.remove(second)
    progress.open.append(second)
    assert next_of(progress, {first.key}) == third, "what was parked is not waited for: the worker keeps its order"


def test_a_parked_event_waits_behind_the_first_of_its_key_that_is_not_finished() -> None:
    dead = gather(PARKED_KEY).dead
    by_id = {one.id: one for one in dead}
    states = [STATES[one.id] for one in dead]
    assert behind(dead, states) == {by_id[event].who: by_id["first"] for event in ("second", "third")}
    states = [State.DONE if one.id == "first" else STATES[one.id] for one in dead]
    assert behind(dead, states) == {by_id["third"].who: by_id["second"]}


def test_events_are_selected_by_id_or_key() -> None:
    dead = gather([letter("a", key="x"), letter("b", key="y"), letter("c", key="y")]).dead
    assert sorted(ids(select(dead, [], []))) == ["a", "b", "c"]
    assert sorted(ids(select(dead, ["a"], ["y"]))) == ["a", "b", "c"]
    assert ids(select(dead, ["b"], [])) == ["b"]
    with pytest.raises(UsageError, match="no dead letter has event z, key w"):
        select(dead, ["a", "z"], ["w"])


def test_keys_to_discard_may_be_named_as_letters_show_them() -> None:
    flow = Deliver(notes("t", 1), to=Shelf(Target("shelf", env("SHELF_URL"))))
    raw = replace(letter("raw"), key=b"\xff")
    stray_letter = deadletter.write((), Origin("t.lines", 0, 1), Failure("f", "poison", "decode", "P", "", 1, None, AT))
    there: Any = SimpleNamespace(read=lambda _: [letter("a", key="x"), replace(raw, headers=stray_letter)])
    hidden = f"#{hashed(b'x')}"
    assert digests(["plain", hidden, "\\xff"], there, flow) == {
        key_digest(b"plain"): "plain",
        key_digest(b"x"): hidden,
        key_digest(b"\xff"): "\\xff",
    }


def test_a_letter_whose_value_has_been_deleted_holds_up_no_other(tmp_path: Path) -> None:
    flow = Deliver(notes("t", 1), to=Shelf(Target("shelf", env("SHELF_URL"))))
    lost = letter("lost", key="a", origin=(0, 1))
    lost = replace(lost, value=None, headers=deadletter.by_reference(lost.headers, b"too large"))
    parked = letter("parked", key="a", origin=(0, 2), offset=1, kind="parked")
    other = letter("other", key="b", origin=(0, 3), offset=2)
    sent: list[bytes | None] = []
    with closing(File(tmp_path / "ledger.db").connect()) as db:

        def send(_topic: str, key: bytes | None, *_: object, partition: int) -> Future[None]:
            """Send a record, which a worker delivers at once."""
            sent.append(key)
            at = place_of("shelf", from_headers(other.headers, other.key))
            with db.transaction():
                record(db, [Outcome(at, 1, State.DONE, key, partition, 3, b"", 1, AT)])
            written: Future[None] = Future()
            written.set_result(None)
            return written

        there: Any = Topic(lost, parked, other)
        sender: Any = SimpleNamespace(send=send)
        planned = plan(known(lost, parked, other, held="a"))
        done = Replay(flow, there, sender, db, rate=1000, wait=5).run(planned, lambda _: None)
    assert (ids(done.gone), ids(done.parked), ids(done.delivered)) == (["lost"], ["parked"], ["other"])
    assert (sent, done.trouble, done.complete) == ([b"b"], "", False)
