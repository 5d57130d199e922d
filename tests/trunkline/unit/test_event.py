import string
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import Event, Poison
from trunkline.event import Headers, derived_id, digest, from_headers, idempotency_key, to_headers

NOW = datetime(2017, 1, 3, 12, 21, 27, 123456, tzinfo=UTC)
PARENT: Event[dict[str, object]] = Event("42", NOW, {}, source="bus/till", type="parent")

texts = st.text(st.characters(exclude_categories=["Cs"]))
names = st.text(string.ascii_letters + string.digits + "-._/", min_size=1)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1), timezones=zones)  # noqa: DTZ001 - the zone is drawn
events = st.builds(
    Event,
    id=texts.filter(bool),
    time=times,
    data=st.just({}),
    source=names,
    type=names,
    key=st.none() | texts,
    traceparent=st.none() | names,
)


@given(events)
def test_identity_survives_the_headers(event: Event[dict[str, object]]) -> None:
    key = None if event.key is None else event.key.encode()
    assert from_headers(to_headers(event), key) == event


@given(events)
def test_headers_are_a_cloudevent_in_binary_mode(event: Event[dict[str, object]]) -> None:
    found = dict(to_headers(event))
    assert found["ce_specversion"] == b"1.0"
    assert found["content-type"] == b"application/avro"
    assert (found["ce_time"] or b"").endswith(b"Z")
    assert found.get("ce_subject") == (None if event.key is None else event.key.encode())


def changed(name: str, value: bytes | None) -> Headers:
    kept = tuple(header for header in to_headers(PARENT) if header[0] != name)
    return kept if value is None else (*kept, (name, value))


@pytest.mark.parametrize("name", ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"])
@pytest.mark.parametrize("value", [None, b""])
def test_a_record_without_a_required_header_is_poison(name: str, value: bytes | None) -> None:
    with pytest.raises(Poison, match=f"no {name} header"):
        from_headers(changed(name, value), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_id", b"\xff"),
        ("ce_time", b"yesterday"),
        ("ce_time", b"2017-01-03T12:21:27"),
        ("ce_time", b"2017-01-03"),
        ("ce_time", b"0001-01-01T00:00:00+23:59"),
        ("traceparent", b"\xc3\x28"),
    ],
)
def test_a_header_that_cannot_be_read_is_poison(name: str, value: bytes) -> None:
    with pytest.raises(Poison):
        from_headers(changed(name, value), None)


def test_a_key_that_is_no_utf8_is_poison() -> None:
    with pytest.raises(Poison, match="cannot be read"):
        from_headers(to_headers(PARENT), b"\xff")


def test_times_are_read_in_utc() -> None:
    assert from_headers(changed("ce_time", b"2017-01-03T07:21:27-05:00"), None).time == NOW.replace(microsecond=0)


@given(st.lists(st.none() | texts, max_size=4), st.lists(st.none() | texts, max_size=4))
def test_different_parts_have_different_digests(some: list[str | None], others: list[str | None]) -> None:
    assert (digest(*some) == digest(*others)) == (some == others)


@given(texts, texts, st.none() | texts, st.integers(0, 9))
def test_derived_ids_are_short_and_repeat(parent: str, topic: str, key: str | None, ordinal: int) -> None:
    event: Event[dict[str, object]] = Event(parent, NOW, {}, source="bus/till")
    made = derived_id(event, topic, key, ordinal)
    assert made == derived_id(event, topic, key, ordinal)
    assert len(made) == 32
    assert set(made) <= set(string.ascii_lowercase + "234567")


def test_every_part_of_a_derived_id_counts() -> None:
    ids = {
        derived_id(PARENT, "orders", "7", 0),
        derived_id(PARENT, "orders", "7", 1),
        derived_id(PARENT, "orders", "8", 0),
        derived_id(PARENT, "orders", None, 0),
        derived_id(PARENT, "orders", "", 0),
        derived_id(PARENT, "order", "s7", 0),
        derived_id(Event("43", NOW, {}, source="bus/till"), "orders", "7", 0),
        derived_id(Event("42", NOW, {}, source="bus/web"), "orders", "7", 0),
    }
    assert len(ids) == 8


def test_ids_never_change() -> None:
    assert derived_id(PARENT, "orders", "7", 0) == "ltcdljnqi6hhgougavsnjkskkzm7vrwj"
    assert idempotency_key("bus", "billing", "bus/till", "42") == "na3qo6mhyaj5775ltlfevv4pvqyup6cd"


def test_an_event_may_name_the_type_of_its_data() -> None:
    assert Event[dict[str, object]]("42", NOW, {}, source="bus/till", type="parent") == PARENT


def test_an_event_with_other_data_is_the_same_event() -> None:
    other = PARENT.having({"total": 3})
    assert (other.id, other.time, other.source, other.data) == ("42", NOW, "bus/till", {"total": 3})
    assert PARENT.data == {}
