"""The routes that show, cancel, retry and keep a job."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from datetime import timedelta
from io import BytesIO
from pathlib import PurePath

import redis
from flask import Blueprint, Response, request, send_file, url_for

from mead.http import access
from mead.http.description import Description, describe
from mead.http.errors import ApiError, JobNotFoundError, PictureExpiredError
from mead.http.fields import refuse_fields
from mead.http.forms import IdForm, read_id
from mead.http.headers import read_last_event_id
from mead.http.job_stream import job_stream_response
from mead.http.openapi_texts import EVENT_STREAM
from mead.http.responses import json_response, processing_response, result_response
from mead.http.schemas import Cancelled, Picture, Processing
from mead.http.services import Services, current_services
from mead.http.sse import event_response
from mead.imaging.timelapse import NoVideoError
from mead.job_record import Record, record_of
from mead.queue.errors import TooManyKeepsError, UnknownJobError
from mead.queue.job import Job

log = logging.getLogger(__name__)


def blueprint() -> Blueprint:
    """POST /check, and the routes below /jobs/ID."""
    routes = Blueprint("job_views", __name__)
    routes.add_url_rule("/check", view_func=check, methods=["POST"])
    routes.add_url_rule("/jobs/<job_id>", view_func=record)
    routes.add_url_rule("/jobs/<job_id>", view_func=cancel, methods=["DELETE"])
    routes.add_url_rule("/jobs/<job_id>/retry", view_func=retry, methods=["POST"])
    routes.add_url_rule("/jobs/<job_id>/keep", view_func=keep, methods=["PUT"])
    routes.add_url_rule("/jobs/<job_id>/keep", view_func=release, methods=["DELETE"])
    routes.add_url_rule("/jobs/<job_id>/image", view_func=image)
    routes.add_url_rule("/jobs/<job_id>/timelapse.webp", view_func=timelapse_webp)
    routes.add_url_rule("/jobs/<job_id>/timelapse.mp4", view_func=timelapse_mp4)
    routes.add_url_rule("/jobs/<job_id>/preview", view_func=preview)
    routes.add_url_rule("/jobs/<job_id>/events", view_func=events)
    return routes


@describe(
    Description(
        {200: [Picture, Processing]},
        errors=(400, 403, 404, 409, 413, 415, 422, 500, 503),
        form=IdForm,
        examples={"a job": {"id": "8d3f0c6f2b1e4c55a6b1f0c2d4e6a798"}},
        tag="jobs",
    )
)
def check() -> Response:
    """The picture of a job, or its progress."""
    services = current_services()
    job = _find_job(read_id(request), services, field="id")
    if job.ended:
        return result_response([job], services.storage)
    return processing_response(job, services.jobs, services.settings)


@describe(Description({200: [Record]}, errors=(400, 404, 503), tag="jobs"))
def record(job_id: str) -> Response:
    """The record of a job."""
    refuse_fields(request)
    services = current_services()
    job = _find_job(job_id, services)
    return json_response(record_of(job, services.jobs.rank(job), request.script_root))


@describe(Description({200: [Cancelled]}, errors=(400, 403, 404, 409, 503), tag="jobs"))
def cancel(job_id: str) -> Response:
    """Cancel a job.

    A queued job ends at once, a running one at its next step. Its record is kept for the retention time.
    """
    refuse_fields(request)
    services = current_services()
    job = _find_job(job_id, services)
    try:
        if not services.jobs.cancel(job_id, priority=access.priority()):
            raise ApiError(409, f"job {job_id} has already ended", job_id=job_id)
    except UnknownJobError:
        raise JobNotFoundError(job_id) from None
    services.storage.cleanup(job)
    log.info("job cancelled", extra={"job": job_id, "was": job.status})
    return json_response(Cancelled(id=job_id))


@describe(Description({200: [Record]}, errors=(400, 403, 404, 409, 503), tag="jobs"))
def retry(job_id: str) -> Response:
    """Run a failed job again.

    It joins its queue like a new job, with its id and its pictures. A job that failed for its form cannot run
    again: the answer is 409.
    """
    refuse_fields(request)
    services = current_services()
    job = _find_job(job_id, services)
    try:
        most = services.settings.max_jobs_per_client
        if not services.jobs.retry(job_id, most=most, priority=access.priority()):
            why = f"its form was at fault: {job.error}" if job.status == "failed" else f"it is {job.status}"
            raise ApiError(409, f"job {job_id} cannot run again: {why}", job_id=job_id)
    except UnknownJobError:
        raise JobNotFoundError(job_id) from None
    log.info("job retried", extra={"job": job_id, "why": job.error})
    return record(job_id)


@describe(Description({200: [Record]}, errors=(400, 403, 404, 409, 503), tag="jobs"))
def keep(job_id: str) -> Response:
    """Keep a job's record and picture beyond the retention time.

    They stay until the job is released. The service limits how many jobs of a key are kept. Keeping a job
    that is kept changes nothing.
    """
    refuse_fields(request)
    services = current_services()
    job = _find_job(job_id, services)
    if not services.keeps.most:
        raise ApiError(403, "this service keeps no jobs beyond JOB_TTL (MAX_KEEPS=0)", job_id=job_id)
    try:
        if not services.keeps.keep(job_id):
            raise ApiError(409, f"job {job_id} has no picture to keep: it is {job.status}", job_id=job_id)
    except UnknownJobError:
        raise JobNotFoundError(job_id) from None
    except TooManyKeepsError as error:
        raise ApiError(409, str(error), job_id=job_id) from None
    return record(job_id)


@describe(Description({200: [Record]}, errors=(400, 403, 404, 503), tag="jobs"))
def release(job_id: str) -> Response:
    """Release a kept job: its record and picture go after the retention time, counted from now.

    Releasing a job that is not kept changes nothing.
    """
    refuse_fields(request)
    services = current_services()
    _find_job(job_id, services)
    try:
        services.keeps.release(job_id)
    except UnknownJobError:
        raise JobNotFoundError(job_id) from None
    return record(job_id)


@describe(Description({200: ["image/png"], 302: []}, errors=(400, 404, 409, 503), tag="jobs"))
def image(job_id: str) -> Response:
    """The picture of a job that has succeeded; of one that was cancelled as it ran, the last picture.

    If results are in an object store, the answer may be a redirect to a link there, valid for a while.
    """
    refuse_fields(request)
    services = current_services()
    job = _find_job(job_id, services)
    return _link(job, services) or _picture(job, services)


@describe(Description({200: ["image/webp"]}, errors=(400, 404, 409, 503), tag="jobs"))
def timelapse_webp(job_id: str) -> Response:
    """The time-lapse of a job that has succeeded, an animated WebP.

    It shows the `frames` that the job's form has asked for.
    """
    refuse_fields(request)
    services = current_services()
    job = _find_job(job_id, services)
    return _sent(_timelapse(job, services), "image/webp", job, services)


@describe(Description({200: ["video/mp4"]}, errors=(400, 404, 409, 429, 501, 503), tag="jobs"))
def timelapse_mp4(job_id: str) -> Response:
    """The time-lapse of a job that has succeeded, a video (H.264).

    It is made when it is first asked for, which takes up to a few seconds. A server without the package "av"
    answers 501.
    """
    refuse_fields(request)
    services = current_services()
    job = _find_job(job_id, services)
    webp = _timelapse(job, services)
    with ExitStack() as cleanup:
        cleanup.callback(services.open_requests.enter(access.client()))
        try:
            video = services.videos.of(webp)
        except NoVideoError as error:
            raise ApiError(501, f"timelapse.mp4: {error}; timelapse.webp needs none") from error
    return _sent(video, "video/mp4", job, services)


@describe(Description({200: ["image/png"], 202: [Processing]}, errors=(400, 404, 409, 503), tag="jobs"))
def preview(job_id: str) -> Response:
    """The picture so far.

    Previews are made about once a second while a client asks for them. Until there is one, the answer is 202
    with the job's progress. Once the job has succeeded, the answer is its picture.
    """
    refuse_fields(request)
    services = current_services()
    job = _find_job(job_id, services)
    if job.ended:
        return _picture(job, services)
    with suppress(redis.ResponseError):  # it has no memory left; there may be a preview all the same
        services.jobs.ask_preview(job_id)
    try:
        response = send_file(BytesIO(services.storage.read_preview(job_id)), "image/png", etag=False)
    except FileNotFoundError:
        response = processing_response(job, services.jobs, services.settings)
        response.status_code = 202
        response.headers["Location"] = url_for("job_views.record", job_id=job_id)
        return response
    response.cache_control.clear()
    response.cache_control.no_store = True
    return response


@describe(
    Description(
        {200: [EVENT_STREAM], 204: []},
        errors=(400, 404, 429, 503),
        headers=("Last-Event-ID",),
        tag="jobs",
    )
)
def events(job_id: str) -> Response:
    """A job's progress, as server-sent events.

    Each event has an id. A client that reconnects with the last one as `Last-Event-ID`, as browsers do, gets
    the later events, or 204 if there will be none.
    """
    refuse_fields(request)
    services = current_services()
    last_seq = read_last_event_id(request)
    job = _find_job(job_id, services)
    if job.ended and last_seq >= job.seq:
        return Response(status=204)
    if request.method == "HEAD":
        return event_response(iter(()), services.settings.client_sleep)
    with ExitStack() as cleanup:
        cleanup.callback(services.open_requests.enter(access.client()))
        try:
            return job_stream_response(job_id, last_seq, services, cleanup)
        except UnknownJobError:
            raise JobNotFoundError(job_id) from None


def _find_job(job_id: str, services: Services, field: str | None = None) -> Job:
    """The job, if this request may see it. Raises as `Services.find_job`."""
    return services.find_job(job_id, field)


def _link(job: Job, services: Services) -> Response | None:
    """A redirect to a link to the job's result, if the settings ask for one and there is a result."""
    valid = timedelta(seconds=services.settings.result_link_seconds)
    if not valid or job.out_path is None:
        return None
    try:
        link = services.storage.result_link(job, valid)
    except FileNotFoundError:
        raise PictureExpiredError(job.id) from None
    if link is None:
        return None
    response = Response(status=302, headers={"Location": link})
    response.cache_control.no_store = True
    return response


