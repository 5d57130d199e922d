"""Mistakes in the conditions of routes: syntax, unknown fields, values of another type than a field's.

Fields are checked against the type of the data as a protobuf message: what CEL's own checker takes for a record.
"""

import functools
from datetime import date, datetime, time
from decimal import Decimal
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints
from uuid import UUID

from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2, wrappers_pb2

from trunkline.errors import Fault, Faults
from trunkline.flow.functions import is_record, members
from trunkline.flow.where import CONTAINER, REST, Where, first_line, library

Field = descriptor_pb2.FieldDescriptorProto
PACKAGE = "event"
OWN = {"bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint"}
"""CEL's own names of values: a field called so stands beside the message, and its type is not checked."""
ANYTHING = (Field.TYPE_MESSAGE, ".google.protobuf.Value")
KINDS: dict[Any, tuple[Any, str]] = {
    bool: (Field.TYPE_BOOL, "Bool"),
    int: (Field.TYPE_INT64, "Int64"),
    float: (Field.TYPE_DOUBLE, "Double"),
    Decimal: (Field.TYPE_DOUBLE, "Double"),
    bytes: (Field.TYPE_BYTES, "Bytes"),
    **dict.fromkeys((str, datetime, date, time, UUID), (Field.TYPE_STRING, "String")),
}
"""What a field's type is in a message, and the name of its wrapper, which may be null."""


def condition_faults(route: Where, data: Any) -> Faults:
    """Find what is wrong with a condition on data of a type; of an unknown type only the syntax is checked."""
    for other in route.unless:
        if other.condition == REST:
            told = "an earlier route takes everything, so this one is never asked"
            yield Fault(route.where, f"{told}. Put the one without a condition last.")
            break
    try:
        program = env(data).compile(route.condition) if is_record(data) else untyped().compile(route.condition, True)
    except RuntimeError as error:
        yield Fault(route.where, f'the condition "{route.condition}" is wrong: {plainly(error)}')
        return
    if is_record(data) and program.return_type() not in (library().Type.BOOL, library().Type.DYN):
        kind = program.return_type().name().lower()
        yield Fault(route.where, f'the condition "{route.condition}" is no yes or no but of type {kind}. Compare it.')


@functools.cache
def untyped() -> Any:
    """Give what conditions on data of an unknown type are compiled in."""
    return library().NewEnv()


def plainly(error: Exception) -> str:
    """Say what the checker says, with the mark under the place, on one line."""
    line = first_line(error)
    column, _, said = line.partition(": ")
    said = said.replace(" (in container '')", "").replace("undeclared reference to", "there is no field")
    said = said.replace(f"in struct '{PACKAGE}.", "in '").replace("undefined field", "there is no field")
    if "'(double, int)'" in said or "'(int, double)'" in said:
        said += ". A number with a point is compared with one, 100.0, and a whole one with a whole one, 100"
    return f"{said}, at character {column.rpartition(':')[2]}." if column.rpartition(":")[2].isdigit() else f"{line}."


@functools.cache
def env(data: type) -> Any:
    """Give what conditions on data of a type are compiled in."""
    pool = descriptor_pool.DescriptorPool()
    for known in (wrappers_pb2, struct_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE, syntax="proto3")
    file.dependency.extend(known.DESCRIPTOR.name for known in (wrappers_pb2, struct_pb2))
    messages: dict[type, str] = {}
    add(file, messages, data)
    fields = file.message_type[0].field
    own = [field for field in fields if field.name in OWN]
    for field in own:
        fields.remove(field)
    pool.AddSerializedFile(file.SerializeToString())
    cel = library()
    config = cel.NewEnvConfigFromYaml(f"context_variable:\n  type_name: {PACKAGE}.{messages[data]}\n")
    shadows = dict.fromkeys([f"{CONTAINER}.{field.name}" for field in own], cel.Type.DYN)
    return cel.NewEnv(descriptor_pool=pool, config=config, variables=shadows, container=CONTAINER)


def add(file: Any, messages: dict[type, str], record: type) -> str:
    """Add a record's type to a file, once; give its name there."""
    if record in messages:
        return messages[record]
    name = record.__name__ if record.__name__ not in messages.values() else f"{record.__name__}_{len(messages)}"
    messages[record] = name
    message = file.message_type.add(name=name)
    for number, (field, hint) in enumerate(get_type_hints(record).items(), 1):
        kind, type_name, label = told(file, messages, hint)
        where = {"type_name": type_name} if type_name else {}
        message.field.add(name=field, json_name=f"{number}", number=number, type=kind, label=label, **where)
    return name


def told(file: Any, messages: dict[type, str], hint: Any) -> tuple[Any, str, Any]:
    """Give the kind of a field, the name of its message and whether it is repeated."""
    kinds = [kind for kind in members(hint) if kind is not NoneType]
    is_null = len(kinds) < len(members(hint))
    if len(kinds) != 1:
        return (*ANYTHING, Field.LABEL_OPTIONAL)
    [kind] = kinds
    if get_origin(kind) is Literal:
        kind = type(get_args(kind)[0])
    if get_origin(kind) is list and not is_null and len(members(get_args(kind)[0])) == 1:
        inner, name, label = told(file, messages, get_args(kind)[0])
        return (
            (inner, name, Field.LABEL_REPEATED) if label == Field.LABEL_OPTIONAL else (*ANYTHING, Field.LABEL_OPTIONAL)
        )
    if is_record(kind):
        return Field.TYPE_MESSAGE, f".{PACKAGE}.{add(file, messages, kind)}", Field.LABEL_OPTIONAL
    if kind in KINDS:
        plain, wrapper = KINDS[kind]
        if is_null:
            return Field.TYPE_MESSAGE, f".google.protobuf.{wrapper}Value", Field.LABEL_OPTIONAL
        return plain, "", Field.LABEL_OPTIONAL
    return (*ANYTHING, Field.LABEL_OPTIONAL)
