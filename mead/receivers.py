"""Which addresses the service may connect to for its clients.

A client names the receiver of its webhooks, and must not reach by it what only the service's own machine and
network reach. Names are looked up when a connection is opened, and the address that is connected to is the
one that was checked: a name that resolves to another address the second time gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from mead.origins import DEFAULT_PORTS, is_allowed_name, normal_host

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_URL = 2000
NOT_PUBLIC = "its address is not a public one, and WEBHOOK_ALLOW does not name it"

_WITH_PORT = re.compile(r"(?P<host>\[.*\]|[^:]*):(?P<port>[0-9]+)")
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check_url(url: str) -> str:
    """The URL of a receiver, if it can be one.

    Raises:
        ValueError: if not. The message does not contain it, since it may hold a password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
        normal_host(parts.hostname or "")
        plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= LONGEST_URL
        host = parts.hostname or "."
        if not plain or parts.scheme not in DEFAULT_PORTS or parts.fragment or host.startswith("."):
            raise ValueError
    except ValueError:
        raise ValueError(
            "must be the URL of a receiver, as in https://example.com/hook, with at most "
            f"{LONGEST_URL} characters and no spaces or letters beyond ASCII"
        ) from None
    return url


def origin_of(url: str) -> str:
    """Scheme, host and port of a receiver's URL: what may be shown of it. The rest may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def is_public(address: Address) -> bool:
    """Whether an address is one of a machine on the Internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    inner = [address.sixtofour, *(address.teredo or ())]
    return address in _UNICAST and address.is_global and all(is_public(one) for one in inner if one)


@dataclass(frozen=True)
class Allowed:
    """What an entry of WEBHOOK_ALLOW allows.

    Attributes:
        network: of addresses; None if the entry is a name.
        name: of a host, from `normal_host`.
        port: the only one that is allowed; None for all.
    """

    network: Network | None
    name: str
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> Allowed:
        """An entry: NETWORK, HOST, HOST:PORT or NETWORK:PORT, with an IPv6 one in brackets before a port.

        Raises:
            ValueError: it is none.
        """
        host, port = entry, None
        if found := _WITH_PORT.fullmatch(entry):
            host, port = found["host"], int(found["port"])
            if not 1 <= port <= 65535:
                raise ValueError(f"{entry!r} has a port that is not 1 to 65535")
        host = host.removeprefix("[").removesuffix("]")
        try:
            return cls(ipaddress.ip_network(host, strict=False), "", port)
        except ValueError:
            if "/" in host:
                raise ValueError(f"{host!r} is not a network, such as 10.0.0.0/8") from None
            return cls(None, normal_host(host), port)

    def allows(self, host: str, address: Address, port: int) -> bool:
        """Whether it allows a receiver, see `AllowedReceivers.allows`."""
        if self.port not in (None, port):
            return False
        if self.network is None:
            return is_allowed_name(host.lower().removesuffix("."), [self.name])
        return address in self.network


class AllowedReceivers:
    """The receivers that WEBHOOK_ALLOW names, beside all public ones.

    Args:
        allow: as `check_allowed` takes them; * stands for all.
    """

    def __init__(self, allow: Collection[str] = ()) -> None:
        self._any = "*" in allow
        self._allowed = [Allowed.parse(entry) for entry in allow if entry != "*"]

    def allows(self, host: str, address: str, port: int) -> bool:
        """Whether a receiver may be connected to.

        Args:
            host: its name or address, as in its URL.
            address: the address that it has.
        """
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return self._any or is_public(found) or any(one.allows(host, found, port) for one in self._allowed)

    def refuses(self, url: str) -> bool:
        """Whether a URL can be refused without looking up its host's name: it holds an address, or is this
        machine's own name.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        local = host.lower().removesuffix(".")
        address = "127.0.0.1" if local == "localhost" or local.endswith(".localhost") else host
        try:
            return not self.allows(host, address, port_of(parts))
        except ValueError:  # a name
            return False


def port_of(parts: SplitResult) -> int:
    """The port of a receiver's URL."""
    return parts.port if parts.port is not None else DEFAULT_PORTS[parts.scheme]


def check_allowed(entry: str) -> str:
    """An entry of WEBHOOK_ALLOW.

    Raises:
        ValueError: it is neither a host nor a network, with or without a port.
    """
    Allowed.parse(entry)
    return entry
