"""POST to topic with a real port and a real broker: what is refused, what is answered, what is published once."""

import asyncio
import gzip
import http.client
import json
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from standardwebhooks import Webhook

from tests.trunkline.support import SECRET, Child, Stage, header, note, publish_bus, wait_for
from trunkline.dev.target.running import RunningTarget
from trunkline.flow.declare import Bus
from trunkline.requests import Request
from trunkline.settings import Secret
from trunkline.sources import StandardWebhooks

pytestmark = pytest.mark.xdist_group("gate")

DESK = "/in/desk"
WRONG = "No signature in webhook-signature is that of this id, timestamp and body under the secret"
TRAY = "/in/tray"


@dataclass(frozen=True)
class Gate:
    """A worker that only publishes; the tests of this module share it."""

    stage: Stage
    bus: Bus
    child: Child
    http: httpx.Client

    @property
    def topic(self) -> str:
        return self.bus.topics[0].name

    def ends(self) -> int:
        return sum(self.stage.ends(self.topic).values())

    def post(self, body: Any, path: str = DESK, **changed: str | None) -> httpx.Response:
        """Post a signed body; `changed` replaces headers or takes them away."""
        content = body if isinstance(body, bytes) else json.dumps(body, default=str).encode()
        headers = {**signed(content), **{name.replace("_", "-"): value for name, value in changed.items()}}
        return self.http.post(path, content=content, headers={k: v for k, v in headers.items() if v is not None})

    def counted(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                if sample.name == "trunkline_source_events_total":
                    found[sample.labels["outcome"]] += int(sample.value)
        return found


def signed(content: bytes) -> dict[str, str]:
    return StandardWebhooks(Secret("X")).sign("message", content)


@pytest.fixture(scope="module", autouse=True)
def secret() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("X", SECRET)
        yield


@pytest.fixture(scope="module")
def gate(
    bootstrap: str, witness: tuple[RunningTarget, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gate]:
    running, database = witness
    stage = Stage(f"g{uuid.uuid4().hex[:8]}", bootstrap, tmp_path_factory.mktemp("gate"), running, database)
    bus = stage.make(publish_bus(stage.prefix))
    with stage.child("publish_bus") as child, httpx.Client(base_url=child.url, timeout=30, trust_env=False) as http:
        yield Gate(stage, bus, child, http)


def named(prefix: str = "n", **changed: Any) -> dict[str, Any]:
    """Give a note with an id of its own."""
    return {**note(1, name=f"{prefix}-{uuid.uuid4().hex}"), "written_at": "2026-01-01T00:00:00Z", **changed}


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Check that an answer is a problem of this status and give it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    return problem


def test_a_note_is_published_once_and_a_copy_is_told_so(gate: Gate) -> None:
    before, counted = gate.ends(), gate.counted()
    body = named(box="ü", text="“quoted”")
    first = gate.post(body)
    assert first.status_code == 202
    [accepted] = first.json()["events"]
    assert (accepted["id"], accepted["outcome"], accepted["topic"]) == (body["note_id"], "published", gate.topic)
    copy = gate.post(body)
    assert copy.status_code == 200
    assert copy.json()["events"][0]["outcome"] == "duplicate"
    assert gate.ends() == before + 1
    [record] = [found for found in gate.stage.read(gate.topic) if header(found, "ce_id") == body["note_id"]]
    assert (record.partition, record.offset) == (accepted["partition"], accepted["offset"])
    assert record.key.decode() == header(record, "ce_subject") == "ü"
    assert header(record, "ce_time") == "2026-01-01T00:00:00Z"
    assert gate.counted() - counted == {"received": 2, "published": 1, "duplicate": 1}


XML = {"content_type": "application/xml"}


def test_a_note_in_xml_is_the_same_event_as_in_json(gate: Gate) -> None:
    """Byte for byte, or its copy would be a conflict with the first and no duplicate."""
    before = gate.ends()
    note = named(box=None, number=2**40, text="<ü>")
    body, _ = Request.post("/", xml={"note": {"new": "unknown", **note}}).encode()
    assert gate.post(body, **XML).status_code == 202
    copy = gate.post(note)
    assert copy.status_code == 200, copy.text
    assert copy.json()["events"][0]["outcome"] == "duplicate"
    assert gate.ends() == before + 1


BAD_XML: dict[str, tuple[bytes, int, dict[str, str]]] = {
    "JSON": (b"{}", 400, {}),
    "a billion laughs": (b"<!DOCTYPE note [<!ENTITY a 'lol'>]><note>&a;</note>", 400, {}),
    "another document": (b"<letter/>", 422, {"note": "line 1: Field required"}),
    "a wrong number": (
        b"<note>\n<note_id>1</note_id>\n<number>many</number><text/><written_at>2026-01-01T00:00:00Z</written_at></note>",
        422,
        {"note.number": "line 3: Input should be a valid integer"},
    ),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_wrong_xml_is_refused_with_path_and_line(gate: Gate, case: str) -> None:
    body, status, fields = BAD_XML[case]
    before = gate.ends()
    problem = refused(gate.post(body, **XML), status)
    assert {error["field"]: error["message"] for error in problem.get("errors", [])} == fields
    assert gate.ends() == before


def without(name: str) -> dict[str, Any]:
    body = named()
    del body[name]
    return body


BAD: dict[str, tuple[Any, int, list[str]]] = {
    "no JSON": (b"{", 400, []),
    "nothing": (b"", 400, []),
    "invalid escape": (rb'{"note_id": "\ud800"}', 400, []),
    "another type": ([1, 2], 422, ["the body"]),
    "a missing field": (without("number"), 422, ["number"]),
    "two wrong fields": (named(number="1", text=None), 422, ["number", "text"]),
    "a fraction": (named(number=1.5), 422, ["number"]),
    "too large a number": (named(number=2**63), 422, []),
    "no such number": (b'{"number": NaN}', 422, ["number"]),
    "a naive time": (named(written_at="2026-01-01T00:00:00"), 422, ["time"]),
    "no time": (named(written_at="yesterday"), 422, ["written_at"]),
    "before 1970": (named(written_at="1969-12-31T23:59:59Z"), 422, ["time"]),
    "tomorrow": (named(written_at="2199-01-01T00:00:00Z"), 422, ["time"]),
    "the first year": (named(written_at="0001-01-01T00:00:00+14:00"), 422, ["time"]),
    "an empty id": (named(note_id=""), 422, ["id"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_body_is_refused_with_the_fields_that_are_wrong(gate: Gate, case: str) -> None:
    body, status, fields = BAD[case]
    before, counted = gate.ends(), gate.counted()
    problem = refused(gate.post(body), status)
    named_fields = [error["field"] for error in problem.get("errors", [])]
    assert all(field in named_fields for field in fields), problem
    assert gate.ends() == before
    assert gate.counted() - counted == {"received": 1, "rejected": 1}


OK = json.dumps(named()).encode()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"webhook_signature": None}, "there is no webhook-signature;"),
        ({"webhook_id": None}, "there is no webhook-id;"),
        ({"webhook_timestamp": None, "webhook_id": None}, "there is no webhook-id and no webhook-timestamp;"),
        ({"webhook_id": "another"}, WRONG),
        ({"webhook_signature": ""}, "there is no webhook-signature;"),
        ({"webhook_signature": "v1"}, WRONG),
        ({"webhook_signature": "v1,"}, WRONG),
        ({"webhook_signature": "v1,not base64!"}, WRONG),
        ({"webhook_signature": "v1,AAAA v1,BBBB"}, WRONG),
        ({"webhook_signature": "v1,a,b,c"}, WRONG),
        ({"webhook_signature": "v2,AAAA"}, WRONG),
        ({"webhook_signature": "v1,\u00fc\u00e4"}, WRONG),
        ({"webhook_timestamp": "soon"}, "webhook-timestamp is no number of seconds since 1970;"),
        ({"webhook_timestamp": "nan"}, "webhook-timestamp is no number of seconds since 1970;"),
        ({"webhook_timestamp": "inf"}, "webhook-timestamp is no number of seconds since 1970;"),
        ({"webhook_timestamp": "-1"}, "over five minutes behind our clock, 20"),
        ({"webhook_timestamp": "9" * 400}, "webhook-timestamp is no number of seconds since 1970;"),
    ],
    ids=str,
)
def test_a_request_that_is_not_signed_by_a_sender_we_know_is_refused(
    gate: Gate, changed: dict[str, str], why: str
) -> None:
    before, counted = gate.ends(), gate.counted()
    headers = {**signed(OK), **{name.replace("_", "-"): value for name, value in changed.items()}}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items() if value is not None]
    problem = refused(gate.http.post(DESK, content=OK, headers=raw), 401)
    assert why in problem["detail"]
    assert "signature" in problem["detail"]
    assert gate.ends() == before
    assert gate.counted() - counted == {"received": 1, "rejected": 1}


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff\xfe", b'{"number": "one"}', b""], ids=range(5))
def test_nothing_of_a_body_is_read_before_its_signature_is_believed(gate: Gate, body: bytes) -> None:
    """Who cannot sign learns nothing of how a body is read, and gives no reader anything to do."""
    before = gate.ends()
    for signature in ("v1,AAAA", None):
        status = gate.post(body, webhook_signature=signature).status_code
        assert status == 401, f"invariant believed: the body was read first, and answered {status}"
    assert gate.ends() == before


@pytest.mark.parametrize("seconds", [-301, 301])
def test_a_signature_of_another_time_is_refused(gate: Gate, seconds: int) -> None:
    at = int(time.time()) + seconds
    signature = Webhook(SECRET).sign("message", datetime.fromtimestamp(at, UTC), OK.decode())
    headers = {"webhook-id": "message", "webhook-timestamp": str(at), "webhook-signature": signature}
    problem = refused(gate.http.post(DESK, content=OK, headers=headers), 401)
    assert f"over five minutes {'behind' if seconds < 0 else 'ahead of'} our clock, 20" in problem["detail"]


def test_a_body_that_is_no_text_is_refused(gate: Gate) -> None:
    counted = gate.counted()
    refused(gate.http.post(DESK, content=b"\xff\xfe", headers=signed(OK)), 401)
    refused(gate.http.post(DESK, content=OK + b" ", headers=signed(OK)), 401)
    assert gate.counted() - counted == {"received": 2, "rejected": 2}


def test_a_compressed_body_is_told_to_come_as_it_is(gate: Gate) -> None:
    counted = gate.counted()
    for coding, content in (("gzip", gzip.compress(OK)), ("gzip", gzip.compress(OK)[:20]), ("br", OK)):
        answer = gate.http.post(DESK, content=content, headers={"content-encoding": coding})
        assert refused(answer, 415)["detail"].startswith(f"Its Content-Encoding is {coding}; send it as it is.")
    assert gate.counted() - counted == {"received": 3, "rejected": 3}
    assert gate.http.post(DESK, content=OK, headers={"content-encoding": "identity"}).status_code == 401
    for coding, status in (("gzip, chunked", 415), ("Chunked", 401)):
        head = f"POST {DESK} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"
        with socket.create_connection((gate.http.base_url.host, gate.http.base_url.port), 10) as sender:
            sender.sendall(head.encode())
            assert sender.recv(65_536).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "in chunks"])
