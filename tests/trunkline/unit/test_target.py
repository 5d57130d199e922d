"""Which requests a behaviour means, which key a request has, what makes no sense."""

import argparse
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.call import key_of
from trunkline.dev.target.requirement import Requirement, read_requirement


@pytest.mark.parametrize(
    ("match", "path", "body", "expected"),
    [
        ("*", "/", b"", True),
        ("*", "/things/7", b"{}", True),
        ("/things/7/*", "/things/7/parts/1", b"", True),
        ("/things/7/*", "/things/70/parts/1", b"", False),
        ("*/parts/1", "/things/7/parts/1", b"", True),
        ("/things/*", "/Things/7", b"", False),
        ("colour=red", "/", b'{"colour": "red"}', True),
        ("colour=r*", "/", b'{"colour": "red"}', True),
        ("colour=red", "/", b'{"colour": "blue"}', False),
        ("size=7", "/", b'{"size": 7}', True),
        ("ready=true", "/", b'{"ready": true}', True),
        ("sum=a=b", "/", b'{"sum": "a=b"}', True),
        ("colour=red", "/", b'[{"colour": "red"}]', False),
        ("colour=red", "/", b"colour=red", False),
        ("colour=red", "/", b"", False),
        ("colour=red", "/colour=red", b"{}", False),
    ],
)
def test_a_behaviour_means_a_path_or_a_field(match: str, path: str, body: bytes, expected: bool) -> None:  # noqa: FBT001 - pytest passes by name
    assert Behaviour("api", match=match, status=503).matches(path, body) is expected


@pytest.mark.parametrize(
    ("method", "headers", "key"),
    [
        ("POST", {"Idempotency-Key": "abc"}, "abc"),
        ("POST", {"idempotency-key": '"abc"'}, "abc"),
        ("POST", {"Idempotency-Key": r'"a\"b\\c"'}, r'a"b\c'),
        ("PUT", {"Idempotency-Key": "abc"}, "abc"),
        ("PUT", {}, "PUT /things/7"),
        ("DELETE", {}, "DELETE /things/7"),
        ("PUT", {"Idempotency-Key": '""'}, "PUT /things/7"),
        ("POST", {"Idempotency-Key": ""}, None),
        ("POST", {}, None),
        ("PATCH", {}, None),
        ("GET", {}, None),
    ],
)
def test_the_key_of_a_request(method: str, headers: dict[str, str], key: str | None) -> None:
    assert key_of(method, "/things/7", Headers(headers)) == key


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "api"}, "does nothing"),
        ({"name": "api", "after_apply": True}, "does nothing"),
        ({"name": "api", "reset": True, "status": 503}, "gives no answer"),
        ({"name": "", "status": 503}, "name"),
        ({"name": "a/b", "status": 503}, "name"),
        ({"name": "_control", "status": 503}, "name"),
        ({"name": "api", "status": 600}, "status"),
        ({"name": "api", "status": 503, "rate": 1.5}, "rate"),
        ({"name": "api", "hang": "a while"}, "hang"),
        ({"name": "api", "hang": 0}, "hang"),
        ({"name": "api", "match": "things/7", "status": 503}, "match"),
    ],
)
def test_a_behaviour_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Behaviour(**wrong)


def test_a_requirement_is_met_by_its_header_alone() -> None:
    requirement = read_requirement("api:X-Api-Key:se:cret")

    assert requirement == Requirement("api", "X-Api-Key", "se:cret")
    assert requirement.met(Headers({"x-api-key": "se:cret"}))
    assert not requirement.met(Headers({"x-api-key": "guess"}))
    assert not requirement.met(Headers({}))


def test_the_value_of_a_requirement_is_never_shown() -> None:
    assert "secret" not in repr(read_requirement("api:X-Api-Key:secret"))
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        read_requirement("X-Api-Key:secret")
    assert "secret" not in str(caught.value)
