"""The routes of the API for real use, which queues jobs in Redis and answers when they are done.

`new_app`, `always` and the answers are shared with `app.py`, which serves the same forms without a queue.
Nothing here knows the networks, so that the process that answers stays small.
"""

from __future__ import annotations

import base64
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

import redis
from flask import Blueprint, Flask, Response, jsonify, request, send_file, url_for
from werkzeug.exceptions import HTTPException

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead.forms import ApiError, read_form, read_id
from mead.jobs import Job, Jobs, UnknownJobError
from mead.params import JobParams
from mead.storage import Storage
from StyleCLIP.params import StyleCLIPParams

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """A kind of job: the `type` of its records, and the model that reads its parameters."""

    name: str
    params: type[JobParams]


LATENT_REVISION = Kind("lr", LatentRevisionsParams)
STYLECLIP = Kind("sc", StyleCLIPParams)
KINDS = {kind.name: kind for kind in (LATENT_REVISION, STYLECLIP)}


def create_app(settings: Settings | None = None) -> Flask:
    """The API on a queue. Connects to Redis with the first request that needs it."""
    settings = settings or Settings()
    app = new_app(settings)
    jobs = Jobs(connect(settings), settings.job_ttl)
    storage = Storage(settings.data_dir)
    app.register_blueprint(_asking(settings, jobs, storage))
    app.register_blueprint(_looking(settings, jobs, storage))
    app.register_blueprint(_health(settings, jobs, storage))
    return app


