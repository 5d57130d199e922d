"""No address of the inside is connected to, in whichever way it is written; a listener counts."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trunkline.http.served import LOOPBACK, Served, answer
from tests.trunkline.http.ways import Way, each_way
from trunkline.errors import Halt
from trunkline.http.guard import Address, Guard, networks, resolve
from trunkline.http.proofs import OPEN
from trunkline.http.transport import Transport
from trunkline.requests import Request

INSIDE = """
    0.0.0.0 0.255.255.255 10.0.0.1 10.255.255.254 100.64.0.1 100.127.255.255 127.0.0.1 127.0.0.2 127.1.2.3
    127.255.255.254 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
    192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.1.1.1
    240.0.0.1 255.255.255.255 100.100.100.200 168.63.129.16
"""
INSIDE6 = """
    :: ::1 ::2 ::7f00:1 fc00::1 fd00::1 fd12:3456::1 fdff::1 fe80::1 febf::1 fec0::1 ff00::1 ff02::1 ff05::2 100::1
    64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::808:808 64:ff9b:1::1 64:ff9b:1:7f00:0:100:: 2001::1
    2001:0:4136:e378:8000:63bf:80ff:fffe 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:a00:1::1
    2002:c0a8:101::1 2002:808:808::1 3fff::1 5f00::1 4000::1 8000::1 fd00:ec2::254 fd20:ce::254 ::ffff:0:127.0.0.1
    2400:1::5efe:7f00:1 2400:1::200:5efe:a00:1 ::127.0.0.1
"""
OUTSIDE = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255
    169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0
    223.255.255.255 2606:4700::1111 2001:200::1 2a00:1450::1 ::ffff:8.8.8.8 3ffe::1
"""


def forms(address: str) -> Iterator[str]:
    """Give the ways to write an IPv4 address in a URL that a client may understand."""
    number = int(ipaddress.IPv4Address(address))
    a, b, c, d = ipaddress.IPv4Address(address).packed
    yield from (address, str(number), hex(number), oct(number).replace("0o", "0"), f"{a}.{number & 0xFFFFFF}")
    yield from (f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a}.{b}.{number & 0xFFFF}")
    yield from (f"{address}.", "".join(chr(0xFF10 + int(c)) if c.isdigit() else c for c in address))
    yield from (
        f"[::ffff:{address}]",
        f"[::ffff:{number >> 16:x}:{number & 0xFFFF:x}]",
        f"%{ord(address[0]):x}{address[1:]}",
    )
    yield from (f"user:secret@{address}", f"[0:0:0:0:0:ffff:{address}]", f"[::{address}]", f"[64:ff9b::{address}]")


WRITTEN = [form for address in INSIDE.split() for form in forms(address)] + [
    f"[{address}]" for address in INSIDE6.split()
]
NAMES = ["localhost", "LOCALHOST"]


def read(texts: str) -> list[Address]:
    return [ipaddress.ip_address(text) for text in texts.split()]


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[object]]]:
    """Listen at every address of this machine, of both families, and note each connection."""
    connected: list[object] = []

    def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(note, ["0.0.0.0"], 0)  # noqa: S104 - to hear whatever is called
    async with server:
        [port] = {one.getsockname()[1] for one in server.sockets}
        yield port, connected


@pytest.mark.parametrize("address", read(INSIDE + INSIDE6), ids=str)
@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_an_address_of_the_inside_is_refused(address: Address, *, encrypted: bool) -> None:
    assert Guard().refusal(address, 443, encrypted=encrypted), f"invariant inside: {address} may be called"


@pytest.mark.parametrize("address", read(OUTSIDE), ids=str)
def test_an_address_of_the_internet_is_reached_over_tls_alone(address: Address) -> None:
    assert Guard().refusal(address, 443, encrypted=True) == ""
    told = Guard().refusal(address, 443, encrypted=False)
    assert "called only by https, or if `allow` of the target or TRUNKLINE_TARGETS__ALLOW lists its network" in told
    assert Guard(networks(["0.0.0.0/0", "::/0"])).refusal(address, 443, encrypted=False) == ""


@pytest.mark.parametrize("host", [f"{64 * 'a'}.example", "a..example"])
def test_what_no_resolver_can_be_asked_has_no_address(host: str) -> None:
    with pytest.raises(OSError, match="it is no name"):
        asyncio.run(resolve(host))


