"""A vendor's OpenAPI document (3.0, 3.1) as the judge of what sinks send.

Pure. The validator of schemas is an optional dependency, imported when a document is read: no worker loads it.
"""

import importlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from trunkline.errors import UsageError
from trunkline.flow.journeys import Data
from trunkline.flow.media import (
    element_of,
    form_of,
    meant,
    parts_of,
    root_fault,
    takes,
    wrong_types,
)
from trunkline.formats.plain import media_of

DOCUMENT = "urn:document"
JSON = "application/json"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
OURS = ("accept", "content-type", "authorization")
"""Headers that a document's parameters do not describe (OpenAPI 3.1 §4.8.12.2)."""
PLACE = re.compile(r"\{[^{}/]*\}")


@dataclass(frozen=True)
class Finding:
    """Something that the document does not allow: at `at`, a JSON pointer into the body or a part of the request."""

    request: str
    input: str
    at: str
    told: str


@dataclass(frozen=True)
class Operation:
    """An operation of a document: where it stands, and what the request's path gave for the places of its own."""

    document: "Document"
    template: str
    method: str
    values: Mapping[str, str]

    @property
    def pointer(self) -> str:
        """Where it stands in the document, as a JSON pointer."""
        return f"/paths/{escaped(self.template)}/{self.method}"

    @property
    def told(self) -> Data:
        """What the document says of it."""
        found: Data = self.document.content["paths"][self.template][self.method]
        return found

    @cached_property
    def parameters(self) -> list[tuple[str, Data]]:
        """Its parameters with their pointers: its own take the place of the path's."""
        item = self.document.content["paths"][self.template]
        found: dict[tuple[str, str], tuple[str, Data]] = {}
        for where, listed in (
            (f"/paths/{escaped(self.template)}", item.get("parameters", ())),
            (self.pointer, self.told.get("parameters", ())),
        ):
            for index, given in enumerate(listed):
                pointer, one = self.document.followed(f"{where}/parameters/{index}", given)
                found[one["in"], one["name"]] = (pointer, one)
        return list(found.values())


