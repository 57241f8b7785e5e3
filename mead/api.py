"""The routes of the API for real use, which queues jobs in Redis and answers when they are done.

`new_app`, `always` and the answers are shared with `app.py`, which serves the same forms without a queue.
Nothing here knows the networks, so that the process that answers stays small.
"""

from __future__ import annotations

import base64
import errno
import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis
from flask import Blueprint, Flask, Response, g, jsonify, request, send_file, url_for
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead import access, page
from mead.answers import Accepted, Alive, Answer, Cancelled, Change, Error, Picture, Processing, Record
from mead.events import ClosedError, Events
from mead.forms import (
    ApiError,
    Forms,
    IdForm,
    read_id,
    read_idempotency_key,
    read_last_event_id,
    refuse_fields,
)
from mead.job import Job
from mead.jobs import IdempotencyError, Jobs, QueueFullError, TooManyJobsError, UnknownJobError
from mead.log import log_requests
from mead.metrics import blueprint as metrics
from mead.metrics import why_not_ready
from mead.openapi import Description, describe, pages
from mead.params import JobParams
from mead.storage import Storage
from mead.streams import EVENT_STREAM, hung_up, stream, told, wants_events
from StyleCLIP.params import StyleCLIPParams

log = logging.getLogger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""How the system says that a file finds no room."""

LOOK_AT_CLIENT = 5.0  # seconds between two looks whether a waiting client is still there


@dataclass(frozen=True)
class Kind:
    """A kind of job: the `type` of its records, and the model that reads its parameters."""

    name: str
    params: type[JobParams]
    must: tuple[str, ...] = ()  # pictures it cannot do without


LATENT_REVISION = Kind("lr", LatentRevisionsParams)
STYLECLIP = Kind("sc", StyleCLIPParams, must=("img",))
KINDS = {kind.name: kind for kind in (LATENT_REVISION, STYLECLIP)}

LATENT_REVISION_FORMS: dict[str, dict[str, object]] = {
    "words": {"prompt": "a boat on the sea at sunset"},
    "a second text": {"prompt": "a queen", "w0": 5, "text_to_add": "purple eyes", "w1": 2, "seed": 7},
    "another size": {"prompt": "a red house under the moon", "size": "128x96", "iterations": 60},
}
STYLECLIP_FORMS: dict[str, dict[str, object]] = {
    "words for a face": {"prompt": "a person with blue hair", "iterations": 50}
}


def create_app(settings: Settings | None = None) -> Flask:
    """The API on a queue. Connects to Redis with the first request that needs it.

    `app.extensions["events"].close()` answers every waiting request with 503.
    """
    settings = settings or Settings()
    app = new_app(settings)
    jobs = Jobs(connect(settings), settings.job_ttl)
    storage = Storage(settings.data_dir)
    events = app.extensions["events"] = Events(jobs)
    app.register_blueprint(_asking(settings, jobs, storage, events))
    app.register_blueprint(_looking(settings, jobs, storage, events))
    app.register_blueprint(_health(settings, jobs, storage))
    app.register_blueprint(metrics(settings, jobs, storage))
    return app


def new_app(settings: Settings) -> Flask:
    """An app with what every API of ours has: doors, limits, errors in one shape, the routes of `always`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_bytes
    log_requests(app)
    access.guard(app, settings)
    app.register_blueprint(always())
    app.register_blueprint(pages(settings))
    app.register_blueprint(page.blueprint())
    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(Exception, _on_bug)

    @app.errorhandler(ApiError)
    def on_api_error(error: ApiError) -> Response:
        answer = _error(error.status, error.message, error.field, error.job_id)
        if error.status in (429, 503):
            answer.headers["Retry-After"] = _seconds(settings.client_sleep)
        return answer

    @app.errorhandler(redis.RedisError)
    def on_redis_away(error: redis.RedisError) -> Response:
        log.warning("Redis is away", extra={"error": type(error).__name__})
        return on_api_error(ApiError(503, "Redis is away; try again soon"))

    @app.errorhandler(OSError)
    def on_storage(error: OSError) -> Response:
        if error.errno not in FULL:
            return _on_bug(error)
        log.error("the disk is full", extra={"error": error.strerror})
        return on_api_error(ApiError(503, "the disk is full; try again later"))

    return app


