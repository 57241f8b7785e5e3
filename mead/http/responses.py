"""Responses, made of the models in `mead.http.schemas`."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence

from flask import Response, jsonify, url_for

from mead.http.errors import ApiError, PictureExpiredError
from mead.http.schemas import Accepted, Error, Picture, Processing
from mead.imaging.faces import FoundFace
from mead.job_record import Answer
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.settings import Settings
from mead.storage import Storage


def json_response(answer: Answer, status: int = 200) -> Response:
    """A response with a JSON object."""
    response = jsonify(answer.content())
    response.status_code = status
    return response


def error_response(error: ApiError, retry_seconds: float | None = None) -> Response:
    """The response for an error; 429 and 503 say when to retry, if the error or `retry_seconds` knows it."""
    answer = Error(message=error.message, field=error.field, id=error.job_id)
    response = json_response(answer, error.status)
    retry_seconds = error.retry_seconds or retry_seconds
    if retry_seconds is not None and math.isfinite(retry_seconds) and error.status in (429, 503):
        response.headers["Retry-After"] = retry_after(retry_seconds)
    return response


def picture_response(
    pictures: Mapping[str, bytes], notes: Sequence[str], faces: Sequence[FoundFace] = ()
) -> Response:
    """The response with finished pictures: PNG files by the ids of their jobs."""
    ids = list(pictures)
    images = [base64.b64encode(png).decode("ascii") for png in pictures.values()]
    several = {"ids": ids, "images": images} if len(ids) > 1 else {}
    told = {"notes": list(notes) or None, "faces": list(faces) or None}
    return json_response(Picture(image=images[0], id=ids[0], **several, **told))


def accepted_response(job_ids: Sequence[str], notes: Sequence[str], settings: Settings) -> Response:
    """202, with the address of the (first) job's record."""
    ids = list(job_ids) if len(job_ids) > 1 else None
    response = json_response(Accepted(id=job_ids[0], ids=ids, notes=list(notes) or None), 202)
    response.headers["Location"] = url_for("job_views.record", job_id=job_ids[0])
    response.headers["Preference-Applied"] = "respond-async"
    response.headers["Retry-After"] = retry_after(settings.client_sleep)
    return response


def processing_response(job: Job, jobs: Jobs, settings: Settings) -> Response:
    """The progress of a job that has not ended."""
    answer = Processing(id=job.id, rank=jobs.rank(job), steps=job.steps, total_steps=job.total_steps)
    response = json_response(answer)
    response.headers["Retry-After"] = retry_after(settings.client_sleep)
    return response


def result_response(jobs: Sequence[Job], storage: Storage) -> Response:
    """The pictures of jobs that have ended: of one, or of a group.

    Raises:
        ApiError: one of them has no picture.
    """
    pictures = {}
    for job in jobs:
        if job.out_path is None or job.status != "succeeded":
            raise failure(job)
        try:
            pictures[job.id] = storage.read_result(job)
        except FileNotFoundError:
            raise PictureExpiredError(job.id) from None
    return picture_response(pictures, jobs[0].notes, jobs[0].faces)


def failure(job: Job) -> ApiError:
    """Why an ended job has no picture."""
    if job.status == "cancelled":
        return ApiError(409, f"job {job.id} was cancelled", job_id=job.id)
    status = 422 if job.error_kind == "input" else 500
    return ApiError(status, job.error or f"job {job.id} failed", job.error_field, job.id)


def retry_after(seconds: float) -> str:
    """The value of the header Retry-After: whole seconds, at least one."""
    return str(max(1, round(seconds)))
