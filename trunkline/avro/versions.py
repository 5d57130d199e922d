"""The versions of a schema: what an older one wrote is read as the newest, by Avro's resolution and by functions.

What resolution cannot do (a unit that changes, one field made of two) a function does that the project writes beside
the schema files, in a module with the schema's name. It takes and gives plain data:

    schemas/box_moved.v1.avsc
    schemas/box_moved.v2.avsc
    schemas/box_moved.py        def v1_to_v2(old: BoxMovedV1) -> BoxMovedV2: …

A version without such a function to the next one is resolved.
"""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trunkline.avro.codec import HEAD, Codec
from trunkline.avro.compat import Clash, clashes, short
from trunkline.avro.files import Schema, read
from trunkline.errors import Permanent, TrunklineError, UnknownSchema, UsageError, pass_on

Function = Callable[[Any], Any]
NAME = re.compile(r"v([1-9][0-9]*)_to_v([1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Leg:
    """One part of the way from an older version to the newest: resolved, or made by a function."""

    start: int
    end: int
    function: Function | None = None


def legs(start: int, end: int, functions: Mapping[int, Function]) -> Iterator[Leg]:
    """Give the way from one version to a later one; `functions` are those to the next version, by their own."""
    at = start
    for version in range(start, end):
        if (function := functions.get(version)) is not None:
            if at < version:
                yield Leg(at, version)
            yield Leg(version, version + 1, function)
            at = version + 1
    if at < end:
        yield Leg(at, end)


def module_of(schema: Schema) -> str:
    """Give the file of a schema's functions, as messages name it."""
    return f"{schema.path.parent.name}/{schema.name}.py"


def functions_of(schema: Schema) -> dict[int, Function]:
    """Find the functions of a schema by their names, by the version that they take.

    Raises:
        UsageError: the module cannot be imported, or a function leads elsewhere than to the next version.
    """
    if not schema.path.with_name(f"{schema.name}.py").is_file():
        return {}
    try:
        module = importlib.import_module(f"{schema.package}.{schema.name}")
    except Exception as error:
        raise UsageError(f"{module_of(schema)} cannot be loaded: {type(error).__name__}: {error}.") from error
    found: dict[int, Function] = {}
    for name, value in vars(module).items():
        if (match := NAME.fullmatch(name)) is not None and callable(value):
            start, end = map(int, match.groups())
            if end != start + 1:
                raise UsageError(f"{module_of(schema)}: {name} leads past a version. Write v{start}_to_v{start + 1}.")
            found[start] = value
    return found


def versions_of(schema: Schema) -> list[Schema]:
    """Give a schema's versions up to its own, the oldest first."""
    found = [read(path) for path in schema.path.parent.glob(f"{schema.name}.v*.avsc")]
    return sorted((one for one in found if one.version <= schema.version), key=lambda one: one.version)


def unreachable(older: Codec, legs: list[Leg], codecs: Mapping[int, Codec]) -> list[Clash]:
    """Find why what an older version wrote cannot be read along these legs; nothing when it can."""
    return [
        clash
        for leg in legs
        if leg.function is None
        for clash in clashes(codecs[leg.end], older if leg is legs[0] else codecs[leg.start])
    ]


class Past:
    """Reads what earlier versions of a schema wrote as the newest one."""

    def __init__(self, schema: Schema, codec: Codec) -> None:
        """Prepare to read as `codec`, which is the schema's.

        Raises:
            UsageError: an earlier version is no schema, or its functions cannot be found.
        """
        self._name = schema.name
        self._where = module_of(schema)
        self._newest = schema.version
        self._functions = functions_of(schema)
        self._codecs = {one.version: Codec(one.text) for one in versions_of(schema)} | {schema.version: codec}
        self._versions = {one.mark: version for version, one in sorted(self._codecs.items(), reverse=True)}

    def knows(self, writer: Codec) -> bool:
        """Say whether a value's schema is one of the versions, or has a name that ours says it had before."""
        return writer.mark in self._versions or short(writer.name) != short(self._codecs[self._newest].name)

    def read(self, writer: Codec, body: bytes) -> dict[str, Any]:
        """Read a body as the newest version.

        Raises:
            UnknownSchema: its schema cannot be read as ours.
            Permanent: a function raised, or gave what does not fit the next version.
            Poison: the body is not of its schema.
        """
        newest = self._codecs[self._newest]
        start = self._versions.get(writer.mark)
        if start is None or not self._functions:
            return resolved(writer, body, newest)
        at = writer
        for leg in legs(start, self._newest, self._functions):
            reader = self._codecs[leg.end]
            value = resolved(at, body, reader) if leg.function is None else self._made(leg, at.decode(body))
            body = reader.encode(value, 0)[HEAD:]
            at = reader
        return newest.decode(body)

    def _made(self, leg: Leg, value: dict[str, Any]) -> dict[str, Any]:
        """Let a function make the next version of a value."""
        name = f"v{leg.start}_to_v{leg.end} ({self._where})"
        assert leg.function is not None
        try:
            made = leg.function(value)
        except TrunklineError:
            raise
        except BaseException as error:
            pass_on(error)
            raise Permanent(f"bug in {name}: {type(error).__name__}: {error}") from error
        if not isinstance(made, dict):
            raise Permanent(f"{name} gave a {type(made).__name__}, no record")
        try:
            self._codecs[leg.end].encode(made, 0)
        except Permanent as error:
            raise Permanent(f"{name} gave what is no {self._name} v{leg.end}: {error}") from None
        return made


def resolved(writer: Codec, body: bytes, reader: Codec) -> dict[str, Any]:
    """Read a body as another schema, and say where they differ when that cannot be."""
    try:
        return writer.decode(body, reader)
    except UnknownSchema:
        why = next(iter(clashes(reader, writer)), "a value that ours has no place for")
        raise UnknownSchema(f"it was written with a schema that ours cannot read: {why}") from None
