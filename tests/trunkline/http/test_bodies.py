"""What is written arrives, read by parsers that are none of ours; what cannot be written says where."""

import base64
import gzip
import json
import math
import xml.etree.ElementTree as ET
from datetime import UTC, date, datetime
from decimal import Decimal
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
import xmlschema
from google.protobuf import json_format
from google.protobuf.wrappers_pb2 import BytesValue
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict
from urllib3.filepost import encode_multipart_formdata

from trunkline import Permanent, Retryable, Unknown
from trunkline.errors import Rejected, UsageError
from trunkline.formats.json import Number
from trunkline.formats.multipart import Part
from trunkline.formats.xml import Xsd
from trunkline.requests import Request
from trunkline.responses import Response
from trunkline.webhooks import WebhookRequest

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SEEN = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)
"""Text that XML has."""
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True).filter(lambda name: name[:3].lower() != "xml")
NUMBER = st.decimals(allow_nan=False, allow_infinity=False, places=None).filter(lambda one: abs(one.adjusted()) < 6000)


def body_of(request: Request) -> bytes:
    """Give the bytes of a body, the same twice."""
    content, _ = request.encode()
    assert content is not None
    assert request.encode()[0] == content
    return content


def answered(body: bytes, kind: str = "", status: int = 200) -> Response:
    return Response(status, {"content-type": kind} if kind else {}, body)


# JSON


def plain(value: Any) -> Any:
    """Give a JSON value as a reader has it that keeps digits."""
    match value:
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case Number() if "E" not in str(value) and "." not in str(value):
            return int(value)
        case _:
            return value


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | TEXT | NUMBER.map(Number),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES.filter(lambda value: value is not None))
def test_no_number_changes_in_json(value: Any) -> None:
    body = body_of(Request.post("/", json=value))
    assert json.loads(body, parse_float=Decimal) == plain(value)
    assert answered(body, "application/json").json() == plain(value)
    assert repr(answered(body).json()) == repr(json.loads(body, parse_float=Decimal)), "with their exponents and zeros"


def test_how_json_shows_numbers() -> None:
    value = {
        "largest": 2**63 - 1,
        "unsigned": 2**64 - 1,
        "huge": 2**64,
        "exact": Number("1.50"),
        "tiny": Number("1E-7"),
        "text": Decimal("1.50"),
        "float": 0.1,
    }
    assert body_of(Request.post("/", json=value)) == (
        b'{"largest":9223372036854775807,"unsigned":18446744073709551615,"huge":18446744073709551616,'
        b'"exact":1.50,"tiny":1E-7,"text":"1.50","float":0.1}'
    )
    assert Number("1.50") == Decimal("1.50")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"lines": [{"price": 1.0}, {"price": math.nan}]}, "lines[1].price is nan, which JSON has not"),
        ([None, (math.inf,)], "[1][0] is inf, which JSON has not"),
        ({"price": Decimal("NaN")}, "price is NaN, which is no number"),
        ({"price": Number("-Infinity")}, "price is -Infinity, which is no number"),
        ({"price": Number("1E+7000")}, "price is a number beyond 10^6144"),
        ({"a": {"b": {1}}}, "a.b is of type set, which JSON has not"),
        ({"a": {7: 1}}, "a has a name of type int"),
        ({"a": "\ud800"}, "a cannot be written: str is not valid UTF-8: surrogates not allowed"),
        (object(), "it is of type object, which JSON has not"),
        ({"a": 10**5000}, "a is a number of too many digits"),
    ],
)
def test_what_json_has_not_is_named_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(Permanent) as error:
        Request.post("/", json=value).encode()
    assert str(error.value) == f"the body is no JSON: {said}"


def test_json_in_a_circle() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(Permanent, match="nested deeper than 254 levels"):
        Request.post("/", json=circle).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{'a': 1}", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"id": 1, "a": {"id": 2, "id": 3}}', "it names 'id' twice"),
        (b"[NaN]", "it holds NaN, which JSON has not"),
        (b"[-Infinity]", "it holds -Infinity, which JSON has not"),
        (b"[1e7000]", "it holds a number that is too long: 1e7000…"),
        (b"[1e99999999999999999999]", "it holds a number that is too long: 1e999999999999999999…"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "it is nested deeper than 64 levels"),
    ],
)
def test_what_is_no_json(body: bytes, said: str) -> None:
    with pytest.raises(Unknown) as error:
        answered(body).json()
    assert str(error.value) == f"answered 200, and its body cannot be read: {said}"
    assert error.value.status == 200


