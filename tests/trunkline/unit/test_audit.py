from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.deadletter import Origin
from trunkline.kafka.audit import Entry, read, record_of, write

times = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
texts = st.text(st.characters(codec="utf-8"), max_size=20)
entries = st.builds(
    Entry,
    at=times,
    flow=texts,
    sink=texts,
    source=texts,
    event=texts,
    time=times,
    origin=st.builds(Origin, texts, st.integers(0, 2**31), st.integers(0, 2**63 - 1)),
    key=st.none() | texts,
    payload=texts,
    state=texts,
    attempts=st.integers(0, 10_000),
    run=texts,
    kind=texts,
    who=texts,
    why=texts,
)


@given(entries)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    sent = record_of("t.outcomes", entry)
    assert (sent.topic, sent.key, sent.headers) == (
        "t.outcomes",
        entry.event.encode(),
        (("content-type", b"application/json"),),
    )
    assert read(sent.value) == entry


@given(entries)
def test_what_a_later_version_adds_is_passed_over_and_what_is_optional_may_be_missing(entry: Entry) -> None:
    found = orjson.loads(write(entry))
    del found["run"], found["kind"], found["who"], found["why"]
    again = read(orjson.dumps(found | {"new": 1}))
    assert again == replace(entry, run="", kind="", who="", why="")


@pytest.mark.parametrize("value", [None, b"", b"x", b"[]", b"1", b"{}", b'{"at": 1, "time": 2, "origin": 3}'])
def test_anything_else_is_no_entry(value: bytes | None) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(value)
