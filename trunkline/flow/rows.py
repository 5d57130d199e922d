"""What a step gets of a table: a read-only mapping, and what becomes of an event whose row is not there. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from trunkline.errors import Absent
from trunkline.flow.declare import Table, Wait

Row = Mapping[str, Any]
Rows = Mapping[str, Row]


class Asked(Rows):
    """The rows of a table in which each row that a step asks for has to be there."""

    def __init__(self, table: Table, rows: Rows) -> None:
        self._rows = rows
        self._name = table.name
        self._patience = table.missing.seconds if isinstance(table.missing, Wait) else 0.0

    def __getitem__(self, key: str) -> Row:
        if (row := self._rows.get(key)) is None:
            raise Absent(f'{self._name} has no row "{key}"', patience=self._patience)
        return row

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002 - Mapping's own signature
        """Give the row.

        Raises:
            Absent: there is none, whatever the default.
        """
        return self[key]

    def __contains__(self, key: object) -> bool:
        return self[str(key)] is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def asked(table: Table, rows: Rows) -> Rows:
    """Give the rows of a table as steps get them: with what `missing` says."""
    return rows if table.missing == "null" else Asked(table, rows)
