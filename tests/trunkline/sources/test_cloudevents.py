"""CloudEvents as their senders post them: the three modes give the same, and what is wrong is named."""

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from typing_extensions import TypedDict

from trunkline import Rejected
from trunkline.sources import CloudEvent, WebhookRequest, cloud_events

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"


class Order(TypedDict):
    number: int
    total: Decimal
    weight: float
    seal: bytes


DATA = '{"number": 12345678901234567890123, "total": 1234567890123456789.10, "weight": 1e-7, "seal": "AP8="}'
ORDER = {
    "number": 12345678901234567890123,
    "total": Decimal("1234567890123456789.10"),
    "weight": 1e-7,
    "seal": b"\x00\xff",
}
SAID = {
    "specversion": "1.0",
    "id": "7/ä",
    "source": "//shop.example/orders",
    "type": "com.example.order.placed",
    "time": "2026-07-01T12:00:00.123456789+02:00",
    "subject": "über 1%",
    "partitionkey": "k",
    "sequence": 8,
    "last": True,
    "dataschema": None,
}
IN_HEADERS = {
    "ce-specversion": "1.0",
    "ce-id": "7/%c3%A4",
    "ce-source": "//shop.example/orders",
    "ce-type": '"com.example.order\\.placed"',
    "ce-time": "2026-07-01T12:00:00.123456789+02:00",
    "ce-subject": "%C3%BCber%201%25",
    "ce-partitionkey": "k",
    "ce-sequence": "8",
    "ce-last": "true",
    "content-type": "application/json",
}


def written(data: str = DATA, **changes: Any) -> bytes:
    said = {name: value for name, value in {**SAID, **changes}.items() if value is not ...}
    return f'{json.dumps(said)[:-1]}, "data": {data}}}'.encode() if data else json.dumps(said).encode()


def structured(body: bytes, kind: str = STRUCTURED) -> WebhookRequest:
    return WebhookRequest({"content-type": kind}, body)


def refusal(request: WebhookRequest) -> Rejected:
    with pytest.raises(Rejected) as refused:
        [event.data.json(Order) for event in cloud_events(request)]
    return refused.value


@pytest.mark.parametrize(
    "request_",
    [
        WebhookRequest(IN_HEADERS, DATA.encode()),
        structured(b"\xef\xbb\xbf" + written()),
        structured(written(), "Application/CloudEvents+JSON; charset=UTF-8"),
        structured(b"[" + written() + b"]", BATCHED),
        structured(
            written("", data_base64=base64.b64encode(DATA.encode()).decode(), datacontenttype="application/json")
        ),
    ],
    ids=["binary", "structured", "parameters", "batched", "base64"],
)
def test_every_mode_gives_the_same_and_no_number_changes(request_: WebhookRequest) -> None:
    [event] = cloud_events(request_)
    assert event == CloudEvent(
        "7/ä",
        "//shop.example/orders",
        "com.example.order.placed",
        event.time,
        "über 1%",
        event.data,
    )
    assert event.time == datetime(2026, 7, 1, 10, 0, 0, 123456, UTC)
    assert event.data.json(Order) == ORDER
    assert dict(event.data.headers) == {
        "ce-specversion": "1.0",
        "ce-id": "7/ä",
        "ce-source": "//shop.example/orders",
        "ce-type": "com.example.order.placed",
        "ce-time": "2026-07-01T12:00:00.123456789+02:00",
        "ce-subject": "über 1%",
        "ce-partitionkey": "k",
        "ce-sequence": "8",
        "ce-last": "true",
        "content-type": "application/json",
    }


def test_data_that_are_no_json_are_bytes_of_their_own_type() -> None:
    class Posted(TypedDict):
        order: str

    text = written('"<order>\\u00fc</order>"', datacontenttype="text/xml; charset=iso-8859-1")
    assert cloud_events(structured(text))[0].data.xml(Posted) == {"order": "ü"}
    raw = written("", data_base64="AP8=", datacontenttype="application/octet-stream")
    assert cloud_events(structured(raw))[0].data.body == b"\x00\xff"
    assert cloud_events(structured(written("")))[0].data.body == b""
    assert cloud_events(structured(written('"7"', datacontenttype="application/vnd.x+json")))[0].data.body == b'"7"'


