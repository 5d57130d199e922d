"""Whether what one schema wrote can be read as another (Avro 1.11.1, Schema Resolution), and if not, where and why.

Stricter than the specification in three places: a logical type that changes (long to timestamp, another scale) is no
resolution, because the same bytes would then mean something else; nor are bytes read as a string, for not all are text;
nor a member of a union by another one that stands before its own, for a text would be bytes and a long lose digits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.avro.codec import Codec

MODES = ("BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE", "NONE")
"""As Confluent's registry names them: who reads whom, and whether all earlier versions count or the last one."""
PROMOTIONS: Mapping[str, Sequence[str]] = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
}
TAKEN: Mapping[str, Sequence[str]] = {
    "int": ("float", "double"), "long": ("float", "double"), "string": ("bytes",), "bytes": ("string",),
}  # fmt: skip
"""What fastavro reads values of a kind as where it stands in a union before that kind itself."""
NAMES = ("record", "error", "enum", "fixed")


@dataclass(frozen=True, slots=True)
class Clash:
    """One reason for which data cannot be read: at which field of the reader, "" for the whole, and why."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field or 'the record'} {self.message}"


def clashes(reader: Codec, writer: Codec) -> list[Clash]:
    """Find every reason for which values of `writer` cannot all be read as `reader`; none when they can."""
    return list(dict.fromkeys(Comparison(reader.named, writer.named).compare(reader.schema, writer.schema, "")))


def kind_of(schema: Any) -> str:
    """Give the kind of a type: a primitive's name, record, enum, fixed, array, map or union."""
    match schema:
        case list():
            return "union"
        case {"type": inner}:
            return kind_of(inner)
    return str(schema)


def logical_of(schema: Any) -> tuple[str, int]:
    """Give what the bytes of a type mean beyond their kind: the logical type, and a decimal's scale."""
    logical = schema.get("logicalType", "") if isinstance(schema, Mapping) else ""
    return (logical, schema.get("scale", 0)) if logical == "decimal" else (logical, 0)


def told(schema: Any) -> str:
    """Name a type for a person."""
    kind = kind_of(schema)
    if kind == "union":
        return " or ".join(map(told, schema))
    name = f" {schema['name']}" if kind in NAMES and isinstance(schema, Mapping) else ""
    logical, scale = logical_of(schema)
    meant = f" ({logical}{f' of scale {scale}' if logical == 'decimal' else ''})" if logical else ""
    return f"{kind}{name}{meant}"


class Comparison:
    """Compares types of two schemas."""

    def __init__(self, readers: Mapping[str, Any], writers: Mapping[str, Any]) -> None:
        self._readers = readers
        self._writers = writers

    def compare(self, reader: Any, writer: Any, field: str) -> Iterator[Clash]:
        """Yield what keeps a writer's type from being read as a reader's."""
        reader, writer = plain(reader, self._readers), plain(writer, self._writers)
        if isinstance(writer, list):
            for one in writer:
                yield from self.compare(reader, one, field)
            return
        if isinstance(reader, list):
            yield from self._branches(reader, writer, field)
            return
        kinds = kind_of(reader), kind_of(writer)
        if logical_of(reader) != logical_of(writer) or (
            kinds[0] != kinds[1] and kinds[0] not in PROMOTIONS.get(kinds[1], ())
        ):
            yield Clash(field, f"is {told(reader)}, and was {told(writer)}")
            return
        match kinds[0]:
            case "record" | "error" | "enum" | "fixed" as kind:
                yield from self._named(kind, reader, writer, field)
            case "array":
                yield from self.compare(reader["items"], writer["items"], field)
            case "map":
                yield from self.compare(reader["values"], writer["values"], field)

    def _branches(self, reader: list[Any], writer: Any, field: str) -> Iterator[Clash]:
        """Compare with a union: one of its members must take it; the nearest one says why it does not."""
        found = [list(self.compare(one, writer, field)) for one in reader]
        kinds = [kind_of(plain(one, self._readers)) for one in reader]
        if not all(found):
            yield from self._overtaken(reader, kinds, writer, field)
            return
        near = [why for kind, why in zip(kinds, found, strict=True) if kind == kind_of(writer)]
        if len(near) == 1:
            yield from near[0]
        else:
            yield Clash(field, f"is {told(reader)}, and was {told(writer)}")

    def _overtaken(self, reader: list[Any], kinds: list[str], writer: Any, field: str) -> Iterator[Clash]:
        """Tell of a member that takes values of another one, which stands behind it."""
        kind = kind_of(writer)
        before = kinds[: kinds.index(kind)] if kind in kinds else []
        for one, other in zip(reader, before, strict=False):
            if other in TAKEN.get(kind, ()):
                yield Clash(field, f"would be read as {told(one)} where it was {told(writer)}")
                return

    def _named(self, kind: str, reader: Any, writer: Any, field: str) -> Iterator[Clash]:
        names = {short(name) for name in (reader["name"], *reader.get("aliases", ()))}
        if short(writer["name"]) not in names:
            yield Clash(field, f"is {kind} {reader['name']}, and was {kind} {writer['name']}")
        elif kind == "fixed":
            if reader["size"] != writer["size"]:
                yield Clash(field, f"has {reader['size']} bytes, and had {writer['size']}")
        elif kind == "enum":
            lost = [one for one in writer["symbols"] if one not in reader["symbols"]]
            if lost and "default" not in reader:
                yield Clash(field, f"has no {', '.join(lost)} any more, and no default for it")
        else:
            yield from self._fields(reader, writer)

    def _fields(self, reader: Any, writer: Any) -> Iterator[Clash]:
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            names = (field["name"], *field.get("aliases", ()))
            source = next((written[name] for name in names if name in written), None)
            if source is not None:
                yield from self.compare(field["type"], source["type"], field["name"])
            elif "default" not in field:
                yield Clash(field["name"], "is new and has no default")


def plain(schema: Any, named: Mapping[str, Any]) -> Any:
    """Give the type that a name, or a type written around another, stands for."""
    while True:
        match schema:
            case str() if schema in named:
                schema = named[schema]
            case {"type": dict() | list() as inner}:
                schema = inner
            case _:
                return schema


def short(name: str) -> str:
    """Give a name without its namespace."""
    return name.rpartition(".")[2]
