"""JSON of a declared shape, as a TypedDict says it: read strictly, and each wrong field named by its path."""

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from trunkline.formats.json import exactly

T = TypeVar("T")

Path = tuple[int | str, ...]
TOLD = 100
"""Wrong fields of a body that are named: a body may have hundreds of thousands."""

validator: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
"""Give the validator of a TypedDict, built once."""


def reader_of(shape: Any) -> TypeAdapter[Any]:
    """Make what reads JSON of a shape: its bytes stand there as base64, of either alphabet (RFC 4648 §4, §5).

    No float is NaN or infinite, as 1e400 would be.
    """
    config = ConfigDict(val_json_bytes="base64", allow_inf_nan=False)
    try:
        return TypeAdapter(shape, config=config)
    except PydanticUserError:  # a TypedDict takes it from what it stands in alone
        return TypeAdapter(shape | None, config=config)


reader: Callable[[Any], TypeAdapter[Any]] = functools.cache(reader_of)
"""Give what reads JSON of a shape, made once."""


def read_json(shape: type[T], body: bytes | str) -> T:
    """Read JSON of a shape; types are strict, unknown fields are left out.

    Raises:
        ValidationError: it is none.
    """
    value: T | None = reader(shape).validate_json(body, strict=True)
    found: T = validator(shape).validate_json(body, strict=True) if value is None else value
    return found


def read_exactly(shape: type[T], body: bytes) -> T:
    """Read JSON of a shape, in which a Decimal keeps every digit of a number.

    Raises:
        ValidationError: it is none.
    """
    if (exact := exactly(body)) is not body:
        with suppress(ValidationError):  # a float of so many digits is no text: then it is read as one
            return read_json(shape, exact)
    return read_json(shape, body)


def fields_of(error: ValidationError, place: Callable[[Path], str] = lambda _: "") -> list[tuple[str, str]]:
    """Name what a validation error is about: (path such as lines[3].quantity, what is wrong), not more than `TOLD`.

    `place` gives what is said before that of where the field is.
    """
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:TOLD]:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
        found.append((path, place(item["loc"]) + item["msg"]))
    return found