@pytest.mark.parametrize(("port", "reached"), [(443, True), (8443, True), (25, False), (80, False), (9200, False)])
def test_a_port_of_the_internet_that_is_not_for_https_is_called_only_where_it_is_allowed(
    port: int, *, reached: bool
) -> None:
    address = ipaddress.ip_address("1.1.1.1")
    told = Guard().refusal(address, port, encrypted=True)
    assert told == "" if reached else f"its port {port} is called only if `allow`" in told
    assert Guard(networks(["1.1.1.0/24"])).refusal(address, port, encrypted=True) == ""


@each_way
@pytest.mark.parametrize("url", ["https://crm.example:25", "https://1.1.1.1:9200", "https://[2606:4700::1111]:22"])
def test_a_port_is_judged_before_anything_is_called(url: str, way: Way) -> None:
    async def outside(_: str) -> list[Address]:
        return [ipaddress.ip_address("8.8.8.8")]

    async def run() -> None:
        async with Transport(url, OPEN, guard=Guard(), connections=1, deadline=2.0, resolve=outside) as transport:
            await way(transport, Request.get("/"))

    with pytest.raises(Halt, match="its port"):
        asyncio.run(run())


@each_way
def test_nothing_inside_is_connected_to_however_it_is_written(way: Way) -> None:
    assert len(WRITTEN) + len(NAMES) >= 150

    async def run() -> tuple[list[str], int]:
        reached = []
        async with listening() as (port, connected):
            for url in (f"{scheme}://{host}:{port}/x" for scheme in ("http", "https") for host in WRITTEN + NAMES):
                try:
                    async with Transport(url, OPEN, guard=Guard(), connections=1, deadline=2.0) as transport:
                        await way(transport, Request.get("/"))
                except Halt:
                    continue
                except Exception as error:  # noqa: BLE001 - whatever else has become of it is to be told
                    reached.append(f"{url}: {error!r}")
            return reached, len(connected)

    assert asyncio.run(run()) == ([], 0)


@each_way
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "017700000001", "localhost", "[::ffff:127.0.0.1]"]
)
def test_what_is_allowed_is_called_however_it_is_written(host: str, way: Way) -> None:
    async def run() -> int:
        async with Served(answer(200)) as served:
            url = f"http://{host}:{served.port}"
            async with Transport(url, OPEN, guard=LOOPBACK, connections=1, deadline=5.0) as transport:
                return (await way(transport, Request.get("/"))).status

    assert asyncio.run(run()) == 200


METADATA = """
    169.254.169.254 169.254.170.2 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 fd20:ce::254
    ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe
"""


@pytest.mark.parametrize("address", read(METADATA), ids=str)
def test_a_metadata_service_is_never_called(address: Address) -> None:
    told = Guard(networks(["0.0.0.0/0", "::/0"])).refusal(address, 443, encrypted=True)
    assert told == "where clouds keep a machine's credentials: it is never called"


@pytest.mark.parametrize(
    ("allow", "address", "reached"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/9", "10.128.0.1", False),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("fd00::/8", "fd00::1", True),
        ("64:ff9b::/96", "64:ff9b::808:808", True),
        ("64:ff9b::/96", "64:ff9b::a00:1", False),
        ("64:ff9b::/96,10.0.0.0/8", "64:ff9b::a00:1", True),
        ("2002::/16", "2002:7f00:1::", False),
        ("::/0", "10.0.0.1", False),
    ],
)
def test_a_network_that_is_allowed(allow: str, address: str, *, reached: bool) -> None:
    guard = Guard(networks(allow.split(",")))
    assert (guard.refusal(ipaddress.ip_address(address), 443, encrypted=True) == "") is reached


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        networks(["10.0.0.0/8", "10.0.0.0/33"])


@given(st.ip_addresses(v=4))
def test_what_python_knows_as_private_is_never_reached(address: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")
    told = Guard().refusal(address, 443, encrypted=True)
    assert Guard().refusal(mapped, 443, encrypted=True) == told
    assert told or (address.is_global and not address.is_multicast)


@given(st.ip_addresses(v=6))
def test_ipv6_is_reached_only_where_the_internet_is(address: ipaddress.IPv6Address) -> None:
    known = address.is_global and (address.ipv4_mapped is not None or address in ipaddress.ip_network("2000::/3"))
    assert Guard().refusal(address, 443, encrypted=True) or known