def test_brackets_in_strings_are_not_nesting() -> None:
    value = {'[\\"{' * 100: ["[" * 100 + '"' * 3] * 2}
    assert answered(json.dumps(value).encode()).json() == value


# XML

ORDER = {
    "order": {
        "@xmlns": "urn:orders",
        "@xmlns:x": "urn:extra",
        "@id": 7,
        "line": [{"sku": "a", "pieces": 2}, {"sku": "b", "pieces": 1}],
        "note": {"@xml:lang": "de", "#text": "bald & gut"},
        "gift": None,
        "x:seen": True,
        "price": Decimal("1E+2"),
        "on": date(2026, 7, 1),
        "at": datetime(2026, 7, 1, 12, tzinfo=UTC),
        "by": UUID(int=7),
        "empty": "",
    }
}


def test_an_xml_body() -> None:
    content, headers = Request.post("/", xml=ORDER).encode()
    assert headers == {"content-type": "application/xml"}
    assert content == (
        b"<?xml version='1.0' encoding='UTF-8'?>\n"
        b'<order xmlns="urn:orders" xmlns:x="urn:extra" id="7">'
        b"<line><sku>a</sku><pieces>2</pieces></line><line><sku>b</sku><pieces>1</pieces></line>"
        b'<note xml:lang="de">bald &amp; gut</note><x:seen>true</x:seen><price>100</price><on>2026-07-01</on>'
        b"<at>2026-07-01T12:00:00+00:00</at><by>00000000-0000-0000-0000-000000000007</by><empty/></order>"
    )
    read = answered(content, "application/xml").xml({"": "urn:orders", "more": "urn:extra"})
    assert read["order"]["line"][1] == {"sku": "b", "pieces": "1"}
    assert read["order"]["note"] == {"@xml:lang": "de", "#text": "bald & gut"}
    assert read["order"]["more:seen"] == "true"
    assert list(answered(content).xml()) == ["{urn:orders}order"], "a namespace without a name of ours"


def test_elements_in_any_order_with_text_between() -> None:
    tree = {"p": {"#content": ["Pay ", {"b": "now"}, " or ", {"i": "later"}, ", or ", {"b": "never"}, "."]}}
    body = body_of(Request.post("/", xml=tree))
    assert body.endswith(b"<p>Pay <b>now</b> or <i>later</i>, or <b>never</b>.</p>")
    assert answered(body).xml() == tree
    booked = {"book": {"#content": [{"debit": "1"}, {"credit": "2"}, {"debit": "3"}]}}
    assert answered(body_of(Request.post("/", xml=booked))).xml() == booked


ELEMENTS = st.recursive(
    st.just("") | SEEN,
    lambda inner: st.fixed_dictionaries(
        {}, optional={"@a": SEEN, "@b": st.just(""), "c": inner, "d": st.lists(inner, min_size=2, max_size=3)}
    ).filter(lambda one: one),
    max_leaves=12,
)


@given(NAME, ELEMENTS)
def test_a_tree_comes_back(name: str, value: Any) -> None:
    assert answered(body_of(Request.post("/", xml={name: value}))).xml() == {name: value}


def fill(made: ET.Element, drawn: Any) -> ET.Element:
    """Give an element attributes, text and children."""
    attributes, text, children = drawn
    made.attrib.update(attributes)
    made.text = text
    for name, inner, tail in children:
        fill(ET.SubElement(made, name), inner).tail = tail
    return made


WORDS = st.none() | st.from_regex(r"[a-z<&>\"'é][a-z<&>\"'é\r]{0,4}", fullmatch=True)
QNAMES = NAME | st.tuples(st.sampled_from(["urn:a", "urn:b"]), NAME).map("{{{0[0]}}}{0[1]}".format)
DRAWN: st.SearchStrategy[Any] = st.recursive(
    st.tuples(st.dictionaries(QNAMES, SEEN, max_size=2), WORDS, st.just([])),
    lambda inner: st.tuples(
        st.dictionaries(QNAMES, SEEN, max_size=2), WORDS, st.lists(st.tuples(QNAMES, inner, WORDS), max_size=4)
    ),
    max_leaves=10,
)


