"""What a body stands for as a schema of OpenAPI has it: forms, multipart and XML as the JSON value that is validated.

Pure. A schema describes names and types, a form has only texts: `17` is a number where the schema wants one. What has
no place in the schema keeps its own name, so that whoever validates finds it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from trunkline.flow.journeys import Data
from trunkline.formats.plain import media_of

DEEPEST = 24
"""Levels that are looked at: a schema that holds itself has no end."""


class Schemas(Protocol):
    """Where schemas stand."""

    def followed(self, pointer: str, value: Any) -> tuple[str, Any]:
        """Give a value and where it stands, behind every reference."""
        ...


def takes(media: str, kind: str) -> bool:
    """Say whether a range of media types has one of them."""
    wanted = media_of(media)
    return wanted in ("*/*", kind) or (wanted.endswith("/*") and kind.startswith(wanted[:-1]))


def merged(schemas: Schemas, schema: Data, level: int = 0) -> Data:
    """Give a schema behind its reference, with what all of its `allOf` say together."""
    _, found = schemas.followed("", schema)
    if not isinstance(found, dict) or "allOf" not in found or level > DEEPEST:
        return found if isinstance(found, dict) else {}
    whole: Data = {name: value for name, value in found.items() if name != "allOf"}
    for part in found["allOf"]:
        inner = merged(schemas, part, level + 1)
        both = {
            "properties": {**whole.get("properties", {}), **inner.get("properties", {})},
            "required": [*whole.get("required", ()), *inner.get("required", ())],
        }
        whole = {**inner, **whole, **{name: value for name, value in both.items() if value}}
    return whole


def kinds_of(schema: Data) -> set[str]:
    """Give the types that a schema names."""
    kinds = schema.get("type", ())
    found = {kinds} if isinstance(kinds, str) else set(kinds)
    return found | ({"null"} if schema.get("nullable") and found else set())


def meant(schemas: Schemas, schema: Data, sent: str | list[str]) -> Any:
    """Give what a text stands for, as its schema has it."""
    kinds = kinds_of(schema)
    if "array" in kinds:
        many = sent if isinstance(sent, list) else [sent]
        parts = many if len(many) > 1 else [part for one in many for part in one.split(",")]
        items = merged(schemas, schema.get("items", {}))
        return [meant(schemas, items, part) for part in parts]
    text = sent[-1] if isinstance(sent, list) else sent
    if kinds & {"integer", "number", "boolean"}:
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, int | float) else text
    return text


def form_of(schemas: Schemas, schema: Data, fields: Mapping[str, list[str]]) -> Data:
    """Give what a form stands for."""
    known = merged(schemas, schema).get("properties", {})
    return {
        name: meant(schemas, merged(schemas, known.get(name, {})), values if len(values) > 1 else values[0])
        for name, values in fields.items()
    }


# Several parts, each with a content type of its own.


def parts_of(schemas: Schemas, schema: Data, parts: Mapping[str, Sequence[Data]]) -> Data:
    """Give what the parts of a form stand for, those of one name as a list where the schema has one."""
    known = merged(schemas, schema).get("properties", {})
    found: Data = {}
    for name, sent in parts.items():
        inner = merged(schemas, known.get(name, {}))
        is_list = "array" in kinds_of(inner) and not (len(sent) == 1 and isinstance(sent[0].get("json"), list))
        each = merged(schemas, inner.get("items", {})) if is_list else inner
        values = [part_of(schemas, each, part) for part in sent]
        found[name] = values if is_list or len(values) > 1 else values[0]
    return found


def part_of(schemas: Schemas, schema: Data, part: Data) -> Any:
    """Give what one part stands for; of bytes that are no text, a text."""
    match part:
        case {"json": value}:
            return value
        case {"xml": tree}:
            [(_, root)] = tree.items()
            return element_of(schemas, schema, root)
        case {"text": str(text)} if not part.get("filename"):
            return meant(schemas, schema, text)
        case _:
            return part.get("text", part.get("base64", ""))


def wrong_types(encoding: Mapping[str, Data], parts: Mapping[str, Sequence[Data]]) -> Iterator[tuple[str, str]]:
    """Find parts whose content type is none of those that a document's `encoding` names for them: name and fault."""
    for name, sent in parts.items():
        wanted = str(encoding.get(name, {}).get("contentType", ""))
        for part in sent if wanted else ():
            kind = media_of(part.get("type", "text/plain"))
            if not any(takes(media, kind) for media in wanted.split(",")):
                yield name, f"is of type {kind}; the document wants {wanted}"


