"""The ledger in a PostgreSQL database, shared by the workers of many machines; every commit waits for the disk.

The deliveries of a day are a table of their own, a partition of `deliveries`. Statements name it, so that they lock
and plan for one table and not for those of all days.
"""

import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import SecretStr

from trunkline.errors import UsageError
from trunkline.ledger import calls, delivered, identity
from trunkline.ledger.database import Failure, outdated
from trunkline.redact import keep_secret, redact

if TYPE_CHECKING:  # a tenth of every start that a ledger in a file does not spend
    import psycopg

SETUP = """
SET synchronous_commit = on;
SET client_encoding = 'UTF8';
SET default_transaction_isolation = 'read committed';
SET lock_timeout = '10s';
SET statement_timeout = '30s';
SET idle_in_transaction_session_timeout = '30s';
SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan;
"""
"""Of every connection. A worker that is frozen loses its transaction, so that it holds nobody up; every statement finds
its rows by an index, however wrong the statistics of a new day's table are."""

PREPARED = 500
"""Statements that a connection keeps prepared: about a dozen for each day that is written to."""

ANSWER = 35.0
"""Seconds within which a server that works says something: its own limit for a statement, and some for the way."""

REACH = {"connect_timeout": 5, "tcp_user_timeout": 15_000, "keepalives_idle": 10, "keepalives_interval": 5}
"""Seconds until a server that does not answer is given up; tcp_user_timeout in milliseconds."""

HELPS = {
    "25006": ". It takes no writes: the address names a standby, or default_transaction_read_only is on",
    "55P03": ". Somebody has locked one of its tables (ALTER TABLE, VACUUM FULL, LOCK); pg_locks says who",
    "42501": ". GRANT its role USAGE and CREATE on the schema, and make it the owner of the ledger's tables",
    "3F000": ". Its role's search_path names no schema that is there and that it may use",
}
"""What to say beside the codes of some errors."""

