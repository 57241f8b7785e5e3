"""Origins and host names, in the one spelling in which they can be compared.

A browser sends `https://example.org` where people write `https://Example.org:443/`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

OWN_PORTS = {"http": 80, "https": 443}

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]*)?")


def normal_origin(origin: str) -> str:
    """An origin as browsers send it: `scheme://host`, with `:port` where it is not the scheme's own.

    "null", the origin of pages that have none, stays as it is.

    Raises:
        ValueError: it is no origin.
    """
    if origin == "null":
        return origin
    try:
        parts = urlsplit(origin)
        host, port = _normal_name(parts.hostname or ""), parts.port
        if not parts.scheme or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{origin!r} is no origin: give scheme://host or scheme://host:port, as in https://app.example.com"
        ) from None
    own_port = port is None or port == OWN_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host}" if own_port else f"{parts.scheme}://{host}:{port}"


def normal_host(host: str) -> str:
    """A name by which a service is reached, as browsers send it; ".example.com" stands for all names in it.

    Raises:
        ValueError: it is no name.
    """
    dot = "." if host.startswith(".") else ""
    try:
        return dot + _normal_name(host.removeprefix(".").strip("[]")).removesuffix(".")
    except ValueError:
        raise ValueError(
            f"{host!r} is no host: give a name without scheme, port and path, as in pictures.example.com, or "
            ".example.com for all names in it"
        ) from None


def is_allowed_host(host: str, allowed: Collection[str]) -> bool:
    """Whether a request with this header Host may come in where no key protects the service.

    A page whose name leads to an address of its own at first and to this machine later (DNS rebinding) is of
    the service's origin for its browser, but cannot hide its name. So a name with a dot in it has to be among
    the `allowed`. Nobody can have pages under an address, under a name of one label or in `localhost`.

    Args:
        host: with or without a port.
        allowed: names, of `normal_host`.
    """
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].removesuffix(".")
    *inner, last = name.split(".")
    if name.startswith("[") or not inner or last.isdigit() or last == "localhost":
        return True
    return any(name == one or (one.startswith(".") and f".{name}".endswith(one)) for one in allowed)


def _normal_name(name: str) -> str:
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name).compressed}]"
    ascii_name = name.lower().encode("idna").decode()
    if not _NAME.fullmatch(ascii_name):
        raise ValueError(name)
    return ascii_name
