"""Values in Avro, exact both ways: what does not fit a field is refused, never rounded, cut or guessed.

fastavro writes 2.5 into a whole number as 2, any text into a boolean as true, a time without an offset as one of this
machine's zone, and a moment within a millisecond as its beginning; it reads a number longer than its precision rounded,
and a decimal of 900 kB for a minute and a half. What stands here takes the place of its writers and readers: importing
the module puts them there, and `exact` gives plain types the logical type under which fastavro asks them.
"""

import copy
import functools
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any
from uuid import UUID

from fastavro.read import LOGICAL_READERS
from fastavro.write import LOGICAL_WRITERS

__all__ = ["LOGICAL_READERS", "LONGEST", "exact"]

Schema = Mapping[str, Any]
Reader = Callable[[Any, Any, Any], Any]
Writer = Callable[[Any, Any], Any]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOCAL_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - of a local timestamp, which has no zone
FIRST_DAY = date(1970, 1, 1).toordinal()
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
MILLISECOND = timedelta(milliseconds=1)
LONGEST = 6_144
"""Digits of a decimal at most (as of decimal128's exponents): a longer one costs seconds."""
EXACT = "exact"
"""The logical type of plain types in our copy of a schema."""
BRANCH = "branch"
"""What marks a member of a union there: a value that it cannot hold may be another's."""
UNFIT = object()
"""Stands in the place of a value that a member of a union cannot hold: no kind of Avro's."""
NAMED = "__named_schemas"
"""Where fastavro keeps the types that a parsed schema names."""


def misfit(schema: Schema, why: str) -> Any:
    """Refuse a value.

    Raises:
        ValueError: nobody else can hold it.
    """
    if BRANCH in schema:
        return UNFIT
    raise ValueError(why)


# Plain types.


def whole(bits: int) -> Writer:
    """Give the writer of whole numbers of so many bits."""
    least, beyond = -(2 ** (bits - 1)), 2 ** (bits - 1)

    def write(value: Any, schema: Schema) -> Any:
        if type(value) is int and least <= value < beyond:
            return value
        told = (
            f"an integer of more than {bits} bits" if type(value) is int else f"a {type(value).__name__} is no integer"
        )
        return misfit(schema, told)

    return write


def write_real(value: Any, schema: Schema) -> Any:
    """Write a floating-point number, or a whole one that is as exact there."""
    kind = type(value)
    if kind is float or (kind is int and abs(value) <= 2**53):
        return value
    return misfit(schema, f"a {kind.__name__} is no float")


def write_boolean(value: Any, schema: Schema) -> Any:
    """Write true or false."""
    return value if type(value) is bool else misfit(schema, f"a {type(value).__name__} is no boolean")


def write_null(value: Any, schema: Schema) -> Any:
    """Write nothing."""
    return value if value is None else misfit(schema, f"a {type(value).__name__} is no null")


def write_array(value: Any, schema: Schema) -> Any:
    """Write a list."""
    return value if type(value) in (list, tuple) else misfit(schema, f"a {type(value).__name__} is no list")


# Decimals.


@functools.cache
def bounds(precision: int) -> tuple[int, int, Context]:
    """Give the first number beyond a precision, the most bytes of one within, and the context that rounds nothing."""
    if precision > LONGEST:
        raise ValueError(f"a decimal of {precision} digits is longer than {LONGEST}")
    longest = math.ceil((precision * math.log2(10) + 1) / 8)
    return 10**precision, longest, Context(prec=precision, traps=[Inexact, InvalidOperation, Overflow])


def read_decimal(raw: bytes, schema: Any, _reader: Any = None) -> Decimal:
    """Read the two's complement of the unscaled number; padding in front of a number changes nothing."""
    beyond, longest, context = bounds(schema["precision"])
    if len(raw) > longest and len(raw := raw.lstrip(b"\0" if raw[0] < 128 else b"\xff")) > longest:
        raise ValueError(f"a decimal has more than {schema['precision']} digits")
    unscaled = int.from_bytes(raw, "big", signed=True)
    if not -beyond < unscaled < beyond:
        raise ValueError(f"a decimal has more than {schema['precision']} digits")
    return Decimal(unscaled).scaleb(-schema.get("scale", 0), context)


def unscaled_of(value: Any, schema: Schema) -> int:
    """Give a decimal as a whole number of its last digit's unit.

    Raises:
        ValueError: it is no number, or has more digits than the schema says.
    """
    if not isinstance(value, Decimal):
        raise ValueError(f"a {type(value).__name__} is no decimal")  # noqa: TRY004 - one error for all that does not fit
    precision, scale = schema["precision"], schema.get("scale", 0)
    context = bounds(precision)[2]
    try:
        moved = value.scaleb(scale, context)
    except ArithmeticError:
        raise ValueError(f"a decimal has more than {precision} digits") from None
    if not moved.is_finite() or moved.adjusted() >= precision:
        raise ValueError(f"a decimal has more than {precision - scale} digits before the point, or is no number")
    unscaled = int(moved)
    if moved != unscaled:
        raise ValueError(f"a decimal has more than {scale} digits behind the point")
    return unscaled


