"""The doors: who may come in, what they may see, and what a browser may do with our answers.

With API_KEYS set, a request carries one of them, and sees the jobs made with that key alone. Without keys,
everybody who reaches the service may use it; that is why it then listens to its own machine only, unless
ALLOW_ANONYMOUS says otherwise, and is reached by an address or by a name that ALLOWED_HOSTS holds.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import logging
import re
import socket
import sys
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import urlsplit

from flask import Flask, Response, g, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, Forbidden, Unauthorized
from werkzeug.middleware.proxy_fix import ProxyFix

from mead.origins import may_be_named, normal_host, normal_origin
from mead.queue.job import Job
from mead.settings import Settings

log = logging.getLogger(__name__)

OPEN = frozenset({"/", "/index", "/healthz", "/readyz", "/docs", "/openapi.json"})
"""What answers without a key: that the service lives, its pages and its description."""
OPEN_FOLDERS = ("/docs/", "/page/")  # what those pages are made of
PREFIX = re.compile(r"(/[\w.~%-]+)*/?", re.ASCII)
PROBES = frozenset({"/healthz", "/readyz"})  # asked by machines under any name; they tell of no job

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer: our pages load nothing from elsewhere, and nobody else's page shows them."""

ALLOWED_METHODS = "GET, POST, DELETE"
ALLOWED_HEADERS = (
    "Authorization, X-API-Key, Content-Type, Prefer, Idempotency-Key, Last-Event-ID, X-Request-ID"
)
EXPOSED_HEADERS = "Location, Retry-After, Preference-Applied, X-Request-ID, WWW-Authenticate"
PREFLIGHT_SECONDS = 600  # that a browser may remember what it was allowed

BEYOND_LOOPBACK = (
    "{} can be reached from other machines, and no API keys are set: set API_KEYS, or HOST=127.0.0.1, "
    "or ALLOW_ANONYMOUS=true if everybody who can reach it may use it"
)
UNKNOWN_HOST = (
    "the name in the header Host is not one of this service's: set ALLOWED_HOSTS to the names under which it "
    "is reached, or set API_KEYS"
)
FOREIGN_PAGE = (
    "pages of this origin may not use the API: CORS_ORIGINS names those that may; for the service's own page "
    "behind a reverse proxy, set TRUSTED_PROXIES"
)


def guard(app: Flask, settings: Settings) -> None:
    """Put the doors in front of every route of `app`.

    Before a request: 401 without a good key where one is needed, 403 for another site's page that may not
    ask and, without keys, for a name that is not the service's; `g.owner` is set. After it: the headers of
    security and of CORS.
    """
    keys = [_digest(key.get_secret_value()) for key in settings.api_keys]
    any_origin = "*" in settings.cors_origins
    origins = {normal_origin(origin) for origin in settings.cors_origins if origin != "*"}
    any_host = "*" in settings.allowed_hosts
    hosts = {normal_host(host) for host in settings.allowed_hosts if host != "*"}
    if n := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=n, x_proto=n, x_host=n, x_port=n, x_prefix=n
        )

    def allowed_origin() -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin and (any_origin or _normal(origin) in origins) else None

    def check_way_in() -> None:
        """Refuse a request that came a way on which no key would stop a stranger."""
        if not settings.allow_anonymous and _listens_beyond(request.environ):  # another server runs the app
            log.error("refused: listens beyond this machine without API keys")
            raise Forbidden(BEYOND_LOOPBACK.format("this service"))
        if any_host or request.path in PROBES:
            return
        named = {_as_received(request.environ, "HTTP_HOST")}
        if hosts:  # else a proxy that sends no name of its client's chooses itself what it answers to
            named.add(request.headers.get("Host"))
        if not all(may_be_named(host, hosts) for host in named if host):
            raise Forbidden(UNKNOWN_HOST)

    @app.before_request
    def let_in() -> Response | None:
        g.owner = ""
        if "HTTP_SCRIPT_NAME" in request.environ:
            raise BadRequest("the header SCRIPT_NAME is not taken; proxies send X-Forwarded-Prefix")
        if not PREFIX.fullmatch(request.environ.get("SCRIPT_NAME", "")):  # addresses in answers begin with it
            raise BadRequest("X-Forwarded-Prefix: a proxy gives a path, as in /studio")
        if not keys:
            check_way_in()
        if _is_preflight():
            return Response(status=HTTPStatus.NO_CONTENT) if allowed_origin() else _refuse_origin()
        if _is_from_another_site() and not allowed_origin():
            _refuse_origin()
        if keys and not is_open(request.path):
            g.owner = _owner(keys)
        return None

    @app.after_request
    def add_headers(answer: Response) -> Response:
        own = {name.lower() for name, _ in answer.headers}
        answer.headers.extend((name, value) for name, value in HEADERS.items() if name.lower() not in own)
        cache = answer.cache_control  # parsed anew each time
        if cache.public:  # a picture is its owner's
            cache.public = False
            cache.private = True
        elif not cache:
            cache.no_store = True
        if origins or any_origin:
            answer.vary.add("Origin")
        if origin := allowed_origin():
            answer.headers["Access-Control-Allow-Origin"] = origin
            answer.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            if _is_preflight():
                answer.headers["Access-Control-Allow-Methods"] = ALLOWED_METHODS
                answer.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
                answer.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        return answer


