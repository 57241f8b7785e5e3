"""What the API answers, as models: the routes make their answers with them, /openapi.json describes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mead.job import Status

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


class Record(Answer):
    """A job's record, with every parameter it was made with under the parameter's own name."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_always_there)

    id: Id
    type: str = Field(description="lr (LatentRevisions) or sc (StyleCLIP).", examples=["lr"])
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
