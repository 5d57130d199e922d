import json
from datetime import datetime
from decimal import Decimal
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from trunkline import Permanent, Rejected
from trunkline.adapters import Idempotency, Request, WebhookRequest, expand


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


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text not in (".", "..")))
def test_any_value_becomes_exactly_one_segment(value: str) -> None:
    path = expand("/a/{value}/b", {"value": value})
    before, segment, after = path[1:].split("/")
    assert (before, unquote(segment), after) == ("a", value, "b")
    assert not set(segment) & set("?#/\\ {}")
    assert segment.isascii()


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("../../admin", "..%2F..%2Fadmin"),
        ("%2e%2e", "%252e%252e"),
        ("a?b#c", "a%3Fb%23c"),
        ("{other}", "%7Bother%7D"),
        ("a\r\nHost: x", "a%0D%0AHost%3A%20x"),
        ("\x00", "%00"),
        ("é", "%C3%A9"),
        (7, "7"),
        (0, "0"),
    ],
)
def test_hostile_values(value: object, segment: str) -> None:
    assert expand("/a/{value}", {"value": value, "other": "x"}) == f"/a/{segment}"


@pytest.mark.parametrize("values", [{}, {"value": None}, {"value": ""}, {"value": "."}, {"value": ".."}])
def test_a_value_that_would_change_the_path_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(Permanent, match="needs a value"):
        expand("/a/{value}", values)


def test_requests() -> None:
    assert Request.put("/a/{id}", path={"id": 7}, json={"n": 1}) == Request("PUT", "/a/7", {"n": 1})
    assert Request.post("/a") == Request("POST", "/a", None)
    assert Request.patch("/a", json=[1], headers={"If-Match": "3"}) == Request("PATCH", "/a", [1], {"If-Match": "3"})
    assert Request.delete("/a/{id}", path={"id": "b/c"}) == Request("DELETE", "/a/b%2Fc")
    assert Request.get("/a") == Request("GET", "/a")


@pytest.mark.parametrize(
    ("idempotency", "headers"),
    [
        (Idempotency(), {"Idempotency-Key": "abcdefghijklmnopqrst"}),
        (Idempotency(quoted=True), {"Idempotency-Key": '"abcdefghijklmnopqrst"'}),
        (Idempotency("X-Request-Id", longest=16), {"X-Request-Id": "abcdefghijklmnop"}),
        (Idempotency(quoted=True, longest=16), {"Idempotency-Key": '"abcdefghijklmnop"'}),
        (Idempotency(None, quoted=True), {}),
    ],
)
def test_how_a_target_takes_a_key(idempotency: Idempotency, headers: dict[str, str]) -> None:
    assert idempotency.headers("abcdefghijklmnopqrst") == headers
