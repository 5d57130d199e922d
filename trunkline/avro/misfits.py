"""What of a record does not fit its schema, by its path and without its values: fastavro's own words repeat them."""

from collections.abc import Mapping
from typing import Any

from fastavro.write import LOGICAL_WRITERS

from trunkline.avro.logical import UNFIT

Named = Mapping[str, Any]


def misfit(schema: Any, value: Any, named: Named, path: str = "") -> str:
    """Name the first place that does not fit, such as `lines[3].quantity: a str is no integer`; "" for none."""
    match schema:
        case str() if schema in named:
            return misfit(named[schema], value, named, path)
        case list():
            return of_union(schema, value, named, path)
        case {"type": "record" | "error", "fields": fields}:
            return of_record(fields, value, named, path)
        case {"type": "map", "values": values}:
            if not isinstance(value, Mapping):
                return no(value, "map", path)
            if not all(isinstance(key, str) for key in value):
                return at(path, "a key is no text")
            return first(misfit(values, one, named, f"{path}[…]") for one in value.values())
        case {"type": "array", "items": items}:
            if not isinstance(value, (list, tuple)):
                return no(value, "list", path)
            return first(misfit(items, one, named, f"{path}[{number}]") for number, one in enumerate(value))
        case {"type": "enum", "symbols": symbols}:
            return "" if value in symbols else at(path, f"a {kind(value)} that is none of {', '.join(symbols)}")
        case {"type": "fixed", "size": size} if f"fixed-{schema.get('logicalType')}" not in LOGICAL_WRITERS:
            if not isinstance(value, (bytes, bytearray)):
                return no(value, "bytes", path)
            return "" if len(value) == size else at(path, f"{len(value)} bytes where there are {size}")
        case {"type": str(name), "logicalType": str(logical)} if f"{name}-{logical}" in LOGICAL_WRITERS:
            return of_leaf(LOGICAL_WRITERS[f"{name}-{logical}"], schema, value, path)
        case {"type": inner}:
            return misfit(inner, value, named, path)
        case "string":
            if not isinstance(value, str):
                return no(value, "string", path)
            return "" if value.isascii() or is_text(value) else at(path, "a text with half of a surrogate pair")
        case "bytes":
            return "" if isinstance(value, (bytes, bytearray)) else no(value, "bytes", path)
        case "null":
            return "" if value is None else no(value, "null", path)
    return ""


def of_record(fields: list[dict[str, Any]], value: Any, named: Named, path: str) -> str:
    """Name what of a record does not fit."""
    if not isinstance(value, Mapping):
        return no(value, "record", path)
    before = f"{path}." if path else ""
    for field in fields:
        name = field["name"]
        if name not in value:
            if "default" not in field:
                return at(f"{before}{name}", "missing, and it has no default")
        elif found := misfit(field["type"], value[name], named, f"{before}{name}"):
            return found
    known = {field["name"] for field in fields}
    return first(at(f"{before}{name}", "no field of the schema") for name in value if name not in known)


def of_union(kinds: list[Any], value: Any, named: Named, path: str) -> str:
    """Name what no member of a union can hold; what the one member of its kind says, where there is one."""
    found = [(one, misfit(one, value, named, path)) for one in kinds]
    if any(not why for _, why in found):
        return ""
    inner = [why for _, why in found if not why.startswith(at(path, f"a {kind(value)} "))]
    return inner[0] if len(inner) == 1 else no(value, " or ".join(kind_of(one) for one, _ in found), path)


def of_leaf(write: Any, schema: Any, value: Any, path: str) -> str:
    """Name what the writer of a type refuses."""
    try:
        written = write(value, schema)
    except (ValueError, TypeError, AttributeError, OverflowError, ArithmeticError) as error:
        return at(path, str(error) if type(error) is ValueError else f"a {kind(value)} is no {kind_of(schema)}")
    return no(value, kind_of(schema), path) if written is UNFIT else ""


def kind_of(schema: Any) -> str:
    """Name a type."""
    match schema:
        case {"logicalType": str(logical)} if logical != "exact":
            return logical
        case {"name": name}:
            return str(name)
        case {"type": inner}:
            return kind_of(inner)
    return str(schema) if isinstance(schema, str) else "union"


def is_text(value: str) -> bool:
    """Say whether a text can be written in UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def first(found: Any) -> str:
    """Give the first that is anything."""
    return next(filter(None, found), "")


def kind(value: Any) -> str:
    """Name a value's type."""
    return type(value).__name__


def no(value: Any, wanted: str, path: str) -> str:
    """Say that a value is of another type."""
    return at(path, f"a {kind(value)} is no {wanted}")


def at(path: str, why: str) -> str:
    """Say what is wrong, and where."""
    return f"{path}: {why}" if path else why
