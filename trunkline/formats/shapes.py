"""JSON of a declared shape, as a TypedDict says it: read strictly, and each wrong field named by its path."""

import functools
import math
import re
import secrets
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import CoreConfig, PydanticKnownError, SchemaValidator, to_json
from pydantic_core.core_schema import no_info_plain_validator_function

from trunkline.formats import json

T = TypeVar("T")

Path = tuple[int | str, ...]
YEAR = re.compile(r"\s*[0-9]{4}-")
TOLD = 100
"""Wrong fields of a body that are named: a body may have hundreds of thousands."""
MARK = f"{secrets.token_hex(8)}:"
"""What stands before a number that is written as a text; nobody else knows it."""
CONFIG = CoreConfig(val_json_bytes="base64", allow_inf_nan=False)
LONGEST = 200
"""Characters of a field's path that are told: a name in a map may be as long as a body, and is told in logs too."""

validator: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)
"""Give the validator of a TypedDict, built once."""


def reader_of(shape: Any, *, marked: bool = False) -> SchemaValidator:
    """Make what reads JSON of a shape: its bytes stand there as base64, of either alphabet (RFC 4648 §4, §5).

    No float is NaN or infinite, as 1e400 would be, and no number is a time: pydantic takes "20260701" for so many
    seconds, which are a day of 1970. `marked` are bodies as `exactly` writes them.
    """
    config = ConfigDict(val_json_bytes="base64", allow_inf_nan=False)
    try:
        adapter = TypeAdapter(shape, config=config)
    except PydanticUserError:  # a TypedDict takes it from what it stands in alone
        adapter = TypeAdapter(shape | None, config=config)
    return SchemaValidator(fitted(adapter.core_schema, marked=marked), CONFIG)


def fitted(schema: Any, *, marked: bool) -> Any:
    """Let each time and date in a schema begin with a year, and what may be a number be a marked one."""
    match schema:
        case {"type": "datetime" | "date" as kind}:
            return no_info_plain_validator_function(functools.partial(with_year, kind, SchemaValidator(schema)))
        case {"type": "decimal" | "float" | "str" as kind} if marked:
            return no_info_plain_validator_function(functools.partial(unmarked, kind, SchemaValidator(schema, CONFIG)))
        case {"type": "any"} if marked:
            return no_info_plain_validator_function(plain)
        case dict():
            return {name: fitted(each, marked=marked) for name, each in schema.items()}
        case list() | tuple():
            return type(schema)(fitted(each, marked=marked) for each in schema)
        case _:
            return schema


def with_year(kind: Literal["date", "datetime"], form: SchemaValidator, value: object) -> Any:
    """Read a time or date that begins as RFC 3339 has it."""
    if not isinstance(value, str):
        raise PydanticKnownError("date_type" if kind == "date" else "datetime_type")
    if not YEAR.match(value):
        why = {"error": "expected a year of four digits and `-`"}
        raise PydanticKnownError("date_parsing" if kind == "date" else "datetime_parsing", why)
    try:
        return form.validate_strings(value, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise told_again(error) from None


def unmarked(kind: str, form: SchemaValidator, value: object) -> Any:
    """Read a value that may be a marked number: a Decimal of its text has all of its digits."""
    if isinstance(value, str) and value.startswith(MARK):
        digits = value.removeprefix(MARK)
        body = (f'"{digits}"' if kind == "decimal" else digits).encode()
    else:
        body = to_json(value, inf_nan_mode="constants")  # `form` says what is wrong with them
    try:
        return form.validate_json(body, strict=True)
    except ValidationError as error:
        raise told_again(error) from None


def plain(value: Any) -> Any:
    """Give a value of any kind with numbers for those that are marked."""
    match value:
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list():
            return [plain(each) for each in value]
        case str() if value.startswith(MARK):
            if math.isfinite(number := float(value.removeprefix(MARK))):
                return number
            raise PydanticKnownError("finite_number")
        case _:
            return value


def told_again(error: ValidationError) -> PydanticKnownError:
    """Give the one fault of a value for the place where the value stands."""
    [wrong] = error.errors(include_url=False, include_input=False)
    return PydanticKnownError(wrong["type"], wrong.get("ctx"))  # type: ignore[arg-type]


reader: Callable[[Any], SchemaValidator] = functools.cache(reader_of)
"""Give what reads JSON of a shape, made once."""
marked_reader: Callable[[Any], SchemaValidator] = functools.cache(functools.partial(reader_of, marked=True))
"""Give what reads a shape where numbers are marked: one that is slower, for bodies that need it."""


def read_json(shape: type[T], body: bytes | str, reader: Callable[[Any], SchemaValidator] = reader) -> T:
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
    marked = json.exactly(body, MARK.encode())
    return read_json(shape, body) if marked == body else read_json(shape, marked, marked_reader)


def fields_of(error: ValidationError, place: Callable[[Path], str] = lambda _: "") -> list[tuple[str, str]]:
    """Name what a validation error is about: (path such as lines[3].quantity, what is wrong), not more than `TOLD`.

    `place` gives what is said before that of where the field is.
    """
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:TOLD]:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
        found.append((path if len(path) <= LONGEST else f"{path[:LONGEST]}…", place(item["loc"]) + item["msg"]))
    return found
