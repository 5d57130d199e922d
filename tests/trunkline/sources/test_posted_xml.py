"""XML that a source takes: the same values that JSON of the shape would give, and wrong fields by path and line.

The witness is xmlschema, which decodes the same documents by an XML Schema of its own making.
"""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NotRequired
from uuid import UUID

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from tests.trunkline.http.test_bodies_hostile import MIB, XML
from tests.trunkline.spent import costs
from trunkline import Rejected
from trunkline.requests import Request
from trunkline.webhooks import WebhookRequest

Line = TypedDict(
    "Line",
    {"@sku": str, "pieces": int, "price": Decimal, "weight": float | None, "gift": bool, "tag": list[str]},
)


class Order(TypedDict):
    number: str
    placed_at: datetime
    due: date | None
    state: Literal["open", "closed"]
    seal: bytes
    line: list[Line]
    note: NotRequired[str]


class Posted(TypedDict):
    order: Order


SCHEMA = xmlschema.XMLSchema("""<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"
  targetNamespace="urn:orders" elementFormDefault="qualified"><xs:element name="order"><xs:complexType><xs:sequence>
    <xs:element name="number" type="xs:string"/>
    <xs:element name="placed_at" type="xs:dateTime"/>
    <xs:element name="due" type="xs:date" nillable="true" minOccurs="0"/>
    <xs:element name="state"><xs:simpleType><xs:restriction base="xs:token">
      <xs:enumeration value="open"/><xs:enumeration value="closed"/></xs:restriction></xs:simpleType></xs:element>
    <xs:element name="seal" type="xs:base64Binary"/>
    <xs:element name="line" minOccurs="0" maxOccurs="unbounded"><xs:complexType><xs:sequence>
      <xs:element name="pieces" type="xs:integer"/>
      <xs:element name="price" type="xs:decimal"/>
      <xs:element name="weight" type="xs:double" minOccurs="0"/>
      <xs:element name="gift" type="xs:boolean"/>
      <xs:element name="tag" type="xs:string" minOccurs="0" maxOccurs="unbounded"/>
    </xs:sequence><xs:attribute name="sku" type="xs:string" use="required"/></xs:complexType></xs:element>
    <xs:element name="note" type="xs:string" minOccurs="0"/>
  </xs:sequence></xs:complexType></xs:element></xs:schema>""")
NAMES = {"": "urn:orders"}
DOCUMENT = b"""<?xml version="1.0"?>
<o:order xmlns:o="urn:orders" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <o:number> 7 </o:number>
  <o:placed_at> 2026-07-01T12:00:00+02:00 </o:placed_at>
  <o:due xsi:nil="true"/>
  <o:state> open </o:state>
  <o:seal>
    AAEC
    /w==
  </o:seal>
  <o:line sku="a">
    <o:pieces> +12345678901234567890 </o:pieces><!-- no float has these digits -->
    <o:price>0012.50</o:price>
    <o:gift> 1 </o:gift>
  </o:line>
</o:order>
"""


def read(body: bytes, **headers: str) -> Order:
    return WebhookRequest(headers, body).xml(Posted, NAMES)["order"]


def refused(body: bytes, shape: Any = Posted, **headers: str) -> Rejected:
    with pytest.raises(Rejected) as error:
        WebhookRequest(headers, body).xml(shape, NAMES)
    return error.value


def test_texts_become_what_the_shape_says() -> None:
    SCHEMA.validate(DOCUMENT.decode())
    found = read(DOCUMENT)
    assert found == {
        "number": " 7 ",
        "placed_at": datetime.fromisoformat("2026-07-01T12:00:00+02:00"),
        "due": None,
        "state": "open",
        "seal": b"\x00\x01\x02\xff",
        "line": [
            {
                "@sku": "a",
                "pieces": 12345678901234567890,
                "price": Decimal("12.50"),
                "weight": None,
                "gift": True,
                "tag": [],
            }
        ],
    }
    assert type(found["line"][0]["pieces"]) is int
    assert found["line"][0]["price"].as_tuple().exponent == -2


TEXT = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cn", "Cc"]))
WHENS = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda when: when.replace(tzinfo=UTC))  # noqa: DTZ001 - made aware here
LINES = st.fixed_dictionaries(
    {
        "@sku": TEXT,
        "pieces": st.integers(),
        "price": st.decimals(allow_nan=False, allow_infinity=False, places=4),
        "weight": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "gift": st.booleans(),
        "tag": st.lists(TEXT, max_size=3),
    }
)
ORDERS = st.fixed_dictionaries(
    {
        "number": TEXT,
        "placed_at": WHENS,
        "due": st.none() | st.dates(date(1990, 1, 1)),
        "state": st.sampled_from(["open", "closed"]),
        "seal": st.binary(),
        "line": st.lists(LINES, max_size=3),
    },
    optional={"note": TEXT},
)