def test_a_batch_may_be_empty_and_says_which_of_its_events_is_wrong() -> None:
    assert cloud_events(structured(b"[]", BATCHED)) == []
    wrong = b"[" + written() + b"," + written(id=..., time="2026-07-01T12:00:00") + b"]"
    assert [path for path, _ in refusal(structured(wrong, BATCHED)).fields] == ["[1].id", "[1].time"]
    wrong = b"[" + written() + b"," + written('{"number": 1, "total": [], "weight": 1, "seal": ""}') + b"]"
    assert [path for path, _ in refusal(structured(wrong, BATCHED)).fields] == ["[1].data.total"]
    assert str(refusal(structured(b"[" + written("") + b"]", BATCHED))).startswith("[0].data: Invalid JSON: EOF")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": ...}, "specversion"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"source": "a b"}, "source"),
        ({"source": ""}, "source"),
        ({"type": None}, "type"),
        ({"time": ...}, "time"),
        ({"time": "2026-07-01T12:00:00"}, "time"),
        ({"time": "hush"}, "time"),
        ({"datacontenttype": 1}, "datacontenttype"),
        ({"datacontenttype": "text/plain"}, "data"),
        ({"data_base64": "AP8="}, "data_base64"),
        ({"extension": {"hush": 1}}, "extension"),
        ({"extension": 1.5}, "extension"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    refused = refusal(structured(written(**changes)))
    assert (refused.status, [path for path, _ in refused.fields]) == (422, [field])
    assert "hush" not in f"{refused} {refused.fields}"


@pytest.mark.parametrize("value", ["AP8", "AP_=", "ä", 7, ["AP8="]])
def test_data_in_base64_are_base64(value: Any) -> None:
    assert refusal(structured(written("", data_base64=value))).fields[0][0] == "data_base64"


@pytest.mark.parametrize(
    ("change", "field"),
    [({"ce-id": ""}, "ce-id"), ({"ce-time": "1"}, "ce-time"), ({"ce-subject": "%C0%A0"}, "ce-subject")],
)
def test_what_is_wrong_in_a_header_is_named_as_the_header_is(change: dict[str, str], field: str) -> None:
    assert [path for path, _ in refusal(WebhookRequest(IN_HEADERS | change, b"{}")).fields] == [field]


def test_a_header_in_plain_utf_8_is_read_as_it_was_meant() -> None:
    said = IN_HEADERS | {"ce-subject": "über 1%25".encode().decode("latin-1")}  # as HTTP servers give it
    assert cloud_events(WebhookRequest(said, b""))[0].subject == "über 1%"
    assert refusal(WebhookRequest(IN_HEADERS | {"ce-subject": "\xfcber"}, b"{}")).fields[0][0] == "ce-subject"


def test_a_request_without_attributes_is_no_event() -> None:
    refused = refusal(WebhookRequest({"content-type": "application/json"}, written()))
    assert str(refused) == "Wrong or missing: ce-specversion, ce-id, ce-source, ce-type, ce-time."


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (STRUCTURED, b"{", 400),
        (STRUCTURED, written("NaN"), 400),
        (STRUCTURED, written('{"a": 1, "a": 2}'), 400),
        (STRUCTURED, written("[" * 70 + "]" * 70), 400),
        (STRUCTURED, b"[]", 422),
        (BATCHED, written(), 422),
        (BATCHED, b"[7]", 422),
        ("application/cloudevents+avro", b"", 415),
        ("application/cloudevents", b"{}", 415),
    ],
)
def test_what_is_no_event_is_told_apart(kind: str, body: bytes, status: int) -> None:
    assert refusal(structured(body, kind)).status == status
