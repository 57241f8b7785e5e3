"""Access without API keys: from this machine only, unless ALLOW_ANONYMOUS is set, and by known host names."""

from __future__ import annotations

import functools
import ipaddress
import logging
import socket
import sys
from typing import Any

from flask import request
from werkzeug.exceptions import Forbidden

from mead.origins import is_allowed_host, normal_host
from mead.settings import Settings

log = logging.getLogger(__name__)

HEALTH_CHECKS = frozenset({"/healthz", "/readyz"})  # probes may use any host name; the answers name no job

BEYOND_LOOPBACK = (
    "{} can be reached from other machines, and no API keys are set: set API_KEYS, or HOST=127.0.0.1, "
    "or ALLOW_ANONYMOUS=true if everybody who can reach it may use it"
)
UNKNOWN_HOST = (
    "unknown host name in the header Host: set ALLOWED_HOSTS to the service's host names, or set API_KEYS"
)


class AnonymousPolicy:
    """Checks requests to a service without API keys."""

    def __init__(self, settings: Settings) -> None:
        self._allow_anonymous = settings.allow_anonymous
        self._any_host = "*" in settings.allowed_hosts
        self._hosts = {normal_host(host) for host in settings.allowed_hosts if host != "*"}

    def check(self) -> None:
        """Check this request.

        Raises:
            Forbidden: other machines can reach the service, or the host name is unknown.
        """
        if not self._allow_anonymous and _is_exposed(request.environ):  # run by a server of the user's own
            log.error("refused: listens beyond this machine without API keys")
            raise Forbidden(BEYOND_LOOPBACK.format("this service"))
        if self._any_host or request.path in HEALTH_CHECKS:
            return
        hosts = {_received(request.environ, "HTTP_HOST")}
        if self._hosts:  # otherwise X-Forwarded-Host is set by the proxy, whatever the client sent
            hosts.add(request.headers.get("Host"))
        if not all(is_allowed_host(host, self._hosts) for host in hosts if host):
            raise Forbidden(UNKNOWN_HOST)


@functools.lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether an address to listen on can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name, which may resolve to any address
        return False


def check_listening(settings: Settings) -> None:
    """Exit with status 2 if the service would listen beyond this machine without API keys.

    Raises:
        SystemExit: after printing to stderr what to set.
    """
    if settings.api_keys or settings.allow_anonymous or is_loopback(settings.host):
        return
    print("mead: " + BEYOND_LOOPBACK.format(f"HOST={settings.host}"), file=sys.stderr)
    sys.exit(2)


def _is_exposed(environ: dict[str, Any]) -> bool:
    """Whether other machines can reach the socket of this request."""
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        return False
    return not is_loopback(_received(environ, "SERVER_NAME") or "")


def _received(environ: dict[str, Any], name: str) -> str | None:
    """A variable of the request as received, before ProxyFix applied a proxy's headers."""
    value: str | None = environ.get("werkzeug.proxy_fix.orig", environ).get(name)
    return value
