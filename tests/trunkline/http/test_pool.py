"""Which address is connected to, whatever a name means from one moment to the next."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

import pytest

from tests.trunkline.http.served import LOOPBACK, Served, answer
from tests.trunkline.http.ways import Way, again, each_way
from trunkline.errors import Halt, Retryable
from trunkline.http.guard import Address, Guard, networks
from trunkline.http.pool import TRUST
from trunkline.http.proofs import OPEN
from trunkline.http.transport import Transport
from trunkline.requests import Request


class Names:
    """A name service that gives one answer after the other, and the last one for ever; a clock."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked = 0
        self.heard = asyncio.Event()
        self.now = 1000.0
        self._answers = list(answers)

    async def resolve(self, _: str) -> list[Address]:
        self.asked += 1
        self.heard.set()
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not found:
            raise socket.gaierror("nobody knows it")
        return [ip_address(text) for text in found]

    def clock(self) -> float:
        return self.now


async def waited(names: Names, asked: int) -> None:
    """Wait until a name has been asked for so often, and the answer has been taken."""
    async with asyncio.timeout(60):
        while names.asked < asked:
            names.heard.clear()
            await names.heard.wait()


@each_way
def test_a_call_goes_to_the_address_that_was_checked_and_not_to_what_the_system_says(way: Way) -> None:
    async def run() -> tuple[int, int]:
        async with Served(answer(200)) as inside:
            good = await asyncio.start_server(echo(answer(204)), "127.0.0.2", inside.port)
            async with good:
                names = Names(["127.0.0.2"])  # the system itself says that localhost is 127.0.0.1
                guard = Guard(networks(["127.0.0.2"]))
                url = f"http://localhost:{inside.port}"
                async with Transport(url, OPEN, guard=guard, connections=1, resolve=names.resolve) as transport:
                    got = await way(transport, Request.get("/"))
            return got.status, inside.connections

    assert asyncio.run(run()) == (204, 0)