@given(QNAMES, DRAWN)
def test_whatever_another_library_writes_is_read_and_written_as_the_same_document(name: str, drawn: Any) -> None:
    theirs = ET.tostring(fill(ET.Element(name), drawn), encoding="utf-8")
    ours = body_of(Request.post("/", xml=answered(theirs).xml()))
    assert ET.canonicalize(ours, rewrite_prefixes=True) == ET.canonicalize(theirs, rewrite_prefixes=True)


class Scanned(TypedDict):
    scan: bytes
    pages: list[bytes]


SCANNED = xmlschema.XMLSchema("""
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:element name="scan" type="xs:base64Binary"/>
</xs:schema>""")
"""What XML Schema takes for bytes."""


@settings(deadline=None)
@given(st.binary(), st.lists(st.binary(max_size=9), max_size=3))
def test_bytes_are_what_json_of_protocol_buffers_takes_for_them_and_come_back(scan: bytes, pages: list[bytes]) -> None:
    body = body_of(Request.post("/", json={"scan": scan, "pages": pages}))
    assert json_format.Parse(json.dumps(json.loads(body)["scan"]), BytesValue()).value == scan
    assert WebhookRequest({}, body).json(Scanned) == {"scan": scan, "pages": pages}
    safe = json.dumps({"scan": base64.urlsafe_b64encode(scan).decode(), "pages": []}).encode()
    assert WebhookRequest({}, safe).json(Scanned)["scan"] == scan


@settings(deadline=None)
@given(st.binary())
def test_bytes_are_what_xml_schema_takes_for_them(scan: bytes) -> None:
    body = body_of(Request.post("/", xml={"scan": scan}))
    assert SCANNED.is_valid(body.decode().partition("?>")[2])
    assert base64.b64decode(str(answered(body).xml()["scan"]), validate=True) == scan


@pytest.mark.parametrize("scan", ["not base64", "AAAA=", 7, None])
def test_what_is_no_base64_is_a_422(scan: object) -> None:
    with pytest.raises(Rejected) as error:
        WebhookRequest({}, json.dumps({"scan": scan, "pages": []}).encode()).json(Scanned)
    assert error.value.status == 422
    assert "scan" in str(error.value)


