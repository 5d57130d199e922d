"""Mistakes in what is on a topic: no schema file, types older than it, a key that is none, fields it has not."""

import ast
import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from trunkline.avro.codec import Codec
from trunkline.avro.files import Schema, schema_of
from trunkline.avro.types import Writer
from trunkline.avro.versions import Function, functions_of, legs, module_of, unreachable, versions_of
from trunkline.errors import Fault, Faults, UsageError
from trunkline.flow.declare import Declared, Process, Route, Table, Topic
from trunkline.flow.functions import (
    annotations,
    argument,
    fields_in,
    is_record,
    name_of,
    place,
    syntax,
    takes,
    written,
)

NO_KEYS = {"array", "map", "record", "bytes", "fixed", "float", "double"}
"""Kinds of Avro values that have no one text whose order could be kept."""


def usable(record: type) -> Schema:
    """Give the schema of a record.

    Raises:
        UsageError: it has none, or none that is Avro.
    """
    found = schema_of(record)
    try:
        Codec(found.text)
    except UsageError as error:
        raise UsageError(f"{found.path.name} is {error}") from None
    return found


def released(record: type) -> Schema | None:
    """Give the schema of a record; None when it has none that can be used."""
    try:
        return usable(record)
    except UsageError:
        return None


def record_faults(parts: Iterable[Topic | Table]) -> Faults:
    """Find records without a usable schema, types that are older than their schema, and keys that are none."""
    seen: set[type] = set()
    for part in parts:
        try:
            found = usable(part.record)
            if part.record not in seen:
                yield from stale_faults(part, found)
                yield from version_faults(part, found)
            yield from key_faults(part, found)
        except UsageError as error:
            yield Fault(part.where, f"{part.name}: {error}")
        seen.add(part.record)


def stale_faults(part: Topic | Table, found: Schema) -> Faults:
    """Find that the generated types are not those of the schema file.

    Raises:
        UsageError: the schema has a type that cannot be generated.
    """
    texts: dict[str, str] = {}
    Writer(found, texts, set()).record(found.definition, found.type_name)
    module = syntax(Path(str(sys.modules[part.record.__module__].__file__)))
    for name, text in texts.items():
        new, old = fields_in(ast.parse(text), name), fields_in(module, name)
        if new != old:
            differing = [field for field in {**new, **old} if new.get(field) != old.get(field)]
            told = f"{name} differs from {found.path.name} in {', '.join(differing) or 'the order of its fields'}"
            yield Fault(part.where, f"{told}. Run `trunkline schema types`.")


def version_faults(part: Topic | Table, found: Schema) -> Faults:
    """Find versions whose events could not be read as the topic's, and functions between versions that are none.

    Raises:
        UsageError: an earlier version is no schema, or the functions cannot be loaded.
    """
    functions = functions_of(found)
    versions = {one.version: one for one in versions_of(found)}
    where = module_of(found)
    for start, function in sorted(functions.items()):
        name = f"v{start}_to_v{start + 1} ({where})"
        if start not in versions or start + 1 not in versions:
            if start < found.version:
                told = f"there is no {found.name}.v{start if start not in versions else start + 1}.avsc"
                yield Fault(part.where, f"{name} has nothing to lead from or to: {told}. Add the file, or take it out.")
        elif not takes(function, 1):
            yield Fault(part.where, f"{name} cannot be called with the older record alone. Give it one parameter.")
        else:
            yield from function_faults(part, name, function, versions[start], versions[start + 1])
    codecs = {version: Codec(one.text) for version, one in versions.items()}
    for version in versions:
        way = list(legs(version, found.version, functions))
        if all(leg.start in versions and leg.end in versions for leg in way) and (
            why := unreachable(codecs[version], way, codecs)
        ):
            told = f"events of {found.name} v{version} cannot be read as v{found.version}: {why[0]}"
            yield Fault(part.where, f"{told}. Mend the schema, or write v{way[0].start}_to_v{way[0].end} in {where}.")


