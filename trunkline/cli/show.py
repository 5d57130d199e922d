"""How data are shown: tables, times, and the values of records, exact and harmless to a terminal."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trunkline.avro.codec import split
from trunkline.cli.project import out, safe
from trunkline.errors import Poison, UsageError
from trunkline.event import Headers
from trunkline.flow import declare
from trunkline.flow.declare import Bus, dead_letters_of, identity_of, replay_of
from trunkline.flow.journeys import plain
from trunkline.kafka.registry import Schemas
from trunkline.kafka.topics import reading
from trunkline.redact import hashed, mask, redact_data

GAP = 2
"""Spaces between two columns."""
ROWS = 100
"""Events that a table has, unless more are asked for."""
FOLDED = 24
"""Characters that are left to the last column at least."""
SHOWN = 32
"""Bytes shown of a value that cannot be decoded."""


def many(count: int, noun: str) -> str:
    """Count things."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


def typed(*words: str, ids: Sequence[str], options: Sequence[str] = ()) -> str:
    """Write a command as a shell takes it. An id may be anything: one that begins with a dash would be an option."""
    if any(one.startswith("-") for one in ids):
        return shlex.join(["trunkline", *words, *options, "--", *ids])
    return shlex.join(["trunkline", *words, *ids, *options])


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their headings, each on one line; on a terminal the last column folds.

    Where a terminal is too narrow for that, each row is a paragraph of its own: an id that is broken cannot be copied.
    """
    cells = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) + GAP for column in zip(columns, *cells, strict=True)]
    if out.is_terminal and sum(widths[:-1]) + min(widths[-1], FOLDED) > out.width:
        for number, row in enumerate(cells):
            if number:
                out.print()
            for heading, cell in zip(columns, row, strict=True):
                out.print(f"{heading:<{max(map(len, columns))}}  {cell}", markup=False)
        return
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    if out.is_terminal:
        out.print(table)
    else:
        Console(width=max(1, sum(widths))).print(table)


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


def called(name: str, identity: str) -> str:
    """Name something; what was renamed together with the name that its data are still known by (I1)."""
    return name if name == identity else f"{name} (was {identity})"


@dataclass(frozen=True, slots=True)
class Curtain:
    """Hides what is sensitive in the records of one topic, by the schema that wrote one and by the one declared now.

    A released schema never changes: a field that is marked in its newest version was not in the records before.
    """

    declared: Any = None
    key: str | None = None

    @property
    def hides_key(self) -> bool:
        """Whether the key is a sensitive field of the record."""
        return self.key is not None and mask(self.declared, {self.key: ""})[self.key] != ""

    def key_of(self, raw: bytes | None) -> str | None:
        """Show a key; in place of a sensitive one a name that equal keys share."""
        return f"#{hashed(raw)}" if raw is not None and self.hides_key else text_of(raw)

    def headers(self, headers: Headers) -> list[tuple[str, str | None]]:
        """Show headers as text; an event's subject is its key."""
        return [
            (name, self.key_of(raw) if name == "ce_subject" else redact_data(text_of(raw), name))
            for name, raw in headers
        ]

    def decode(self, registry: Schemas, value: bytes | None) -> tuple[Any, str | None]:
        """Decode a record's value for showing: the value in JSON's terms, or None and why it cannot be decoded.

        Raises:
            Unavailable: the value's schema is unknown here and the broker does not answer.
        """
        try:
            schema, body = split(value)
            codec = registry.codec_of(schema)
            return plain(mask(self.declared, mask(codec.schema, codec.decode(body)))), None
        except (Poison, UsageError) as error:
            return None, str(error)


def curtain_of(bus: Bus, name: str) -> Curtain:
    """Give the curtain of a topic or table, or of a flow's dead letters or replays; an open one for any other."""
    known: list[declare.Topic | declare.Table] = [*bus.topics, *bus.tables]
    for found in known:
        if found.name == name:
            return Curtain(found.schema.definition, found.key)
    for flow in reading(bus).values():
        if name in (dead_letters_of(identity_of(flow)), replay_of(identity_of(flow))):
            return Curtain(flow.topic.schema.definition, flow.topic.key)
    return Curtain()


def hex_start(value: bytes) -> str:
    """Show how bytes begin."""
    more = f" … {len(value)} bytes" if len(value) > SHOWN else ""
    return f"{value[:SHOWN].hex(' ')}{more}"


def line(value: Any) -> str:
    """Write data as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)
