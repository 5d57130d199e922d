"""The ledger's server: its address is a secret, its commits are synced, its days are tables."""

import asyncio
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from tests.shared import free_port
from tests.trunkline.faults.relay import Silence
from tests.trunkline.postgres import MakeUrl
from trunkline import settings
from trunkline.errors import UsageError
from trunkline.ledger import deliveries, postgres, reach
from trunkline.ledger.database import Failure
from trunkline.ledger.deliveries import Outcome, Place, State
from trunkline.ledger.parks import parked_keys
from trunkline.ledger.postgres import Server
from trunkline.ledger.writer import Writer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


OF_DAYS = "WITH given (day) AS (:rows) SELECT d.day FROM given CROSS JOIN :deliveries d WHERE d.day = given.day"
"""A statement for each day; two are sent at once."""


def done(number: int, day: int = 20_000) -> Outcome:
    return Outcome(Place(day, number.to_bytes(16, "big")), 1, State.DONE, b"k" * 16, 0, number, b"p" * 16, 1, NOW)


@pytest.fixture
def url(postgres: MakeUrl) -> SecretStr:
    return postgres()


def test_the_settings_choose_between_file_and_server(url: SecretStr) -> None:
    chosen = settings.load({"TRUNKLINE_LEDGER__URL": url.get_secret_value()}).ledger
    password = str(conninfo_to_dict(url.get_secret_value())["password"])
    assert isinstance(reach(chosen), Server)
    assert password not in f"{chosen!r} {chosen} {chosen.model_dump_json()} {reach(chosen).name}"
    assert reach(settings.Ledger()).name == "the ledger var/ledger.db"


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql//me:geheim@host/x",
        "host=a passwort=geheim",
        "geheim",
        "postgresql://me:a/geheim@host/x",
        "postgresql://me:a@geheim@host/x",
    ],
)
def test_an_address_that_is_none_is_not_quoted(wrong: str) -> None:
    with pytest.raises(UsageError, match="TRUNKLINE_LEDGER__URL is no address") as raised:
        Server(SecretStr(wrong))
    assert "geheim" not in str(raised.value)


def test_a_server_that_cannot_be_reached_is_named_without_its_password(url: SecretStr) -> None:
    for parts in ({"port": free_port(), "password": "geheim"}, {"password": "geheim"}, {"dbname": "absent"}):
        wrong = make_conninfo(url.get_secret_value(), **parts)
        with pytest.raises(Failure, match="cannot be reached") as raised:
            Server(SecretStr(wrong)).connect()
        assert "\n" not in str(raised.value)
        assert not re.search(rf"geheim|{conninfo_to_dict(url.get_secret_value())['password']}", str(raised.value))


def test_looking_for_a_ledger_makes_none(url: SecretStr) -> None:
    server = Server(url)
    assert not server.exists()
    assert not server.exists()
    server.connect().close()
    assert server.exists()


def test_a_ledger_of_a_newer_trunkline_is_refused(url: SecretStr) -> None:
    with Server(url).connect() as db:
        db.run("UPDATE schema_version SET version = 99")
    with pytest.raises(UsageError, match=r"made by a newer Trunkline.*99.*Upgrade"):
        Server(url).connect()


def test_commits_wait_for_the_disk(url: SecretStr) -> None:
    with Server(url).connect() as db:
        assert db.run("SHOW synchronous_commit") == [("on",)]


def test_days_are_tables_of_one(url: SecretStr) -> None:
    many = [done(number, 20_000 - number) for number in range(40)]
    with Server(url).connect() as db:
        for _ in range(8):  # more often than the driver waits before it prepares a statement
            with db.transaction():
                deliveries.record(db, many)
        assert deliveries.look_up(db, (one.place for one in many)).keys() == {one.place for one in many}
        assert db.run("SELECT count(*), count(DISTINCT tableoid) FROM deliveries") == [(40, 40)]


