"""The API for real use, put together: it queues jobs in Redis and answers when they are done.

Its routes: `mead.http.submission` creates jobs, `mead.http.job_views` shows and cancels them,
`mead.http.metrics` and the health routes below report on the service, `mead.http.openapi` and
`mead.http.page` serve pages. app.py shares `new_app` and serves the same forms without a queue. Nothing here
imports the networks, so the process that answers stays small.
"""

from __future__ import annotations

import errno
import logging

import redis
from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from mead.http import access, concurrency, job_views, metrics, openapi, page, submission
from mead.http.events import Events
from mead.http.forms import ApiError
from mead.http.multipart import FormRequest
from mead.http.openapi import Description, describe
from mead.http.readiness import what_may_go_wrong, why_not_ready
from mead.http.responses import Alive, Ready, error_answer, respond, retry_after
from mead.log import log_requests, reason
from mead.queue.client import connect
from mead.queue.jobs import Jobs
from mead.queue.redis_errors import code_of, explain
from mead.settings import Settings
from mead.storage import Storage

log = logging.getLogger(__name__)

REDIS_SECONDS = 4.0
"""How long a request waits for Redis to answer."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""How the system says that a file finds no room."""


def create_app(settings: Settings | None = None) -> Flask:
    """The API on a queue. Connects to Redis with the first request that needs it.

    `app.extensions["events"].close()` answers every waiting request with 503.
    """
    settings = settings or Settings()
    app = new_app(settings)
    jobs = Jobs(connect(settings.redis_url, REDIS_SECONDS), settings.job_ttl)
    storage = Storage(settings.data_dir)
    events = app.extensions["events"] = Events(jobs)
    open_requests = concurrency.open_requests(settings)
    app.register_blueprint(submission.blueprint(settings, jobs, storage, events, open_requests))
    app.register_blueprint(job_views.blueprint(settings, jobs, storage, events, open_requests))
    app.register_blueprint(_health(settings, jobs, storage, events))
    app.register_blueprint(metrics.blueprint(settings, jobs, storage))
    return app


def new_app(settings: Settings) -> Flask:
    """An app with what every API of ours has: doors, limits, errors in one shape, its pages, and
    the routes that answer as long as the process lives."""
    app = Flask(__name__, static_folder=None)
    app.extensions["settings"] = settings
    app.request_class = FormRequest
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_bytes
    log_requests(app)
    access.guard(app, settings)
    app.register_blueprint(_always())
    app.register_blueprint(openapi.pages(settings))
    app.register_blueprint(page.blueprint())
    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(Exception, _on_bug)

    @app.errorhandler(ApiError)
    def on_api_error(error: ApiError) -> Response:
        answer = error_answer(error.status, error.message, error.field, error.job_id)
        if error.status in (429, 503):
            answer.headers["Retry-After"] = retry_after(settings.client_sleep)
        return answer

    @app.errorhandler(redis.RedisError)
    def on_redis_away(error: redis.RedisError) -> Response:
        if code_of(error) is None and isinstance(error, redis.ResponseError):
            return _on_bug(error)
        why = explain(error)
        log.warning(why, extra={"error": reason(error)})
        return on_api_error(ApiError(503, f"{why}; try again soon"))

    @app.errorhandler(OSError)
    def on_storage(error: OSError) -> Response:
        if error.errno not in FULL:
            return _on_bug(error)
        log.error("the disk is full", extra={"error": error.strerror})
        return on_api_error(ApiError(503, "the disk is full; try again later"))

    return app


def _always() -> Blueprint:
    """What answers as long as the process lives."""
    routes = Blueprint("always", __name__)

    @routes.route("/index", methods=["GET", "POST"])
    @describe(Description({200: ["application/json"]}))
    def index() -> Response:
        """Say hello, in a JSON string."""
        return jsonify("Hello, its up!")

    @routes.get("/healthz")
    @describe(Description({200: [Alive]}))
    def healthz() -> Response:
        """Whether the process lives."""
        return respond(Alive())

    return routes


def _health(settings: Settings, jobs: Jobs, storage: Storage, events: Events) -> Blueprint:
    """Whether the service can work, not just answer."""
    routes = Blueprint("health", __name__)

    @routes.get("/readyz")
    @describe(Description({200: [Ready]}, errors=(503,)))
    def readyz() -> Response:
        """Whether the service can work: Redis, a live inference server for each model, the disk.

        `warnings` says what may yet lose jobs, such as a Redis that forgets them when it is restarted.
        """
        wrong = why_not_ready(settings, jobs, storage)
        if problem := events.problem():
            wrong.append(problem)
        if wrong:
            raise ApiError(503, "; ".join(wrong))
        return respond(Ready(warnings=what_may_go_wrong(jobs) or None))

    return routes


# Errors


def _on_http_error(error: HTTPException) -> Response:
    """Flask's own errors (404, 405, 413, ...), in our shape; their headers (Allow, ...) are kept."""
    answer = error_answer(error.code or 500, error.description or error.name)
    for name, value in error.get_headers(request.environ):
        if name.lower() not in {"content-type", "content-length"}:
            answer.headers[name] = value
    return answer


def _on_bug(error: Exception) -> Response:
    log.exception("failed", extra={"method": request.method}, exc_info=error)
    return error_answer(500, "the server failed; its log says why")