def _picture(job: Job, services: Services) -> Response:
    """The picture of an ended job, as a PNG.

    Raises:
        ApiError: there is none.
    """
    if job.out_path is None:
        raise ApiError(409, f"job {job.id} has no picture: it is {job.status}", job_id=job.id)
    try:
        content = services.storage.read_result(job)
    except FileNotFoundError:
        raise PictureExpiredError(job.id) from None
    return _sent(content, "image/png", job, services)


def _timelapse(job: Job, services: Services) -> bytes:
    """The time-lapse of an ended job, an animated WebP.

    Raises:
        ApiError: there is none.
    """
    if job.out_path is None:
        raise ApiError(409, f"job {job.id} has no time-lapse: it is {job.status}", job_id=job.id)
    try:
        return services.storage.read_timelapse(job)
    except FileNotFoundError:
        if job.parameters.get("frames"):
            raise PictureExpiredError(job.id, "time-lapse") from None
    raise ApiError(409, f"job {job.id} has no time-lapse: its form asked for no frames", job_id=job.id)


def _sent(content: bytes, kind: str, job: Job, services: Services) -> Response:
    """A file that belongs to a job's result."""
    etag = PurePath(job.out_path or "").stem  # each result has another name
    return send_file(BytesIO(content), kind, etag=etag, max_age=services.settings.job_ttl)
