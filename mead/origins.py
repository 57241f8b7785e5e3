"""Origins and host names, normalised so that they can be compared.

Browsers send `https://example.org` where people may write `https://Example.org:443/`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]*)?")


def normal_origin(origin: str) -> str:
    """An origin as browsers send it: `scheme://host`, with `:port` unless it is the scheme's default.

    "null", which browsers send for opaque origins, is unchanged.

    Raises:
        ValueError: it is not an origin.
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
            f"{origin!r} is not an origin: use scheme://host or scheme://host:port, such as https://app.example.com"
        ) from None
    default_port = port is None or port == DEFAULT_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{host}" if default_port else f"{parts.scheme}://{host}:{port}"


def normal_host(host: str) -> str:
    """A host name as browsers send it; ".example.com" matches all names in that domain.

    Raises:
        ValueError: it is not a host name.
    """
    dot = "." if host.startswith(".") else ""
    try:
        return dot + _normal_name(host.removeprefix(".").strip("[]")).removesuffix(".")
    except ValueError:
        raise ValueError(
            f"{host!r} is not a host: use a name without scheme, port and path, such as app.example.com, or "
            ".example.com for all names in that domain"
        ) from None


def is_allowed_host(host: str, allowed: Collection[str]) -> bool:
    """Whether to accept a request with this header Host if the service has no API keys.

    This protects against DNS rebinding: a page's name may first resolve to a foreign address and later to
    this machine, so that its browser takes the service for its own origin. But the browser still sends the
    page's name. So a name with a dot must be `allowed`; nobody can serve pages under our address, a name of
    one label or a name in `localhost`.

    Args:
        host: with or without a port.
        allowed: names from `normal_host`.
    """
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].removesuffix(".")
    *inner, last = name.split(".")
    if name.startswith("[") or not inner or last.isdigit() or last == "localhost":
        return True
    return is_allowed_name(name, allowed)


def is_allowed_name(name: str, allowed: Collection[str]) -> bool:
    """Whether a host's name is one of `allowed` (from `normal_host`), or in one of their domains."""
    return any(name == known or (known.startswith(".") and f".{name}".endswith(known)) for known in allowed)


def _normal_name(name: str) -> str:
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name).compressed}]"
    ascii_name = name.lower().encode("idna").decode()
    if not _NAME.fullmatch(ascii_name):
        raise ValueError(name)
    return ascii_name
