from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline import Permanent
from trunkline.requests import Idempotency, Request, expand


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


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
def test_a_sink_does_not_say_where_its_body_ends(name: str) -> None:
    """Counted in characters, it would cut a body in which one takes two bytes."""
    with pytest.raises(Permanent, match="the bus's to say"):
        Request.post("/a", json="é", headers={name: "3"}).encode()
