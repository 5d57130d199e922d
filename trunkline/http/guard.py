"""Which addresses a call may reach: public ones by https, others that the target lists, never a metadata service.

Decisions are pure functions of an address. They are made on the address that is then connected to, never on a name:
what a name means may change between two questions (DNS rebinding), and an address may be written in many ways
(`127.1`, `0x7f.1`, `2130706433`, `[::ffff:127.0.0.1]`), which the HTTP client's own parser makes one.
"""

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RESERVED = {
    ip_network(network): meaning
    for network, meaning in {
        "0.0.0.0/8": "this machine",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "behind a carrier's NAT",
        "127.0.0.0/8": "this machine",
        "169.254.0.0/16": "link-local",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "reserved",
        "192.0.2.0/24": "for documentation",
        "192.88.99.0/24": "a 6to4 relay",
        "192.168.0.0/16": "private",
        "198.18.0.0/15": "for benchmarks",
        "198.51.100.0/24": "for documentation",
        "203.0.113.0/24": "for documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        "::1/128": "this machine",
        "fc00::/7": "private",
        "fe80::/10": "link-local",
        "ff00::/8": "multicast",
        "64:ff9b::/96": "an IPv4 address behind NAT64",
        "64:ff9b:1::/48": "an IPv4 address behind NAT64",
        "2001::/23": "reserved",  # Teredo, ORCHID and other protocols
        "2001:db8::/32": "for documentation",
        "2002::/16": "an IPv4 address behind 6to4",
        "3fff::/20": "for documentation",
    }.items()
}
"""What is not for anybody on the Internet (RFC 6890 and its registries); IPv6 outside 2000::/3 is not either."""
GLOBAL6 = IPv6Network("2000::/3")
"""All of IPv6 that is assigned to the Internet (RFC 4291 §2.4)."""
NEVER = tuple(
    ip_network(network)
    for network in (
        "169.254.0.0/16",  # of AWS, Azure, Google Cloud and most others
        "fe80::/10",
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure
        "192.0.0.192/32",  # Oracle Cloud
        "fd00:ec2::/32",  # AWS
        "fd20:ce::254/128",  # Google Cloud
    )
)
"""Where clouds keep what a machine may know about itself, its credentials too: no allow-list opens these."""


LISTED = "`allow` of the target or TRUNKLINE_TARGETS__ALLOW lists its network"
PORTS = frozenset({443, 8443})
"""Where a target on the Internet listens; behind any other port there is mail, a database or a proxy."""
LAST_FOUR = tuple(IPv6Network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96"))
"""IPv6 networks whose addresses end in an IPv4 address: NAT64 (RFC 6052, 8215), -compatible and -translated."""
ISATAP = (bytes.fromhex("00005efe"), bytes.fromhex("02005efe"))
"""What stands before an IPv4 address at the end of an ISATAP address (RFC 5214 §6.1)."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What one target may be reached at: the Internet, over TLS, and the networks that it lists."""

    allow: tuple[Network, ...] = ()

    def refusal(self, address: Address, port: int, *, encrypted: bool) -> str:
        """Say why an address must not be connected to, in words that follow it; "" when it may be.

        `encrypted` says that TLS would be spoken: without, or at a port that is none of `PORTS`, only what `allow`
        lists is reached. An address that stands for an IPv4 address is reached only where that one is too.
        """
        address = unmapped(address)
        inner = embedded(address)
        if within(address, NEVER) or (inner is not None and within(inner, NEVER)):
            return "where clouds keep a machine's credentials: it is never called"
        if not within(address, self.allow):
            if meaning := reserved(address):
                return f"which is {meaning}: it is called only if {LISTED}"
            if not encrypted:
                return f"on the Internet: it is called only by https, or if {LISTED}"
            if port not in PORTS:
                told = f"on the Internet: its port {port} is called only if {LISTED}"
                return f"{told}; 443 and 8443 always are"
        return "" if inner is None else self.refusal(inner, 443, encrypted=True)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read networks such as 10.0.0.0/8 or fd00::/8; one address is a network too.

    Raises:
        ValueError: one of them is none; the message names it.
    """
    return tuple(ip_network(text) for text in texts)


def within(address: Address, among: Iterable[Network]) -> bool:
    """Say whether an address is in one of these networks."""
    return any(address in network for network in among)


def reserved(address: Address) -> str:
    """Say what an address is if it is not one of the Internet's, "" when it is."""
    for network, meaning in RESERVED.items():
        if address in network:
            return meaning
    return "" if isinstance(address, IPv4Address) or address in GLOBAL6 else "reserved"


def unmapped(address: Address) -> Address:
    """Give the IPv4 address that an IPv4-mapped one is connected to (RFC 4291 §2.5.5.2), else the address itself."""
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def embedded(address: Address) -> IPv4Address | None:
    """Give the IPv4 address at which a packet to an IPv6 address may come out."""
    if isinstance(address, IPv4Address):
        return None
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if within(address, LAST_FOUR) or address.packed[8:12] in ISATAP:
        return IPv4Address(address.packed[12:])
    return None


async def resolve(host: str) -> list[Address]:
    """Ask the system for all addresses of a name, in the order in which they are to be tried (RFC 6724).

    Raises:
        OSError: the name has none, or nobody answers.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("it is no name") from None
    return list(dict.fromkeys(ip_address(name[0]) for *_, name in found))
