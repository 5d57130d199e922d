"""What a schema may be before anything is read with it: anybody who reaches the registry may have written it.

fastavro believes a schema. With a record inside itself a body of 50 kB ends the process (SIGSEGV in its C code); with
items that take no byte five bytes of a body become thirty million items; and names that refer to names double with
every level. None of these is an exception that could be caught, so such a schema is refused before it is used.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trunkline.avro.logical import LONGEST
from trunkline.errors import UsageError

LARGEST = 256 * 1024
"""Bytes of a schema."""
DEEPEST = 32
"""Levels of types inside types."""
MOST = 10_000
"""Types of a schema once every name in it is written out."""
CROWD = 8
"""Values that an item of an array or a map may make of each of its bytes."""
SIZES = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}
"""The fewest bytes that a value takes (Avro 1.11.1, Binary Encoding)."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What one value of a type makes at least: so many values, of so many bytes."""

    values: int
    size: int


def definition_of(text: str) -> Any:
    """Read a schema's text.

    Raises:
        UsageError: it is no JSON, or a schema with which reading could end or swamp the process; says why.
    """
    if len(text) > LARGEST or len(text.encode()) > LARGEST:
        raise UsageError(f"larger than {LARGEST // 1024} KiB")
    try:
        definition = json.loads(text)
    except RecursionError:
        raise UsageError(f"nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise UsageError(f"not an Avro schema: {type(error).__name__}: {error}") from None
    refuse_marks(definition, 0)
    return definition


def refuse_marks(definition: Any, depth: int) -> None:
    """Refuse what would make fastavro take a schema for one that it has parsed already.

    Raises:
        UsageError: it has a name of fastavro's own, or is nested too deeply as JSON.
    """
    if depth > 8 * DEEPEST:
        raise UsageError(f"nested deeper than {DEEPEST} levels")
    match definition:
        case Mapping():
            for name, inner in definition.items():
                if name.startswith("__"):
                    raise UsageError(f"not an Avro schema: it has a {name[:40]}")
                refuse_marks(inner, depth + 1)
        case list():
            for inner in definition:
                refuse_marks(inner, depth + 1)


def refuse_hostile(schema: Any, named: Mapping[str, Any]) -> None:
    """Pass a schema, parsed, with which any body of a record's size can be read.

    Raises:
        UsageError: it is recursive, too deep or too wide, or its arrays or maps have items of too little substance.
    """
    Meter(named).measure(schema, ())


class Meter:
    """Measures the types of one schema; every name is measured once, where all of it is known to end."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._known: dict[str, tuple[Extent, int]] = {}
        self._deepest = 0

    def measure(self, schema: Any, inside: tuple[str, ...]) -> Extent:
        """Give the extent of a type, which stands inside so many others: names of records, "" for anything else."""
        return self._measure(schema, inside)[0]

    def _measure(self, schema: Any, inside: tuple[str, ...]) -> tuple[Extent, int]:
        if len(inside) > DEEPEST:
            raise UsageError(f"nested deeper than {DEEPEST} levels")
        match schema:
            case {"logicalType": "decimal", "precision": int(precision)} if precision > LONGEST:
                raise UsageError(f"a decimal of {precision} digits, longer than {LONGEST}")
            case str() if schema in SIZES:
                return Extent(1, SIZES[schema]), 0
            case str():
                if schema in inside:
                    raise UsageError(f"recursive: {schema} is inside itself")
                if schema not in self._known:
                    self._known[schema] = self._measure(self._named[schema], inside)
                found, depth = self._known[schema]
                if len(inside) + depth > DEEPEST:
                    raise UsageError(f"nested deeper than {DEEPEST} levels")
                return found, depth
            case list():
                parts = [self._measure(one, (*inside, "")) for one in schema]
                widest = max((part.values for part, _ in parts), default=0)
                least = min((part.size for part, _ in parts), default=0)
                return Extent(widest, 1 + least), 1 + deepest(parts)
            case {"type": "record" | "error", "fields": fields, "name": name}:
                parts = [self._measure(field["type"], (*inside, name)) for field in fields]
                whole = Extent(1 + sum(part.values for part, _ in parts), sum(part.size for part, _ in parts))
                if whole.values > MOST:
                    raise UsageError(f"wider than {MOST:,} values a record")
                self._known[name] = whole, 1 + deepest(parts)
                return self._known[name]
            case {"type": "enum"}:
                return Extent(1, 1), 0
            case {"type": "fixed", "size": size}:
                return Extent(1, size), 0
            case {"type": "array", "items": items}:
                return self._many(items, inside, 0)
            case {"type": "map", "values": values}:
                return self._many(values, inside, 1)
            case {"type": inner}:
                return self._measure(inner, inside)
        raise UsageError("not an Avro schema")

    def _many(self, schema: Any, inside: tuple[str, ...], own: int) -> tuple[Extent, int]:
        item, depth = self._measure(schema, (*inside, ""))
        size = item.size + own
        if size == 0:
            raise UsageError("an array or map of items that take no byte")
        if item.values > CROWD * size:
            raise UsageError(f"an array or map of items that make more than {CROWD} values of a byte")
        return Extent(1, 1), 1 + depth


def deepest(parts: list[tuple[Extent, int]]) -> int:
    """Give the depth of the deepest part."""
    return max((depth for _, depth in parts), default=0)
