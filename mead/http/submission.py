"""The routes that create jobs: check the form, store its pictures, queue the job, answer when it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import redis
from flask import Blueprint, Response, g, request, url_for
from werkzeug.exceptions import RequestEntityTooLarge

from mead.http import access, continuation
from mead.http.description import Description, describe
from mead.http.errors import NO_WORKER, ApiError, JobExpiredError
from mead.http.forms import Form, check_one
from mead.http.headers import prefers_async, read_idempotency_key
from mead.http.job_stream import job_stream_response
from mead.http.openapi_texts import EVENT_STREAM
from mead.http.request_socket import is_disconnected, start_waiting
from mead.http.responses import accepted_response, result_response
from mead.http.schemas import Accepted, Picture
from mead.http.services import Services, current_services
from mead.http.sse import wants_events
from mead.http.uploads import PendingUploads
from mead.model_spec import ModelSpec
from mead.params import JobParams
from mead.queue.errors import (
    IdempotencyError,
    KeptLimitError,
    QueueFullError,
    TooFastError,
    TooManyJobsError,
    UnknownJobError,
)
from mead.queue.job import Job, KeptLimits
from mead.registry import MODELS
from mead.settings import Settings
from mead.storage import Storage
from mead.webhooks.form import WebhookForm
from mead.weights.notes import notes_on

log = logging.getLogger(__name__)

DISCONNECT_CHECK_SECONDS = 5.0  # between two checks whether a waiting client is still connected


def blueprint() -> Blueprint:
    """The POST of each model."""
    routes = Blueprint("submission", __name__)
    for spec in MODELS.values():
        routes.add_url_rule(f"/{spec.route}", spec.route, _view(spec), methods=["POST"])
    return routes


def _view(spec: ModelSpec) -> Callable[[], Response]:
    """The view of a model's POST, described."""

    def view() -> Response:
        return submit(spec, current_services())

    view.__doc__ = f"{spec.summary}\n\n{spec.about}"
    description = Description(
        answers={200: [Picture, EVENT_STREAM], 202: [Accepted]},
        errors=(400, 403, 404, 409, 413, 415, 422, 429, 500, 503),
        form=spec.params,
        further=WebhookForm,
        required_files=spec.required_files,
        headers=("Prefer", "Idempotency-Key"),
        continues=continuation.about(spec),
        examples=spec.examples,
        tag="pictures",
    )
    return describe(description)(view)


def submit(spec: ModelSpec, services: Services) -> Response:
    """Queue the jobs of this request; answer as the client prefers: at once, with events or at the end."""
    streams = wants_events(request)
    if prefers_async(request) and not streams:
        return accepted_response(*accept(spec, services), services.settings)
    with ExitStack() as cleanup:
        cleanup.callback(services.open_requests.enter(access.client()))  # before a job is created
        job_ids, notes = accept(spec, services, streams)
        try:
            if streams:
                response = job_stream_response(job_ids[0], -1, services, cleanup)
                response.headers["Location"] = url_for("job_views.record", job_id=job_ids[0])
                return response
            return wait(job_ids, notes, services.settings.queue(spec), services)
        except UnknownJobError as error:
            raise JobExpiredError(error.args[0]) from None