def test_a_new_day_begins_while_others_write_and_read(url: SecretStr) -> None:
    """Nobody waits for the transaction that makes a table."""
    server = Server(url)
    with server.connect() as one, server.connect() as other:
        with one.transaction():
            deliveries.record(one, [done(1)])
        with one.transaction():
            deliveries.record(one, [done(2, 20_001)])
            with other.transaction():
                deliveries.record(other, [done(3)])
            assert deliveries.look_up(other, [done(2, 20_001).place, done(3).place]).keys() == {done(3).place}
        assert deliveries.look_up(other, [done(2, 20_001).place]).keys() == {done(2, 20_001).place}


def cut(admin: psycopg.Connection, pid: int) -> None:
    """End a connection; it has ended when this returns."""
    assert admin.execute("SELECT pg_terminate_backend(%s, 60000)", [pid]).fetchone() == (True,)


def test_a_connection_that_was_cut_while_idle_is_made_again_unnoticed(url: SecretStr) -> None:
    server = Server(url)
    with server.connect() as db, psycopg.connect(url.get_secret_value(), autocommit=True) as admin:
        [(pid,)] = db.run("SELECT pg_backend_pid()")
        cut(admin, pid)
        with db.transaction():
            deliveries.record(db, [done(1)])
        [(pid,)] = db.run("SELECT pg_backend_pid()")
        cut(admin, pid)
        with pytest.raises(Failure, match="fails"):
            deliveries.look_up(db, [done(1).place])
        assert deliveries.look_up(db, [done(1).place]).keys() == {done(1).place}


def test_a_connection_that_is_cut_in_a_transaction_takes_all_of_it_along(url: SecretStr) -> None:
    server = Server(url)

    def write_around_the_cut() -> None:
        with db.transaction():
            deliveries.record(db, [done(1)])
            [(pid,)] = db.run("SELECT pg_backend_pid()")
            cut(admin, pid)
            try:
                deliveries.record(db, [done(2)])
            except Failure:  # a write that swallows it must not go on in another transaction
                deliveries.record(db, [done(3)])

    with server.connect() as db, psycopg.connect(url.get_secret_value(), autocommit=True) as admin:
        with pytest.raises(Failure, match="lost in a transaction"):
            write_around_the_cut()
        assert deliveries.look_up(db, (done(number).place for number in range(4))) == {}


