"""How data are shown: tables, times, and the values of records, exact and harmless to a terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from trunkline.avro.codec import split
from trunkline.cli.project import out
from trunkline.errors import Poison, UsageError
from trunkline.kafka.registry import Registry

SHOWN = 32
"""Bytes shown of a value that cannot be decoded."""


def safe(text: str) -> str:
    """Make text from outside harmless to a terminal: one line, nothing that moves the cursor or hides."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their headings: folded to the width of a terminal, on one line each anywhere else."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    if out.is_terminal:
        out.print(table)
    else:
        endless = out.options.update(max_width=100_000)
        Console(width=Measurement.get(out, endless, table).maximum).print(table)


def moment(at: datetime | None) -> str:
    """Write a time with its zone, to the millisecond; a dash for none."""
    return "-" if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """Write a duration in its two largest units."""
    rest = round(seconds)
    if rest < 60:
        return f"{rest} s"
    for name, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if rest >= size:
            return f"{rest // size} {name} {rest % size // part} {smaller}"
    raise AssertionError


def text_of(raw: bytes | None) -> str | None:
    """Read a key or a header's value as text; bytes that are no UTF-8 are shown as escapes."""
    return None if raw is None else raw.decode(errors="backslashreplace")


def decode(registry: Registry, value: bytes | None) -> tuple[Any, str | None]:
    """Decode a record's value for showing: the value in JSON's terms, or None and why it cannot be decoded.

    Raises:
        Unavailable: the value's schema is unknown here and the broker does not answer.
    """
    try:
        schema, body = split(value)
        return plain(registry.codec_of(schema).decode(body)), None
    except (Poison, UsageError) as error:
        return None, str(error)


def plain(value: Any) -> Any:
    """Give a decoded value in JSON's terms without losing a digit: decimals and times become strings, bytes hex."""
    match value:
        case Mapping():
            return {name: plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case bytes():
            return value.hex()
        case datetime() | date() | time():
            return value.isoformat()
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def hex_start(value: bytes) -> str:
    """Show how bytes begin."""
    more = f" … {len(value)} bytes" if len(value) > SHOWN else ""
    return f"{value[:SHOWN].hex(' ')}{more}"


def line(value: Any) -> str:
    """Write data as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)