def write_decimal(value: Any, schema: Schema) -> Any:
    """Write a decimal as bytes, as few as it takes."""
    try:
        unscaled = unscaled_of(value, schema)
    except ValueError as error:
        return misfit(schema, str(error))
    return unscaled.to_bytes((unscaled + (unscaled < 0)).bit_length() // 8 + 1, "big", signed=True)


def write_fixed_decimal(value: Any, schema: Schema) -> Any:
    """Write a decimal as so many bytes as the schema says."""
    try:
        return unscaled_of(value, schema).to_bytes(schema["size"], "big", signed=True)
    except (ValueError, OverflowError) as error:
        return misfit(schema, str(error))


# Time.


def read_moment(epoch: datetime, unit: timedelta) -> Reader:
    """Give the reader of moments counted in a unit."""

    def read(count: int, _schema: Any, _reader: Any = None) -> datetime:
        return epoch + count * unit

    return read


def write_moment(epoch: datetime, unit: timedelta) -> Writer:
    """Give the writer of moments counted in a unit."""
    is_local = epoch.tzinfo is None

    def write(value: Any, schema: Schema) -> Any:
        if not isinstance(value, datetime):
            return misfit(schema, f"a {type(value).__name__} is no datetime")
        if (value.tzinfo is None) != is_local:
            return misfit(schema, "a local datetime has an offset" if is_local else "a datetime has no offset")
        count, rest = divmod(value - epoch, unit)
        return count if not rest else misfit(schema, "a datetime has microseconds, and the field is in milliseconds")

    return write


def write_date(value: Any, schema: Schema) -> Any:
    """Write a day; a moment is none, for which day it is depends on where."""
    if type(value) is date:
        return value.toordinal() - FIRST_DAY
    return misfit(schema, f"a {type(value).__name__} is no date")


def read_time(unit: timedelta) -> Reader:
    """Give the reader of times of day counted in a unit."""

    def read(count: int, _schema: Any, _reader: Any = None) -> time:
        since = count * unit
        if not timedelta(0) <= since < DAY:
            raise ValueError("a time is of no day")
        return (LOCAL_EPOCH + since).time()

    return read


def write_time(unit: timedelta) -> Writer:
    """Give the writer of times of day counted in a unit."""

    def write(value: Any, schema: Schema) -> Any:
        if type(value) is not time:
            return misfit(schema, f"a {type(value).__name__} is no time")
        if value.tzinfo is not None:
            return misfit(schema, "a time has an offset, which the field has no place for")
        count, rest = divmod(datetime.combine(LOCAL_EPOCH, value) - LOCAL_EPOCH, unit)
        return count if not rest else misfit(schema, "a time has microseconds, and the field is in milliseconds")

    return write


def write_uuid(value: Any, schema: Schema) -> Any:
    """Write a UUID."""
    return str(value) if isinstance(value, UUID) else misfit(schema, f"a {type(value).__name__} is no UUID")


LOGICAL_READERS.update(
    {
        "bytes-decimal": read_decimal,
        "fixed-decimal": read_decimal,
        "int-time-millis": read_time(MILLISECOND),
        "long-time-micros": read_time(MICROSECOND),
        "long-timestamp-millis": read_moment(EPOCH, MILLISECOND),
        "long-timestamp-micros": read_moment(EPOCH, MICROSECOND),
        "long-local-timestamp-millis": read_moment(LOCAL_EPOCH, MILLISECOND),
        "long-local-timestamp-micros": read_moment(LOCAL_EPOCH, MICROSECOND),
    }
)
LOGICAL_WRITERS.update(
    {
        "null-exact": write_null,
        "boolean-exact": write_boolean,
        "int-exact": whole(32),
        "long-exact": whole(64),
        "float-exact": write_real,
        "double-exact": write_real,
        "array-exact": write_array,
        "bytes-decimal": write_decimal,
        "fixed-decimal": write_fixed_decimal,
        "int-date": write_date,
        "int-time-millis": write_time(MILLISECOND),
        "long-time-micros": write_time(MICROSECOND),
        "long-timestamp-millis": write_moment(EPOCH, MILLISECOND),
        "long-timestamp-micros": write_moment(EPOCH, MICROSECOND),
        "long-local-timestamp-millis": write_moment(LOCAL_EPOCH, MILLISECOND),
        "long-local-timestamp-micros": write_moment(LOCAL_EPOCH, MICROSECOND),
        "string-uuid": write_uuid,
    }
)


def exact(parsed: Any) -> Any:
    """Copy a parsed schema so that fastavro asks the writers above about every value."""
    made = copy.deepcopy(parsed)
    done: set[int] = set()
    for one in [made, *made.get(NAMED, {}).values()]:
        asking(one, done, branch=False)
    return made


def asking(schema: Any, done: set[int], *, branch: bool) -> Any:
    """Give a type under which fastavro asks; what is in it is changed in place."""
    match schema:
        case list():
            schema[:] = [asking(one, done, branch=True) for one in schema]
        case str() if f"{schema}-{EXACT}" in LOGICAL_WRITERS and not (branch and schema == "null"):
            return {"type": schema, "logicalType": EXACT} | ({BRANCH: True} if branch else {})
        case {"fields": fields} if id(fields) not in done:
            done.add(id(fields))
            for field in fields:
                field["type"] = asking(field["type"], done, branch=False)
        case {"type": "array", "items": items}:
            schema["items"] = asking(items, done, branch=False)
            schema |= {"logicalType": EXACT} | ({BRANCH: True} if branch else {})
        case {"type": "map", "values": values}:
            schema["values"] = asking(values, done, branch=False)
        case {"type": dict() | list() as inner}:
            schema["type"] = asking(inner, done, branch=branch)
        case {"type": str() as kind}:
            logical = schema.get("logicalType")
            if f"{kind}-{logical}" not in LOGICAL_WRITERS and f"{kind}-{EXACT}" in LOGICAL_WRITERS:
                schema["logicalType"] = EXACT
            if branch:
                schema[BRANCH] = True
    return schema