LOCK = "SELECT pg_advisory_xact_lock(1953658213, 1)"
"""Whoever makes tables holds it; the numbers mean nothing."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE sinks (number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE)",
        # The columns are explained in sqlite.py.
        """
        CREATE TABLE deliveries (
            day integer NOT NULL,
            id bytea NOT NULL,
            sink integer NOT NULL,
            state integer NOT NULL,
            key bytea,
            partition integer NOT NULL,
            "offset" bigint NOT NULL,
            payload bytea NOT NULL,
            attempts integer NOT NULL,
            at bigint NOT NULL,
            owner text,
            deadline float8,
            before integer,
            run text,
            PRIMARY KEY (day, id)
        ) PARTITION BY LIST (day)
        """,
        "CREATE TABLE days (day integer PRIMARY KEY, written bigint NOT NULL)",
        """
        CREATE TABLE attempts (
            day integer NOT NULL,
            id bytea NOT NULL,
            at bigint NOT NULL,
            status integer,
            seconds float8 NOT NULL,
            words text NOT NULL,
            PRIMARY KEY (day, id, at)
        )
        """,
        """
        CREATE TABLE parks (
            sink integer NOT NULL,
            key bytea NOT NULL,
            day integer NOT NULL,
            id bytea NOT NULL,
            partition integer NOT NULL,
            "offset" bigint NOT NULL,
            freed bigint,
            PRIMARY KEY (sink, key, day, id)
        )
        """,
        """
        CREATE TABLE latest (
            sink integer NOT NULL,
            key bytea NOT NULL,
            partition integer NOT NULL,
            "offset" bigint NOT NULL,
            day integer NOT NULL,
            PRIMARY KEY (sink, key)
        )
        """,
        "CREATE INDEX latest_by_day ON latest (day)",
        """
        CREATE TABLE claims (
            id bytea PRIMARY KEY,
            payload bytea NOT NULL,
            state integer NOT NULL,
            owner text NOT NULL,
            deadline float8 NOT NULL
        )
        """,
        "CREATE INDEX claims_by_deadline ON claims (deadline)",
        """
        CREATE TABLE runs (
            id text PRIMARY KEY,
            sink text NOT NULL,
            planned integer NOT NULL,
            started text NOT NULL,
            finished text,
            overwrite integer NOT NULL,
            keys text NOT NULL
        )
        """,
        """
        CREATE TABLE progress (
            sink text NOT NULL,
            topic text NOT NULL,
            partition integer NOT NULL,
            "offset" bigint NOT NULL,
            PRIMARY KEY (sink, topic, partition)
        )
        """,
        "CREATE TABLE identity (one integer PRIMARY KEY CHECK (one = 1), id text NOT NULL, epoch integer NOT NULL)",
        "CREATE TABLE writers (id text PRIMARY KEY, commits bigint NOT NULL, at bigint NOT NULL)",
    ),
    calls.POSTGRES,
    delivered.POSTGRES,
    identity.BUS,
    (
        "ALTER TABLE latest ADD COLUMN topic text NOT NULL DEFAULT ''",
        "ALTER TABLE latest DROP CONSTRAINT latest_pkey",
        "ALTER TABLE latest ADD PRIMARY KEY (sink, key, topic)",
    ),
)


class Server:
    """A ledger's database; `url` is a PostgreSQL connection string and a secret."""

    def __init__(self, url: SecretStr) -> None:
        """Read the address.

        Raises:
            UsageError: it is none.
        """
        import psycopg  # noqa: PLC0415 - as above
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

        self._url = url.get_secret_value()
        try:
            parts = conninfo_to_dict(self._url)
        except psycopg.ProgrammingError:  # whose message quotes the address
            parts = {}
        host, port, name = (parts.get("host", "localhost"), parts.get("port", 5432), parts.get("dbname", ""))
        torn = "://" in self._url and "@" in f"{host}{port}{name}"  # a password that goes on after its / or @
        if not parts or torn:
            told = "TRUNKLINE_LEDGER__URL is no address of PostgreSQL such as postgresql://host:5432/database?user=bus"
            raise UsageError(f"{told}. A / or @ in its user or password is written %2F or %40.")
        for secret in ("password", "sslpassword"):
            keep_secret(str(parts.get(secret) or ""))
        self.name = f"the ledger {name} at {host}:{port}"

    def free(self) -> int | None:
        """Give nothing: a server's disk is watched where it is."""
        return None

    def exists(self) -> bool:
        """Say whether there is a ledger, without making one.

        Raises:
            Failure: the server does not answer.
        """
        with Connection(self) as db:
            return version_of(db) > 0

    def connect(self) -> "Connection":
        """Open a connection, and bring the ledger up to date; made when absent.

        Raises:
            UsageError: it was made by a newer Trunkline.
            Failure: the server does not answer.
        """
        db = Connection(self)
        try:
            migrate(db, self.name)
        except BaseException:
            db.close()
            raise
        return db

    def open(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """Open a connection of the driver.

        Raises:
            UsageError: the database cannot hold all text.
            Failure: the server does not answer.
        """
        import psycopg  # noqa: PLC0415 - as above

        try:
            raw = bounded().connect(self._url, autocommit=True, **cast("Any", REACH))
        except psycopg.Error as error:
            raise Failure(f"{self.name} cannot be reached: {self.told(error)}") from None
        try:
            raw.execute(SETUP)
            raw.prepared_max = PREPARED
        except psycopg.Error as error:
            raw.close()
            raise Failure(f"{self.name} cannot be used: {self.told(error)}") from None
        if (encoding := raw.info.parameter_status("server_encoding")) != "UTF8":
            raw.close()
            raise UsageError(
                f"{self.name} cannot hold all text: the database was created in {encoding}. Create one "
                "in UTF8 (CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0), and name it in TRUNKLINE_LEDGER__URL."
            )
        return raw

    def told(self, error: "psycopg.Error") -> str:
        """Give what the database says in one line, without the password, and what helps where it does not say it."""
        said = error.diag.message_primary or str(error)  # the statement, which the latter quotes, says nothing of it
        helps = HELPS.get(error.sqlstate or "", "")
        return (redact(" ".join(said.split())) or type(error).__name__) + helps


@cache
def bounded() -> "type[psycopg.Connection[tuple[Any, ...]]]":
    """Give the driver's connection with an end to its patience.

    A server that is frozen keeps its connections, and so does what lies between when it passes nothing on. TCP notices
    neither, and the driver would wait for ever.
    """
    import psycopg  # noqa: PLC0415 - as above

    class Bounded(psycopg.Connection[tuple[Any, ...]]):
        def wait(self, gen: Any, *more: Any, **named: Any) -> Any:
            return super().wait(self._hurried(gen), *more, **named)

        def _hurried(self, gen: "Generator[Any, Any, Any]") -> "Generator[Any, Any, Any]":
            until = time.monotonic() + ANSWER
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if not ready and time.monotonic() > until:
                        self.close()  # else the driver would wait once more, for the end of its pipeline
                        why = "it stands still, or what lies between passes nothing on"
                        raise psycopg.OperationalError(f"it has said nothing for {ANSWER:g} s: {why}")
                    wanted = gen.send(ready)
            except StopIteration as ended:
                return ended.value

    return Bounded


def migrate(db: "Connection", name: str) -> None:
    """Bring the ledger up to date; one process at a time does."""
    if outdated(version_of(db), len(MIGRATIONS), name):
        with db.transaction():
            db.run(LOCK)
            for statement in itertools.chain(*MIGRATIONS[version_of(db) :]):
                db.run(statement)
            db.run("CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL)")
            db.run("DELETE FROM schema_version")
            db.run("INSERT INTO schema_version VALUES (?)", len(MIGRATIONS))


def version_of(db: "Connection") -> int:
    """Read which migrations the database has seen."""
    if not has_table(db, "schema_version"):
        return 0
    version: int = db.run("SELECT version FROM schema_version")[0][0]
    return version


def has_table(db: "Connection", name: str) -> bool:
    """Say whether there is a table now; to_regclass would not yet see what was made while a lock was waited for."""
    return bool(
        db.run(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relname = ? AND n.nspname = current_schema()",
            name,
        )
    )


class Gone(Failure):
    """A table is not there."""


class Connection:
    """A connection to the database, as database.Connection promises."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._raw: psycopg.Connection[tuple[Any, ...]] | None = None
        self._inside = False
        self._days: set[int] = set()

    @property
    def number(self) -> int:
        """Give the number of the server's process for this connection."""
        return 0 if self._raw is None else self._raw.info.backend_pid

    def run(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement and give its rows."""
        with self._failing() as raw:
            cursor = raw.execute(percent(sql), values or None)
            return [] if cursor.description is None else cursor.fetchall()

    def join(self, sql: str, kinds: str, rows: Iterable[Sequence[object]]) -> list[tuple[Any, ...]]:
        """Run one statement over many rows, as arrays; one for each day where it names the deliveries of a day."""
        if not (rows := list(rows)):
            return []
        if ":deliveries" not in sql:
            return self._send([(with_arrays(sql, kinds), arrays(kinds, rows))])
        by_day: dict[int, list[Sequence[object]]] = {}
        for row in rows:
            by_day.setdefault(cast("int", row[0]), []).append(row)
        days = [day for day in sorted(by_day) if self._has(day)]
        try:
            return self._send(
                [
                    (with_arrays(sql.replace(":deliveries", f'"{table(day)}"'), kinds), arrays(kinds, by_day[day]))
                    for day in days
                ]
            )
        except Gone:
            if self._inside:
                raise
            self._days.clear()  # a day has ended since this connection saw it
            return self.join(sql, kinds, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what runs inside one transaction."""
        import psycopg  # noqa: PLC0415 - as above

        try:
            self.run("BEGIN")
        except Failure:  # the connection may have been lost while nobody used it
            self.run("BEGIN")
        self._inside = True
        try:
            yield
            self._commit()
        except BaseException:
            self._days.clear()  # it may have known tables that were made in this transaction
            with suppress(psycopg.Error):
                if self._raw is not None:
                    self._raw.execute("ROLLBACK")
            raise
        finally:
            self._inside = False

    def _commit(self) -> None:
        with self._failing() as raw:
            if raw.execute("COMMIT").statusmessage != "COMMIT":
                raise Failure(f"{self._server.name} has undone a transaction instead of committing it")

    def begin_day(self, day: int) -> None:
        """Make the table of a day; others that want the same one wait."""
        self.run(LOCK)
        if not has_table(self, table(day)):
            # Made apart and attached: writers of other days are not locked out (they are by CREATE … PARTITION OF).
            self.run(f'CREATE TABLE "{table(day)}" (LIKE deliveries INCLUDING ALL)')
            self.run(f'ALTER TABLE deliveries ATTACH PARTITION "{table(day)}" FOR VALUES IN ({day:d})')
        self._days.add(day)

    def end_day(self, day: int) -> bool:
        """Drop the table of a day."""
        self.run(f'DROP TABLE IF EXISTS "{table(day)}"')
        self._days.discard(day)
        return True

    def close(self) -> None:
        """End the connection."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, statements: Sequence[tuple[str, Sequence[object]]]) -> list[tuple[Any, ...]]:
        """Run statements, each with its values, without waiting for one before the next is sent."""
        with self._failing() as raw:
            with nullcontext() if len(statements) == 1 else raw.pipeline():
                cursors = [raw.execute(sql, values) for sql, values in statements]
            return [row for cursor in cursors if cursor.description is not None for row in cursor.fetchall()]

    def _has(self, day: int) -> bool:
        """Say whether there is a table of a day."""
        if day not in self._days:
            if not has_table(self, table(day)):
                return False
            self._days.add(day)
        return True

    @contextmanager
    def _failing(self) -> "Iterator[psycopg.Connection[tuple[Any, ...]]]":
        """Give the driver's connection, made anew when it was lost, and turn the database's trouble into Failure.

        A wrong statement or value stays what it is; but a table that has gone, or a missing right, is the database's
        trouble.
        """
        import psycopg  # noqa: PLC0415 - as above

        if self._raw is None:
            if self._inside:
                raise Failure(f"{self._server.name} was lost in a transaction")
            self._raw = self._server.open()
        try:
            yield self._raw
        except psycopg.errors.UndefinedTable as error:
            raise Gone(f"{self._server.name} lacks a table: {self._server.told(error)}") from None
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidSchemaName) as error:
            raise Failure(f"{self._server.name} cannot be used: {self._server.told(error)}") from None
        except (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError):
            raise
        except psycopg.Error as error:
            self._lose()
            raise Failure(f"{self._server.name} fails: {self._server.told(error)}") from None

    def _lose(self) -> None:
        """Forget the connection, whatever state it is in: the next use makes another one."""
        self._days.clear()
        self.close()


def table(day: int) -> str:
    """Name the table of a day."""
    return f"deliveries_{day:d}"


@lru_cache(maxsize=1024)
def percent(sql: str) -> str:
    """Write a statement with the driver's placeholders."""
    return sql.replace("?", "%s")


@lru_cache(maxsize=1024)
def with_arrays(sql: str, kinds: str) -> str:
    """Put a table of arrays in the place of :rows."""
    given = ", ".join(f"%{'t' if kind in WHOLE else 'b'}::{kind}[]" for kind in kinds.split())
    return sql.replace(":rows", "SELECT * FROM unnest(:arrays)").replace(":arrays", given)


def arrays(kinds: str, rows: Sequence[Sequence[object]]) -> list[object]:
    """Turn rows into columns."""
    return [array(kind, column) for kind, column in zip(kinds.split(), zip(*rows, strict=True), strict=True)]


def array(kind: str, column: Sequence[object]) -> object:
    """Give a column of one kind as an array.

    Numbers as text: the driver would give them a type by their size, and each type makes another prepared statement.
    """
    if kind in WHOLE:
        return f"{{{','.join('NULL' if value is None else format(value, 'd') for value in column)}}}"
    return None if all(value is None for value in column) else list(column)


WHOLE = frozenset({"integer", "bigint"})