# Blueprints


def always() -> Blueprint:
    """What answers as long as the process lives."""
    routes = Blueprint("always", __name__)

    @routes.route("/index", methods=["GET", "POST"])
    @describe(Description({200: ["text/html"]}))
    def index() -> str:
        """Say hello."""
        return "Hello, its up!"

    @routes.get("/healthz")
    @describe(Description({200: [Alive]}))
    def healthz() -> Response:
        """Whether the process lives."""
        return _answer(Alive())

    return routes


def _asking(settings: Settings, jobs: Jobs, storage: Storage, events: Events) -> Blueprint:
    """The two routes that make a job: door, checks, store, queue, and the answer when it is done."""
    routes = Blueprint("asking", __name__)
    forms = Forms(storage, settings)
    queues = (settings.latentrevisions_queue, settings.styleclip_queue)
    workers = {queue: _Workers(jobs, queue, settings.worker_ttl) for queue in queues}

    def described(kind: Kind, examples: Mapping[str, Mapping[str, object]]) -> Description:
        return Description(
            answers={200: [Picture, EVENT_STREAM], 202: [Accepted]},
            errors=(400, 403, 404, 409, 413, 415, 422, 429, 500, 503),
            form=kind.params,
            must=kind.must,
            headers=("Prefer", "Idempotency-Key"),
            examples=examples,
            about="pictures",
        )

    @routes.post("/latent_revision")
    @describe(described(LATENT_REVISION, LATENT_REVISION_FORMS))
    def latent_revision() -> Response:
        """Make a picture from words.

        A second text, a picture to move towards and one to move away from can be added, each with its weight;
        `img` is a picture to start from.
        """
        return ask(LATENT_REVISION, settings.latentrevisions_queue)

    @routes.post("/styleclip")
    @describe(described(STYLECLIP, STYLECLIP_FORMS))
    def styleclip() -> Response:
        """Edit the photo of a face by words."""
        return ask(STYLECLIP, settings.styleclip_queue)

    def ask(kind: Kind, queue: str) -> Response:
        job_id = accept(kind, queue)
        if wants_events(request):
            answer = _stream(job_id, -1, settings, events)
            answer.headers["Location"] = url_for("looking.record", job_id=job_id)
            return answer
        if _prefers_async():
            return _accepted(job_id, settings)
        try:
            return wait(job_id, queue)
        except ClosedError:
            raise ApiError(
                503, "the server is stopping; the job goes on: ask for it", job_id=job_id
            ) from None
        except UnknownJobError:
            raise ApiError(404, f"job {job_id} is not kept any more", job_id=job_id) from None

    def accept(kind: Kind, queue: str) -> str:
        """Check and queue what is asked for; returns the id of its job, which may be an earlier one."""
        if (request.content_length or 0) > settings.max_upload_bytes:
            raise RequestEntityTooLarge
        key = read_idempotency_key(request)
        if not workers[queue].any_alive():  # before a picture is decoded in vain
            raise ApiError(503, NO_WORKER)
        _check_room(storage, settings)
        job_id = secrets.token_hex(16)
        form = forms.read(request, kind.params, job_id, kind.must)
        accepted = None
        try:
            accepted = jobs.enqueue(
                job_id,
                kind.name,
                queue,
                form.params.model_dump(mode="json", exclude_none=True),
                owner=access.owner(),
                client=access.client(),
                idempotency_key=key,
                fingerprint=form.fingerprint,
                longest=settings.max_queue_length,
                most=settings.max_jobs_per_client,
            )
        except redis.RedisError:
            accepted = job_id  # perhaps: its pictures stay until it is known to have no record
            raise
        except (QueueFullError, TooManyJobsError) as error:
            log.info("job refused", extra={"queue": queue, "why": str(error)})
            raise ApiError(429, str(error)) from error
        except IdempotencyError as error:
            raise ApiError(422, str(error), error.field) from error
        finally:
            if accepted != job_id:
                storage.remove_uploads(form.params.pictures().values())
        g.job_id = accepted  # the request's line in the log names it
        if accepted == job_id:
            log.info("job accepted", extra={"job": job_id, "type": kind.name, "owner": access.owner()})
        return accepted

    def wait(job_id: str, queue: str) -> Response:
        """Answer when the job has ended; no answer matters to a client that has hung up."""
        nobody_left = workers[queue].watch()
        for job in events.follow(job_id, min(LOOK_AT_CLIENT, settings.worker_ttl / 2)):
            if job is not None and job.ended:
                return _ended(job)
            if hung_up(request):
                log.info("the client has hung up", extra={"job": job_id})
                break
            if next(nobody_left):
                raise ApiError(503, NO_WORKER, job_id=job_id)
        return _accepted(job_id, settings)

    return routes