def owner() -> str:
    """Whose jobs this request makes and sees: a short hash of its key; "" where no keys are set."""
    return str(g.owner)


def client() -> str:
    """Who this request counts for where each may have so many jobs: its key, else a hash of its address."""
    return owner() or _digest(request.remote_addr or "").hex()[:16]


def may_see(job: Job) -> bool:
    """Whether this request's key made the job."""
    return job.owner == owner()


def is_open(path: str) -> bool:
    """Whether a path answers without a key."""
    return path in OPEN or path.startswith(OPEN_FOLDERS)


@functools.lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name: who knows where it leads
        return False


def check_listening(settings: Settings) -> None:
    """End the process (status 2) rather than listen beyond this machine to whoever comes.

    Raises:
        SystemExit: after saying on stderr what to set.
    """
    if settings.api_keys or settings.allow_anonymous or is_loopback(settings.host):
        return
    print("mead: " + BEYOND_LOOPBACK.format(f"HOST={settings.host}"), file=sys.stderr)
    sys.exit(2)


def _owner(keys: list[bytes]) -> str:
    """The owner of the key this request carries, compared in a time that tells nothing of any key.

    Raises:
        Unauthorized: 401.
    """
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    given = request.headers.get("X-API-Key") or (bearer.strip() if scheme.lower() == "bearer" else "")
    digest = _digest(given)
    good = [hmac.compare_digest(digest, key) for key in keys]  # all of them, whichever fits
    if any(good):
        return digest.hex()[:16]
    what = "this API key is not known" if given else "send an API key"
    raise Unauthorized(
        f"{what}: as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        www_authenticate=WWWAuthenticate("bearer", {"realm": "mead"}),
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _is_preflight() -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _is_from_another_site() -> bool:
    """Whether a browser sends this for another site's page and it would change something.

    Any page can send a form to any address; without keys, nothing else would stop it. Browsers name the
    page's origin in Origin. Over https and to their own machine they also say in Sec-Fetch-Site whether it is
    ours: then a proxy may have hidden our scheme and port from us, but not our name.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return False
    site = request.headers.get("Sec-Fetch-Site")
    if site in {"cross-site", "same-site"}:
        return True
    origin = request.headers.get("Origin")
    if origin is None:  # no browser
        return False
    page, own = _normal(origin), _normal(f"{request.scheme}://{request.headers.get('Host', '')}")
    if page is None or own is None:
        return True
    if site == "same-origin":
        return urlsplit(page).hostname != urlsplit(own).hostname
    return page != own


def _normal(origin: str) -> str | None:
    try:
        return normal_origin(origin)
    except ValueError:
        return None


def _listens_beyond(environ: dict[str, Any]) -> bool:
    """Whether other machines reach the socket that this request came to."""
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        return False
    return not is_loopback(_as_received(environ, "SERVER_NAME") or "")


def _as_received(environ: dict[str, Any], name: str) -> str | None:
    """A variable of a request as it came to our socket, before a proxy's headers were heeded."""
    value: str | None = environ.get("werkzeug.proxy_fix.orig", environ).get(name)
    return value


def _refuse_origin() -> NoReturn:
    raise Forbidden(FOREIGN_PAGE)
