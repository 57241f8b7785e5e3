"""Access control: API keys, and which jobs a request may see.

If API_KEYS is set, each request must send one of the keys, and sees only the jobs made with that key. A key
may have a priority and a number of jobs per minute. Without keys, everybody who reaches the service may use
it: `mead.http.anonymous` restricts who does.
`mead.http.cross_origin` decides which web pages may call the API.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from http import HTTPStatus

from flask import Flask, Response, g, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, Unauthorized
from werkzeug.middleware.proxy_fix import ProxyFix

from mead.api_keys import ApiKey, parse_api_key
from mead.http.anonymous import AnonymousPolicy
from mead.http.cross_origin import CrossOriginPolicy, is_preflight
from mead.queue.job import Job
from mead.settings import Settings

PUBLIC_PATHS = frozenset({"/", "/queue", "/index", "/healthz", "/readyz", "/docs", "/openapi.json"})
"""Paths that need no key: health checks, the pages and the API's description."""
PUBLIC_FOLDERS = ("/docs/", "/page/")  # the assets of these pages
PATH_PREFIX = re.compile(r"(/[\w.~%-]+)*/?", re.ASCII)


def init_access(app: Flask, settings: Settings) -> None:
    """Check every request to `app`, and set `g.owner` and `g.api_key`.

    A request is answered 401 without a valid key where one is needed, and 403 if it comes from another site's
    page that is not allowed or, without keys, names a host that is not the service's.
    """
    listed = [parse_api_key(entry.get_secret_value()) for entry in settings.api_keys]
    keys = {_digest(one.key): one for one in listed}
    anybody = ApiKey("")
    cross_origin = CrossOriginPolicy(settings.cors_origins)
    anonymous = AnonymousPolicy(settings)
    if n := settings.trusted_proxies:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=n, x_proto=n, x_host=n, x_port=n, x_prefix=n
        )

    @app.before_request
    def authenticate() -> Response | None:
        g.owner, g.api_key = "", anybody
        _check_path_prefix()
        if not keys:
            anonymous.check()
        cross_origin.check()
        if is_preflight():
            return Response(status=HTTPStatus.NO_CONTENT)
        if keys and not is_public(request.path):
            digest = _given_key(keys)
            g.owner, g.api_key = digest.hex()[:16], keys[digest]
        return None

    app.after_request(cross_origin.add_headers)


def owner() -> str:
    """The owner of the jobs of this request: a short hash of its API key; "" if no keys are set."""
    return str(g.owner)


def client() -> str:
    """Identifies the client for limits per client: the owner, or without keys a hash of the address."""
    return owner() or _digest(request.remote_addr or "").hex()[:16]


def priority() -> int:
    """The priority of the jobs of this request."""
    return _key().priority


def jobs_per_minute(settings: Settings) -> int:
    """How many jobs this request's key may make in any minute; 0: any number."""
    own = _key().jobs_per_minute
    return settings.max_jobs_per_minute if own is None else own


def may_see(job: Job) -> bool:
    """Whether the job was made with this request's key."""
    return job.owner == owner()


def is_public(path: str) -> bool:
    """Whether a path needs no key."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


def _check_path_prefix() -> None:
    """Check the path prefix, since addresses in answers start with it.

    Raises:
        BadRequest: 400.
    """
    if "HTTP_SCRIPT_NAME" in request.environ:
        raise BadRequest("the header SCRIPT_NAME is not supported; proxies send X-Forwarded-Prefix")
    if not PATH_PREFIX.fullmatch(request.environ.get("SCRIPT_NAME", "")):
        raise BadRequest("X-Forwarded-Prefix: must be a path such as /studio")


def _key() -> ApiKey:
    key: ApiKey = g.api_key
    return key


def _given_key(keys: Iterable[bytes]) -> bytes:
    """The digest of this request's API key, compared in constant time.

    Raises:
        Unauthorized: 401.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    given = request.headers.get("X-API-Key") or (token.strip() if scheme.lower() == "bearer" else "")
    digest = _digest(given)
    matches = [hmac.compare_digest(digest, key) for key in keys]  # all of them, so that time reveals nothing
    if any(matches):
        return digest
    problem = "unknown API key: send a valid one" if given else "send an API key"
    raise Unauthorized(
        f"{problem}, as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        www_authenticate=WWWAuthenticate("bearer", {"realm": "mead"}),
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