def test_null_is_no_shape() -> None:
    with pytest.raises(Rejected) as error:
        WebhookRequest({}, b"null").json(Scanned)
    assert error.value.status == 422


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({}, "it has 0 roots, or one that is None or a list"),
        ({"a": 1, "b": 2}, "it has 2 roots, or one that is None or a list"),
        ({"a": None}, "it has 1 roots, or one that is None or a list"),
        ({"a": [1, 2]}, "it has 1 roots, or one that is None or a list"),
        ({"a": {"b c": 1}}, "a.b c: Invalid tag name 'b c'"),
        ({"a": {"b><c": 1}}, "a.b><c: Invalid tag name 'b><c'"),
        ({"a": {"x:b": 1}}, 'a.x:b: the prefix of x:b is not declared; say "@xmlns:x"'),
        ({"a": {"@x:b": 1}}, 'a: the prefix of x:b is not declared; say "@xmlns:x"'),
        ({"a": {"b": [1, {"c": object()}]}}, "a.b[1].c is of type object, which is no plain value"),
        ({"a": {"@b": {1}}}, "a.@b is of type set, which is no plain value"),
        ({"a": {"b": math.inf}}, "a.b is inf, which is no number"),
        ({"a": Decimal("1E+9999")}, "a is a number beyond 10^6144"),
        (
            {"a": {"b": "\x00"}},
            "a.b: All strings must be XML compatible: Unicode or ASCII, no NULL bytes or control characters",
        ),
    ],
)
def test_what_xml_has_not_is_named_with_its_place(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(Permanent) as error:
        Request.post("/", xml=tree).encode()
    assert str(error.value) == f"the body is no XML: {said}"


def test_xml_in_a_circle() -> None:
    circle: dict[str, Any] = {}
    circle["a"] = circle
    with pytest.raises(Permanent, match="nested deeper than 64 levels"):
        Request.post("/", xml=circle).encode()


WSDL = files("xmlschema") / "schemas" / "WSDL" / "wsdl.xsd"
"""The schema of WSDL 1.1 as its makers publish it."""
SERVICE = {
    "definitions": {
        "@xmlns": "http://schemas.xmlsoap.org/wsdl/",
        "@xmlns:tns": "urn:orders",
        "@name": "Orders",
        "@targetNamespace": "urn:orders",
        "message": [{"@name": "Asked", "part": {"@name": "id", "@type": "tns:id"}}, {"@name": "Told"}],
        "portType": {
            "@name": "Desk",
            "operation": {"@name": "ask", "input": {"@message": "tns:Asked"}, "output": {"@message": "tns:Told"}},
        },
    }
}


def test_a_body_that_fits_a_published_schema_is_valid_to_another_reader_too() -> None:
    body = body_of(Request.post("/", xml=SERVICE, schema=Xsd(str(WSDL))))
    xmlschema.XMLSchema(str(WSDL)).validate(body.decode())


def test_a_body_that_does_not_fit_its_schema_is_never_sent() -> None:
    wrong = {"definitions": SERVICE["definitions"] | {"portType": {"operation": {"@name": "ask"}}}}
    with pytest.raises(Permanent, match=r"the body does not fit wsdl.xsd: .*portType.*: .*'name' is required"):
        Request.post("/", xml=wrong, schema=Xsd(str(WSDL))).encode()
    assert not xmlschema.XMLSchema(str(WSDL)).is_valid(body_of(Request.post("/", xml=wrong)).decode())


PERSON = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="person"><xs:complexType>
<xs:sequence><xs:element name="born" type="xs:date"/><xs:element name="code" minOccurs="0"><xs:simpleType>
<xs:restriction base="xs:string"><xs:pattern value="[0-9]+"/><xs:maxLength value="6"/></xs:restriction></xs:simpleType>
</xs:element><xs:element name="pet" minOccurs="0" maxOccurs="2"><xs:simpleType><xs:restriction base="xs:string">
<xs:enumeration value="cat"/><xs:enumeration value="dog"/></xs:restriction></xs:simpleType></xs:element></xs:sequence>
<xs:attribute name="age" type="xs:int"/><xs:attribute name="tall"><xs:simpleType><xs:restriction base="xs:int">
<xs:maxInclusive value="300"/></xs:restriction></xs:simpleType></xs:attribute><xs:attribute name="kind" fixed="7"/>
</xs:complexType><xs:unique name="one"><xs:selector xpath="pet"/><xs:field xpath="."/></xs:unique></xs:element>
</xs:schema>"""
DAY = "2026-07-01"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"born": "hush"}, "/born: Element 'born': the value is not a valid value of the atomic type 'xs:date'."),
        (
            {"born": "hush' is not: 'hush'\n is not"},
            "/born: Element 'born': the value is not a valid value of the atomic",
        ),
        ({"@age": "hush", "born": DAY}, ": Element 'person', attribute 'age': the value is not a valid value of the"),
        ({"born": DAY, "code": "hush"}, "/code: Element 'code': the value is not accepted by the pattern '[0-9]+'."),
        ({"born": DAY, "code": "'hush'"}, "/code: Element 'code': the value is not accepted by the pattern '[0-9]+'."),
        (
            {"born": DAY, "code": "hush hush"},
            "/code: Element 'code': [facet 'maxLength'] The value has a length of '9'",
        ),
        ({"born": DAY, "pet": "hush"}, "/pet: Element 'pet': the value is not an element of the set {'cat', 'dog'}."),
        ({"born": DAY, "pet": ["cat", "cat"]}, "/pet[2]: Element 'pet': Duplicate key-sequence …"),
        ({"@tall": 999, "born": DAY}, ": Element 'person', attribute 'tall': the value is greater than the maximum"),
        ({"@kind": "hush", "born": DAY}, ": Element 'person', attribute 'kind': The value …"),
        ({"@size": "hush", "born": DAY}, ": Element 'person', attribute 'size': The attribute 'size' is not allowed."),
        (
            {"born": DAY, "size": 1},
            "/size: Element 'size': This element is not expected. Expected is one of ( code, pet",
        ),
        ({"@age": 7}, ": Element 'person': Missing child element(s). Expected is ( born )."),
        ({"born": DAY, "#text": "hush"}, ": Element 'person': Character content other than whitespace is not allowed"),
    ],
)
def test_a_schemas_refusal_repeats_no_value(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    file = tmp_path / "person.xsd"
    file.write_text(PERSON)
    with pytest.raises(Permanent) as error:
        Request.post("/", xml={"person": wrong}, schema=Xsd(file)).encode()
    told = str(error.value)
    assert told.startswith(f"the body does not fit person.xsd: /person{said}")
    assert "hush" not in told
    right = {"@age": 7, "born": date(2026, 7, 1), "code": 12, "pet": ["cat", "dog"]}
    Request.post("/", xml={"person": right}, schema=Xsd(file)).encode()


@pytest.mark.parametrize("text", [None, "", "<a/>", "<a", "<!DOCTYPE a><a/>"])
def test_a_schema_that_is_none(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "order.xsd"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=r"order.xsd cannot be read as an XML schema: .*\. Correct the file\."):
        Xsd(file)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<a>é</a>".encode(), ""),
        ("<a>é</a>".encode(), "text/xml; charset=utf-8"),
        ("<?xml version='1.0' encoding='iso-8859-1'?><a>é</a>".encode("latin1"), "application/soap+xml"),
        ("<a>é</a>".encode("latin1"), 'text/xml; charset="ISO-8859-1"'),
        ("<?xml version='1.0' encoding='iso-8859-1'?><a>é</a>".encode(), "text/xml;charset=UTF-8"),
        ("<a>é</a>".encode("utf-16"), "application/xml"),
        ("<a>é</a>".encode("utf-8-sig"), "application/xml; charset=iso-8859-1"),
    ],
)
def test_charsets_of_xml(body: bytes, kind: str) -> None:
    assert answered(body, kind).xml() == {"a": "é"}


# Forms, parts, bytes

FIELD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.dictionaries(FIELD, TEXT | st.lists(TEXT, min_size=1, max_size=3), max_size=5))
def test_forms(fields: dict[str, str | list[str]]) -> None:
    content, headers = Request.post("/", form=fields).encode()
    assert content is not None
    assert headers == {"content-type": "application/x-www-form-urlencoded"}
    expected = {name: value if isinstance(value, list) else [value] for name, value in fields.items()}
    assert parse_qs(content.decode("ascii"), keep_blank_values=True) == expected
    assert answered(content, headers["content-type"]).form() == expected


def test_a_form() -> None:
    fields = {"id": 7, "tag": ["x", None, "y"], "none": None, "on": True, "price": Decimal("1.50"), "ü": "a b&c"}
    assert body_of(Request.post("/", form=fields)) == b"id=7&tag=x&tag=y&on=true&price=1.50&%C3%BC=a+b%26c"
    assert Request.post("/", form={}).encode() == (b"", {"content-type": "application/x-www-form-urlencoded"})


@pytest.mark.parametrize("value", [object(), {"a": 1}, [[1]], math.nan])
def test_what_no_field_holds(value: object) -> None:
    with pytest.raises(Permanent, match=r"^the form cannot be written: a is (of type|nan)"):
        Request.post("/", form={"a": value}).encode()
    with pytest.raises(Permanent, match=r"^the parts cannot be written: 'a' is (of type|nan)"):
        Request.post("/", multipart={"a": value}).encode()


def parted(request: Request) -> list[EmailMessage]:
    """Take a multipart body apart as Python's email package does."""
    content, headers = request.encode()
    assert content is not None
    parsed = BytesParser(EmailMessage, policy=HTTP).parsebytes(
        b"content-type: " + headers["content-type"].encode() + b"\r\n\r\n" + content
    )
    assert not parsed.defects
    return [part for part in parsed.iter_parts() if isinstance(part, EmailMessage)]


@given(st.lists(st.binary(), min_size=1, max_size=4))
def test_files(contents: list[bytes]) -> None:
    sent = [Part(content, "application/octet-stream", filename=f"{at}.bin") for at, content in enumerate(contents)]
    parts = parted(Request.post("/", multipart={"file": sent}))
    assert [part.get_filename() for part in parts] == [one.filename for one in sent]
    assert [part.get_payload(decode=True) for part in parts] == contents


def test_parts() -> None:
    request = Request.post(
        "/",
        multipart={
            "title": "Rechnung ü",
            "tag": ["x", 7],
            "none": None,
            "meta": Part.json({"id": 7}),
            "note": Part.xml({"note": "x"}),
            'a"b\r\nc': Part(b"\r\n--", "image/png", filename='ü"\r\nX: y.png'),
        },
    )
    content, headers = request.encode()
    assert content is not None
    kind, boundary = headers["content-type"].split("; boundary=")
    assert kind == "multipart/form-data"
    first, *parts, last = content.split(f"--{boundary}".encode())
    assert (first, last) == (b"", b"--\r\n")
    head = b'\r\nContent-Disposition: form-data; name="'
    assert parts == [
        head + 'title"\r\n\r\nRechnung ü\r\n'.encode(),
        head + b'tag"\r\n\r\nx\r\n',
        head + b'tag"\r\n\r\n7\r\n',
        head + b'meta"\r\nContent-Type: application/json\r\n\r\n{"id":7}\r\n',
        head + b'note"\r\nContent-Type: application/xml\r\n\r\n'
        b"<?xml version='1.0' encoding='UTF-8'?>\n<note>x</note>\r\n",
        head
        + 'a%22b%0D%0Ac"; filename="ü%22%0D%0AX: y.png"\r\nContent-Type: image/png\r\n\r\n'.encode()
        + b"\r\n--\r\n",
    ]


@pytest.mark.parametrize("parts", [{}, {"a": None}, {"a": Part(b"", "text/plain\r\nx: y")}, {"\ud800": 1}])
def test_parts_that_cannot_be_written(parts: dict[str, object]) -> None:
    with pytest.raises(Permanent, match=r"^the parts cannot be written: "):
        Request.post("/", multipart=parts).encode()


def test_bytes_and_their_type() -> None:
    request = Request.put("/", raw=(b"a;b\n", "text/csv; charset=utf-8"), headers={"If-Match": "3"})
    assert request.encode() == (b"a;b\n", {"content-type": "text/csv; charset=utf-8", "if-match": "3"})


def test_no_body() -> None:
    assert Request.delete("/", headers={"If-Match": "3"}).encode() == (None, {"if-match": "3"})
    assert Request.post("/", gzip=True).encode() == (None, {})


@given(TEXT)
def test_a_compressed_body_is_the_same_every_time(text: str) -> None:
    request = Request.post("/", json={"text": text}, gzip=True)
    content, headers = request.encode()
    assert content is not None
    assert headers == {"content-type": "application/json", "content-encoding": "gzip"}
    assert json.loads(gzip.decompress(content)) == {"text": text}
    assert content[4:8] == bytes(4), "without the time"
    assert request.encode()[0] == content


def test_a_sinks_content_type_counts() -> None:
    _, headers = Request.post("/", xml={"a": 1}, headers={"Content-Type": "text/xml; charset=utf-8"}).encode()
    assert headers == {"content-type": "text/xml; charset=utf-8"}


@pytest.mark.parametrize(
    "request_",
    [
        Request.post("/", multipart={"a": 1}, headers={"Content-Type": "multipart/related"}),
        Request.post("/", json={}, gzip=True, headers={"Content-Encoding": "br"}),
    ],
)
def test_headers_that_a_body_cannot_have(request_: Request) -> None:
    with pytest.raises(Permanent, match=r"^the request cannot be made: "):
        request_.encode()


def test_one_body() -> None:
    with pytest.raises(TypeError, match="one body at most"):
        Request.post("/", json={}, xml={"a": 1})
    with pytest.raises(TypeError, match="one body at most"):
        Request.post("/", form={}, raw=(b"", "text/plain"))
    with pytest.raises(TypeError, match="only an xml body"):
        Request.post("/", json={}, schema=Xsd(str(WSDL)))


def test_a_request_shows_what_it_has() -> None:
    assert repr(Request.post("/a")) == "Request('POST', '/a')"
    assert repr(Request.post("/a", json=0, gzip=True)) == "Request('POST', '/a', json=0, gzip=True)"
    assert repr(Request.put("/a", form={"b": 1}, headers={"X": "y"})) == (
        "Request('PUT', '/a', headers={'X': 'y'}, form={'b': 1})"
    )


# Answers


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("application/json", "json"),
        ("application/problem+json; charset=utf-8", "json"),
        ("text/JSON", "json"),
        ("application/vnd.shop.v2+xml", "xml"),
        ("text/xml", "xml"),
        ("application/x-www-form-urlencoded", "form"),
    ],
)
def test_the_content_type_of_an_answer(kind: str, read: str) -> None:
    bodies = {"json": b"{}", "xml": b"<a/>", "form": b""}
    for name, body in bodies.items():
        if name == read:
            assert getattr(answered(body, kind), name)() in ({}, {"a": ""})
        else:
            with pytest.raises(Unknown, match=f"its content type is '{kind[:10]}.*, not ") as error:
                getattr(answered(body, kind), name)()
            assert "\n" not in str(error.value)
    assert answered(b"{}", kind).text() == "{}"