def test_a_server_that_says_nothing_and_keeps_its_connections_is_given_up(
    url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is frozen, or behind something that passes nothing on; TCP notices neither."""
    parts = conninfo_to_dict(url.get_secret_value())
    relay = Silence(int(parts["port"] or 5432))
    behind = make_conninfo(url.get_secret_value(), host="127.0.0.1", port=relay.port)
    try:
        with Server(SecretStr(behind)).connect() as db:
            for days in ([(1,)], [(1,), (2,)]):
                with db.transaction():
                    for (day,) in days:
                        db.begin_day(day)
                relay.silent = True
                with monkeypatch.context() as hurried:
                    hurried.setattr(postgres, "ANSWER", 1.0)
                    hurried.setitem(postgres.REACH, "connect_timeout", 2)
                    with pytest.raises(Failure, match="it has said nothing for 1 s: it stands still, or what lies"):
                        db.join(OF_DAYS, "integer", days)
                    with pytest.raises(Failure, match="cannot be reached: connection timeout expired"):
                        db.join(OF_DAYS, "integer", days)
                relay.heal()
            assert db.run("SELECT 1") == [(1,)]
    finally:
        relay.close()


def test_a_table_that_somebody_removed_is_the_servers_trouble(url: SecretStr) -> None:
    with Server(url).connect() as db:
        with db.transaction():
            deliveries.record(db, [done(1)])
        db.run("DROP TABLE parks")
        with pytest.raises(Failure, match="lacks a table"):
            parked_keys(db, 1)
        db.run("DROP TABLE deliveries")
        with pytest.raises(Failure, match="lacks a table"), db.transaction():
            deliveries.record(db, [done(1)._replace(attempts=2)])


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_all_text_is_refused(url: SecretStr, encoding: str) -> None:
    name = f"ledger_{encoding.lower()}_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(url.get_secret_value(), autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    other = make_conninfo(url.get_secret_value(), dbname=name, options="")
    # What a target says of itself is kept with an attempt, in whatever alphabet.
    with pytest.raises(UsageError, match=f"cannot hold all text: the database was created in {encoding}."):
        Server(SecretStr(other)).connect()


def test_what_a_role_or_a_database_sets_for_its_sessions_is_set_back(url: SecretStr) -> None:
    given = conninfo_to_dict(url.get_secret_value())["options"]
    options = f"{given} -cdefault_transaction_isolation=serializable -cclient_encoding=LATIN1"
    with Server(SecretStr(make_conninfo(url.get_secret_value(), options=options))).connect() as db:
        assert db.run("SHOW transaction_isolation") == [("read committed",)], "who waits for a day must see it made"
        assert db.run("SELECT ?", "zażółć") == [("zażółć",)]


@pytest.fixture
def guest(url: SecretStr) -> Iterator[tuple[SecretStr, Callable[[str], object]]]:
    """Give the address for a role that may do nothing there yet, and what runs statements as the owner."""
    role = f"guest_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(url.get_secret_value(), autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'guest'")
        yield (
            SecretStr(make_conninfo(url.get_secret_value(), user=role, password="guest")),  # noqa: S106 - of a test
            lambda sql: owner.execute(sql.replace("guest", role)),
        )
        owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_right_that_is_missing_is_told_and_waited_for(
    url: SecretStr, guest: tuple[SecretStr, Callable[[str], object]]
) -> None:
    """An unexpected kind of error would halt each sink as for a bug, and not go on once the right is there."""
    address, run = guest
    schema = str(conninfo_to_dict(url.get_secret_value())["options"]).removeprefix("-csearch_path=")
    with pytest.raises(Failure, match=r"cannot be used: no schema has been selected.*that it may use$"):
        Server(address).connect()
    run(f"GRANT USAGE ON SCHEMA {schema} TO guest")
    with pytest.raises(Failure, match=rf"permission denied for schema {schema}\. GRANT its role USAGE and CREATE"):
        Server(address).connect()
    Server(url).connect().close()
    run(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO guest")

    async def write() -> None:
        writer = Writer(Server(address))
        with pytest.raises(Failure, match="permission denied for schema"):  # it has to make the table of a day
            await writer.write(lambda db: deliveries.record(db, [done(1)]))
        run(f"GRANT CREATE ON SCHEMA {schema} TO guest")
        with pytest.raises(Failure, match="must be owner of table"):
            await writer.write(lambda db: deliveries.record(db, [done(1)]))
        run("ALTER TABLE deliveries OWNER TO guest")
        await writer.write(lambda db: deliveries.record(db, [done(1)]))
        await writer.close()

    asyncio.run(write())
    with Server(address).connect() as db:
        assert deliveries.look_up(db, [done(1).place])


def test_a_server_that_takes_no_writes_and_a_lock_are_told_in_words(
    url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(url).connect() as db:
        db.run("SET default_transaction_read_only = on")
        with pytest.raises(Failure, match=r"read-only transaction\. It takes no writes: the address names a standby"):
            db.run("DELETE FROM runs")
        db.run("DELETE FROM runs")  # on a connection of its own: the server may have become the first meanwhile
        monkeypatch.setattr(postgres, "SETUP", postgres.SETUP.replace("lock_timeout = '10s'", "lock_timeout = '50ms'"))
        with psycopg.connect(url.get_secret_value()) as other:
            other.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
            with Server(url).connect() as late, pytest.raises(Failure) as raised:
                late.run("SELECT * FROM runs")
    assert "LINE 1" not in str(raised.value)
    assert str(raised.value).endswith(
        "Somebody has locked one of its tables (ALTER TABLE, VACUUM FULL, LOCK); pg_locks says who"
    )
