import json
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import AwareDatetime
from typing_extensions import TypedDict

from trunkline import Rejected
from trunkline.webhooks import WebhookRequest


class Line(TypedDict):
    article: str
    pieces: int
    price: Decimal


class Order(TypedDict):
    number: str
    placed_at: datetime
    lines: list[Line]


RIGHT = {
    "number": "7",
    "placed_at": "2026-07-01T12:00:00+02:00",
    "lines": [{"article": "a", "pieces": 2, "price": "1.50"}],
}


def posted(value: object) -> WebhookRequest:
    return WebhookRequest({}, json.dumps(value).encode())


def test_a_body_of_the_right_shape_is_read() -> None:
    order = posted({**RIGHT, "unknown": 1}).json(Order)
    assert order == {
        "number": "7",
        "placed_at": datetime.fromisoformat("2026-07-01T12:00:00+02:00"),
        "lines": [{"article": "a", "pieces": 2, "price": Decimal("1.50")}],
    }


def test_a_body_may_begin_with_a_mark_of_its_bytes() -> None:
    assert WebhookRequest({}, b"\xef\xbb\xbf" + posted(RIGHT).body).json(Order)["number"] == "7"


class Measured(TypedDict):
    value: float


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"value": 1, "value": 2}', "It cannot be read: it names 'value' twice."),
        (b'{"value": 1, "of": [{"a": 1, "\\u0061": 1}]}', "It cannot be read: it names 'a' twice."),
        (b'{"value": 1, "unknown": -Infinity}', "it holds -Infinity"),
    ],
)
def test_what_readers_take_differently_is_no_json(body: bytes, why: str) -> None:
    with pytest.raises(Rejected, match=why) as error:
        WebhookRequest({}, body).json(Measured)
    assert error.value.status == 400


def test_a_float_is_a_number() -> None:
    assert WebhookRequest({}, b'{"value": 1e308}').json(Measured) == {"value": 1e308}
    for none in (b"1e400", b"NaN", b"-Infinity"):
        with pytest.raises(Rejected, match="Wrong or missing: value"):
            WebhookRequest({}, b'{"value": %s}' % none).json(Measured)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"number=7", b"[" * 100_000])
def test_a_body_that_is_no_json_is_a_400(body: bytes) -> None:
    with pytest.raises(Rejected) as error:
        WebhookRequest({}, body).json(Order)
    assert (error.value.status, error.value.title) == (400, "The body is no JSON")


def test_every_wrong_field_is_named_with_its_path() -> None:
    line = {"article": 1, "pieces": "2", "price": "cheap"}
    with pytest.raises(Rejected) as error:
        posted({"number": None, "lines": [*RIGHT["lines"], line]}).json(Order)
    assert error.value.status == 422
    assert [path for path, _ in error.value.fields] == [
        "number",
        "placed_at",
        "lines[1].article",
        "lines[1].pieces",
        "lines[1].price",
    ]
    assert str(error.value) == (
        "Wrong or missing: number, placed_at, lines[1].article, lines[1].pieces, lines[1].price."
    )


@pytest.mark.parametrize("value", [None, 7, [], "text", True])
def test_json_of_another_shape_is_a_422(value: object) -> None:
    with pytest.raises(Rejected) as error:
        posted(value).json(Order)
    assert error.value.status == 422


def test_what_was_sent_is_not_repeated_to_the_sender() -> None:
    with pytest.raises(Rejected) as error:
        posted({**RIGHT, "number": ["hush-hush"]}).json(Order)
    assert "hush" not in f"{error.value} {error.value.fields}"


class Dated(TypedDict):
    at: datetime | None
    days: list[date]
    by_name: dict[str, AwareDatetime]


def dated(at: object = None, day: object = "2026-07-01", named: object = "2026-07-01T12:00:00Z") -> Dated:
    return posted({"at": at, "days": [day], "by_name": {"a": named}}).json(Dated)


@pytest.mark.parametrize(
    "number", ["20260701", "1782907200", " 1782907200.5", "0", "-1", "20260701T120000Z", 1782907200]
)
def test_no_number_is_a_time(number: object) -> None:
    with pytest.raises(Rejected) as refused:
        dated(number, number, number)
    assert [path for path, _ in refused.value.fields] == ["at", "days[0]", "by_name.a"]


