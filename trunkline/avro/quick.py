"""Writes values of most schemas in half of the time that fastavro takes: a function for each field, made once.

It takes a value only where every part of it is of the very type that its field is written from, and raises at anything
else, whatever that is: fastavro then writes the value or says what is wrong with it. So there is one judge of what
fits, and the bytes are the same: a property test compares them.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trunkline.avro.logical import EXACT, LOGICAL_WRITERS

Write = Callable[[Any], bytes]

NOT_TAKEN = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What a `Write` raises at a value that it does not take."""


PAIRS = [bytes((pair & 127 | 128, pair >> 7 | 128)) for pair in range(1 << 14)]
"""Fourteen bits as two bytes after which more come: half of the turns for the time of an event."""


def varint(number: int) -> bytes:
    """Write a whole number of at most 64 bits (Avro 1.11.1, zig-zag and variable-length)."""
    left = number << 1 ^ number >> 63
    out = b""
    while left >= 1 << 14:
        out += PAIRS[left & 16383]
        left >>= 14
    return out + (bytes((left & 127 | 128, left >> 7)) if left > 127 else bytes((left,)))


SMALL = [varint(number) for number in range(1024)]
END = varint(0)
"""What stands after the last item of an array or a map."""


def whole(bits: int) -> Write:
    """Give the function for whole numbers of so many bits."""
    least, beyond = -(2 ** (bits - 1)), 2 ** (bits - 1)

    def write(value: Any) -> bytes:
        if type(value) is not int or not least <= value < beyond:
            raise TypeError
        return SMALL[value] if 0 <= value < 1024 else varint(value)

    return write


def real(form: str) -> Write:
    """Give the function for floating-point numbers in this form of `struct`."""
    pack = struct.Struct(form).pack

    def write(value: Any) -> bytes:
        if type(value) is not float:
            raise TypeError
        return pack(value)

    return write


def text(value: Any) -> bytes:
    """Write a text."""
    if not isinstance(value, str):
        raise TypeError
    found = value.encode()
    many = len(found)
    return (SMALL[many] if many < 1024 else varint(many)) + found


def raw(value: Any) -> bytes:
    """Write bytes."""
    if type(value) is not bytes:
        raise TypeError
    return varint(len(value)) + value


def boolean(value: Any) -> bytes:
    """Write true or false."""
    if type(value) is not bool:
        raise TypeError
    return b"\1" if value else b"\0"


PLAIN: Mapping[str, Write] = {
    "string": text,
    "int": whole(32),
    "long": whole(64),
    "float": real("<f"),
    "double": real("<d"),
    "bytes": raw,
    "boolean": boolean,
}


def fixed(size: int) -> Write:
    """Give the function for so many bytes."""

    def write(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != size:
            raise TypeError
        return value

    return write


def enum(symbols: Sequence[str]) -> Write:
    """Give the function for one of these symbols."""
    return {symbol: varint(number) for number, symbol in enumerate(symbols)}.__getitem__


def record(fields: Sequence[tuple[str, Write]]) -> Write:
    """Give the function for records with these fields and no others."""

    def write(value: Any) -> bytes:
        if type(value) is not dict or len(value) != len(fields):
            raise TypeError
        return b"".join([write(value[name]) for name, write in fields])

    return write


def nullable(null: bytes, some: bytes, inner: Write) -> Write:
    """Give the function for what may be null; `null` and `some` name the branches."""

    def write(value: Any) -> bytes:
        return null if value is None else some + inner(value)

    return write


def array(inner: Write) -> Write:
    """Give the function for lists."""

    def write(value: Any) -> bytes:
        if type(value) is not list:
            raise TypeError
        return b"".join([varint(len(value)), *[inner(item) for item in value], END]) if value else END

    return write


def mapping(inner: Write) -> Write:
    """Give the function for maps."""

    def write(value: Any) -> bytes:
        if type(value) is not dict:
            raise TypeError
        items = [text(key) + inner(item) for key, item in value.items()]
        return b"".join([varint(len(items)), *items, END]) if items else END

    return write


def logical(schema: Any, prepare: Callable[[Any, Any], Any], inner: Write) -> Write:
    """Give the function for what is written as another type; `prepare` refuses what does not fit."""

    def write(value: Any) -> bytes:
        return inner(prepare(value, schema))

    return write


def takes_nothing(_value: Any) -> bytes:
    """Leave every value to fastavro."""
    raise TypeError


def writer_of(schema: Any, named: Mapping[str, Any]) -> Write | None:
    """Give the function for a schema in the form of `logical.exact`; None where fastavro alone can write it."""
    match schema:
        case str():
            return writer_of(named[schema], named) if schema in named else PLAIN.get(schema)
        case ["null", other] if inner := writer_of(other, named):
            return nullable(varint(0), varint(1), inner)
        case [other, "null"] if inner := writer_of(other, named):
            return nullable(varint(1), varint(0), inner)
        case {"type": "record", "fields": fields}:
            found = [(field["name"], writer_of(field["type"], named)) for field in fields]
            known = [(name, write) for name, write in found if write is not None]
            return record(known) if len(known) == len(found) else None
        case {"type": "array", "items": items, "logicalType": "exact"} if inner := writer_of(items, named):
            return array(inner)
        case {"type": "map", "values": values} if inner := writer_of(values, named):
            return mapping(inner)
        case {"type": "enum", "symbols": symbols}:
            return enum(symbols)
        case {"type": str() as kind} if plain := fixed(schema["size"]) if kind == "fixed" else PLAIN.get(kind):
            of = schema.get("logicalType")
            prepare = None if of == EXACT else LOGICAL_WRITERS.get(f"{kind}-{of}")
            return plain if prepare is None else logical(schema, prepare, plain)
        case {"type": dict() | list() as inside}:
            return writer_of(inside, named)
        case _:
            return None