class Document:
    """An OpenAPI document."""

    def __init__(self, content: Data, name: str = "the document") -> None:
        """Take a document that has been read.

        Raises:
            UsageError: it is none of OpenAPI 3.0 or 3.1, or what validates is not installed.
        """
        version = str(content.get("openapi", "")) if isinstance(content, dict) else ""
        if not version.startswith(("3.0", "3.1")) or not isinstance(content.get("paths"), dict):
            raise UsageError(f"{name} is no OpenAPI document of version 3.0 or 3.1.")
        self.content = content
        self.name = name
        self.version = str(content.get("info", {}).get("version", ""))
        schemas, referencing, dialects = needed("openapi_schema_validator", "referencing", "referencing.jsonschema")
        resource = referencing.Resource(contents=content, specification=dialects.DRAFT202012)
        self._registry = referencing.Registry().with_resource(DOCUMENT, resource)
        self._unresolvable = referencing.exceptions.Unresolvable
        is_old = version.startswith("3.0")
        self._kind = schemas.OAS30WriteValidator if is_old else schemas.OAS31Validator
        self._formats = schemas.oas30_format_checker if is_old else schemas.oas31_format_checker

    @cached_property
    def _templates(self) -> list[tuple[str, "re.Pattern[str]"]]:
        """The paths, those without places first: they count for more (OpenAPI 3.1 §4.8.8)."""
        found = sorted(self.content["paths"], key=lambda path: (len(PLACE.findall(path)), -len(path)))
        return [(template, expression(template)) for template in found]

    @cached_property
    def _bases(self) -> list[str]:
        """The paths of its servers, which a request's path may begin with, the longest first."""
        urls = [str(server.get("url", "")) for server in self.content.get("servers", ())]
        paths = {urlsplit(PLACE.sub("x", url)).path.rstrip("/") for url in urls}
        return [*sorted(paths - {""}, key=len, reverse=True), ""]

    def operation(self, method: str, path: str) -> Operation | str:
        """Find the operation of a request, or say why there is none."""
        known: list[str] = []
        for base in self._bases:
            if not path.startswith(f"{base}/"):
                continue
            for template, pattern in self._templates:
                if (match := pattern.fullmatch(path.removeprefix(base))) is None:
                    continue
                item = self.content["paths"][template]
                if isinstance(item.get(method.lower()), dict):
                    names = [place[1:-1] for place in PLACE.findall(template)]
                    values = dict(zip(names, map(unquote, match.groups()), strict=True))
                    return Operation(self, template, method.lower(), values)
                known += [name.upper() for name in METHODS if name in item]
        if known:
            return f"the path has no {method}, only {', '.join(dict.fromkeys(known))}"
        return "no path of the document is like it"

    def followed(self, pointer: str, value: Any) -> tuple[str, Any]:
        """Give a value and where it stands, behind every reference.

        Raises:
            UsageError: a reference leads out of the document, nowhere or in a circle.
        """
        seen: set[str] = set()
        while isinstance(value, dict) and isinstance(reference := value.get("$ref"), str):
            if not reference.startswith("#") or reference in seen:
                told = "in a circle" if reference in seen else "out of it. Bundle it into one file"
                raise UsageError(f"{self.name}: the reference {reference} leads {told}.")
            seen.add(reference)
            pointer = unquote(reference[1:])
            value = self.at(pointer)
        return pointer, value

    def at(self, pointer: str) -> Any:
        """Give what stands at a JSON pointer.

        Raises:
            UsageError: nothing does.
        """
        value: Any = self.content
        for name in names_in(pointer):
            try:
                value = value[int(name)] if isinstance(value, list) else value[name]
            except (KeyError, IndexError, ValueError, TypeError):
                raise UsageError(f"{self.name}: the reference #{pointer} leads nowhere.") from None
        return value

    def faults(self, pointer: str, value: Any) -> Iterator[tuple[str, str]]:
        """Validate a value against the schema at a pointer: where it is wrong, and how.

        Raises:
            UsageError: a reference leads out of the document, or nowhere.
        """
        schema = {"$ref": f"{DOCUMENT}#{pointer}"}
        validator = self._kind(schema, registry=self._registry, format_checker=self._formats)
        try:
            yield from dict.fromkeys(told for error in validator.iter_errors(value) for told in told_of(error))
        except self._unresolvable as error:
            raise UsageError(f"{self.name}: the reference {error.ref} leads nowhere here.") from None


def read(path: Path) -> Document:
    """Read a document, in JSON or YAML.

    Raises:
        UsageError: it cannot be read, or is none of OpenAPI 3.0 or 3.1.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error.strerror if isinstance(error, OSError) else 'no text'}.") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        [yaml] = needed("yaml")
        try:
            content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            content = json.loads(json.dumps(content, default=str))  # keys and dates as JSON would have them
        except (yaml.YAMLError, TypeError, RecursionError) as error:
            raise UsageError(f"{path} is neither JSON nor YAML: {' '.join(str(error).split())[:200]}.") from None
    with understood(path.name, "its version, servers and components"):
        return Document(content, path.name)


def needed(*names: str) -> list[Any]:
    """Import what is installed with `trunkline[openapi]` alone.

    Raises:
        UsageError: it is not there.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise UsageError(f"documents need {error.name}: pip install 'trunkline[openapi]'.") from None


def expression(template: str) -> "re.Pattern[str]":
    """Give what a template's paths look like."""
    return re.compile("([^/]+)".join(map(re.escape, PLACE.split(template))))


def escaped(name: str) -> str:
    """Write a name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def names_in(pointer: str) -> list[str]:
    """Take a JSON pointer apart."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


# One request.


