"""The examples of docs/targets.md about bodies send what the page says."""

import gzip
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.trunkline.support import WHEN
from trunkline import Delivered, Event, Permanent, Retryable, Target, Unknown, env
from trunkline.adapters import judged
from trunkline.sinks import HttpSink, Request, Response

PAGE = Path("docs/targets.md").resolve()
EXAMPLE = re.compile(r"<!-- example: (?P<name>\w+) -->\n```python\n(?P<body>.*?)```\n", re.DOTALL)
SCHEMA = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:carrier:orders"
  elementFormDefault="qualified"><xs:element name="order"><xs:complexType><xs:sequence>
    <xs:element name="to" type="xs:string"/>
    <xs:element name="parcel" maxOccurs="unbounded"><xs:complexType><xs:simpleContent>
      <xs:extension base="xs:decimal"><xs:attribute name="unit" use="required"/></xs:extension>
    </xs:simpleContent></xs:complexType></xs:element>
    <xs:element name="note" type="xs:string" minOccurs="0"/>
  </xs:sequence><xs:attribute name="id" use="required"/></xs:complexType></xs:element></xs:schema>"""


def example(name: str) -> HttpSink:
    """Run an example of the page and give its sink."""
    [body] = [match["body"] for match in EXAMPLE.finditer(PAGE.read_text()) if match["name"] == name]
    defined: dict[str, Any] = {}
    exec(body, defined)  # noqa: S102 - the page is ours
    made: HttpSink = defined[name.title()](Target("t", env("T")))
    assert made.name == name
    assert body.count("\n") <= 40
    return made


def asked(sink: HttpSink, **data: Any) -> tuple[Request, bytes, str]:
    """Give the request for an event, its body and content type."""
    request = sink.request(Event("e1", WHEN, data, key="k"))
    content, headers = request.encode()
    assert content is not None
    return request, content, headers["content-type"]


def test_json() -> None:
    _, content, kind = asked(example("ledger"), amount=Decimal("12.50"))
    assert (content, kind) == (b'{"account":"k","amount":12.50}', "application/json")


@pytest.fixture
def freight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HttpSink:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "consumers" / "sinks" / "freight.xsd"
    file.parent.mkdir(parents=True)
    file.write_text(SCHEMA)
    return example("freight")


def test_xml(freight: HttpSink) -> None:
    _, content, kind = asked(freight, city="Wien", weights=[Decimal("1.50"), 2])
    assert kind == "application/xml"
    assert content == (
        b"<?xml version='1.0' encoding='UTF-8'?>\n"
        b'<order xmlns="urn:carrier:orders" id="e1"><to>Wien</to>'
        b'<parcel unit="kg">1.50</parcel><parcel unit="kg">2</parcel></order>'
    )
    with pytest.raises(Permanent, match=r"the body does not fit freight.xsd: .*: Element .*parcel"):
        asked(freight, city="Wien", weights=[])


@pytest.mark.parametrize(
    ("status", "body", "kind", "expected"),
    [
        (200, b"<answer xmlns='urn:carrier:answers' taken='true'/>", "application/xml", Delivered),
        (200, b"<c:answer xmlns:c='urn:carrier:answers' taken='true'/>", "text/xml", Delivered),
        (200, b"<answer xmlns='urn:carrier:answers' taken='no'><reason>x</reason></answer>", "text/xml", Permanent),
        (200, b"<html/>", "text/html", Unknown),
        (200, b"<!DOCTYPE a><a/>", "text/xml", Unknown),
        (503, b"<html/>", "text/html", Retryable),
    ],
)
def test_answers(freight: HttpSink, status: int, body: bytes, kind: str, expected: type) -> None:
    [verdict] = judged(freight, Response(status, {"content-type": kind}, body), [object()])  # type: ignore[list-item]  # one
    assert type(verdict) is expected


def test_a_form() -> None:
    _, content, kind = asked(example("texts"), numbers=["+431", "+432"], text="Grüße")
    assert kind == "application/x-www-form-urlencoded"
    assert content == b"to=%2B431&to=%2B432&body=Gr%C3%BC%C3%9Fe&flash=false"


def test_parts() -> None:
    _, content, kind = asked(example("archive"), scan=b"\x89PNG", pages=2)
    boundary = kind.removeprefix("multipart/form-data; boundary=").encode()
    parts = [part.partition(b"\r\n\r\n") for part in content.split(b"--" + boundary)[1:-1]]
    assert [part[2] for part in parts] == [b"k\r\n", b'{"id":"e1","pages":2}\r\n', b"\x89PNG\r\n"]
    assert b'name="scan"; filename="e1.png"\r\nContent-Type: image/png' in parts[2][0]


def test_bytes() -> None:
    request, content, kind = asked(example("exchange"), rows=[("a", 1), ("b", 2)])
    assert (request.method, request.path, kind) == ("PUT", "/files/e1", "text/csv; charset=utf-8")
    assert gzip.decompress(content) == b"a;1\r\nb;2\r\n"


def test_the_place_that_the_page_quotes() -> None:
    quoted = "lines[1].price is nan, which JSON has not"
    assert quoted in PAGE.read_text()
    with pytest.raises(Permanent, match=re.escape(quoted)):
        Request.post("/", json={"lines": [{"price": 1.0}, json.loads('{"price": NaN}')]}).encode()
