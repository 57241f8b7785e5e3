"""What the API answers: the models, which /openapi.json describes, and the responses made of them."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Response, jsonify, url_for
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mead.http.forms import ApiError
from mead.queue.job import Job, Status
from mead.queue.jobs import Jobs
from mead.registry import MODELS
from mead.settings import Settings
from mead.storage import Storage

Id = Annotated[str, Field(description="The job's id.", examples=["8d3f0c6f2b1e4c55a6b1f0c2d4e6a798"])]
Steps = Annotated[int, Field(ge=0, description="Optimisation steps done.", examples=[40])]
TotalSteps = Annotated[
    int | None, Field(description="Steps there will be; null until the job runs.", examples=[100])
]
Rank = Annotated[int, Field(ge=0, description="Jobs that run before this one.", examples=[3])]


def _always_there(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Require in the schema what every answer holds."""
    schema["required"] = [name for name, field in model.model_fields.items() if field.default is not None]


class Answer(BaseModel):
    """A JSON object. A field whose default is None is left out where it is None."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_always_there)

    def content(self) -> dict[str, Any]:
        """What is sent."""
        optional = {name for name, field in type(self).model_fields.items() if field.default is None}
        absent = {name for name in optional if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=absent)


class Alive(Answer):
    """All is well."""

    status: Literal["success"] = "success"


class Ready(Answer):
    """The service can work."""

    status: Literal["success"] = "success"
    warnings: list[str] | None = Field(
        None,
        description="What may yet lose jobs.",
        examples=[["Redis loses accepted jobs when it is restarted (appendonly no): set appendonly yes"]],
    )


class Picture(Answer):
    """A finished picture."""

    status: Literal["success"] = "success"
    image: str = Field(
        description="The PNG file, in base64.",
        examples=["iVBORw0KGgo="],
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
    )
    id: Id


class Accepted(Answer):
    """The job is queued."""

    status: Literal["success"] = "success"
    message: Literal["upload successful"] = "upload successful"
    id: Id


class Processing(Answer):
    """The job has not ended yet."""

    status: Literal["processing"] = "processing"
    id: Id
    rank: Rank
    steps: Steps
    total_steps: TotalSteps


class Cancelled(Answer):
    """The job has been cancelled."""

    status: Literal["success"] = "success"
    message: Literal["cancelled"] = "cancelled"
    id: Id


class Error(Answer):
    """Why a request could not be done."""

    status: Literal["error"] = "error"
    message: str = Field(description="What is wrong, and what would be right.", examples=["w0: out of range"])
    field: str | None = Field(description="The field or header at fault, if one is.", examples=["w0"])
    id: Id | None = Field(None, description="The job's id, where there is a job.")


_TYPES = " or ".join(f"{spec.type} ({spec.name})" for spec in MODELS.values()) + "."


class Record(Answer):
    """A job's record, with every parameter it was made with under the parameter's own name."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_always_there)

    id: Id
    type: str = Field(
        description=" or ".join(f"{spec.type} ({spec.name})" for spec in MODELS.values()) + ".",
        examples=["lr"],
    )
    status: Status
    seq: int = Field(ge=0, description="How often the record has changed; the id of the newest event.")
    rank: Rank
    attempts: int = Field(ge=0, description="How often a worker has taken it.")
    steps: Steps
    total_steps: TotalSteps = None
    loss: float | None = Field(None, description="Of the last step.")
    worker: str | None = Field(None, description="Name of the worker that has it, or had it last.")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    files: list[str] = Field(description="The fields it was given pictures in.", examples=[["img"]])
    image: str | None = Field(None, description="Where its picture is, once there is one.")
    error: str | None = Field(None, description="Why it failed.")
    error_field: str | None = Field(None, description="The field at fault, if one is.")


