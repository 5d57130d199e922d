"""What an API can be told to do wrong, and what it witnesses meanwhile."""

import email.utils
import json
import socket
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError

from tests.trunkline.dev.conftest import rows
from tests.trunkline.support import wait_for
from trunkline.dev.target.behaviour import Behaviour
from trunkline.dev.target.running import RunningTarget, TargetControl


def send(target: RunningTarget, path: str, *, key: str) -> socket.socket:
    """Send one POST and leave its answer unread."""
    address = urlsplit(target.url)
    connection = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: target\r\nIdempotency-Key: {key}\r\nContent-Length: 2\r\n\r\n{{}}"
    connection.sendall(head.encode())
    return connection


def test_a_body_drips(api: httpx.Client, control: TargetControl, name: str) -> None:
    control.break_(Behaviour(name, drip_ms=5))
    with api.stream("POST", "/a/1", headers={"Idempotency-Key": "k"}) as answer:
        parts = list(answer.iter_raw())
    assert json.loads(b"".join(parts)) == {"applied": True, "key": "k"}
    assert len(parts) > 10


def test_a_body_is_filled_up_and_its_status_kept(api: httpx.Client, control: TargetControl, name: str) -> None:
    control.break_(Behaviour(name, status=503, size=1_000_001))
    answered = api.post("/a/1")
    assert answered.status_code == 503
    assert len(answered.content) == 1_000_001
    assert control.stats()[name].effects == 0


def test_a_bomb_is_small_until_it_is_opened(api: httpx.Client, control: TargetControl, name: str) -> None:
    control.break_(Behaviour(name, size=8 * 2**20, gzip=True))
    with api.stream("POST", "/a/1") as answer:
        assert answer.headers["content-encoding"] == "gzip"
        raw = b"".join(answer.iter_raw())
    assert len(raw) < 2**14
    assert len(zlib.decompress(raw, wbits=31)) == 8 * 2**20
    assert control.stats()[name].effects == 1


@pytest.mark.parametrize("end", ["client", "healing"])
def test_an_endless_body_ends_with_its_client_or_by_healing(
    api: httpx.Client, control: TargetControl, name: str, end: str
) -> None:
    control.break_(Behaviour(name, size="endless"))
    with api.stream("POST", "/a/1", headers={"Idempotency-Key": "k"}) as answer:
        parts = answer.iter_raw()
        read = sum(len(next(parts)) for _ in range(20))
        if end == "healing":
            control.heal(name)
            read += sum(len(part) for part in parts)
    control.heal(name)
    assert read > 2**16
    assert api.post("/b/1").status_code == 200


def test_a_limit_refuses_what_is_above_it_and_says_when_to_come_again(
    api: httpx.Client, control: TargetControl, name: str
) -> None:
    control.break_(Behaviour(name, status=429, per_second=1, retry_after=2))
    answers = [api.post("/a/1") for _ in range(30)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 200
    assert refused
    assert {answer.headers["retry-after"] for answer in refused} == {"2"}


def test_a_time_to_come_again_may_be_a_date(api: httpx.Client, control: TargetControl, name: str) -> None:
    control.break_(Behaviour(name, status=429, retry_after=2, dated=True))
    before = time.time()
    told = email.utils.parsedate_to_datetime(api.post("/a/1").headers["retry-after"])
    assert told.timestamp() >= before + 2


def test_a_deaf_api_goes_on_when_its_client_has_left(
    target: RunningTarget, control: TargetControl, database: Path, name: str
) -> None:
    control.break_(Behaviour(name, hang=0.3, deaf=True))
    send(target, f"/{name}/a/1", key="k").close()
    wait_for(lambda: rows(database, "SELECT path FROM effects WHERE name = ?", name) == [("/a/1",)])


def test_an_api_that_stores_keeps_each_change_with_its_version(
    api: httpx.Client, control: TargetControl, database: Path, name: str
) -> None:
    control.break_(Behaviour(name, stores="version"))
    for path, version, text in (("/a", 1, "x"), ("/b", 1, "x"), ("/a", 2, "x"), ("/a", 2, "x"), ("/a", 1, "x")):
        headers = {"Idempotency-Key": "the same"}
        answered = api.put(path, json={"version": version, "text": text}, headers=headers)
        assert answered.json()["applied"] is True
    assert rows(database, "SELECT path, version FROM changes WHERE name = ? ORDER BY number", name) == [
        ("/a", 1),
        ("/b", 1),
        ("/a", 2),
        ("/a", 1),
    ]


def test_calls_of_one_segment_at_once_are_witnessed(
    target: RunningTarget, control: TargetControl, database: Path, name: str
) -> None:
    control.break_(Behaviour(name, hang="forever"))
    paths = [f"/{name}/{rest}" for rest in ("a/1", "a/2", "b/1", "a/2")]
    open_calls = [send(target, path, key=f"k{number}") for number, path in enumerate(paths[:3])]
    wait_for(lambda: (found := control.stats().get(name)) is not None and found.in_flight == 3)
    open_calls[0].close()
    wait_for(lambda: control.stats()[name].in_flight == 2)
    open_calls.append(send(target, paths[3], key="k3"))
    wait_for(lambda: control.stats()[name].in_flight == 3)
    control.heal(name)
    for connection in open_calls:
        connection.close()
    pairs = rows(
        database,
        "SELECT one.path, other.path FROM overlaps JOIN attempts one USING (seq) JOIN attempts other "
        "ON other.seq = beside WHERE overlaps.name = ? ORDER BY one.seq",
        name,
    )
    calls = {path for (path,) in rows(database, "SELECT path FROM attempts WHERE name = ?", name)}
    assert calls == {"/a/1", "/a/2", "/b/1"}
    assert len(pairs) == 2
    assert all(one.startswith("/a/") and other.startswith("/a/") for one, other in pairs)


def test_calls_that_follow_each_other_are_no_overlap(api: httpx.Client, database: Path, name: str) -> None:
    for number in range(20):
        api.post(f"/a/{number}")
    assert rows(database, "SELECT * FROM overlaps WHERE name = ?", name) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"status": 429, "dated": True}, "retry_after"),
        ({"status": 503, "deaf": True}, "hang"),
        ({"status": 503, "gzip": True}, "size"),
        ({"reset": True, "size": 10}, "gives no answer"),
        ({"size": 0}, "size"),
        ({"status": 429, "per_second": 0}, "per_second"),
        ({"per_second": 5}, "does nothing"),
    ],
)
def test_a_behaviour_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Behaviour("api", **wrong)