# XML: names, attributes, namespaces and lists as a schema's `xml` says (OpenAPI 3.1 §4.8.26).


def root_fault(schemas: Schemas, pointer: str, schema: Data, tree: Data) -> str:
    """Say how the name of a document's root differs from what its schema calls it; "" when it does not."""
    [name] = tree
    told = merged(schemas, schema).get("xml", {})
    before, _, last = pointer.rpartition("/")
    wanted = told.get("name") or (last if before == "/components/schemas" else "")
    if not wanted or is_called(name, wanted, told.get("namespace", "")):
        return ""
    return f"has the root {name}; the document wants {clark(wanted, told.get('namespace', ''))}"


def element_of(schemas: Schemas, schema: Data, node: Any, level: int = 0) -> Any:
    """Give what an element of a tree (`formats.xml`) stands for."""
    schema = merged(schemas, schema)
    kinds = kinds_of(schema)
    if level > DEEPEST:
        return node
    attributes, inside, text = taken_apart(node)
    if "array" in kinds:
        return items_of(schemas, schema, "", inside, level)
    if "object" not in kinds and "properties" not in schema:
        return meant(schemas, schema, text) if not inside else dict(inside)
    found: Data = {}
    for name, given in schema.get("properties", {}).items():
        inner = merged(schemas, given)
        told = inner.get("xml", {})
        called, space = told.get("name") or name, told.get("namespace", "")
        if told.get("attribute"):
            if (at := next((key for key in attributes if is_called(key, called, space)), None)) is not None:
                found[name] = meant(schemas, inner, attributes.pop(at))
            continue
        is_list = "array" in kinds_of(inner)
        if is_list and not told.get("wrapped"):
            mine = [one for one in inside if is_item(schemas, inner, name, one[0])]
        else:
            mine = [one for one in inside if is_called(one[0], called, space)]
        if not mine:
            continue
        inside = [one for one in inside if one not in mine]
        if is_list and told.get("wrapped"):
            mine = taken_apart(mine[0][1])[1]
        if is_list:
            found[name] = items_of(schemas, inner, called if told.get("wrapped") else name, mine, level)
        else:
            values = [element_of(schemas, inner, value, level + 1) for _, value in mine]
            found[name] = values[0] if len(values) == 1 else values
    known = schema.get("properties", {})
    left = {f"{{}}{key}" if key in known else key: value for key, value in inside}  # its name, in the wrong namespace
    return found | {f"@{name}": value for name, value in attributes.items()} | left


def items_of(schemas: Schemas, schema: Data, name: str, inside: Sequence[tuple[str, Any]], level: int) -> list[Any]:
    """Give the items of a list that has these elements; one of another name keeps it."""
    items = merged(schemas, schema.get("items", {}))
    return [
        element_of(schemas, items, value, level + 1) if is_item(schemas, schema, name, key) else {key: value}
        for key, value in inside
    ]


def is_item(schemas: Schemas, schema: Data, name: str, key: str) -> bool:
    """Say whether an element is an item of a list, whose items are called so unless their schema says otherwise."""
    told = merged(schemas, schema.get("items", {})).get("xml", {})
    wanted = told.get("name") or name
    return not wanted or is_called(key, wanted, told.get("namespace", ""))


def taken_apart(node: Any) -> tuple[dict[str, str], list[tuple[str, Any]], str]:
    """Take an element apart: its attributes, the elements in it by name in their order, its text."""
    if not isinstance(node, Mapping):
        return {}, [], "" if node is None else str(node)
    attributes = {key[1:]: value for key, value in node.items() if key.startswith("@")}
    mixed = [one for one in node.get("#content", ()) if isinstance(one, Mapping)]
    plain = {key: value for key, value in node.items() if not key.startswith(("@", "#"))}
    inside = [
        (key, one)
        for each in (*mixed, plain)
        for key, value in each.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    return attributes, inside, str(node.get("#text", ""))


def is_called(key: str, name: str, space: str) -> bool:
    """Say whether a name of a tree is a schema's: in its namespace, or in any where it names none."""
    found, brace, local = key[1:].partition("}") if key.startswith("{") else ("", "", key)
    return local == name and (not space or (bool(brace) and found == space))


def clark(name: str, space: str) -> str:
    """Write a name with its namespace."""
    return f"{{{space}}}{name}" if space else name