def in_order(order: dict[str, Any]) -> dict[str, Any]:
    """Give an order whose names stand as the schema wants them."""
    sorted_ = {name: order[name] for name in Order.__annotations__ if name in order}
    return sorted_ | {"line": [{name: line[name] for name in Line.__annotations__} for line in order["line"]]}


@given(ORDERS.map(in_order))
def test_what_is_sent_is_read_and_a_witness_reads_the_same(order: Any) -> None:
    """Written as a sink would, decoded by xmlschema with its own types, and read by the shape."""
    body, _ = Request.post("/", xml={"order": {"@xmlns": "urn:orders", **order}}).encode()
    assert body is not None
    assert read(body) == order
    document = xmlschema.XmlDocument(body.decode(), schema=SCHEMA)
    seen: Any = document.decode(decimal_type=Decimal, datetime_types=False)
    assert seen["number"] == order["number"] or not order["number"]
    for line, told in zip(order["line"], seen.get("line", ()), strict=True):
        assert (told["pieces"], told["price"], told["gift"]) == (line["pieces"], line["price"], line["gift"])
        assert told.get("weight") == line["weight"]


@given(ORDERS)
def test_json_and_xml_of_the_same_values_are_the_same_event(order: Any) -> None:
    as_xml, _ = Request.post("/", xml={"order": {"@xmlns": "urn:orders", **order}}).encode()
    as_json, _ = Request.post("/", json={"order": order}).encode()
    assert as_xml is not None
    assert as_json is not None
    assert read(as_xml) == WebhookRequest({}, as_json).json(Posted)["order"]


def test_elements_in_any_order_with_strangers_between_are_read_by_name() -> None:
    more = b"<o:tag>x</o:tag><o:gift>0</o:gift><o:price>1</o:price><o:pieces>1</o:pieces>"
    stranger = b"<x:new xmlns:x='urn:x'>1</x:new>"
    body = DOCUMENT.replace(b"</o:order>", stranger + b"<o:line sku='b'>" + more + b"</o:line> and text </o:order>")
    assert [line["@sku"] for line in read(body)["line"]] == ["a", "b"]
    assert read(body)["line"][1]["tag"] == ["x"]


class Note(TypedDict):
    text: str
    grade: int | None
    words: dict[str, int]
    anything: Any


class Noted(TypedDict):
    note: Note


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<text/><grade/><words><a>1</a><b> 2</b></words><anything>x</anything>", ("", None, {"a": 1, "b": 2}, "x")),
        ("<text lang='de'>gut</text><grade of='5'> 3 </grade><words/><anything><x/></anything>",
         ("gut", 3, {}, {"x": ""})),
        ("<text lang='de'/><words k='v'> </words><anything/>", ("", None, {}, "")),
        ("<text><![CDATA[<b>]]>&amp;</text><words/><anything/>", ("<b>&", None, {}, "")),
    ],
)  # fmt: skip
def test_corners(inner: str, expected: tuple[Any, ...]) -> None:
    found = WebhookRequest({}, f"<note>{inner}</note>".encode()).xml(Noted)
    assert tuple(found["note"].values()) == expected


def test_a_document_is_read_in_the_charset_that_the_request_names() -> None:
    body = "<note><text>Grüße</text><words/><anything/></note>".encode("iso-8859-1")
    kind = {"content-type": "text/xml; charset=iso-8859-1"}
    assert WebhookRequest(kind, body).xml(Noted)["note"]["text"] == "Grüße"
    wrong = WebhookRequest(kind, body.replace(b"<words/>", b"\n<words>\n<a>x</a></words>"))
    with pytest.raises(Rejected) as error:
        wrong.xml(Noted)
    assert error.value.fields == (("note.words.a", "line 3: Input should be a valid integer"),)


