"""Error handlers: every error is answered with the same JSON object."""

from __future__ import annotations

import logging
import math
from contextlib import suppress

import redis
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from mead.http import access
from mead.http.errors import DISK_FULL, DISK_FULL_ERRNOS, ApiError
from mead.http.responses import error_response
from mead.http.services import current_services
from mead.log import reason
from mead.queue.redis_errors import LASTING, code_of, explain
from mead.settings import Settings
from mead.storage import StorageUnavailableError
from mead.weights.errors import WeightsError

log = logging.getLogger(__name__)


def init_error_handlers(app: Flask, settings: Settings) -> None:
    """Answer all errors of `app`: ours, Flask's, those of Redis and the disk, and bugs."""

    @app.errorhandler(ApiError)
    def on_api_error(error: ApiError) -> Response:
        return error_response(error, settings.client_sleep)

    @app.errorhandler(redis.RedisError)
    def on_redis_error(error: redis.RedisError) -> Response:
        message, code = explain(error), code_of(error)
        wrong: list[str] = []
        if isinstance(error, redis.ResponseError) and code in (None, "WRONGTYPE"):
            wrong = _wrong_keys()
            if not wrong and code is None:
                return _on_bug(error)
            message = "; ".join(wrong) or message
        log.warning(message, extra={"error": reason(error)})
        if wrong or code in LASTING:
            return on_api_error(ApiError(503, message, retry_seconds=math.inf))
        return on_api_error(ApiError(503, f"{message}; try again soon"))

    @app.errorhandler(StorageUnavailableError)
    def on_unavailable_storage(error: StorageUnavailableError) -> Response:
        log.warning(error.strerror, extra={"error": reason(error.__cause__ or error)})
        return on_api_error(ApiError(503, f"{error.strerror}; try again soon"))

    @app.errorhandler(OSError)
    def on_os_error(error: OSError) -> Response:
        if error.errno not in DISK_FULL_ERRNOS:
            return _on_bug(error)
        log.error("the disk is full", extra={"error": error.strerror})
        return on_api_error(ApiError(503, DISK_FULL))

    @app.errorhandler(WeightsError)
    def on_weights_error(error: WeightsError) -> Response:
        log.error("the weights set cannot be used", extra={"error": reason(error)})
        message = "the weights set cannot be used; see the server's log"
        return on_api_error(ApiError(503, message, retry_seconds=math.inf))

    @app.errorhandler(RequestEntityTooLarge)
    def on_too_large(error: RequestEntityTooLarge) -> Response:
        if (
            error.description == RequestEntityTooLarge.description
        ):  # of Flask: the body, or what was told of it
            most = settings.max_upload_bytes
            error.description = f"the request is longer than {most:,} bytes (MAX_UPLOAD_BYTES)"
        return _on_http_error(error)

    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(Exception, _on_bug)


def _wrong_keys() -> list[str]:
    """Keys that may have made a script fail for this client; none if Redis does not say."""
    with suppress(redis.RedisError):
        return current_services().readiness.wrong_keys(access.client(), access.owner())
    return []


def _on_http_error(error: HTTPException) -> Response:
    """Flask's own errors (404, 405, 413, ...). Their headers (Allow, ...) are kept."""
    response = error_response(ApiError(error.code or 500, error.description or error.name))
    for name, value in error.get_headers(request.environ):
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _on_bug(error: Exception) -> Response:
    log.exception("failed", extra={"method": request.method}, exc_info=error)
    return error_response(ApiError(500, "internal server error; see the server's log"))
