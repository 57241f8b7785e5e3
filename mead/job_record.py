"""A job's record as clients see it: in answers of the HTTP API, and in webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema

from mead.imaging.faces import FoundFace
from mead.queue.job import Job, Status
from mead.receivers import origin_of
from mead.registry import MODELS

Id = Annotated[str, Field(description="The job's id.", examples=["8d3f0c6f2b1e4c55a6b1f0c2d4e6a798"])]
Steps = Annotated[int, Field(ge=0, description="Optimisation steps done.", examples=[40])]
TotalSteps = Annotated[
    int | None, Field(description="Steps in total; null until the job starts.", examples=[100])
]
Rank = Annotated[int, Field(ge=0, description="Number of jobs ahead of this one.", examples=[3])]
Loss = Annotated[float | None, Field(description="The loss of the last step.")]
Notes = Annotated[
    list[str] | None,
    Field(
        description="What was taken but cannot have its effect, each in a sentence: words that the weights "
        "have not learned, a text whose weight is 0. Left out if there is nothing to say.",
        examples=[["the demo weights have not learned: cat, astronaut"]],
    ),
]
EXAMPLE_FACE = {"number": 1, "box": [412, 130, 668, 386], "angle": -4}
Faces = Annotated[
    list[FoundFace] | None,
    Field(
        description="The faces found in the photo, from the left. Left out if neither `output` nor `face` "
        "asks for more than the most prominent face alone.",
        examples=[[EXAMPLE_FACE]],
    ),
]
Time = Annotated[
    datetime,
    PlainSerializer(lambda time: f"{time:%Y-%m-%dT%H:%M:%S.%f}Z", when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-26T22:26:09.063000Z"]}),
]
"""A time in UTC. Its text always has as many digits, so that texts sort as times do."""
FieldAtFault = Annotated[str | None, Field(description="The field at fault, if any.")]


def _require_always_present(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Mark as required in the schema what every answer contains."""
    schema["required"] = [name for name, field in model.model_fields.items() if field.default is not None]


class Answer(BaseModel):
    """A JSON object. A field whose default is None is left out when it is None."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_require_always_present)

    def content(self) -> dict[str, Any]:
        """The object as it is sent."""
        optional = {name for name, field in type(self).model_fields.items() if field.default is None}
        absent = {name for name in optional if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=absent)


class Record(Answer):
    """A job's record. It also has the job's parameters, each under its own name."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_require_always_present)

    id: Id
    type: str = Field(
        description=" or ".join(f"{spec.type} ({spec.name})" for spec in MODELS.values()) + ".",
        examples=["lr"],
    )
    status: Status
    seq: int = Field(ge=0, description="Number of changes of the record; the id of the latest event.")
    rank: Rank
    continues: str | None = Field(None, description="The id of the job that it goes on with.")
    group: str | None = Field(
        None, description="The id of the first job of its group, if its form's `n` was more than 1."
    )
    n: int | None = Field(None, description="How many jobs its group has.")
    attempts: int = Field(ge=0, description="How often the job was started.")
    steps: Steps
    total_steps: TotalSteps = None
    loss: Loss = None
    worker: str | None = Field(None, description="The worker that runs the job, or ran it last.")
    created_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None
    files: list[str] = Field(description="The file fields that were sent.", examples=[["img"]])
    image: str | None = Field(None, description="The address of the picture, once the job has one.")
    timelapse: str | None = Field(
        None,
        description="The address of its time-lapse, if its form asked for `frames`; with .mp4 in place of "
        ".webp, that of the video.",
    )
    notes: Notes = None
    faces: Faces = None
    kept: bool | None = Field(
        None, description="True if record and picture are kept beyond the retention time; else left out."
    )
    error: str | None = Field(None, description="Why the job failed.")
    error_field: FieldAtFault = None
    webhook: str | None = Field(None, description="The receiver of its webhooks, without path.")
    webhook_events_filter: list[str] | None = Field(None, description="What the receiver is told of.")
    webhook_status: str | None = Field(
        None, description="Whether the receiver knows of its end: waiting, delivered or failed."
    )
    webhook_error: str | None = Field(None, description="Why the last attempt has failed.")


def record_of(job: Job, rank: int, root: str = "") -> Record:
    """A job's record: without paths of this machine, and without secrets.

    Args:
        root: what comes before the paths of the API in addresses.
    """
    files = sorted(name.removesuffix("_path") for name in job.parameters if name.endswith("_path"))
    own = {name: value for name, value in job if name in Record.model_fields and value not in (None, ())}
    if job.group is None:
        own.pop("n")
    if job.kept is not None:
        own["kept"] = True
    if job.webhook is not None:
        own["webhook"] = origin_of(job.webhook)
        if job.ended and "completed" in job.webhook_events_filter:
            own.setdefault("webhook_status", "waiting")
    image = f"{root}/jobs/{job.id}/image" if job.ended and job.out_path is not None else None
    has_lapse = job.status == "succeeded" and job.parameters.get("frames") is not None
    lapse = f"{root}/jobs/{job.id}/timelapse.webp" if has_lapse else None
    return Record(**_parameters(job), **own, files=files, image=image, timelapse=lapse, rank=rank)


def _parameters(job: Job) -> dict[str, Any]:
    """A job's parameters; as text if the record was edited and they are no longer valid."""
    pictures = {name for name in job.parameters if name.endswith("_path")}
    try:
        params = MODELS[job.type].params.model_validate(job.parameters)
    except (KeyError, ValidationError):
        hidden = pictures | Record.model_fields.keys()
        return {name: value for name, value in job.parameters.items() if name not in hidden}
    return params.model_dump(mode="json", exclude_none=True, exclude={"n", *pictures})