def _looking(settings: Settings, jobs: Jobs, storage: Storage, events: Events) -> Blueprint:
    """The routes that look at a job, and the one that cancels it."""
    routes = Blueprint("looking", __name__)

    @routes.post("/check")
    @describe(
        Description(
            {200: [Picture, Processing]},
            errors=(400, 403, 404, 409, 413, 422, 500, 503),
            form=IdForm,
            examples={"a job": {"id": "8d3f0c6f2b1e4c55a6b1f0c2d4e6a798"}},
            about="jobs",
        )
    )
    def check() -> Response:
        """The picture of a job, or how far it is."""
        job = find(read_id(request), field="id")
        return _ended(job) if job.ended else _processing(job, jobs, settings)

    @routes.get("/jobs/<job_id>")
    @describe(Description({200: [Record]}, errors=(400, 404, 503), about="jobs"))
    def record(job_id: str) -> Response:
        """The whole record of a job."""
        refuse_fields(request)
        return _answer(_record(find(job_id), jobs))

    @routes.delete("/jobs/<job_id>")
    @describe(Description({200: [Cancelled]}, errors=(400, 403, 404, 409, 503), about="jobs"))
    def cancel(job_id: str) -> Response:
        """Cancel a job.

        One that waits ends at once; one that runs, at its next step. Its record stays for the retention time.
        """
        refuse_fields(request)
        job = find(job_id)
        try:
            if not jobs.cancel(job_id):
                raise ApiError(409, f"job {job_id} has ended already", job_id=job_id)
        except UnknownJobError:
            raise _unknown(job_id) from None
        storage.remove_uploads(job.pictures)
        log.info("job cancelled", extra={"job": job_id, "was": job.status})
        return _answer(Cancelled(id=job_id))

    @routes.get("/jobs/<job_id>/image")
    @describe(Description({200: ["image/png"]}, errors=(400, 404, 409, 503), about="jobs"))
    def image(job_id: str) -> Response:
        """The picture of a job that has succeeded."""
        refuse_fields(request)
        return picture(find(job_id))

    @routes.get("/jobs/<job_id>/preview")
    @describe(Description({200: ["image/png"], 202: [Processing]}, errors=(400, 404, 409, 503), about="jobs"))
    def preview(job_id: str) -> Response:
        """The picture so far.

        Previews are drawn about once a second while somebody asks for them: until there is one, 202 says how
        far the job is. Of a job that has succeeded, its picture.
        """
        refuse_fields(request)
        job = find(job_id)
        if job.ended:
            return picture(job)
        jobs.ask_preview(job_id)
        try:
            answer = send_file(storage.preview_path(job_id), "image/png", etag=False)
        except FileNotFoundError:
            answer = _processing(job, jobs, settings)
            answer.status_code = 202
            answer.headers["Location"] = url_for("looking.record", job_id=job_id)
            return answer
        answer.cache_control.clear()
        answer.cache_control.no_store = True
        return answer

    @routes.get("/jobs/<job_id>/events", endpoint="events")
    @describe(
        Description(
            {200: [EVENT_STREAM], 204: []},
            errors=(400, 404, 503),
            headers=("Last-Event-ID",),
            about="jobs",
        )
    )
    def follow(job_id: str) -> Response:
        """How a job gets on, as server-sent events.

        Each has an id; a client that comes back with the last one as `Last-Event-ID` (browsers do) gets what
        came after it, and 204 if nothing ever will.
        """
        refuse_fields(request)
        seen = read_last_event_id(request)
        job = find(job_id)
        if job.ended and seen >= job.seq:
            return Response(status=204)
        if request.method == "HEAD":
            return stream(iter(()), settings.client_sleep)
        try:
            return _stream(job_id, seen, settings, events)
        except UnknownJobError:
            raise _unknown(job_id) from None

    def find(job_id: str, field: str | None = None) -> Job:
        """The job, if this request may see it: else there is none, for all it can tell."""
        try:
            job = jobs.get(job_id)
        except UnknownJobError:
            raise _unknown(job_id, field) from None
        if not access.may_see(job):
            raise _unknown(job_id, field)
        return job

    def picture(job: Job) -> Response:
        if job.out_path is None:
            raise ApiError(409, f"job {job.id} has no picture: it is {job.status}", job_id=job.id)
        try:
            return send_file(job.out_path, "image/png", max_age=settings.job_ttl)
        except FileNotFoundError:
            raise _not_kept(job) from None

    return routes


