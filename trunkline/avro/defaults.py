"""Default values in Python's terms: fastavro fills a missing field with the JSON of the schema as it stands there.

So a moment would be filled with a number, a decimal and bytes with a text. They are converted once, with the schema.
"""

import copy
from collections.abc import Mapping
from typing import Any

from trunkline.avro.logical import LOGICAL_READERS, NAMED

WORDS: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),), "boolean": (bool,), "int": (int,), "long": (int,), "float": (float, int),
    "double": (float, int), "bytes": (str,), "string": (str,), "fixed": (str,), "enum": (str,), "array": (list,),
    "map": (dict,), "record": (dict,), "error": (dict,),
}  # fmt: skip
"""The JSON of a default by the kind of its type (Avro 1.11.1, Complex Types)."""


def with_defaults(schema: Any) -> Any:
    """Copy a parsed schema with its defaults as the values that they stand for.

    Raises:
        ValueError, TypeError, KeyError, ArithmeticError: a default is no value of its type.
    """
    made = copy.deepcopy(schema)
    named: dict[str, Any] = made.get(NAMED, {}) if isinstance(made, dict) else {}
    done: set[int] = set()
    for one in [made, *named.values()]:
        convert(one, named, done)
    return made


def convert(schema: Any, named: Mapping[str, Any], done: set[int]) -> None:
    """Convert the defaults of every record in a type, in place."""
    match schema:
        case list():
            for one in schema:
                convert(one, named, done)
        case {"fields": fields} if id(fields) not in done:
            done.add(id(fields))
            for field in fields:
                convert(field["type"], named, done)
                if "default" in field:
                    field["default"] = value_of(field["type"], field["default"], named)
        case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
            convert(inner, named, done)
        case {"type": dict() | list() as inner}:
            convert(inner, named, done)


def value_of(schema: Any, given: Any, named: Mapping[str, Any]) -> Any:
    """Give the value of a type that a default's JSON stands for; of a union's, the first that it may be of."""
    match schema:
        case list():
            return value_of(next(one for one in schema if may_be(one, given, named)), given, named)
        case str() if schema in named:
            return value_of(named[schema], given, named)
        case {"type": dict() | list() as inner}:
            return value_of(inner, given, named)
    kind = schema if isinstance(schema, str) else schema["type"]
    logical = schema.get("logicalType") if isinstance(schema, Mapping) else None
    if not may_be(schema, given, named):
        raise ValueError(f"the default {given!r} is no {kind}")
    match kind:
        case "bytes" | "fixed":
            value: Any = given.encode("latin-1")
        case "float" | "double":
            value = float(given)
        case "array":
            return [value_of(schema["items"], one, named) for one in given]
        case "map":
            return {name: value_of(schema["values"], one, named) for name, one in given.items()}
        case "record" | "error":
            return {field["name"]: inner_default(field, given, named) for field in schema["fields"]}
        case _:
            value = given
    read = LOGICAL_READERS.get(f"{kind}-{logical}") if logical else None
    return value if read is None else read(value, schema, None)


def shares(schema: Any) -> bool:
    """Say whether the default of a field is a list or a map: fastavro gives all records the same one."""
    match schema:
        case list():
            return any(map(shares, schema))
        case {"fields": fields}:
            return any(isinstance(field.get("default"), list | dict) or shares(field["type"]) for field in fields)
        case {"type": "array", "items": inner} | {"type": "map", "values": inner}:
            return shares(inner)
        case {"type": dict() | list() as inner}:
            return shares(inner)
    return False


def inner_default(field: Mapping[str, Any], given: Mapping[str, Any], named: Mapping[str, Any]) -> Any:
    """Give a field's value within a record's default: the one there, or the field's own."""
    if field["name"] in given:
        return value_of(field["type"], given[field["name"]], named)
    own = field["default"]
    try:
        return value_of(field["type"], own, named)
    except (ValueError, TypeError, AttributeError):
        return own  # it has been converted already


def may_be(schema: Any, given: Any, named: Mapping[str, Any]) -> bool:
    """Say whether JSON is of a type's kind."""
    schema = named.get(schema, schema) if isinstance(schema, str) else schema
    match schema:
        case list():
            return any(may_be(one, given, named) for one in schema)
        case {"type": "enum", "symbols": symbols}:
            return given in symbols
        case {"type": inner}:
            return may_be(inner, given, named)
    return isinstance(given, WORDS.get(schema, ())) and (schema == "boolean" or not isinstance(given, bool))