@contextmanager
def understood(name: str, where: str) -> Iterator[None]:
    """Read a part of a document that may be anything.

    Raises:
        UsageError: it is not what OpenAPI says that it is.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # whatever the readers and validators raise that were given something else
        why = first_line(f"{type(error).__name__}: {error}")
        raise UsageError(f"{name} is no OpenAPI document where it tells of {where} ({why}). Mend it there.") from error


def first_line(text: str) -> str:
    """Give the first line of a text."""
    return text.splitlines()[0]


def findings(document: Document, calls: Iterable[tuple[str, Data]]) -> list[Finding]:
    """Validate requests, each with the name of its input: everything that the document does not allow.

    Raises:
        UsageError: a reference leads nowhere, or what the document says of a request cannot be understood.
    """
    found = []
    for name, call in calls:
        line = line_of(call["request"])
        with understood(document.name, line):
            found += [Finding(line, name, at, told) for at, told in faults_of(document, call["request"])]
    return found


def line_of(request: Data) -> str:
    """Write a request's first line."""
    return f"{request['method']} {request['path']}"


def faults_of(document: Document, request: Data) -> Iterator[tuple[str, str]]:
    """Find what a document does not allow in a request: where, and what."""
    path, _, query = request["path"].partition("?")
    operation = document.operation(request["method"], path)
    if isinstance(operation, str):
        yield "path", operation
        return
    yield from parameter_faults(operation, request, query)
    yield from security_faults(operation, request)
    yield from body_faults(operation, request)


def parameter_faults(operation: Operation, request: Data, query: str) -> Iterator[tuple[str, str]]:
    """Find what is wrong with path, query and headers."""
    asked: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        asked.setdefault(name, []).append(value)
    known = set()
    for pointer, parameter in operation.parameters:
        name, place = parameter["name"], parameter["in"]
        if place == "query":
            known.add(name)
        if place == "cookie" or (place == "header" and name.lower() in OURS):
            continue
        at = f"{place} {name}"
        header = request["headers"].get(name.lower())
        sent: str | list[str] | None = operation.values.get(name) if place == "path" else header
        sent = asked.get(name) if place == "query" else sent
        if sent is None:
            if parameter.get("required"):
                yield at, "is required and not sent"
            continue
        if "schema" not in parameter or (isinstance(sent, str) and sent.startswith("[")):
            continue  # credentials have the name of their setting in their place
        where, schema = operation.document.followed(f"{pointer}/schema", parameter["schema"])
        for inside, told in operation.document.faults(where, meant(operation.document, schema, sent)):
            yield f"{at}{inside}", told
    for name in asked:
        if name not in known and not any(pair[1].get("style") == "deepObject" for pair in operation.parameters):
            yield f"query {name}", "is unknown to the document"


def security_faults(operation: Operation, request: Data) -> Iterator[tuple[str, str]]:
    """Find that none of the credentials is sent which the document asks for."""
    document = operation.document
    asked = (operation.told if "security" in operation.told else document.content).get("security") or []
    schemes = document.content.get("components", {}).get("securitySchemes", {})
    wanted = []
    for choice in asked:
        places = [place_of(document.followed("", schemes.get(name, {}))[1]) for name in choice]
        if all(place is None or sent(request, place) for place in places):
            return
        wanted.append(" and ".join(f"{place[0]} {place[1]}" for place in places if place is not None))
    if wanted:
        yield "credentials", f"are sent in none of the places the document names: {' or '.join(wanted)}"


def place_of(scheme: Data) -> tuple[str, str] | None:
    """Say where credentials of a kind stand; None where that is not in the request, or is not said."""
    match scheme:
        case {"type": "apiKey", "in": "header" | "query" as place, "name": str(name)}:
            return place, name
        case {"type": "http" | "oauth2" | "openIdConnect"}:
            return "header", "Authorization"
        case _:
            return None


def sent(request: Data, place: tuple[str, str]) -> bool:
    """Say whether something is sent there."""
    where, name = place
    if where == "header":
        return name.lower() in request["headers"]
    return f"{name}=" in f"{request['path']}{request['credentials_in_query']}"