def _health(settings: Settings, jobs: Jobs, storage: Storage) -> Blueprint:
    """Whether the service can work, not just answer."""
    routes = Blueprint("health", __name__)

    @routes.get("/readyz")
    @describe(Description({200: [Alive]}, errors=(503,)))
    def readyz() -> Response:
        """Whether the service can work: Redis, a live inference server for each model, the disk."""
        wrong = why_not_ready(settings, jobs, storage)
        if wrong:
            raise ApiError(503, "; ".join(wrong))
        return _answer(Alive())

    return routes


# Answers

NO_WORKER = "no inference server is at work; try again soon"


def success(job_id: str, png: bytes) -> Response:
    """The answer with a finished picture."""
    return _answer(Picture(image=base64.b64encode(png).decode("ascii"), id=job_id))


def _answer(answer: Answer, status: int = 200) -> Response:
    response = jsonify(answer.content())
    response.status_code = status
    return response


def _error(status: int, message: str, field: str | None = None, job_id: str | None = None) -> Response:
    return _answer(Error(message=message, field=field, id=job_id), status)


def _accepted(job_id: str, settings: Settings) -> Response:
    answer = _answer(Accepted(id=job_id), 202)
    answer.headers["Location"] = url_for("looking.record", job_id=job_id)
    answer.headers["Preference-Applied"] = "respond-async"
    answer.headers["Retry-After"] = _seconds(settings.client_sleep)
    return answer


def _processing(job: Job, jobs: Jobs, settings: Settings) -> Response:
    answer = _answer(Processing(id=job.id, rank=jobs.rank(job), steps=job.steps, total_steps=job.total_steps))
    answer.headers["Retry-After"] = _seconds(settings.client_sleep)
    return answer


def _ended(job: Job) -> Response:
    """What is said of a job that has ended."""
    if job.out_path is None:
        raise _failure(job)
    try:
        return success(job.id, Path(job.out_path).read_bytes())
    except FileNotFoundError:
        raise _not_kept(job) from None


def _failure(job: Job) -> ApiError:
    """Why an ended job has no picture."""
    if job.status == "cancelled":
        return ApiError(409, f"job {job.id} was cancelled", job_id=job.id)
    status = 422 if job.error_kind == "input" else 500
    return ApiError(status, job.error or f"job {job.id} failed", job.error_field, job.id)


def _not_kept(job: Job) -> ApiError:
    return ApiError(404, f"the picture of job {job.id} is not kept any more", job_id=job.id)


def _unknown(job_id: str, field: str | None = None) -> ApiError:
    return ApiError(404, f"there is no job {job_id}", field)


