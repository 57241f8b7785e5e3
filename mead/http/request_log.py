"""Request ids, and the log line of each request."""

from __future__ import annotations

import logging
import re
import secrets
import time

from flask import Flask, Response, g, request

from mead.log import request_id

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
_VALID_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_DEBUG_ONLY = frozenset({"/healthz", "/readyz", "/metrics"})  # polled every few seconds


def init_request_log(app: Flask) -> None:
    """Give each request an id, which its response and its log lines carry, and log each response.

    A client's own X-Request-ID is kept if it has at most 64 letters, digits and `_.:-`. The job of a request
    is the one in its path, or `g.job_id`.
    """

    @app.before_request
    def begin() -> None:
        given = request.headers.get(REQUEST_ID, "")
        g.request_id = given if _VALID_ID.fullmatch(given) else secrets.token_hex(8)
        g.started = time.monotonic()
        request_id.set(g.request_id)

    @app.after_request
    def end(response: Response) -> Response:
        response.headers[REQUEST_ID] = g.request_id
        level = logging.DEBUG if request.path in _DEBUG_ONLY else logging.INFO
        fields = {
            "method": request.method,
            "route": request.url_rule.rule if request.url_rule else None,
            "status": response.status_code,
            "seconds": round(time.monotonic() - g.started, 3),
        }
        if job_id := g.get("job_id") or (request.view_args or {}).get("job_id"):
            fields["job"] = job_id
        log.log(level, "answered", extra=fields)
        return response

    @app.teardown_request
    def reset(error: BaseException | None) -> None:
        request_id.set(None)
