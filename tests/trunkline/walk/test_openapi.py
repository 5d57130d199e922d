"""What a sink sends, against its vendor's OpenAPI document; openapi-core is the witness of what that allows."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import yaml
from typer.testing import CliRunner, Result

from trunkline.cli.main import commands
from trunkline.errors import UsageError
from trunkline.flow.breaks import breaks
from trunkline.flow.journeys import Data
from trunkline.flow.openapi import Document, escaped, faults_of, findings, names_in, read

VENDOR = Path(__file__).parent / "vendor"
OLD, NEW = VENDOR / "stock.v1.yaml", VENDOR / "stock.v2.json"
KEY = "diyfrvbvamsqusqagvhppbukreahjjh7"
PATH = "/stock/7/movements/m1"


def request(
    body: Any = None, *, method: str = "PUT", path: str = PATH, form: Any = None, kind: str = "", **headers: str | None
) -> Data:
    """Write a request as a journey has it; a header that is None is not sent."""
    sent = {"idempotency-key": KEY, "x-api-key": "[STOCK_KEY]"}
    sent |= {"content-type": "application/json"} if body is not None else {}
    sent |= {"content-type": "application/x-www-form-urlencoded"} if form is not None else {}
    sent |= {"content-type": kind} if kind else {}
    headers = {**sent, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "method": method,
        "path": path,
        "headers": {name: value for name, value in headers.items() if value is not None},
        "body": {"json": body} if body is not None else {"form": form} if form is not None else None,
        "credentials_in_query": "",
    }


LOTS = {"delta": 1, "lots": [{"lot": "a", "best_before": "2026-01-31"}]}
CASES: list[tuple[Data, list[tuple[str, str]]]] = [
    (request({"delta": -2}), []),
    (request({"delta": -2, "reason": "sale", **LOTS}), []),
    (request({"delta": -2, "reason": None}), [("body /reason", "is none of sale, count, theft")]),  # 3.0.3: null too
    (request({"delta": 1, "of": "77", "parent": {"delta": 2}}), []),
    (request({"delta": 1}, path="/api/v1/stock/7/movements/m1"), []),
    (request({"delta": 1}, path=f"{PATH}?dryRun=true&tags=till,web"), []),
    (request(form={"count": ["7"]}, method="POST", path="/forms", x_api_key=None), []),
    (request(method="DELETE", path="/stock/7/movements/all"), []),
    (request({"delta": "2"}), [("body /delta", "is string; the document wants integer")]),
    (request({"delta": 2000}), [("body /delta", "does not keep to maximum 1000")]),
    (request({}), [("body /delta", "is required and not sent")]),
    (request({"delta": 1, "dleta": 2}), [("body /dleta", "is unknown to the document")]),
    (request({"delta": 1, "reason": "gift"}), [("body /reason", "is none of sale, count, theft")]),
    (request({"delta": 1, "booked": "2026-01-01T00:00:00Z"}), [("body /booked", "is only the target's to write")]),
    (request({"delta": 1, "lots": [{}]}), [("body /lots/0/lot", "is required and not sent")]),
    (request({"delta": 1, "lots": [{"lot": "a", "best_before": "soon"}]}),
     [("body /lots/0/best_before", 'does not keep to format "date"')]),
    (request({"delta": 1, "parent": {"delta": None}}), [("body /parent/delta", "is null; the document wants integer")]),
    (request({"delta": 1, "of": {"palet": "p"}}), [("body /of/pallet", "is required and not sent")]),
    (request(), [("body", "is required and not sent")]),
    (request({"delta": 1}, kind="text/plain"),
     [("header content-type", "is text/plain; the document takes application/json")]),
    (request({"delta": 1}, idempotency_key=None), [("header Idempotency-Key", "is required and not sent")]),
    (request({"delta": 1}, idempotency_key="short"), [("header Idempotency-Key", "does not keep to minLength 16")]),
    (request({"delta": 1}, x_api_key=None),
     [("credentials", "are sent in none of the places the document names: header X-Api-Key")]),
    (request({"delta": 1}, path="/stock/x7/movements/m1"), [("path sku", 'does not keep to pattern "^[0-9]+$"')]),
    (request({"delta": 1}, path=f"{PATH}?dryRun=maybe"), [("query dryRun", "is string; the document wants boolean")]),
    (request({"delta": 1}, path=f"{PATH}?tags=till,tv"), [("query tags/1", "is none of till, web")]),
    (request({"delta": 1}, path="/stocks/7"), [("path", "no path of the document is like it")]),
    (request({"delta": 1}, method="POST"), [("path", "the path has no POST, only PUT")]),
    (request(form={"count": ["many"], "x": ["1"]}, method="POST", path="/forms"),
     [("body /x", "is unknown to the document"), ("body /count", "is string; the document wants integer")]),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "told"), CASES, ids=range(len(CASES)))
def test_a_request_is_judged_as_openapi_core_judges_it(sent: Data, told: list[tuple[str, str]]) -> None:
    assert sorted(faults_of(read(OLD), sent)) == sorted(told)
    assert allowed_by_openapi_core(sent) == (not told)


def allowed_by_openapi_core(sent: Data) -> bool:
    from openapi_core import OpenAPI  # noqa: PLC0415 - half a second, of which only two tests have need
    from openapi_core.exceptions import OpenAPIError  # noqa: PLC0415
    from openapi_core.testing import MockRequest  # noqa: PLC0415

    path, _, query = sent["path"].partition("?")
    headers = dict(sent["headers"])
    body = sent["body"]
    content = None
    if body is not None:
        content = (
            json.dumps(body["json"]) if "json" in body else "&".join(f"{k}={v[0]}" for k, v in body["form"].items())
        )
    mock = MockRequest(
        "https://eu.stock.example",
        sent["method"].lower(),
        path if path.startswith("/api/v1") else f"/api/v1{path}",
        args=dict(parse_qsl(query)),
        headers=headers,
        data=None if content is None else content.encode(),
        content_type=headers.get("content-type", ""),
    )
    try:
        OpenAPI.from_dict(yaml.safe_load(OLD.read_text())).validate_request(mock)
    except OpenAPIError:
        return False
    return True


def test_a_newer_document_is_told_by_what_it_takes_away() -> None:
    old, new = read(OLD), read(NEW)
    calls = [("one.json", {"request": request({"delta": -2, "reason": "sale"})})]
    assert findings(old, calls) == []
    assert [(one.at, one.told) for one in findings(new, calls)] == [
        ("header X-Store", "is required and not sent"),
        ("body /store", "is required and not sent"),
        ("body /delta", "is integer; the document wants string"),
    ]
    found = breaks(old, new, calls)
    assert {one.operation for one in found} == {"PUT /stock/{sku}/movements/{id}"}
    assert {(one.at, one.told, one.sent) for one in found} == {
        ("operation", "is deprecated", True),
        ("body /store", "is required now", False),
        ("body /delta", "is string now, was integer", True),
        ("body /reason", "may no more be theft", True),
        ("body /booked", "is gone", False),
        ("body /lots", "has maxItems 5 now, was 10", False),
        ("body /lots/*/lot", "has maxLength 8 now", False),
        ("body /lots/*/best_before", "is gone", False),
        ("body /of", "is gone", False),
    }
    assert breaks(old, old, calls) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is neither JSON nor YAML"),
        ("[]", "is no OpenAPI document"),
        ('{"swagger": "2.0", "paths": {}}', "is no OpenAPI document"),
        ('{"openapi": "3.0.0"}', "is no OpenAPI document"),
    ],
)
def test_what_is_no_document_is_wrong_use(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "api.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        read(tmp_path / "api.json")


BODY = {"application/json": {"schema": {"type": "object", "properties": {"delta": {"type": "integer"}}}}}


@pytest.mark.parametrize(
    "operation",
    [
        {"parameters": ["x"]},
        {"parameters": [{"in": "query"}]},
        {"requestBody": "x"},
        {"requestBody": {"content": [1]}},
        {"requestBody": {"content": {"application/json": {"schema": []}}}},
        *(
            {"requestBody": {"content": {"application/json": {"schema": {"properties": {"delta": wrong}}}}}}
            for wrong in ({"maximum": "x"}, {"enum": 3}, {"type": "nonsense"}, {"multipleOf": 0}, {"allOf": 3})
        ),
    ],
    ids=str,
)
def test_a_document_that_is_wrong_where_the_sink_calls_is_named_and_not_a_bug_of_ours(operation: Any) -> None:
    good: Data = {"openapi": "3.1.0", "paths": {"/a": {"post": {"requestBody": {"content": BODY}}}}}
    old, new = Document(good, "old"), Document({**good, "paths": {"/a": {"post": operation}}}, "new")
    calls = [("one.json", {"request": request({"delta": 1}, method="POST", path="/a")})]
    assert findings(old, calls) == []
    with pytest.raises(UsageError, match="new is no OpenAPI document where it tells of "):
        findings(new, calls)


@pytest.mark.parametrize("text", ['{"openapi": "3.1.0", "paths": {}, "servers": "x", "components": []}', "[" * 100_000])
def test_what_cannot_be_understood_at_all_is_wrong_use(tmp_path: Path, text: str) -> None:
    (tmp_path / "api.json").write_text(text)
    with pytest.raises(UsageError, match=r"^\S*api\.json is n"):
        findings(read(tmp_path / "api.json"), [("one.json", {"request": request({}, path="/a")})])


@pytest.mark.parametrize("name", ["a", "a~b", "/orders/{id}", "~1", "~01", "~"])
def test_a_name_is_written_into_a_pointer_and_read_out_of_it(name: str) -> None:
    assert names_in(f"/paths/{escaped(name)}/post") == ["paths", name, "post"]


@pytest.mark.parametrize("reference", ["other.yaml#/x", "#/components/schemas/None", "#/paths/~1a/post/requestBody"])
def test_a_reference_that_leads_nowhere_is_told(reference: str) -> None:
    content = {"openapi": "3.1.0", "paths": {"/a": {"post": {"requestBody": {"$ref": reference}}}}}
    with pytest.raises(UsageError, match="leads"):
        list(faults_of(Document(content), request({}, method="POST", path="/a")))


def check(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["sink", "check", *arguments])


def test_the_command_checks_what_the_examples_send() -> None:
    fine = check("warehouse", "--openapi", str(OLD))
    assert (fine.exit_code, fine.output) == (0, "warehouse: 1 request against stock.v1.yaml 2024-06-01: all allowed\n")
    worse = check("warehouse", "--openapi", str(OLD), "--newer", str(NEW))
    assert worse.exit_code == 1
    golden = Path(__file__).parent / "golden" / "contract.txt"
    assert worse.output == golden.read_text()
    told = json.loads(check("warehouse", "--openapi", str(OLD), "--newer", str(NEW), "--json").output)
    assert (told["requests"], len(told["not_allowed"]), len(told["would_not_be_allowed"])) == (1, 0, 3)


def test_a_sink_that_no_example_reaches_cannot_be_checked(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("{}")
    result = check("marketing", "--openapi", str(OLD), "--tables", str(tmp_path / "none.json"))
    assert "no example makes marketing send anything" in str(result.exception)
    assert "there is no sink nobody" in str(check("nobody", "--openapi", str(OLD)).exception)


def test_a_newer_document_that_is_wrong_is_named_where_only_the_comparison_reads_it() -> None:
    good: Data = {"openapi": "3.1.0", "paths": {"/a": {"post": {"requestBody": {"content": BODY}}}}}
    wrong: Data = {"properties": {"delta": {"type": "integer"}, "other": 3}, "required": 3}
    content = {"application/json": {"schema": wrong}}
    new = {**good, "paths": {"/a": {"post": {"requestBody": {"content": content}}}}}
    calls = [("one.json", {"request": request({"delta": 1}, method="POST", path="/a")})]
    with pytest.raises(UsageError, match="old or new is no OpenAPI document where it tells of what the sink calls "):
        breaks(Document(good, "old"), Document(new, "new"), calls)