class Change(Answer):
    """The data of an event: the job after a change."""

    id: Id
    status: Status
    steps: Steps
    total_steps: TotalSteps = None
    loss: float | None = Field(None, description="Of the last step.")
    rank: Rank | None = Field(None, description="With the first event, of a job that waits.")
    image: str | None = Field(None, description="Where the picture is, or the PNG itself in base64.")
    message: str | None = Field(None, description="Why there is no picture.")
    field: str | None = Field(None, description="The field at fault, if one is.")


def example_of(answer: type[Answer]) -> dict[str, Any]:
    """An answer made of its fields' own examples and defaults."""
    example: dict[str, Any] = {}
    for name, field in answer.model_fields.items():
        if field.examples:
            example[name] = field.examples[0]
        elif not field.is_required() and field.default is not None:
            example[name] = field.default
    return example


# Responses


def success(job_id: str, png: bytes) -> Response:
    """The answer with a finished picture."""
    return respond(Picture(image=base64.b64encode(png).decode("ascii"), id=job_id))


def respond(answer: Answer, status: int = 200) -> Response:
    """An answer as it is sent."""
    response = jsonify(answer.content())
    response.status_code = status
    return response


def error_answer(status: int, message: str, field: str | None = None, job_id: str | None = None) -> Response:
    """The one shape of every error."""
    return respond(Error(message=message, field=field, id=job_id), status)


def accepted(job_id: str, settings: Settings) -> Response:
    """202, and where the job is to be found."""
    answer = respond(Accepted(id=job_id), 202)
    answer.headers["Location"] = url_for("job_views.record", job_id=job_id)
    answer.headers["Preference-Applied"] = "respond-async"
    answer.headers["Retry-After"] = retry_after(settings.client_sleep)
    return answer


def processing(job: Job, jobs: Jobs, settings: Settings) -> Response:
    """What is said of a job that has not ended."""
    answer = respond(Processing(id=job.id, rank=jobs.rank(job), steps=job.steps, total_steps=job.total_steps))
    answer.headers["Retry-After"] = retry_after(settings.client_sleep)
    return answer


def ended(job: Job, storage: Storage) -> Response:
    """What is said of a job that has ended.

    Raises:
        ApiError: why there is no picture.
    """
    if job.out_path is None:
        raise failure(job)
    try:
        return success(job.id, storage.read_result(job))
    except FileNotFoundError:
        raise not_kept(job) from None


def failure(job: Job) -> ApiError:
    """Why an ended job has no picture."""
    if job.status == "cancelled":
        return ApiError(409, f"job {job.id} was cancelled", job_id=job.id)
    status = 422 if job.error_kind == "input" else 500
    return ApiError(status, job.error or f"job {job.id} failed", job.error_field, job.id)


def not_kept(job: Job) -> ApiError:
    """404 for a picture that is gone."""
    return ApiError(404, f"the picture of job {job.id} is not kept any more", job_id=job.id)


def unknown(job_id: str, field: str | None = None) -> ApiError:
    """404 for a job that is not there, or is not to be seen."""
    return ApiError(404, f"there is no job {job_id}", field)


def record_of(job: Job, jobs: Jobs) -> Record:
    """What anybody may know of a job: no path of this machine."""
    files = sorted(name.removesuffix("_path") for name in job.parameters if name.endswith("_path"))
    own = {name: value for name, value in job if name in Record.model_fields and value is not None}
    return Record(**_asked(job), **own, files=files, image=_image(job), rank=jobs.rank(job))


def _asked(job: Job) -> dict[str, Any]:
    """What a job was asked to do; as text where its record was changed and cannot be read as parameters."""
    texts = {name: value for name, value in job.parameters.items() if not name.endswith("_path")}
    try:
        params = MODELS[job.type].params.model_validate(texts)
    except (KeyError, ValidationError):
        return {name: value for name, value in texts.items() if name not in Record.model_fields}
    return params.model_dump(mode="json", exclude_none=True)


def _image(job: Job) -> str | None:
    return url_for("job_views.image", job_id=job.id) if job.status == "succeeded" else None


def retry_after(seconds: float) -> str:
    """The header Retry-After: whole seconds, at least one."""
    return str(max(1, round(seconds)))
