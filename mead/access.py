"""The doors: who may come in, what they may see, and what a browser may do with our answers.

With API_KEYS set, a request carries one of them, and sees the jobs made with that key alone. Without keys,
everybody who reaches the service may use it; that is why it then listens to its own machine only, unless
ALLOW_ANONYMOUS says otherwise.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import sys
from http import HTTPStatus
from typing import NoReturn

from flask import Flask, Response, g, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.middleware.proxy_fix import ProxyFix

from caching_config import Settings
from mead.job import Job

log = logging.getLogger(__name__)

OPEN = frozenset({"/", "/index", "/healthz", "/readyz", "/docs", "/openapi.json"})
"""What answers without a key: that the service lives, its pages and its description."""
OPEN_FOLDERS = ("/docs/", "/page/")  # what those pages are made of

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


def guard(app: Flask, settings: Settings) -> None:
    """Put the doors in front of every route of `app`.

    Before a request: 401 without a good key where one is needed, 403 for another site's page that may not
    ask, and `g.owner` is set. After it: the headers of security and of CORS.
    """
    keys = [_digest(key.get_secret_value()) for key in settings.api_keys]
    origins = set(settings.cors_origins)
    if settings.trusted_proxies:
        n = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n)  # type: ignore[method-assign]

    def allowed_origin() -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin and (origin in origins or "*" in origins) else None

    @app.before_request
    def let_in() -> Response | None:
        g.owner = ""
        if not keys and not settings.allow_anonymous:
            listening = request.environ.get("SERVER_NAME", "")
            if not is_loopback(listening):  # another server than ours runs the app
                log.error("refused: listens beyond this machine without API keys")
                raise Forbidden(BEYOND_LOOPBACK.format("this service"))
        if _is_preflight():
            return Response(status=HTTPStatus.NO_CONTENT) if allowed_origin() else _refuse_origin()
        if _is_from_another_site() and not allowed_origin():
            _refuse_origin()
        if keys and not is_open(request.path):
            g.owner = _owner(keys)
        return None

    @app.after_request
    def add_headers(answer: Response) -> Response:
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        if answer.cache_control.public:  # a picture is its owner's
            answer.cache_control.public = False
            answer.cache_control.private = True
        elif not answer.cache_control:
            answer.cache_control.no_store = True
        if origins:
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

    Any page can send a form to any address; without keys, nothing else would stop it.
    """
    changes = request.method not in {"GET", "HEAD", "OPTIONS"}
    return changes and request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}


def _refuse_origin() -> NoReturn:
    raise Forbidden("pages of this origin may not use the API; CORS_ORIGINS names those that may")
