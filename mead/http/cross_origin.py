"""Requests from web pages: CORS, protection against cross-site requests, and security headers."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from flask import Response, request
from werkzeug.exceptions import Forbidden

from mead.origins import normal_origin

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer: our pages load nothing from other sites and cannot be framed."""

ALLOWED_METHODS = "GET, POST, PUT, DELETE"
ALLOWED_HEADERS = (
    "Authorization, X-API-Key, Content-Type, Prefer, Idempotency-Key, Last-Event-ID, X-Request-ID"
)
EXPOSED_HEADERS = "Location, Retry-After, Preference-Applied, X-Request-ID, WWW-Authenticate"
PREFLIGHT_MAX_AGE = 600  # seconds

FORBIDDEN_ORIGIN = (
    "pages of this origin may not call the API: add it to CORS_ORIGINS; if this is the service's own page "
    "behind a reverse proxy, set TRUSTED_PROXIES"
)


class CrossOriginPolicy:
    """Which origins' pages may call the API.

    Args:
        origins: CORS_ORIGINS; "*" is any.
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._any = "*" in origins
        self._origins = {normal_origin(origin) for origin in origins if origin != "*"}

    def check(self) -> None:
        """Check this request.

        Raises:
            Forbidden: it is a preflight or a changing request of a page whose origin is not allowed.
        """
        if (is_preflight() or _is_cross_site()) and self._allowed_origin() is None:
            raise Forbidden(FORBIDDEN_ORIGIN)

    def add_headers(self, response: Response) -> Response:
        """Add the security and CORS headers; keep shared caches from storing the response."""
        present = {name.lower() for name, _ in response.headers}
        response.headers.extend(
            (name, value) for name, value in SECURITY_HEADERS.items() if name.lower() not in present
        )
        cache = response.cache_control  # parsed on each access
        if cache.public:  # pictures belong to their owners
            cache.public = False
            cache.private = True
        elif not cache:
            cache.no_store = True
        if self._origins or self._any:
            response.vary.add("Origin")
        if origin := self._allowed_origin():
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            if is_preflight():
                response.headers["Access-Control-Allow-Methods"] = ALLOWED_METHODS
                response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
                response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_MAX_AGE)
        return response

    def _allowed_origin(self) -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin and (self._any or _normal(origin) in self._origins) else None


def is_preflight() -> bool:
    """Whether this is a CORS preflight request."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _is_cross_site() -> bool:
    """Whether a browser sends this request for another site's page, and it would change something.

    Any page can submit a form to any address, and without keys nothing else would stop it. Browsers send the
    page's origin in Origin. Over https and to this machine they also send Sec-Fetch-Site: a proxy may have
    changed our scheme and port, but not our name.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return False
    site = request.headers.get("Sec-Fetch-Site")
    if site in {"cross-site", "same-site"}:
        return True
    origin = request.headers.get("Origin")
    if not origin:  # not a browser
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