@pytest.mark.parametrize("kind", ["text/html", "application/jsonp", "application/json5", "json", "x/y+json.gz", "\x00"])
def test_another_content_type(kind: str) -> None:
    with pytest.raises(Unknown, match="its content type is"):
        answered(b"{}", kind).json()


def test_an_answer_that_is_cut() -> None:
    with pytest.raises(Unknown, match="only its beginning arrived"):
        Response(200, {}, b"{}", whole=False).json()


def test_a_status_counts_for_more_than_a_body_that_cannot_be_read() -> None:
    page = "text/html"
    with pytest.raises(Retryable, match="answered 503: <h1>Down</h1>"):
        answered(b"<h1>Down</h1>", page, 503).json()
    with pytest.raises(Permanent, match="answered 422"):
        answered(b"<h1>No</h1>", page, 422).xml()
    with pytest.raises(Unknown, match="answered 404, and its body"):
        Response(404, {"content-type": page}, b"<h1>No</h1>", method="DELETE").json()


@pytest.mark.parametrize(
    ("charset", "body"),
    [
        ("", "é".encode()),
        ("; charset=utf-8", "é".encode()),
        ('; Charset="ISO-8859-1"', b"\xe9"),
        ("; charset=windows-1252", b"\xe9"),
        ("; charset=utf-16", "é".encode("utf-16")),
    ],
)
def test_charsets(charset: str, body: bytes) -> None:
    assert answered(body, f"text/plain{charset}").text() == "é"


