"""How two versions of a schema differ, field by field, for a person."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from trunkline.avro.codec import Codec
from trunkline.avro.compat import plain, told


def differences(old: Codec, new: Codec) -> list[str]:
    """Give a line for each field that came (+), went (-) or changed (~), inner ones with their way: `boxes[].size`."""
    before, after = dict(fields_of(old.schema, old.named, "")), dict(fields_of(new.schema, new.named, ""))
    lines = []
    for path in {**before, **after}:
        was, now = before.get(path), after.get(path)
        if now is None:
            lines.append(f"- {path}  {was}")
        elif was is None:
            lines.append(f"+ {path}  {now}")
        elif was != now:
            lines.append(f"~ {path}  {was} → {now}")
    return lines


def fields_of(schema: Any, named: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Give every field of a type with its way, its type and what else is said of it."""
    match plain(schema, named):
        case {"fields": fields}:
            for field in fields:
                inner = f"{path}.{field['name']}" if path else field["name"]
                yield inner, "".join(said_of(field, named))
                yield from fields_of(field["type"], named, inner)
        case {"items": items}:
            yield from fields_of(items, named, f"{path}[]")
        case {"values": values}:
            yield from fields_of(values, named, f"{path}{{}}")
        case list() as union:
            for one in union:
                yield from fields_of(one, named, path)


def said_of(field: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[str]:
    """Say a field's type in full, its default and the names it had."""
    yield kind(field["type"], named)
    if "default" in field:
        yield f" = {json.dumps(field['default'], ensure_ascii=False)}"
    if aliases := field.get("aliases"):
        yield f" (was {', '.join(aliases)})"
    if field.get("sensitive") is True:
        yield " (sensitive)"


def kind(schema: Any, named: Mapping[str, Any]) -> str:
    """Name a type for a person, with what it holds."""
    match found := plain(schema, named):
        case list():
            return " or ".join(kind(one, named) for one in found)
        case {"items": items}:
            return f"array of {kind(items, named)}"
        case {"values": values}:
            return f"map of {kind(values, named)}"
        case {"type": "enum", "name": name, "symbols": symbols}:
            return f"enum {name} ({', '.join(symbols)})"
        case {"type": "fixed", "name": name, "size": size}:
            return f"fixed {name} of {size} bytes"
        case {"logicalType": "decimal", "precision": precision}:
            return f"decimal of {precision} digits, {found.get('scale', 0)} behind the point"
    return told(found)
