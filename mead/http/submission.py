"""The routes that create jobs: check the form, store its pictures, queue the job, answer at its end."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from flask import Blueprint, Response, g, request, url_for
from werkzeug.exceptions import RequestEntityTooLarge

from mead.data_folder import FolderClaimedError
from mead.http import access
from mead.http.concurrency import ConcurrencyLimit
from mead.http.events import ClosedError, Events
from mead.http.forms import ApiError, Forms, read_idempotency_key
from mead.http.openapi import Description, describe
from mead.http.readiness import WRONG_FOLDER, Prerequisites, queue_problem
from mead.http.responses import Accepted, Picture, accepted, ended
from mead.http.sse import EVENT_STREAM, begin_to_wait, hung_up, stream_of, wants_events
from mead.model_spec import ModelSpec
from mead.params import JobParams
from mead.queue.errors import (
    IdempotencyError,
    KeptLimitError,
    QueueFullError,
    TooManyJobsError,
    UnknownJobError,
)
from mead.queue.job import KeptLimits
from mead.queue.jobs import Jobs
from mead.registry import MODELS
from mead.settings import Settings
from mead.storage import Storage

log = logging.getLogger(__name__)

LOOK_AT_CLIENT = 5.0  # seconds between two looks whether a waiting client is still there
NO_WORKER = "no inference server is at work; try again soon"


def blueprint(
    settings: Settings, jobs: Jobs, storage: Storage, events: Events, open_requests: ConcurrencyLimit
) -> Blueprint:
    """The POST of each model."""
    routes = Blueprint("submission", __name__)
    forms = Forms(storage, settings)
    kept = KeptLimits(
        settings.max_kept_jobs,
        settings.max_kept_bytes,
        settings.max_client_kept_jobs,
        settings.max_client_kept_bytes,
    )
    workers = {queue: _Workers(jobs, queue, settings) for queue in settings.queues}
    prerequisites = Prerequisites(settings, jobs, storage)

    def ask(spec: ModelSpec, queue: str) -> Response:
        if _prefers_async() and not wants_events(request):
            return accepted(accept(spec, queue), settings)
        with ExitStack() as held:
            held.callback(open_requests.enter(access.client()))  # refused before there is a job
            job_id = accept(spec, queue)
            if wants_events(request):
                answer = stream_of(job_id, -1, settings, events, held)
                answer.headers["Location"] = url_for("job_views.record", job_id=job_id)
                return answer
            try:
                return wait(job_id, queue)
            except ClosedError:
                raise ApiError(
                    503, "the server is stopping; the job goes on: ask for it", job_id=job_id
                ) from None
            except UnknownJobError:
                raise ApiError(404, f"job {job_id} is not kept any more", job_id=job_id) from None

    def accept(spec: ModelSpec, queue: str) -> str:
        """Check and queue what is asked for; returns the id of its job, which may be an earlier one."""
        if (request.content_length or 0) > settings.max_upload_bytes:
            raise RequestEntityTooLarge
        key = read_idempotency_key(request)
        try:
            prerequisites.check()
        except FolderClaimedError as error:
            log.error(str(error))
            raise ApiError(503, WRONG_FOLDER) from error
        if not workers[queue].any_alive():  # before a picture is decoded in vain
            raise ApiError(503, NO_WORKER)
        _check_room(storage, settings)
        job_id = secrets.token_hex(16)
        made = None
        try:
            form = forms.read(request, spec.params, job_id, spec.required_files)
            pictures = form.params.pictures()
            made = jobs.enqueue(
                job_id,
                spec.type,
                queue,
                _recorded(form.params, pictures),
                owner=access.owner(),
                client=access.client(),
                idempotency_key=key,
                fingerprint=form.fingerprint,
                longest=settings.max_queue_length,
                most=settings.max_jobs_per_client,
                bytes_stored=storage.upload_bytes(pictures.values()),
                kept=kept,
            )
        except redis.RedisError as error:
            made = job_id  # perhaps: its pictures stay until it is known to have no record
            if isinstance(error, redis.ResponseError) and not jobs.outcomes([job_id]):
                made = None  # Redis has refused it
            raise
        except (QueueFullError, TooManyJobsError, KeptLimitError) as error:
            log.info("job refused", extra={"queue": queue, "why": str(error)})
            raise ApiError(429, str(error)) from error
        except IdempotencyError as error:
            raise ApiError(422, str(error), error.field) from error
        finally:
            if made != job_id:
                storage.remove_uploads(_upload_paths(storage, spec, job_id))
        g.job_id = made  # the request's line in the log names it
        if made == job_id:
            log.info("job accepted", extra={"job": job_id, "type": spec.type, "owner": access.owner()})
        return made

    def wait(job_id: str, queue: str) -> Response:
        """Answer when the job has ended; no answer matters to a client that has hung up."""
        nobody_left = workers[queue].watch()
        begin_to_wait(request)
        for job in events.follow(job_id, min(LOOK_AT_CLIENT, settings.worker_ttl / 2)):
            if job is not None and job.ended:
                return ended(job, storage)
            if hung_up(request):
                log.info("the client has hung up", extra={"job": job_id})
                break
            if next(nobody_left):
                raise ApiError(503, NO_WORKER, job_id=job_id)
        return accepted(job_id, settings)

    for spec in MODELS.values():
        routes.add_url_rule(f"/{spec.route}", spec.route, _view(spec, settings, ask), methods=["POST"])
    return routes


def _view(
    spec: ModelSpec, settings: Settings, ask: Callable[[ModelSpec, str], Response]
) -> Callable[[], Response]:
    """The view of a model's POST, described."""

    def view() -> Response:
        return ask(spec, settings.queue(spec))

    view.__doc__ = f"{spec.summary}\n\n{spec.about}"
    description = Description(
        answers={200: [Picture, EVENT_STREAM], 202: [Accepted]},
        errors=(400, 403, 404, 409, 413, 415, 422, 429, 500, 503),
        form=spec.params,
        required_files=spec.required_files,
        headers=("Prefer", "Idempotency-Key"),
        examples=spec.examples,
        about="pictures",
    )
    return describe(description)(view)


class _Workers:
    """Who could do the jobs of a queue.

    A worker that lives is believed to live for another BELIEVED seconds, so that a busy API does not ask
    Redis with each request.
    """

    BELIEVED = 1.0

    def __init__(self, jobs: Jobs, queue: str, settings: Settings) -> None:
        self.jobs = jobs
        self.queue = queue
        self.settings = settings
        self.ttl = settings.worker_ttl
        self._believed_until = 0.0

    def any_alive(self) -> bool:
        """Whether a live worker serves the queue, with the weights that the settings name."""
        now = time.monotonic()
        if now < self._believed_until:
            return True
        alive = queue_problem(self.queue, self.settings, self.jobs.workers().values()) is None
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


def _recorded(params: JobParams, pictures: Mapping[str, Path]) -> dict[str, Any]:
    """Parameters as a job's record holds them: pictures by the names of their files."""
    names = {f"{field}_path": path.name for field, path in pictures.items()}
    return {**params.model_dump(mode="json", exclude_none=True), **names}


def _upload_paths(storage: Storage, spec: ModelSpec, job_id: str) -> list[Path]:
    """Where all pictures that a job of this kind may have would lie."""
    pictures = [name for name in spec.params.model_fields if name.endswith("_path")]
    return [storage.upload_path(job_id, name.removesuffix("_path")) for name in pictures]


def _prefers_async() -> bool:
    """Whether the request carries the preference `respond-async` of RFC 7240."""
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)
