"""The database under the ledger, as the modules beside this one see it: the same for SQLite and PostgreSQL.

Statements are written once, in the SQL that both understand, with ? for a value. What differs (files and servers,
types, locks, how a day's rows are stored) is in sqlite.py and postgres.py.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from trunkline.errors import Unavailable, UsageError


class Failure(Unavailable):
    """The ledger's database failed: nothing was written, or, when its answer was lost, perhaps all of a transaction.

    Every write of the ledger may be repeated: what is there already is not written twice.
    """


class Connection(Protocol):
    """One connection, used by one thread at a time; every statement commits by itself outside a transaction.

    Every method raises Failure when the database does. The next use of a lost connection makes a new one.
    """

    @property
    def number(self) -> int:
        """A number that no other connection has which may write at the same time; asked inside a transaction."""

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement and give its rows."""

    def join(self, sql: str, kinds: str, rows: Iterable[Sequence[object]]) -> list[tuple[Any, ...]]:
        """Run one statement over many rows and give what it returns; nothing happens when there are none.

        `:rows` in the statement stands for a table of them, whose columns have these kinds: PostgreSQL's names of
        types, separated by spaces. `:deliveries` stands for the table with the deliveries of a day, which is then the
        first of each row; it may run once for each day, and not at all for one that was not begun.
        """

    def transaction(self) -> AbstractContextManager[None]:
        """Make what runs inside one transaction, durable when the context ends; an exception undoes all of it.

        Under SQLite no other process writes meanwhile.
        """

    def begin_day(self, day: int) -> None:
        """Make room for deliveries of a day, in a transaction; it may be there already."""

    def end_day(self, day: int) -> bool:
        """Remove the room of a day, if that is cheap or nothing is left in it; say whether it was removed."""

    def close(self) -> None:
        """End the connection."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Ledger(Protocol):
    """Where the ledger is."""

    @property
    def name(self) -> str:
        """Its file or server, as a person may read it: without secrets."""

    def exists(self) -> bool:
        """Say whether there is a ledger, without making one."""

    def free(self) -> int | None:
        """Give the bytes that its disk has left; None where that cannot be seen from here."""

    def connect(self) -> Connection:
        """Open a connection. The first one makes the ledger when it is absent, and brings it up to date.

        Raises:
            UsageError: it was made by a newer Trunkline, or its address is wrong.
            Failure: it does not answer, or the one that this process knows has gone.
        """


def outdated(version: int, known: int, name: str) -> bool:
    """Say whether a ledger of a version must be brought up to the known one.

    Raises:
        UsageError: it was made by a newer Trunkline.
    """
    if version > known:
        raise UsageError(
            f"{name} was made by a newer Trunkline (its version is {version}, this one knows {known}). "
            "Upgrade Trunkline."
        )
    return version < known