def test_times_are_read_as_they_were_and_say_what_is_wrong_with_them() -> None:
    then = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert dated("2026-07-01T12:00:00") == {
        "at": datetime(2026, 7, 1, 12),  # noqa: DTZ001 - it is a local one
        "days": [date(2026, 7, 1)],
        "by_name": {"a": then},
    }
    assert dated("2026-07-01t14:00:00.1234567+02:00")["at"] == then.replace(microsecond=123456)
    with pytest.raises(Rejected) as refused:
        dated("2026-07-32T12:00:00Z", "2026-7-1", "2026-07-01T12:00:00")
    assert list(refused.value.fields) == [
        ("at", "Input should be a valid datetime, day value is outside expected range"),
        ("days[0]", "Input should be a valid date in the format YYYY-MM-DD, input is too short"),
        ("by_name.a", "Input should have timezone info"),
    ]


def test_a_long_name_is_not_told_whole() -> None:
    with pytest.raises(Rejected) as refused:
        posted({"at": None, "days": [], "by_name": {"k" * 500_000: "never"}}).json(Dated)
    [(path, _)] = refused.value.fields
    assert path == f"by_name.{'k' * 192}…"
    assert len(str(refused.value)) < 300


def test_the_bounds_that_docs_tell() -> None:
    assert posted({**RIGHT, "more": nested(195)}).json(Order)["number"] == "7"
    for beyond in (b'{"more": %s}' % json.dumps(nested(201)).encode(), b'{"pieces": 1%s}' % (b"0" * 4_300)):
        with pytest.raises(Rejected) as refused:
            WebhookRequest({}, beyond).json(Order)
        assert refused.value.status == 400


def nested(levels: int) -> list[Any]:
    return [] if levels == 1 else [nested(levels - 1)]


class Mixed(TypedDict):
    price: Decimal
    weight: float
    name: str
    either: float | str | None
    more: dict[str, Any]


LONG = "0.12345678901234567890"


def mixed(**fields: str) -> Mixed:
    said = {
        "price": LONG,
        "weight": LONG,
        "name": '"n"',
        "either": LONG,
        "more": f'{{"a": [{LONG}, "b", 1]}}',
        **fields,
    }
    body = ", ".join(f'"{name}": {value}' for name, value in said.items())
    return WebhookRequest({}, f"{{{body}}}".encode()).json(Mixed)


def test_a_number_of_many_digits_is_what_its_field_is_and_never_a_text() -> None:
    short = float(LONG)
    wanted = {"price": Decimal(LONG), "weight": short, "name": "n", "either": short, "more": {"a": [short, "b", 1]}}
    assert mixed() == wanted
    assert mixed(price=f'"{LONG}"') == wanted
    assert mixed(price="1.5", either='"x"', name=f'"{LONG}"') == {
        **wanted,
        "price": Decimal("1.5"),
        "either": "x",
        "name": LONG,
    }
    wrong = [("name", LONG), ("weight", f'"{LONG}"'), ("price", "[]"), ("price", "true"), ("more", LONG)]
    for field, value in (
        *wrong,
        ("weight", f"{LONG}e999"),
        ("more.a", f'{{"a": {LONG}e999}}'),
        ("more.a", '{"a": 1e999}'),
    ):
        with pytest.raises(Rejected) as refused:
            mixed(**{field.partition(".")[0]: value})
        assert [path for path, _ in refused.value.fields] == [field], value


@pytest.mark.parametrize("none", ["NaN", "-Infinity"])
def test_what_is_no_number_is_told_also_beside_one_of_many_digits(none: str) -> None:
    for field, value in (("weight", none), ("name", none), ("price", f"[{none}]"), ("price", f'{{"a": {none}}}')):
        with pytest.raises(Rejected) as refused:
            mixed(**{field: value})
        assert (refused.value.status, [path for path, _ in refused.value.fields]) == (422, [field])
    with pytest.raises(Rejected, match=f"it holds {none}"):
        mixed(unknown=none)


def test_a_text_without_an_end_is_read_in_one_go() -> None:
    began = time.process_time()
    with pytest.raises(Rejected, match="EOF while parsing a string"):
        WebhookRequest({}, b'{"price": 0.12345678901234567890, "name": "' + b'\\"' * 30_000).json(Mixed)
    assert time.process_time() - began < 1
