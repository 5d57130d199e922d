"""Databases and processes that die, freeze or fall back under the ledger: what was acknowledged is there."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import SecretStr

from tests.trunkline.support import wait_for
from trunkline.dev.postgres import LocalPostgres
from trunkline.errors import Unavailable
from trunkline.ledger import deliveries, sqlite
from trunkline.ledger.database import Connection, Failure, Ledger
from trunkline.ledger.deliveries import Outcome, Place, State
from trunkline.ledger.postgres import Server
from trunkline.ledger.sqlite import File
from trunkline.ledger.writer import Rewound, Writer

pytestmark = pytest.mark.faults(group="ledger")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = b"k" * 16


def place(number: int) -> Place:
    return Place(20_000, number.to_bytes(16, "big"))


def done(number: int) -> Outcome:
    return Outcome(place(number), 1, State.DONE, KEY, 0, number, b"p" * 16, 1, NOW)


def recorded(ledger: Ledger, count: int) -> set[int]:
    with ledger.connect() as db:
        found = deliveries.look_up(db, map(place, range(count)))
    return {int.from_bytes(one.id, "big") for one in found}


async def until_told(writer: Writer, number: int) -> None:
    """Record an event as the engine does: again, until the ledger has it."""
    while True:
        try:
            await writer.write(lambda db: deliveries.record(db, [done(number)]))
        except Rewound:
            raise
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return


def run(work: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(asyncio.wait_for(work, 110))


@pytest.mark.timeout(180)
def test_a_server_killed_under_load_keeps_what_it_acknowledged_and_is_found_again(server: LocalPostgres) -> None:
    ledger = Server(SecretStr(server.url()))
    told: list[int] = []

    async def work() -> None:
        writer = Writer(ledger)

        async def lane(first: int) -> None:
            for number in range(first, first + 100):
                await until_told(writer, number)
                told.append(number)

        lanes = [asyncio.create_task(lane(100 * n)) for n in range(8)]
        for many in (100, 400):
            await asyncio.to_thread(wait_for, lambda many=many: len(told) >= many)  # type: ignore[misc]
            await asyncio.to_thread(server.kill)
            acknowledged = set(told)
            await asyncio.to_thread(server.start)
            assert acknowledged <= await asyncio.to_thread(recorded, ledger, 800)
        await asyncio.gather(*lanes)
        await writer.close()

    run(work())
    assert recorded(ledger, 800) == set(range(800))


def failing_over(first: LocalPostgres, second: LocalPostgres) -> Server:
    """Give a ledger that goes to whichever of two servers takes writes."""
    one, two = urlsplit(first.url()), urlsplit(second.url())
    return Server(
        SecretStr(
            f"host={one.hostname},{two.hostname} port={one.port},{two.port} user={one.username} "
            f"password={one.password} dbname=postgres target_session_attrs=read-write"
        )
    )


@pytest.mark.timeout(180)
def test_a_standby_that_has_everything_takes_over(server: LocalPostgres, tmp_path: Path) -> None:
    standby = server.copy_to(tmp_path / "standby")
    ledger = failing_over(server, standby)

    async def work() -> None:
        writer = Writer(ledger)
        await until_told(writer, 1)
        await asyncio.to_thread(caught_up, server, standby)
        server.kill()
        standby.promote()
        await until_told(writer, 2)
        await writer.close()

    try:
        run(work())
        assert recorded(ledger, 3) == {1, 2}
    finally:
        standby.remove()


@pytest.mark.timeout(180)
def test_a_standby_without_the_last_commits_takes_no_more_writes(server: LocalPostgres, tmp_path: Path) -> None:
    standby = server.copy_to(tmp_path / "standby")
    ledger = failing_over(server, standby)

    async def work() -> None:
        writer = Writer(ledger)
        await until_told(writer, 1)
        await asyncio.to_thread(caught_up, server, standby)
        standby.stop()
        await until_told(writer, 2)
        server.kill()
        await asyncio.to_thread(standby.start)
        standby.promote()
        with pytest.raises(Rewound, match="has lost commits that it had acknowledged"):
            await until_told(writer, 3)
        await writer.close()

    try:
        run(work())
        assert recorded(ledger, 4) == {1}
    finally:
        standby.remove()


def caught_up(server: LocalPostgres, standby: LocalPostgres) -> None:
    """Return when a standby has received and applied all that its server has written."""
    with psycopg.connect(server.url()) as db:
        [position] = db.execute("SELECT pg_current_wal_lsn()::text").fetchone() or [None]
    with psycopg.connect(standby.url(), autocommit=True) as db:
        asked = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_for(lambda: db.execute(asked, [position]).fetchone() == (True,))


@pytest.mark.parametrize("end", ["INTO writers", "COMMIT"])
def test_a_connection_that_breaks_around_a_commit_loses_and_doubles_nothing(server: LocalPostgres, end: str) -> None:
    """The commit is carried out or not begun, and no answer ever comes."""
    address = urlsplit(server.url())
    assert address.port is not None
    with cutting(address.port, end.encode()) as (port, armed):
        ledger = Server(SecretStr(server.url().replace(f":{address.port}/", f":{port}/")))
        outcome = done(1)._replace(state=State.DEAD, attempts=3, park=True)

        async def work() -> None:
            writer = Writer(ledger)
            await writer.write(lambda db: deliveries.record(db, [outcome]))
            armed.set()
            freeing = outcome._replace(state=State.DONE, park=False)
            with pytest.raises(Failure, match="fails"):
                await writer.write(lambda db: deliveries.record(db, [freeing]))
            assert not armed.is_set()
            assert (await writer.write(lambda db: deliveries.record(db, [freeing]))).freed == {KEY}
            await writer.close()

        run(work())
        with ledger.connect() as db:
            [row] = deliveries.look_up(db, [place(1)]).values()
    assert (row.state, row.attempts) == (State.DONE, 6)


@contextmanager
def cutting(server: int, word: bytes) -> Iterator[tuple[int, threading.Event]]:
    """Stand between clients and a server; when armed, cut a connection at the answer to a request with this word."""
    armed, ended = threading.Event(), threading.Event()

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", server)) as behind:
            cut = threading.Event()

            def answer() -> None:
                with suppress(OSError):
                    while data := behind.recv(65_536):
                        if cut.is_set():
                            break
                        client.sendall(data)
                    client.shutdown(socket.SHUT_RDWR)

            answering = threading.Thread(target=answer, daemon=True)
            answering.start()
            with suppress(OSError):
                while data := client.recv(65_536):
                    if armed.is_set() and word in data:
                        cut.set()
                        armed.clear()
                    behind.sendall(data)
                behind.shutdown(socket.SHUT_RDWR)
            answering.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads: list[threading.Thread] = []

        def accept() -> None:
            while not ended.is_set():
                client, _ = listening.accept()
                threads.append(threading.Thread(target=serve, args=(client,), daemon=True))
                threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        port: int = listening.getsockname()[1]
        try:
            yield port, armed
        finally:
            ended.set()
            socket.create_connection(("127.0.0.1", port)).close()
            for thread in (accepting, *threads):
                thread.join(20)


# The file.

HOLDER = """
import sys
from pathlib import Path
from trunkline.ledger.sqlite import File
with File(Path(sys.argv[1])).connect() as db, db.transaction():
    db.run("INSERT INTO sinks (name) VALUES ('half done')")
    print("inside", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that is inside a transaction."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        yield process
        process.kill()


def write_once(ledger: Ledger, number: int) -> None:
    async def work() -> None:
        writer = Writer(ledger)
        try:
            await writer.write(lambda db: deliveries.record(db, [done(number)]))
        finally:
            await writer.close()

    run(work())


def test_a_process_frozen_inside_a_commit_holds_up_writers_but_no_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE", 0.3)
    ledger = File(tmp_path / "ledger.db")
    write_once(ledger, 1)
    with holder(ledger.path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(Failure, match="locked"):
            write_once(ledger, 2)
        assert recorded(ledger, 3) == {1}
        process.kill()
        process.wait()
        write_once(ledger, 2)
    assert recorded(ledger, 3) == {1, 2}
    with ledger.connect() as db:
        assert db.run("SELECT * FROM sinks") == [], "of the transaction of the dead process nothing is left"


def test_a_process_that_thaws_goes_on_and_so_do_the_others(tmp_path: Path) -> None:
    ledger = File(tmp_path / "ledger.db")
    write_once(ledger, 1)
    with holder(ledger.path) as process:
        process.send_signal(signal.SIGSTOP)
        writing = threading.Thread(target=write_once, args=(ledger, 2))
        writing.start()
        process.send_signal(signal.SIGCONT)
        process.communicate("go on\n", timeout=30)
        writing.join()
    assert recorded(ledger, 3) == {1, 2}
    with ledger.connect() as db:
        assert db.run("SELECT name FROM sinks") == [("half done",)]


def test_a_full_disk_loses_nothing_and_ends_when_there_is_room(tmp_path: Path) -> None:
    ledger = File(tmp_path / "ledger.db")
    told: list[int] = []
    seen: list[str] = []

    def quota(pages: int) -> Callable[[Connection], Any]:
        return lambda db: db.run(f"PRAGMA max_page_count = {pages}")

    async def work() -> None:
        writer = Writer(ledger)
        await writer.write(quota(60))

        async def one(number: int) -> None:
            await until_told(writer, number)
            told.append(number)

        writes = [asyncio.create_task(one(number)) for number in range(3_000)]
        while not seen:
            try:
                await writer.write(lambda db: deliveries.record(db, [done(len(told) + 10_000)]))
            except Failure as failure:
                seen.append(str(failure))
        assert "full" in seen[0]
        assert set(told) <= recorded(ledger, 3_000)
        await writer.write(quota(1_000_000))
        await asyncio.gather(*writes)
        await writer.close()

    run(work())
    assert recorded(ledger, 3_000) == set(range(3_000))


def test_a_ledger_removed_under_load_takes_no_more(tmp_path: Path) -> None:
    ledger = File(tmp_path / "ledger.db")

    async def work() -> None:
        writer = Writer(ledger)
        await writer.write(lambda db: deliveries.record(db, [done(1)]))
        ledger.path.unlink()
        for number in (2, 3):
            with pytest.raises(Failure, match="has gone"):
                await writer.write(lambda db, number=number: deliveries.record(db, [done(number)]))  # type: ignore[misc]
        await writer.close()

    run(work())
    assert not ledger.path.exists()