@pytest.mark.parametrize("charset", ["zip", "hex", "idna", "punycode", "unicode_escape", "utf-7", "rot13", "x" * 100])
def test_codecs_that_are_no_charsets(charset: str) -> None:
    with pytest.raises(Unknown, match=r"its charset '.{1,40}' is not read"):
        answered(b"{}", f"application/json; charset={charset}").json()


def parts_of(body: bytes, kind: str = "multipart/mixed; boundary=x") -> list[Response]:
    return answered(body, kind).multipart()


def test_parts_in_answers() -> None:
    body = b'before\r\n--x \r\nContent-Type: application/json\r\nA: b\r\n\r\n{"a": 1}\r\n--x\r\n\r\n\r\n--x--\r\nafter'
    first, second = parts_of(body)
    assert first.json() == {"a": 1}
    assert (first.headers["a"], second.headers, second.body) == ("b", {}, b"")


@given(st.lists(st.binary(), min_size=1, max_size=4))
def test_parts_come_back(contents: list[bytes]) -> None:
    content, headers = Request.post(
        "/", multipart={"file": [Part(one, "text/plain", filename="ü") for one in contents]}
    ).encode()
    assert content is not None
    parts = parts_of(content, headers["content-type"])
    assert [part.body for part in parts] == contents
    assert {part.headers["content-disposition"] for part in parts} == {'form-data; name="file"; filename="ü"'}


