"""Where the service is, and the key for it: what the caller gives, else what the environment says."""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

DEFAULT_URL = "http://127.0.0.1:5000"


def service_url(given: str | None) -> str:
    """The address given, else MEAD_URL, else DEFAULT_URL; without a slash at its end.

    Raises:
        ValueError: it is not an HTTP address; names its source.
    """
    source, url = ("url", given) if given else ("MEAD_URL", os.environ.get("MEAD_URL") or DEFAULT_URL)
    if not _is_http(url):
        shown = url.rpartition("@")[2]  # a password may come before
        raise ValueError(f"{source}: {shown!r} is not the address of a service, such as {DEFAULT_URL}")
    return url.rstrip("/")


def shown_address(given: str | None) -> str:
    """The address of `service_url` for errors: without user and password, and with MEAD_URL if that names it.

    Raises as `service_url`.
    """
    parts = urlsplit(service_url(given))
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return f"{shown} (MEAD_URL)" if not given and os.environ.get("MEAD_URL") else shown


def service_key(given: str | None) -> str | None:
    """The API key given, else MEAD_API_KEY; None if neither is there.

    Raises:
        ValueError: no header can have it; names its source, and does not show it.
    """
    source, key = ("key", given) if given else ("MEAD_API_KEY", os.environ.get("MEAD_API_KEY"))
    if key and not (key.isascii() and key.isprintable()):
        raise ValueError(f"{source}: an API key has only letters, digits and signs of ASCII")
    return key or None


def _is_http(url: str) -> bool:
    """Whether it is an address that HTTP requests can be sent to."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number, or too large; half an IPv6 address
        return False
    return named and parts.scheme in ("http", "https") and url.isprintable() and " " not in url