def echo(said: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Answer every request of a connection alike, until the client goes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(said)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return serve


@each_way
def test_a_name_that_turns_inside_is_not_called_any_more(way: Way) -> None:
    names = Names(["127.0.0.2"], ["127.0.0.1"])

    async def run() -> int:
        async with Served(answer(200)) as inside:
            good = await asyncio.start_server(echo(answer(200)), "127.0.0.2", inside.port)
            guard = Guard(networks(["127.0.0.2"]))
            url = f"http://crm.example:{inside.port}"
            async with (
                good,
                Transport(url, OPEN, guard=guard, connections=1, resolve=names.resolve, clock=names.clock) as transport,
            ):
                assert (await way(transport, Request.get("/"))).status == 200
                names.now += TRUST - 1
                assert (await way(transport, Request.get("/"))).status == 200
                assert names.asked == 1
                names.now += 2
                assert (await way(transport, Request.get("/"))).status == 200  # to the address that was checked
                await waited(names, 2)
                with pytest.raises(Halt, match=r"the target crm\.example is at 127\.0\.0\.1, which is this machine"):
                    await way(transport, Request.get("/"))
            return inside.connections

    assert asyncio.run(run()) == 0


@pytest.mark.parametrize("others", [["10.0.0.1"], ["127.0.0.2", "169.254.169.254"], ["127.0.0.2", "::1"]])
def test_one_address_inside_spoils_the_name(others: list[str]) -> None:
    async def run() -> int:
        async with Served(answer(200)) as served:
            names = Names(["127.0.0.2", *others])
            url = f"http://crm.example:{served.port}"
            guard = Guard(networks(["127.0.0.2"]))
            async with Transport(url, OPEN, guard=guard, connections=1, resolve=names.resolve) as transport:
                with pytest.raises(Halt):
                    await again(transport, Request.get("/"))
            return served.connections

    assert asyncio.run(run()) == 0


@each_way
def test_an_address_that_does_not_answer_gives_way_to_the_next_within_the_call(way: Way) -> None:
    names = Names(["127.0.0.3", "127.0.0.1"])

    async def run() -> int:
        async with Served(answer(200)) as served:
            url = f"http://crm.example:{served.port}"
            async with Transport(
                url, OPEN, guard=LOOPBACK, connections=1, resolve=names.resolve, clock=names.clock
            ) as transport:
                for _ in range(3):
                    assert (await way(transport, Request.get("/"))).status == 200
            return served.connections

    assert asyncio.run(run()) == 3
    assert names.asked == 1


@each_way
def test_when_none_of_them_answers_it_is_asked_for_again_but_not_at_once(way: Way) -> None:
    names = Names(["127.0.0.3", "127.0.0.4"], ["127.0.0.1"])

    async def run() -> None:
        async with Served(answer(200)) as served:
            url = f"http://crm.example:{served.port}"
            async with Transport(
                url, OPEN, guard=LOOPBACK, connections=1, resolve=names.resolve, clock=names.clock
            ) as transport:
                for _ in range(3):
                    with pytest.raises(Retryable):
                        await way(transport, Request.get("/"))
                assert names.asked == 1
                names.now += 2
                with pytest.raises(Retryable):
                    await way(transport, Request.get("/"))
                await waited(names, 2)
                assert (await way(transport, Request.get("/"))).status == 200

    asyncio.run(run())


@each_way
def test_a_name_without_an_address_was_not_called(way: Way) -> None:
    names = Names([], ["127.0.0.1"])

    async def run() -> None:
        async with Served(answer(200)) as served:
            url = f"http://crm.example:{served.port}"
            async with Transport(url, OPEN, guard=LOOPBACK, connections=1, resolve=names.resolve) as transport:
                with pytest.raises(Retryable, match=r"crm\.example has no address now"):
                    await way(transport, Request.get("/"))
                assert (await way(transport, Request.get("/"))).status == 200

    asyncio.run(run())


def test_a_name_service_that_is_down_leaves_the_address_that_was_checked() -> None:
    names = Names(["127.0.0.1"], [])

    async def run() -> None:
        async with Served(answer(200)) as served:
            url = f"http://crm.example:{served.port}"
            async with Transport(
                url, OPEN, guard=LOOPBACK, connections=1, resolve=names.resolve, clock=names.clock
            ) as transport:
                for expected in (1, 2, 3):
                    assert (await again(transport, Request.get("/"))).status == 200
                    await waited(names, expected)
                    names.now += TRUST + 1

    asyncio.run(run())


def test_many_calls_ask_for_a_name_once() -> None:
    names = Names(["127.0.0.1"])

    async def run() -> None:
        server = await asyncio.start_server(echo(answer(200)), "127.0.0.1", 0)
        url = f"http://crm.example:{server.sockets[0].getsockname()[1]}"
        async with server, Transport(url, OPEN, guard=LOOPBACK, connections=64, resolve=names.resolve) as transport:
            await asyncio.gather(*(again(transport, Request.get("/")) for _ in range(64)))

    asyncio.run(run())
    assert names.asked == 1


def test_a_name_service_that_says_nothing_is_waited_for_no_longer_than_the_deadline() -> None:
    async def never(_: str) -> Sequence[Address]:
        await asyncio.Event().wait()
        return []

    async def run() -> None:
        async with Transport(
            "https://crm.example", OPEN, guard=Guard(), connections=1, deadline=0.1, resolve=never
        ) as transport:
            with pytest.raises(Retryable, match="no address in time"):
                await again(transport, Request.get("/"))

    asyncio.run(run())


@each_way
def test_a_proxy_is_asked_only_when_one_is_declared(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> tuple[int, list[str]]:
        async with Served(answer(200)) as target, Served(answer(203)) as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            async with Transport(target.url, OPEN, guard=LOOPBACK, connections=1) as transport:
                assert (await way(transport, Request.get("/"))).status == 200
            assert proxy.connections == 0
            async with Transport(
                "http://crm.example/v1", OPEN, guard=LOOPBACK, connections=1, proxy=proxy.url
            ) as transport:
                got = await way(transport, Request.get("/x"))
            return got.status, [head.split("\r\n")[0] for head in proxy.heads]

    assert asyncio.run(run()) == (203, ["GET http://crm.example/v1/x HTTP/1.1"])


def test_the_address_of_a_proxy_is_checked_too() -> None:
    async def run() -> int:
        async with Served(answer(200)) as proxy:
            async with Transport(
                "https://crm.example", OPEN, guard=Guard(), connections=1, proxy=proxy.url
            ) as transport:
                with pytest.raises(Halt, match=r"127\.0\.0\.1"):
                    await again(transport, Request.get("/"))
            return proxy.connections

    assert asyncio.run(run()) == 0


@each_way
@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (407, Halt, "the proxy of the target does not accept the user and password in its address"),
        (403, Retryable, "no connection to the target: tunnel error: unsuccessful"),
    ],
)
def test_a_proxy_that_lets_nothing_through_says_why(status: int, kind: type[Exception], told: str, way: Way) -> None:
    """With other credentials than its own every event would fail so: the verdict table has 407 for it."""

    async def run() -> None:
        async with Served(answer(status)) as proxy:
            url = proxy.url.replace("://", "://us:hush@")
            async with Transport("https://crm.example", OPEN, guard=LOOPBACK, connections=1, proxy=url) as transport:
                await way(transport, Request.get("/"))

    with pytest.raises(kind, match=told) as error:
        asyncio.run(run())
    assert "hush" not in str(error.value)
