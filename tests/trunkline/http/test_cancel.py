"""A call that is abandoned leaves nothing behind."""

import asyncio
import gc
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.trunkline.http.served import LOOPBACK, Served, answer
from tests.trunkline.http.ways import Way, each_way
from tests.trunkline.support import wait_for
from trunkline.http.proofs import OPEN
from trunkline.http.transport import Transport
from trunkline.requests import Request

CANCELS = 10_000
AT_ONCE = 100


@each_way
def test_a_call_is_abandoned_when_it_is_cancelled(way: Way) -> None:
    async def run() -> int:
        async with (
            Served(None) as silent,
            Transport(silent.url, OPEN, guard=LOOPBACK, connections=1, deadline=1.0) as transport,
        ):
            task = asyncio.ensure_future(way(transport, Request.post("/")))
            await silent.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(10):  # the HTTP client lets the target go at the call's deadline
                await silent.gone.wait()
        async with Served(answer(200)) as served, Transport(served.url, OPEN, guard=LOOPBACK, connections=1) as other:
            return (await way(other, Request.post("/"))).status

    assert asyncio.run(run()) == 200


def slow(seconds: Callable[[], float]) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Answer each request of a connection after some time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(seconds())
                writer.write(answer(200, body=b"x" * 100_000))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return serve


def kept() -> int:
    """Count what Python has allocated and not given back."""
    gc.collect()
    return sys.getallocatedblocks()


def files() -> int:
    """Count what this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.faults(group="targets")
@each_way
def test_ten_thousand_cancelled_calls_leave_a_pool_that_works_and_nothing_else(way: Way) -> None:
    chance = random.Random(7)  # noqa: S311 - the moments at which calls are cancelled

    async def run() -> tuple[int, int]:
        server = await asyncio.start_server(slow(lambda: chance.random() / 50), "127.0.0.1", 0, backlog=1000)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Transport(url, OPEN, guard=LOOPBACK, connections=AT_ONCE) as transport:

            async def abandoned() -> bool:
                try:
                    async with asyncio.timeout(chance.random() / 50):
                        await way(transport, Request.get("/"))
                except TimeoutError:
                    return True
                return False

            await asyncio.gather(*(way(transport, Request.get("/")) for _ in range(AT_ONCE)))
            before = files()

            async def abandon(many: int) -> None:
                while many > 0:
                    many -= sum(await asyncio.gather(*(abandoned() for _ in range(AT_ONCE))))

            await abandon(CANCELS // 10)
            tasks, blocks = len(asyncio.all_tasks()), kept()
            await abandon(CANCELS)
            more = kept() - blocks
            assert more < CANCELS / 4, f"{more} blocks of memory are kept"
            again = await asyncio.gather(*(way(transport, Request.get("/")) for _ in range(AT_ONCE)))
            assert [one.status for one in again] == [200] * AT_ONCE
            bound = before + 2 * AT_ONCE  # both ends of each connection are here
            await asyncio.to_thread(wait_for, lambda: files() <= bound, why=files)
            assert len(asyncio.all_tasks()) <= tasks + 2 * AT_ONCE  # the server's, one for each connection
            return before, files()

    first = files()
    before, after = asyncio.run(run())
    assert after <= before + 2 * AT_ONCE
    assert files() <= first + 4