def test_a_body_over_one_mebibyte_is_refused(gate: Gate, told: bool) -> None:  # noqa: FBT001
    before, counted = gate.ends(), gate.counted()
    body = json.dumps(named(text="x" * 1_048_576)).encode()
    headers = signed(body)
    content: Any = body if told else (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    refused(gate.http.post(DESK, content=content, headers=headers), 413)
    assert gate.ends() == before
    assert gate.counted() - counted == {"received": 1, "rejected": 1}
    assert gate.http.get("/healthz").status_code == 200


def test_a_body_is_not_asked_for_that_is_told_to_be_too_large(gate: Gate) -> None:
    url = gate.http.base_url
    with socket.create_connection((url.host, url.port), 10) as sender:
        head = f"POST {DESK} HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\nExpect: 100-continue\r\n\r\n"
        sender.sendall(head.encode())
        assert sender.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_an_event_that_no_topic_takes_is_refused_before_it_is_claimed(gate: Gate) -> None:
    before, counted = gate.ends(), gate.counted()
    body = named(box="k" * 400_000)
    refused(gate.post(body), 413)
    assert gate.ends() == before
    assert gate.counted() - counted == {"received": 1, "rejected": 1}
    assert gate.post({**body, "box": "k"}).status_code == 202, "its id is free for one that fits"


def test_an_address_that_is_not_there_is_a_problem_too(gate: Gate) -> None:
    problem = refused(gate.post(named(), path="/in/nobody"), 404)
    assert "desk, tray" in problem["detail"]
    refused(gate.http.get("/elsewhere"), 404)
    refused(gate.post(named(), path=f"{DESK}/"), 404)
    for long in ("/" + "x" * 9_000, "/in/" + "x" * 9_000):
        assert len(refused(gate.post(named(), path=long), 404)["detail"]) < 300
    for method, path, takes in (("GET", DESK, "POST"), ("OPTIONS", DESK, "POST"), ("POST", "/healthz", "GET, HEAD")):
        answer = gate.http.request(method, path)
        assert f"{method} {path}: it takes {takes}." in refused(answer, 405)["detail"]
        assert answer.headers["allow"] == takes
    refused(gate.http.get("/schemas/ids/99999"), 404)
    refused(gate.http.get("/schemas/ids/x"), 404)


def test_an_id_with_another_content_is_a_conflict(gate: Gate) -> None:
    body = named()
    assert gate.post(body).status_code == 202
    before, counted = gate.ends(), gate.counted()
    problem = refused(gate.post({**body, "text": "changed"}), 409)
    assert [error["field"] for error in problem["errors"]] == ["id"]
    assert gate.ends() == before
    assert gate.counted() - counted == {"received": 1, "rejected": 1}


def test_a_request_is_published_whole_or_not_at_all(gate: Gate) -> None:
    taken = named()
    assert gate.post([taken], path=TRAY).status_code == 202
    before, counted = gate.ends(), gate.counted()
    fresh = [named(), named()]
    refused(gate.post([*fresh, {**taken, "text": "changed"}], path=TRAY), 409)
    refused(gate.post([*fresh, named(written_at="1969-01-01T00:00:00Z")], path=TRAY), 422)
    assert gate.ends() == before
    assert gate.counted() - counted == {"received": 4, "rejected": 4}
    answer = gate.post([*fresh, taken], path=TRAY)
    assert answer.status_code == 202
    assert [event["outcome"] for event in answer.json()["events"]] == ["published", "published", "duplicate"]
    assert gate.post([], path=TRAY).json() == {"events": []}


def test_copies_in_one_request_are_one_event(gate: Gate) -> None:
    before = gate.ends()
    body = named()
    answer = gate.post([body, body, named(), body], path=TRAY)
    assert answer.status_code == 202
    outcomes = [event["outcome"] for event in answer.json()["events"]]
    assert outcomes == ["published", "duplicate", "published", "duplicate"]
    assert gate.ends() == before + 2
    other = named()
    refused(gate.post([other, {**other, "text": "changed"}], path=TRAY), 409)
    assert gate.ends() == before + 2


def test_a_hundred_racing_copies_are_one_record(gate: Gate) -> None:
    before, counted = gate.ends(), gate.counted()
    body = json.dumps(named()).encode()

    async def race() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=gate.child.url, timeout=60, limits=limits, trust_env=False) as client:
            return await asyncio.gather(*(client.post(DESK, content=body, headers=signed(body)) for _ in range(100)))

    answers = asyncio.run(race())
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[202] == 1
    assert set(statuses) <= {202, 200, 503}
    for answer in answers:
        if answer.status_code == 503:
            refused(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
    assert gate.ends() == before + 1
    wanted = {"received": 100, "published": 1, "duplicate": statuses[200], "rejected": statuses[503]}
    assert gate.counted() - counted == Counter(wanted)


def test_a_sender_that_leaves_in_the_middle_publishes_nothing(gate: Gate) -> None:
    before, counted = gate.ends(), gate.counted()
    address = urlsplit(gate.child.url)
    body = json.dumps(named()).encode()
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    connection.putrequest("POST", DESK)
    for name, value in {**signed(body), "content-length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders(body[:10])
    connection.close()
    assert gate.post(named()).status_code == 202
    assert gate.ends() == before + 1
    wait_for(lambda: gate.counted() - counted == {"received": 2, "published": 1, "rejected": 1}, why=gate.counted)
    assert "Traceback" not in gate.child.log


def test_everything_received_is_accounted_for(gate: Gate) -> None:
    body = named()
    answers = [gate.post(sent).status_code for sent in (body, body, named(), b"{")]  # whatever others have sent before
    assert answers == [202, 200, 202, 400]
    counted = gate.counted()
    assert counted["received"] == counted["published"] + counted["rejected"] + counted["duplicate"]
    ids = Counter(header(record, "ce_id") for record in gate.stage.read(gate.topic))
    assert set(ids.values()) == {1}
    assert sum(ids.values()) == counted["published"]