def body_faults(operation: Operation, request: Data) -> Iterator[tuple[str, str]]:
    """Find what is wrong with a body."""
    document, body = operation.document, request["body"]
    if "requestBody" not in operation.told:
        if body is not None:
            yield "body", "is sent, and the document has none"
        return
    pointer, wanted = document.followed(f"{operation.pointer}/requestBody", operation.told["requestBody"])
    if body is None:
        if wanted.get("required"):
            yield "body", "is required and not sent"
        return
    kind = kind_of_body(request)
    media = next((name for name in wanted.get("content", {}) if takes(name, kind)), None)
    if media is None:
        kinds = ", ".join(wanted.get("content", {})) or "none"
        yield "header content-type", f"is {kind or 'not sent'}; the document takes {kinds}"
        return
    if "schema" not in wanted["content"][media]:
        return
    told_of_it = wanted["content"][media]
    where, schema = document.followed(f"{pointer}/content/{escaped(media)}/schema", told_of_it["schema"])
    if "xml" in body and (told := root_fault(document, where, schema, body["xml"])):
        yield "body", told
    for name, told in wrong_types(told_of_it.get("encoding", {}), body.get("multipart", {})):
        yield f"body /{escaped(name)}", told
    if (value := value_of(document, schema, body)) is not None:
        yield from ((f"body {inside}".strip(), told) for inside, told in document.faults(where, value))


def kind_of_body(request: Data) -> str:
    """Give the content type of a request's body, without its parameters."""
    return media_of(str(request["headers"].get("content-type", "")))


def value_of(document: Document, schema: Data, body: Data) -> Any:
    """Give the JSON value that a body stands for; None where it stands for none."""
    match body:
        case {"json": value}:
            return value
        case {"form": fields}:
            return form_of(document, schema, fields)
        case {"multipart": parts}:
            return parts_of(document, schema, parts)
        case {"xml": tree}:
            [root] = tree.values()
            return element_of(document, schema, root)
        case _:
            return None


def told_of(error: Any) -> Iterator[tuple[str, str]]:
    """Say where a value is wrong and how, without the value; of alternatives what the nearest one lacks."""
    at = "".join(f"/{escaped(str(part))}" for part in error.absolute_path)
    keyword, wanted, value = error.validator, error.validator_value, error.instance
    if keyword in ("oneOf", "anyOf") and error.context:
        branches: dict[Any, list[Any]] = {}
        for inner in error.context:
            branches.setdefault(inner.schema_path[0], []).append(inner)
        nearest = min(branches.values(), key=lambda inner: (any(one.validator == "type" for one in inner), len(inner)))
        for inner in nearest:
            yield from told_of(inner)
        return
    match keyword:
        case "required":
            missing = [name for name in wanted if isinstance(value, dict) and name not in value]
            for name in missing if f"'{missing[0]}'" in error.message else missing[-1:]:
                if f"'{name}'" in error.message:
                    yield f"{at}/{escaped(name)}", "is required and not sent"
        case "type":
            yield at, f"is {kind_of(value)}; the document wants {words(wanted)}"
        case "enum" | "const":
            yield at, f"is none of {words(wanted)}"
        case "additionalProperties" | "unevaluatedProperties":
            known = error.schema.get("properties", {})
            patterns = error.schema.get("patternProperties", {})
            for name in value:
                if name not in known and not any(re.search(pattern, name) for pattern in patterns):
                    yield f"{at}/{escaped(name)}", "is unknown to the document"
        case "readOnly":
            yield at, "is only the target's to write"
        case _:
            yield at, f"does not keep to {keyword} {json.dumps(wanted, default=str)[:80]}"


def words(wanted: Any) -> str:
    """Write what is wanted."""
    return (
        ", ".join(json.dumps(one) if not isinstance(one, str) else one for one in wanted)
        if isinstance(wanted, list)
        else str(wanted)
    )


def kind_of(value: Any) -> str:
    """Name the JSON type of a value."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