def function_faults(part: Topic | Table, name: str, function: Function, older: Schema, newer: Schema) -> Faults:
    """Find that a function between two versions says that it takes or gives others."""
    for what, hint, wanted in (
        ("takes", argument(function, 0), older),
        ("gives", annotations(function).get("return"), newer),
    ):
        if is_record(hint) and hint.__name__ != wanted.type_name:
            yield Fault(part.where, f"{name} {what} {hint.__name__}; it must be {wanted.type_name}.")


def fields_of(found: Schema) -> dict[str, Mapping[str, Any]]:
    """Give the fields of a schema by name."""
    return {field["name"]: field for field in found.definition["fields"]}


def near(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is nearest; all of them when none is near."""
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1)
    return f'Did you mean "{found[0]}"?' if found else f"It has {', '.join(names) or 'none'}."


def key_faults(part: Topic | Table, found: Schema) -> Faults:
    """Find that a key is no field, or a field that cannot be one."""
    if part.key is None:
        return
    fields = fields_of(found)
    key = f'{part.name} is keyed by "{part.key}"'
    if part.key not in fields:
        yield Fault(part.where, f"{key}; {found.type_name} has no such field. {near(part.key, fields)}")
        return
    kinds = kinds_of(fields[part.key]["type"], named_in(found.definition))
    if bad := sorted(kinds & NO_KEYS):
        yield Fault(part.where, f"{key}, of Avro type {bad[0]}. Take a field that is a text or a whole number.")
    elif isinstance(part, Table) and "null" in kinds:
        yield Fault(part.where, f"{key}, which may be null. Take a field that every row has.")


def kinds_of(avro: Any, named: Mapping[str, str]) -> set[str]:
    """Give the kinds that an Avro type is made of."""
    match avro:
        case list():
            return {kind for member in avro for kind in kinds_of(member, named)}
        case {"type": inner}:
            return kinds_of(inner, named)
        case _:
            return {named.get(str(avro).rpartition(".")[2], str(avro))}


def named_in(definition: Any) -> dict[str, str]:
    """Give the kinds of the types that a definition names."""
    found: dict[str, str] = {}
    match definition:
        case {"type": "record" | "enum" | "fixed" as kind, "name": str(name)}:
            found[name] = kind
    inside = definition.values() if isinstance(definition, Mapping) else definition
    for inner in inside:
        if isinstance(inner, Mapping | list):
            found |= named_in(inner)
    return found


def fits(given: Any, wanted: Any) -> bool:
    """Say whether data of one type may be read as another: the same, or all its fields; true where nothing is said.

    Two types that were both generated are two records, however alike their fields.
    """
    if given is wanted or not is_record(given) or not is_record(wanted):
        return True
    if released(given) is not None and released(wanted) is not None:
        return False
    has, needs = get_type_hints(given), get_type_hints(wanted)
    return all(has.get(name) == kind for name, kind in needs.items())


def literal_faults(flow: Process, topic: Topic, route: Route) -> Faults:
    """Find the fields that a route writes out and its topic's schema has not, and those it leaves out."""
    if (found := released(topic.record)) is not None:
        for record in written(route):
            yield from written_faults(flow, found, route, record)


def written_faults(flow: Declared, found: Schema, route: Callable[..., Any], record: ast.Dict) -> Faults:
    """Compare one written-out record with its schema."""
    fields, name = fields_of(found), found.type_name
    keys = {key.value: key for key in record.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    absent = [field for field in fields if field not in keys]
    is_whole = len(keys) == len(record.keys)
    missing = [field for field in absent if is_whole and "default" not in fields[field]]
    for key, node in keys.items():
        if key not in fields:
            meant = difflib.get_close_matches(key, absent, n=1) or (missing if len(missing) == 1 else [])
            told = f'Did you mean "{meant[0]}"?' if meant else f"It has {', '.join(fields)}."
            missing = [field for field in missing if field not in meant]
            where = f"{name_of(route)} ({place(route, node)})"
            yield Fault(flow.where, f'{where} yields "{key}"; {name} has no "{key}". {told}')
    for field in missing:
        where = f"{name_of(route)} ({place(route, record)})"
        yield Fault(flow.where, f'{where} leaves out "{field}"; {name} has no default for it. Add it to the record.')