@given(st.lists(st.text("a\u00e9\r\n -x", max_size=12).map(str.encode), min_size=1, max_size=3))
def test_parts_are_read_as_another_library_writes_them(contents: list[bytes]) -> None:
    written, kind = encode_multipart_formdata([("f", ("n", one, "text/plain")) for one in contents])
    assert [part.body for part in parts_of(written, kind)] == contents


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"--x\r\n\r\na\r\n--x--", "multipart/mixed"),
        (b"--x\r\n\r\na\r\n--x--", f"multipart/mixed; boundary={'x' * 71}"),
        (b"--x\r\n\r\na\r\n--x--", "application/json; boundary=x"),
        (b"--x\r\n\r\na", "multipart/mixed; boundary=x"),
        (b"", "multipart/mixed; boundary=x"),
        (b"--xA: b\r\n\r\na\r\n--x--", "multipart/mixed; boundary=x"),
        (b"--x\r\nA: b\r\n--x--", "multipart/mixed; boundary=x"),
        (b"--x\r\n\r\n" * 30_000 + b"--x--", "multipart/mixed; boundary=x"),
    ],
)
def test_what_has_no_parts(body: bytes, kind: str) -> None:
    with pytest.raises(Unknown, match=r"^answered 200, and its body cannot be read: ") as error:
        parts_of(body, kind)
    assert len(str(error.value)) < 200


def test_forms_in_answers() -> None:
    assert answered(b"a=1&a=2&b=").form() == {"a": ["1", "2"], "b": [""]}
    for body in (b"a", b"a=%ff", b"\xff=1"):
        with pytest.raises(Unknown):
            answered(body).form()