def _record(job: Job, jobs: Jobs) -> Record:
    """What anybody may know of a job: no path of this machine."""
    params = KINDS[job.type].params.model_validate(job.parameters)
    paths = {name for name in type(params).model_fields if name.endswith("_path")}
    own = {name: value for name, value in job if name in Record.model_fields and value is not None}
    asked = params.model_dump(mode="json", exclude_none=True, exclude=paths)
    return Record(**asked, **own, files=sorted(params.pictures()), image=_image(job), rank=jobs.rank(job))


def _image(job: Job) -> str | None:
    return url_for("looking.image", job_id=job.id) if job.status == "succeeded" else None


# Waiting


def _stream(job_id: str, seen: int, settings: Settings, events: Events) -> Response:
    """The job's events from here on.

    Raises:
        UnknownJobError, redis.RedisError, ClosedError: before anything is sent.
    """
    changes = events.follow(job_id, settings.sse_heartbeat)
    asked = request._get_current_object()  # type: ignore[attr-defined]  # the stream outlives its context

    def again() -> Iterator[Job | None]:
        yield first
        yield from changes

    try:
        first = next(changes)
    except ClosedError:
        raise ApiError(503, "the server is stopping; try again soon", job_id=job_id) from None
    base = url_for("looking.record", job_id=job_id)

    def tell(job: Job) -> Change:
        failure = _failure(job) if job.ended and job.out_path is None else None
        return Change(
            id=job.id,
            status=job.status,
            steps=job.steps,
            total_steps=job.total_steps,
            loss=job.loss,
            rank=events.jobs.rank(job) if job.status == "queued" else None,
            image=f"{base}/image" if job.status == "succeeded" else None,
            message=failure and failure.message,
            field=failure and failure.field,
        )

    return stream(
        told(
            again(),
            seen,
            tell,
            gone=lambda: hung_up(asked),
            farewell=lambda why: Error(message=why, field=None, id=job_id),
        ),
        settings.client_sleep,
    )


class _Workers:
    """Who could do the jobs of a queue.

    A worker that lives is believed to live for another BELIEVED seconds, so that a busy API does not ask
    Redis with each request.
    """

    BELIEVED = 1.0

    def __init__(self, jobs: Jobs, queue: str, ttl: float) -> None:
        self.jobs = jobs
        self.queue = queue
        self.ttl = ttl
        self._believed_until = 0.0

    def any_alive(self) -> bool:
        """Whether a live worker serves the queue."""
        now = time.monotonic()
        if now < self._believed_until:
            return True
        alive = any(self.queue in heartbeat.queues for heartbeat in self.jobs.workers().values())
        if alive:
            self._believed_until = now + self.BELIEVED
        return alive

    def watch(self) -> Iterator[bool]:
        """Tells, each time it is asked, whether none is left; it looks now and then, not each time.

        None is left when there was none twice in a row: workers need a moment to be heard of again after
        Redis was away.
        """
        missed = 0
        next_look = time.monotonic() + self.ttl / 2
        while True:
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + self.ttl / 2
                try:
                    missed = 0 if self.any_alive() else missed + 1
                except redis.RedisError:
                    missed = 0
            yield missed > 1


def _check_room(storage: Storage, settings: Settings) -> None:
    """Refuse a job whose pictures might not find room, while there still is some.

    Raises:
        ApiError: 503.
    """
    if storage.free_bytes() < settings.min_free_disk_bytes:
        raise ApiError(503, "the disk is full; try again later")


# Requests and errors


def _on_http_error(error: HTTPException) -> Response:
    """Flask's own errors (404, 405, 413, ...), in our shape; their headers (Allow, ...) are kept."""
    answer = _error(error.code or 500, error.description or error.name)
    for name, value in error.get_headers(request.environ):
        if name.lower() not in {"content-type", "content-length"}:
            answer.headers[name] = value
    return answer


def _on_bug(error: Exception) -> Response:
    log.exception("failed", extra={"method": request.method}, exc_info=error)
    return _error(500, "the server failed; its log says why")


def _prefers_async() -> bool:
    """Whether the request carries the preference `respond-async` of RFC 7240."""
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)


def _seconds(seconds: float) -> str:
    return str(max(1, round(seconds)))
