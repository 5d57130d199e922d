"""XML and multipart against a vendor's document; of XML the examples of the standard itself, of parts openapi-core."""

from typing import Any

import pytest

from trunkline.flow.breaks import breaks
from trunkline.flow.journeys import Data, body_data
from trunkline.flow.openapi import Document, faults_of
from trunkline.formats.multipart import Part
from trunkline.requests import Request

STRINGS = {"type": "array", "items": {"type": "string"}}
ANIMALS = {"type": "array", "items": {"type": "string", "xml": {"name": "animal"}}}
SAMPLE = "http://example.com/schema/sample"
PERSON = {
    "type": "object",
    "required": ["id", "name"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "integer", "format": "int32", "xml": {"attribute": True}},
        "name": {"type": "string", "xml": {"namespace": SAMPLE, "prefix": "sample"}},
        "lines": {
            "type": "array",
            "xml": {"wrapped": True},
            "items": {"xml": {"name": "line"}, "$ref": "#/components/schemas/Line"},
        },
        "note": {"type": "array", "items": {"type": "string"}},
    },
}
LINE = {"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}}}


def document(media: str, schema: Data, **encoding: Data) -> Document:
    content = {media: {"schema": schema, **({"encoding": encoding} if encoding else {})}}
    return Document(
        {
            "openapi": "3.1.0",
            "info": {"title": "t", "version": "1"},
            "servers": [{"url": "http://localhost"}],
            "paths": {
                "/x": {
                    "post": {
                        "requestBody": {"required": True, "content": content},
                        "responses": {"200": {"description": "ok"}},
                    }
                }
            },
            "components": {"schemas": {"Person": PERSON, "Line": {**LINE, "xml": {"name": "line"}}}},
        }
    )


def sent(**body: Any) -> Data:
    """Give a request as a journey has it."""
    request = Request("POST", "/x", **body)
    content, headers = request.encode()
    about = {"method": "POST", "path": "/x", "headers": headers, "credentials_in_query": ""}
    return {**about, "body": body_data(request, content)}


def judged(schema: Data, tree: Data) -> list[tuple[str, str]]:
    return list(faults_of(document("application/xml", schema), sent(xml=tree)))


def closed(**properties: Data) -> Data:
    """Describe what has these properties, all of them, and no others."""
    return {"type": "object", "required": list(properties), "additionalProperties": False, "properties": properties}


@pytest.mark.parametrize(
    ("schema", "tree"),
    [
        (closed(animals={"type": "string"}), {"r": {"animals": "v"}}),
        (closed(animals={"type": "string", "xml": {"name": "animal"}}), {"r": {"animal": "v"}}),
        (closed(animals=STRINGS), {"r": {"animals": ["a", "b"]}}),
        (closed(animals=ANIMALS), {"r": {"animal": ["a", "b"]}}),
        (closed(animals={**ANIMALS, "xml": {"name": "aliens"}}), {"r": {"animal": ["a", "b"]}}),
        (closed(animals={**STRINGS, "xml": {"wrapped": True}}), {"r": {"animals": {"animals": ["a", "b"]}}}),
        (closed(animals={**ANIMALS, "xml": {"wrapped": True}}), {"r": {"animals": {"animal": ["a", "b"]}}}),
        (
            closed(animals={**ANIMALS, "xml": {"name": "aliens", "wrapped": True}}),
            {"r": {"aliens": {"animal": ["a", "b"]}}},
        ),
        (
            closed(animals={**STRINGS, "xml": {"name": "aliens", "wrapped": True}}),
            {"r": {"aliens": {"aliens": ["a", "b"]}}},
        ),
        (
            {"$ref": "#/components/schemas/Person"},
            {"Person": {"@id": 123, "sample:name": {"@xmlns:sample": SAMPLE, "#text": "example"}}},
        ),
    ],
    ids=range(10),
)
def test_xml_is_read_as_the_standard_writes_it(schema: Data, tree: Data) -> None:
    """Its own examples (OpenAPI 3.1 §4.8.26.2), and each with something that its schema has not."""
    assert judged(schema, tree) == []
    [root] = tree
    assert judged(schema, {root: {**tree[root], "other": "1"}}) == [("body /other", "is unknown to the document")]


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"@id": "x", "n": "a"}, [("body /id", "is string; the document wants integer")]),
        ({"@id": 1}, [("body /name", "is required and not sent")]),
        ({"n": "a"}, [("body /id", "is required and not sent")]),
        ({"@id": 1, "name": "a"},
         [("body /name", "is required and not sent"), ("body /{}name", "is unknown to the document")]),
        ({"id": 1, "n": "a"}, [("body /id", "is required and not sent"), ("body /{}id", "is unknown to the document")]),
        ({"@id": 1, "n": "a", "@by": "me"}, [("body /@by", "is unknown to the document")]),
        ({"@id": 1, "n": "a", "lines": {"line": [{"sku": "a", "count": 1}, {"count": "two"}]}},
         [("body /lines/1/sku", "is required and not sent"),
          ("body /lines/1/count", "is string; the document wants integer")]),
        ({"@id": 1, "n": "a", "lines": {"line": {"sku": "a"}}, "note": ["b", "c"]}, []),
        ({"@id": 1, "n": "a", "lines": {"row": {"sku": "a"}}}, [("body /lines/0/sku", "is required and not sent")]),
    ],
    ids=range(9),
)  # fmt: skip
def test_xml_is_judged_by_its_schema(tree: Data, told: list[tuple[str, str]]) -> None:
    named = {("s:name" if name == "n" else name): value for name, value in tree.items()}
    found = judged({"$ref": "#/components/schemas/Person"}, {"Person": {"@xmlns:s": SAMPLE, **named}})
    assert sorted(found) == sorted(told)