def test_every_wrong_field_is_named_with_its_path_and_line() -> None:
    body = DOCUMENT
    for right, wrong in (
        (b" open ", b"ajar"),
        (b"<o:number> 7 </o:number>", b""),
        (b" 1 ", b"yes"),
        (b"0012.50", b"1e3"),
        (b"+12345678901234567890", b"1_0"),
    ):
        body = body.replace(right, wrong)
    error = refused(body)
    assert (error.status, error.title) == (422, "The event is not valid")
    told = {path: why.split(":")[0] for path, why in error.fields}
    assert told == {
        "order.number": "line 2",
        "order.state": "line 6",
        "order.line[0].pieces": "line 12",
        "order.line[0].price": "line 13",
        "order.line[0].gift": "line 14",
    }
    assert "order.line[0].pieces" in str(error)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"\n<cancel xmlns='urn:orders'/>", "order"),
        (b"<order/>", "order.number"),
        (b"<order xmlns='urn:others'/>", "order"),
        (b"<order xmlns='urn:orders'><line><pieces><x/></pieces></line></order>", "order.line[0].pieces"),
        (b"<order xmlns='urn:orders'><number>1</number><number>2</number></order>", "order.number"),
        (b"<order xmlns='urn:orders'>7</order>", "order.number"),
    ],
)
def test_another_document_is_a_422(body: bytes, field: str) -> None:
    assert field in [path for path, _ in refused(body).fields]


@pytest.mark.parametrize("value", ["NaN", "INF", "-INF", "1e999", "0x10", "\u0661", "1,5", "1_0", "", "--1"])
def test_what_json_has_not_is_no_number(value: str) -> None:
    line = f"<o:weight>{value}</o:weight><o:gift>".encode()
    if value:
        assert [path for path, _ in refused(DOCUMENT.replace(b"<o:gift>", line)).fields] == ["order.line[0].weight"]
    price = DOCUMENT.replace(b"0012.50", value.encode())
    assert [path for path, _ in refused(price).fields] == ["order.line[0].price"]


def test_what_was_sent_is_not_repeated_to_the_sender() -> None:
    error = refused(DOCUMENT.replace(b" open ", b"hush-hush").replace(b" 1 ", b"hush"))
    assert "hush" not in f"{error} {error.fields}"
    assert "hush" not in str(refused(b"<hush-hush><a></hush-hush>"))


def test_a_type_that_text_does_not_tell_apart_is_the_sources_mistake() -> None:
    class Either(TypedDict):
        a: int | str

    with pytest.raises(TypeError, match=r"does not tell .*int.* and .*str.* apart"):
        WebhookRequest({}, b"<a>1</a>").xml(Either)


@pytest.mark.parametrize("name", XML)
def test_a_hostile_document_is_a_400(name: str) -> None:
    error = refused(XML[name])
    assert (error.status, error.title) == (400, "The body is no XML")
    assert len(str(error)) < 200
    assert "unpack" not in str(error), "the reason is told, not what came of it"


def test_a_document_that_breaks_is_refused_with_its_line() -> None:
    assert str(refused(b"<order>\n<line>\n</order>")) == "It cannot be read: it is no XML: line 3, tag name mismatch."
    assert "it has a DTD" in str(refused(XML["a billion laughs"]))
    assert "nested deeper than 64 levels" in str(refused(XML["65 levels"]))


WRONG = {
    "elements": b"<order xmlns='urn:orders'>" + b"<line>x</line>" * 19_900 + b"</order>",
    "texts": b"<order xmlns='urn:orders'><number>" + b"9" * (MIB - 100) + b"</number></order>",
    "digits": b"<order xmlns='urn:orders'><line><pieces>" + b"9" * (MIB - 100) + b"</pieces></line></order>",
    "spaces": b"<order xmlns='urn:orders'><seal>" + b" " * (MIB - 100) + b"</seal></order>",
}


def works() -> dict[str, Callable[[], None]]:
    """Give what refuses each, after what is only done once."""
    refused(b"<order xmlns='urn:orders'/>")
    return {name: partial(refuse, text) for name, text in WRONG.items()}


def refuse(text: bytes) -> None:
    assert refused(text).status == 422


def test_what_documents_of_another_shape_cost() -> None:
    found = costs(__name__)
    assert len(found) == len(WRONG)
    assert {name: cost for name, cost in found.items() if not (cost[0] < 2.0 and cost[1] < 256 * MIB)} == {}


def test_uuid_and_whole_numbers_by_value() -> None:
    class Box(TypedDict):
        id: UUID
        kind: Literal[1, 2]

    class Boxed(TypedDict):
        box: Box

    body = b"<box><id> 12345678-1234-5678-1234-567812345678 </id><kind> 02 </kind></box>"
    found = WebhookRequest({}, body).xml(Boxed)["box"]
    assert found == {"id": UUID("12345678-1234-5678-1234-567812345678"), "kind": 2}
    assert json.dumps(found["kind"]) == "2"
