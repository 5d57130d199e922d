from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trunkline import deadletter
from trunkline.deadletter import Failure, Origin
from trunkline.errors import UsageError
from trunkline.event import Event, Headers, to_headers
from trunkline.kafka.control import Record
from trunkline.ledger.deliveries import Row, State
from trunkline.operate import browse
from trunkline.operate.browse import gather, places
from trunkline.operate.replay import plan, select

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def letter(
    event: str, *, key: str = "k", origin: tuple[int, int] = (0, 0), replays: int = 0, offset: int = 0, **headers: bytes
) -> Record:
    """Give a record of a dead-letter topic; each replay failed a minute later."""
    seen: Event[Any] = Event(event, AT, {}, source="t/till", type="t.Order.v1", key=key)
    before: Headers = (*to_headers(seen), ("trunkline-replay-count", str(replays).encode()))
    failure = Failure("f", "permanent", "deliver", "Permanent", "answered 422", 1, 422, AT + timedelta(minutes=replays))
    written = deadletter.write(before, Origin("t.lines", *origin), failure)
    return Record(
        "f.dlq", origin[0], offset, key.encode(), b"value", (*written, *headers.items()), AT + timedelta(days=1)
    )


def ids(dead: Any) -> list[str]:
    return [one.event.id for one in dead]


def test_letters_of_one_event_are_one_entry_with_its_newest_letter() -> None:
    records = [letter("a"), letter("b", offset=1), letter("a", replays=1, offset=2)]
    found = gather([*records, Record("f.dlq", 0, 3, None, b"x", (), AT)])
    assert [(dead.event.id, dead.letters, dead.letter.replays) for dead in found.dead] == [("a", 2, 1), ("b", 1, 0)]
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
    assert (dead.event.source, dead.event.id) == ("kafka:t.lines", "3@99")


def test_a_plan_sends_in_order_of_origin_and_leaves_out_what_is_done_or_goes_round() -> None:
    records = [
        letter("late", origin=(1, 9)),
        letter("early", origin=(1, 2)),
        letter("other", origin=(0, 5)),
        letter("done", origin=(0, 1)),
        letter("round", origin=(0, 0), replays=3),
    ]
    dead = gather(records).dead
    where = dict(zip(ids(dead), places("store", dead), strict=True))
    rows = {where["done"]: Row(State.DONE, b"", 1), where["early"]: Row(State.DEAD, b"", 4)}
    planned = plan(dead, places("store", dead), rows)
    assert ids(planned.send) == ["other", "early", "late"]
    assert ids(planned.delivered) == ["done"]
    assert ids(planned.refused) == ["round"]
    assert planned.selected == 5


def test_events_are_selected_by_id_or_key() -> None:
    dead = gather([letter("a", key="x"), letter("b", key="y"), letter("c", key="y")]).dead
    assert sorted(ids(select(dead, [], []))) == ["a", "b", "c"]
    assert sorted(ids(select(dead, ["a"], ["y"]))) == ["a", "b", "c"]
    assert ids(select(dead, ["b"], [])) == ["b"]
    with pytest.raises(UsageError, match="no dead letter has event z, key w"):
        select(dead, ["a", "z"], ["w"])


def test_places_are_those_of_the_sinks_name() -> None:
    [dead] = gather([letter("a")]).dead
    assert browse.places("one", [dead]) != browse.places("two", [dead])