def test_a_root_of_another_name_is_told() -> None:
    [(at, told)] = judged(
        {"$ref": "#/components/schemas/Person"},
        {"Human": {"@id": 1, "s:name": {"@xmlns:s": SAMPLE, "#text": "a"}}},
    )
    assert (at, told) == ("body", "has the root Human; the document wants Person")


FILES = closed(
    meta=closed(sku={"type": "string"}, count={"type": "integer"}),
    page={"type": "integer"},
    scans={"type": "array", "items": {"type": "string"}, "minItems": 2},
)


def parts(**changed: Any) -> Data:
    plain: Data = {"meta": Part.json({"sku": "a", "count": 1}), "page": 3}
    return {**plain, "scans": [Part(b"\x89PNG", "image/png", "1.png"), Part(b"\xff", "image/png", "2.png")], **changed}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (parts(), []),
        (parts(page="three"), [("body /page", "is string; the document wants integer")]),
        (parts(page=None), [("body /page", "is required and not sent")]),
        (parts(meta=Part.json({"sku": 1, "count": 1})), [("body /meta/sku", "is integer; the document wants string")]),
        (parts(scans=[Part(b"\xff", "image/png", "1.png")]), [("body /scans", "does not keep to minItems 2")]),
        (parts(other="1"), [("body /other", "is unknown to the document")]),
        (parts(scans=[Part(b"a", "text/csv", "1.csv")] * 2),
         [("body /scans", "is of type text/csv; the document wants image/png, image/jpeg")] * 2),
    ],
    ids=range(7),
)  # fmt: skip
def test_parts_are_judged_by_their_schemas_and_types(given: Data, told: list[tuple[str, str]]) -> None:
    wanted = document("multipart/form-data", FILES, scans={"contentType": "image/png, image/jpeg"})
    assert list(faults_of(wanted, sent(multipart=given))) == told


@pytest.mark.parametrize("changed", [{}, {"page": "three"}, {"page": None}])
def test_openapi_core_judges_parts_alike(changed: Data) -> None:
    from openapi_core import OpenAPI  # noqa: PLC0415 - half a second, of which only two tests have need
    from openapi_core.exceptions import OpenAPIError  # noqa: PLC0415
    from openapi_core.testing import MockRequest  # noqa: PLC0415

    simple = closed(page={"type": "string", "pattern": "^[0-9]+$"}, sku={"type": "string"})
    given = {"page": 3, "sku": "a", **changed}
    judge = document("multipart/form-data", simple)
    content, headers = Request("POST", "/x", multipart=given).encode()
    mock = MockRequest("http://localhost", "post", "/x", data=content, content_type=headers["content-type"])
    try:
        OpenAPI.from_dict(judge.content).validate_request(mock)
    except OpenAPIError:
        allowed = False
    else:
        allowed = True
    assert (list(faults_of(judge, sent(multipart=given))) == []) == allowed


def test_what_a_newer_document_takes_away_of_xml_is_told() -> None:
    old = document("application/xml", closed(sku={"type": "string"}))
    new = document("application/xml", closed(sku={"type": "string", "maxLength": 3}, store={"type": "string"}))
    calls = [("one", {"request": sent(xml={"r": {"sku": "a"}})})]
    assert [(one.at, one.told, one.sent) for one in breaks(old, new, calls)] == [
        ("body /store", "is required now", False),
        ("body /sku", "has maxLength 3 now", True),
    ]
