"""What a step gets of a table or a look-up: a read-only mapping, and what it means that a row is not there. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from trunkline.errors import Absent, Permanent
from trunkline.event import Event
from trunkline.flow.declare import Lookup, Table, Wait

Row = Mapping[str, Any]
Rows = Mapping[str, Row]


RowsOf = Mapping[Table, Rows] | Mapping[Lookup, Rows] | Mapping[Table | Lookup, Rows]
"""Rows by what is declared."""


class Remote(Protocol):
    """Where the rows of a look-up come from."""

    async def ask(self, keys: Sequence[str]) -> Rows:
        """Give the rows of these keys, as far as there are any.

        Raises:
            Permanent: the target refuses one of the keys, or its answer is no row.
            Halt: the target refuses us.
        """
        ...


Given = Mapping[str, Rows | Remote]
"""The rows of tables and where those of look-ups come from, by name."""


class Asked(Rows):
    """The rows of a table in which each row that a step asks for has to be there."""

    def __init__(self, table: Table, rows: Rows) -> None:
        self._rows = rows
        self._name = table.name
        self._patience = table.missing.seconds if isinstance(table.missing, Wait) else 0.0

    def __getitem__(self, key: str) -> Row:
        if (row := self._rows.get(key)) is None:
            if key is None:  # the field of an event that may be null; no row will ever come
                raise Absent(f"{self._name} has no row for null")
            raise Absent(f'{self._name} has no row "{key}"', patience=self._patience)
        return row

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002 - Mapping's own signature
        """Give the row.

        Raises:
            Absent: there is none, whatever the default.
        """
        return self[key]

    def __contains__(self, key: object) -> bool:
        return self[key] is not None  # type: ignore[index]  # whatever it is, it is told as it is

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def asked(table: Table, rows: Rows) -> Rows:
    """Give the rows of a table as steps get them: with what `missing` says."""
    return rows if table.missing == "null" else Asked(table, rows)


class Answers(Rows):
    """What a look-up has for one event: nobody has asked for other keys than those that its `key` gives."""

    def __init__(self, lookup: Lookup, keys: Iterable[str], rows: Rows) -> None:
        self._lookup = lookup
        self._keys = frozenset(keys)
        self._rows = rows

    def __getitem__(self, key: str) -> Row:
        if key is not None and not isinstance(key, str):
            raise no_text(self._lookup.name, key)
        if key and key not in self._keys:  # a field that is null has none
            name, field = self._lookup.name, self._lookup.key
            raise Permanent(
                f'{name} was not asked for "{key}": it is no {field} of the event. Correct the key of {name}.'
            )
        return self._rows[key]

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[call-overload]  # whatever it is, it is told as it is

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class Known(Remote):
    """Rows that are here already, as tests give them."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def ask(self, keys: Sequence[str]) -> Rows:
        """Give what there is."""
        return {key: self._rows[key] for key in keys if key in self._rows}


def keys_of(lookup: Lookup, event: Event[Any]) -> list[str]:
    """Give the keys that an event has for a look-up, each once, in their order; a field that is null has none.

    Raises:
        Permanent: the event has no such field.
    """
    values = [event.data]
    for name in lookup.key.split("."):
        values = [inner for value in values for inner in within(lookup, name, value)]
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def within(lookup: Lookup, name: str, value: Any) -> list[Any]:
    """Give the values of a field, of one record or of each of a list.

    Raises:
        Permanent: one has no such field.
    """
    if value is None:
        return []
    if isinstance(value, list):
        return [inner for item in value for inner in within(lookup, name, item)]
    if not isinstance(value, Mapping) or name not in value:
        raise Permanent(f"the event has no {lookup.key}, which is the key of {lookup.name}")
    found = value[name]
    return found if isinstance(found, list) else [found]


def no_text(name: str, key: object) -> Permanent:
    """Say that a step asks a table or look-up with what is no text."""
    told = "its keys are texts, also where they are numbers. Ask for str(…)."
    return Permanent(f"{name} is asked for a key of type {type(key).__name__}; {told}")