def new_app(settings: Settings) -> Flask:
    """An app with what every API of ours has: limits, errors in one shape, and the routes of `always`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_bytes
    app.register_blueprint(always())
    app.register_error_handler(ApiError, _on_api_error)
    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(Exception, _on_bug)

    @app.errorhandler(redis.RedisError)
    def on_redis_away(error: redis.RedisError) -> Response:
        log.warning("Redis is away: %s", error)
        return _unavailable("Redis is away; try again soon", settings)

    return app


# Blueprints


def always() -> Blueprint:
    """What answers as long as the process lives."""
    routes = Blueprint("always", __name__)

    @routes.route("/index", methods=["GET", "POST"])
    def index() -> str:
        return "Hello, its up!"

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="success")

    return routes


def _asking(settings: Settings, jobs: Jobs, storage: Storage) -> Blueprint:
    """The two routes that make a job: door, checks, store, queue, and the answer when it is done."""
    routes = Blueprint("asking", __name__)

    @routes.post("/latent_revision")
    def latent_revision() -> Response:
        return ask(LATENT_REVISION, settings.latentrevisions_queue)

    @routes.post("/styleclip")
    def styleclip() -> Response:
        return ask(STYLECLIP, settings.styleclip_queue, must_have="img")

    def ask(kind: Kind, queue: str, must_have: str | None = None) -> Response:
        job_id = secrets.token_hex(16)
        params = read_form(request, kind.params, job_id, storage, settings)
        if must_have and must_have not in params.pictures():
            raise ApiError(400, f"{must_have}: must be sent, as a file", must_have)
        try:
            if not _served(jobs, queue):
                storage.remove_uploads(job_id)
                return _no_worker(settings)
            jobs.enqueue(job_id, kind.name, queue, params.model_dump(mode="json", exclude_none=True))
        except redis.RedisError:
            storage.remove_uploads(job_id)
            raise
        if _prefers_async():
            return _accepted(job_id, settings)
        while not (job := jobs.wait(job_id, timeout=settings.worker_ttl)).ended:
            if not _served(jobs, queue):
                return _no_worker(settings, id=job_id)
        return _answer(job)

    return routes


def _looking(settings: Settings, jobs: Jobs, storage: Storage) -> Blueprint:
    """The routes that look at a job."""
    routes = Blueprint("looking", __name__)

    @routes.post("/check")
    def check() -> Response:
        job = find(read_id(request), field="id")
        if job.ended:
            return _answer(job)
        answer = jsonify(
            status="processing", id=job.id, rank=jobs.rank(job), steps=job.steps, total_steps=job.total_steps
        )
        answer.headers["Retry-After"] = _seconds(settings.client_sleep)
        return answer

    @routes.get("/jobs/<job_id>")
    def record(job_id: str) -> Response:
        job = find(job_id)
        parameters = KINDS[job.type].params.model_validate(job.parameters)
        own = job.model_dump(mode="json", exclude=set(job.parameters), exclude_none=True)
        asked = parameters.model_dump(mode="json", exclude_none=True)
        return jsonify(**asked, **own, rank=jobs.rank(job))

    @routes.get("/jobs/<job_id>/image")
    def image(job_id: str) -> Response:
        job = find(job_id)
        if job.out_path is None:
            raise ApiError(409, f"job {job.id} has no picture: it is {job.status}")
        try:
            return send_file(job.out_path, "image/png", max_age=settings.job_ttl)
        except FileNotFoundError:
            raise ApiError(404, f"the picture of job {job.id} is not kept any more") from None

    def find(job_id: str, field: str | None = None) -> Job:
        try:
            return jobs.get(job_id)
        except UnknownJobError:
            raise ApiError(404, f"there is no job {job_id}", field) from None

    return routes


def _health(settings: Settings, jobs: Jobs, storage: Storage) -> Blueprint:
    """Whether the service can work, not just answer."""
    routes = Blueprint("health", __name__)

    @routes.get("/readyz")
    def readyz() -> Response:
        wrong = []
        try:
            for queue in (settings.latentrevisions_queue, settings.styleclip_queue):
                if not _served(jobs, queue):
                    wrong.append(f"no live worker serves {queue}")
        except redis.RedisError as error:
            wrong.append(f"Redis is away ({error})")
        try:
            storage.check()
        except OSError as error:
            wrong.append(f"results cannot be stored ({error})")
        return _unavailable("; ".join(wrong), settings) if wrong else jsonify(status="success")

    return routes


# Answers


def _answer(job: Job) -> Response:
    """What is said of a job that has ended."""
    if job.out_path is not None:
        try:
            return success(job.id, Path(job.out_path).read_bytes())
        except FileNotFoundError:
            raise ApiError(404, f"the picture of job {job.id} is not kept any more", "id") from None
    if job.error_kind == "input":
        raise ApiError(422, str(job.error), job.error_field)
    raise ApiError(500, job.error or f"job {job.id} was {job.status}")


def success(job_id: str, png: bytes) -> Response:
    """The answer with a finished picture."""
    return jsonify(status="success", image=base64.b64encode(png).decode("ascii"), id=job_id)


def _accepted(job_id: str, settings: Settings) -> Response:
    answer = jsonify(status="success", message="upload successful", id=job_id)
    answer.status_code = 202
    answer.headers["Location"] = url_for("looking.record", job_id=job_id)
    answer.headers["Preference-Applied"] = "respond-async"
    answer.headers["Retry-After"] = _seconds(settings.client_sleep)
    return answer


def _error(status: int, message: str, field: str | None = None, **more: str) -> Response:
    answer = jsonify(status="error", message=message, field=field, **more)
    answer.status_code = status
    return answer


def _unavailable(message: str, settings: Settings, **more: str) -> Response:
    answer = _error(503, message, **more)
    answer.headers["Retry-After"] = _seconds(settings.client_sleep)
    return answer


def _no_worker(settings: Settings, **more: str) -> Response:
    return _unavailable("no inference server is at work; try again soon", settings, **more)


def _on_api_error(error: ApiError) -> Response:
    return _error(error.status, error.message, error.field)


def _on_http_error(error: HTTPException) -> Response:
    """Flask's own errors (404, 405, 413, ...), in our shape; their headers (Allow, ...) are kept."""
    answer = _error(error.code or 500, error.description or error.name)
    for name, value in error.get_headers(request.environ):
        if name.lower() not in {"content-type", "content-length"}:
            answer.headers[name] = value
    return answer


def _on_bug(error: Exception) -> Response:
    log.exception("%s %s failed", request.method, request.path, exc_info=error)
    return _error(500, "the server failed; its log says why")


def _served(jobs: Jobs, queue: str) -> bool:
    return any(queue in queues for queues in jobs.workers().values())


def _prefers_async() -> bool:
    """Whether the request carries the preference `respond-async` of RFC 7240."""
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)


def _seconds(seconds: float) -> str:
    return str(max(1, round(seconds)))