def accept(
    spec: ModelSpec, services: Services, streamed: bool = False
) -> tuple[Sequence[str], Sequence[str]]:
    """Check this request and queue its jobs.

    Args:
        streamed: whether the answer is to be a stream of events.

    Returns:
        The jobs' ids, or an earlier request's (Idempotency-Key), and the notes on them. The inference server
        writes the same notes into the records; one of an older version would take them for a parameter.

    Raises:
        ApiError, RequestEntityTooLarge, redis.RedisError, OSError
    """
    if (request.content_length or 0) > services.settings.max_upload_bytes:
        raise RequestEntityTooLarge
    idempotency_key = read_idempotency_key(request)
    services.readiness.check_submission(services.settings.queue(spec))
    with PendingUploads(services.storage) as uploads:
        if continuation.goes_on(request, spec):
            form = continuation.read(request, spec, uploads, services)
        else:
            form = services.forms.read(request, spec.params, uploads, spec.required_files, webhooks=True)
        if streamed:
            check_one(form.params)
        notes = notes_on(form.params, services.settings.weights)
        try:
            queued_ids = _enqueue(uploads, spec, form, idempotency_key, services)
        except redis.RedisError as error:
            uploads.keep()  # the jobs may be queued although the answer was lost
            if isinstance(error, redis.ResponseError) and not services.jobs.outcomes(uploads.job_ids):
                uploads.remove()  # Redis has refused them
            raise
        if queued_ids == uploads.job_ids:
            uploads.keep()
            for job_id in queued_ids:
                log.info("job accepted", extra={"job": job_id, "type": spec.type, "owner": access.owner()})
    g.job_id = queued_ids[0]  # for the request's log line
    return queued_ids, notes


def _enqueue(
    uploads: PendingUploads,
    spec: ModelSpec,
    form: Form[JobParams],
    idempotency_key: str | None,
    services: Services,
) -> list[str]:
    settings = services.settings
    queue = settings.queue(spec)
    a_minute = access.jobs_per_minute(settings)
    if 0 < a_minute < form.params.n:
        raise ApiError(422, f"n: at most {a_minute} jobs a minute are allowed", "n")
    variants = zip(uploads.job_ids, form.params.variants(), strict=True)
    try:
        return services.jobs.enqueue_group(
            {
                job_id: {**_recorded(params, job_id, services.storage), **form.also}
                for job_id, params in variants
            },
            spec.type,
            queue,
            owner=access.owner(),
            client=access.client(),
            idempotency_key=idempotency_key,
            fingerprint=form.fingerprint,
            weights=services.readiness.recorded_weights(queue),
            priority=access.priority(),
            longest=settings.max_queue_length,
            most=settings.max_jobs_per_client,
            a_minute=a_minute,
            bytes_stored=uploads.bytes,
            kept=_kept_limits(settings),
        )
    except (QueueFullError, TooManyJobsError, TooFastError, KeptLimitError) as error:
        log.info("job refused", extra={"queue": queue, "why": str(error)})
        seconds = error.seconds if isinstance(error, TooFastError) else None
        raise ApiError(429, str(error), retry_seconds=seconds) from error
    except IdempotencyError as error:
        raise ApiError(422, str(error), error.field) from error


def wait(job_ids: Sequence[str], notes: Sequence[str], queue: str, services: Services) -> Response:
    """Answer when the jobs have ended, or with 202 if the client disconnects first.

    Raises:
        ApiError: a job has no picture, no worker is left, or the server is shutting down.
        UnknownJobError: a job's record was removed.
    """
    workers_lost = services.readiness.workers_lost(queue)
    start_waiting(request)
    pulse = min(DISCONNECT_CHECK_SECONDS, services.settings.worker_ttl / 2)
    ended: list[Job] = []
    for job_id in job_ids:
        for job in services.events.follow(job_id, pulse):
            if job is not None and job.ended:
                ended.append(job)
                break
            if is_disconnected(request):
                log.info("the client has hung up", extra={"job": job_id})
                return accepted_response(job_ids, notes, services.settings)
            if next(workers_lost):
                raise ApiError(503, NO_WORKER, job_id=job_id)
    return result_response(ended, services.storage)


def _kept_limits(settings: Settings) -> KeptLimits:
    return KeptLimits(
        settings.max_kept_jobs,
        settings.max_kept_bytes,
        settings.max_client_kept_jobs,
        settings.max_client_kept_bytes,
    )


def _recorded(params: JobParams, job_id: str, storage: Storage) -> dict[str, Any]:
    """Parameters as a job's record stores them: pictures by their file names."""
    names = {f"{field}_path": storage.upload_path(job_id, field).name for field in params.pictures()}
    return {**params.model_dump(mode="json", exclude_none=True, exclude={"n"}), **names}
