"""The routes that look at a job, and the one that cancels it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from io import BytesIO
from pathlib import PurePath

from flask import Blueprint, Response, request, send_file, url_for

from mead.http import access
from mead.http.concurrency import ConcurrencyLimit
from mead.http.events import Events
from mead.http.forms import ApiError, IdForm, read_id, read_last_event_id, refuse_fields
from mead.http.openapi import Description, describe
from mead.http.responses import (
    Cancelled,
    Picture,
    Processing,
    Record,
    ended,
    not_kept,
    processing,
    record_of,
    respond,
    unknown,
)
from mead.http.sse import EVENT_STREAM, stream, stream_of
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.settings import Settings
from mead.storage import Storage

log = logging.getLogger(__name__)


def blueprint(
    settings: Settings, jobs: Jobs, storage: Storage, events: Events, open_requests: ConcurrencyLimit
) -> Blueprint:
    """POST /check, and everything below /jobs."""
    routes = Blueprint("job_views", __name__)

    @routes.post("/check")
    @describe(
        Description(
            {200: [Picture, Processing]},
            errors=(400, 403, 404, 409, 413, 415, 422, 500, 503),
            form=IdForm,
            examples={"a job": {"id": "8d3f0c6f2b1e4c55a6b1f0c2d4e6a798"}},
            about="jobs",
        )
    )
    def check() -> Response:
        """The picture of a job, or how far it is."""
        job = find(read_id(request), field="id")
        return ended(job, storage) if job.ended else processing(job, jobs, settings)

    @routes.get("/jobs/<job_id>")
    @describe(Description({200: [Record]}, errors=(400, 404, 503), about="jobs"))
    def record(job_id: str) -> Response:
        """The whole record of a job."""
        refuse_fields(request)
        return respond(record_of(find(job_id), jobs))

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
            raise unknown(job_id) from None
        storage.cleanup(job)
        log.info("job cancelled", extra={"job": job_id, "was": job.status})
        return respond(Cancelled(id=job_id))

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
            answer = send_file(BytesIO(storage.read_preview(job_id)), "image/png", etag=False)
        except FileNotFoundError:
            answer = processing(job, jobs, settings)
            answer.status_code = 202
            answer.headers["Location"] = url_for("job_views.record", job_id=job_id)
            return answer
        answer.cache_control.clear()
        answer.cache_control.no_store = True
        return answer

    @routes.get("/jobs/<job_id>/events", endpoint="events")
    @describe(
        Description(
            {200: [EVENT_STREAM], 204: []},
            errors=(400, 404, 429, 503),
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
        with ExitStack() as held:
            held.callback(open_requests.enter(access.client()))
            try:
                return stream_of(job_id, seen, settings, events, held)
            except UnknownJobError:
                raise unknown(job_id) from None

    def find(job_id: str, field: str | None = None) -> Job:
        """The job, if this request may see it: else there is none, for all it can tell."""
        try:
            job = jobs.get(job_id)
        except UnknownJobError:
            raise unknown(job_id, field) from None
        if not access.may_see(job):
            raise unknown(job_id, field)
        return job

    def picture(job: Job) -> Response:
        if job.out_path is None:
            raise ApiError(409, f"job {job.id} has no picture: it is {job.status}", job_id=job.id)
        try:
            content = BytesIO(storage.read_result(job))
        except FileNotFoundError:
            raise not_kept(job) from None
        # No two results have one name.
        return send_file(content, "image/png", etag=PurePath(job.out_path).stem, max_age=settings.job_ttl)

    return routes
