"""The JSON objects that the API answers with. /openapi.json describes them from these models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mead.imaging.faces import FoundFace
from mead.job_record import (
    EXAMPLE_FACE,
    Answer,
    Faces,
    FieldAtFault,
    Id,
    Loss,
    Notes,
    Rank,
    Record,
    Steps,
    Time,
    TotalSteps,
)
from mead.queue.job import Status

Ids = Annotated[
    list[str] | None,
    Field(description="The ids of all jobs, as their seeds go up; only if the form's `n` is more than 1."),
]


class Alive(Answer):
    """The process is running."""

    status: Literal["success"] = "success"


class Ready(Answer):
    """The service is ready."""

    status: Literal["success"] = "success"
    warnings: list[str] | None = Field(
        None,
        description="Configuration problems that may lose jobs.",
        examples=[["Redis loses accepted jobs when it is restarted (appendonly no): set appendonly yes"]],
    )


class Picture(Answer):
    """The finished picture."""

    status: Literal["success"] = "success"
    image: str = Field(
        description="The PNG file, in base64.",
        examples=["iVBORw0KGgo="],
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
    )
    id: Id
    images: list[str] | None = Field(None, description="The PNG files of all `ids`, in base64.")
    ids: Ids = None
    notes: Notes = None
    faces: Faces = None


class Accepted(Answer):
    """The job is queued."""

    status: Literal["success"] = "success"
    message: Literal["upload successful"] = "upload successful"
    id: Id
    ids: Ids = None
    notes: Notes = None


class Processing(Answer):
    """The job has not ended yet."""

    status: Literal["processing"] = "processing"
    id: Id
    rank: Rank
    steps: Steps
    total_steps: TotalSteps


class FormNotes(Answer):
    """What would be noted on a job with this form."""

    status: Literal["success"] = "success"
    notes: list[str] = Field(
        description="Each is a sentence; empty if there is nothing to say.",
        examples=[["the demo weights have not learned: cat, astronaut"]],
    )
    tokens: dict[str, int] = Field(
        description="How many tokens the texts have for CLIP, by field: of a field with several texts, the "
        "longest.",
        examples=[{"prompt": 6}],
    )
    most_tokens: int = Field(description="How many tokens of a text CLIP reads.", examples=[36])


class PhotoFaces(Answer):
    """The faces of a photo."""

    status: Literal["success"] = "success"
    width: int = Field(description="Width of the upright photo in pixels.", examples=[1024])
    height: int = Field(description="Its height.", examples=[768])
    faces: list[FoundFace] = Field(
        description="From the left; empty if there are none.", examples=[[EXAMPLE_FACE]]
    )


class NumberRange(BaseModel):
    """What a number may be."""

    minimum: float
    maximum: float


class ModelDescription(BaseModel):
    """A model."""

    type: str = Field(description="The type of its jobs.")
    name: str
    route: str = Field(description="The path of its POST.")
    command: str = Field(description="The name of its command, and of its method in the Python client.")
    summary: str
    parameters: dict[str, Any] = Field(
        description="A JSON Schema of each field of its form, with range and default."
    )
    required: list[str] = Field(description="The fields that must be sent.")
    examples: list[str] = Field(description="Prompts that work with the weights set.")
    choices: dict[str, dict[str, NumberRange | None]] = Field(
        description="What the weights set offers by name, for each field that takes names; where a name "
        "takes a number, with its range.",
        examples=[{"sliders": {"age": {"minimum": -3, "maximum": 3}}, "mapper": {"beard": None}}],
    )


class Models(Answer):
    """What this service can make."""

    status: Literal["success"] = "success"
    weights: str = Field(description="The name of the weights set.", examples=["demo"])
    description: str = Field(description="What the weights are.", examples=["Small networks."])
    draws: str = Field(
        description="What the weights can draw; empty if nobody has said.",
        examples=["Drawings of faces."],
    )
    models: list[ModelDescription] = Field(
        examples=[
            [
                {
                    "type": "lr",
                    "name": "LatentRevisions",
                    "route": "/latent_revision",
                    "command": "generate",
                    "summary": "Make a picture from words.",
                    "parameters": {
                        "w0": {"type": "number", "minimum": -1000, "maximum": 1000, "default": 5.0}
                    },
                    "required": ["prompt"],
                    "examples": ["a boat on the sea at sunset"],
                }
            ]
        ]
    )


class Cancelled(Answer):
    """The job is cancelled."""

    status: Literal["success"] = "success"
    message: Literal["cancelled"] = "cancelled"
    id: Id


class GroupCancelled(Answer):
    """The jobs of a group that had not ended are cancelled."""

    status: Literal["success"] = "success"
    message: Literal["cancelled"] = "cancelled"
    ids: list[str] = Field(description="Their ids.", examples=[["8d3f0c6f2b1e4c55a6b1f0c2d4e6a700"]])


class Error(Answer):
    """The request failed."""

    status: Literal["error"] = "error"
    message: str = Field(description="What is wrong, and what would be right.", examples=["w0: out of range"])
    field: str | None = Field(description="The field or header at fault, if any.", examples=["w0"])
    id: Id | None = Field(None, description="The job's id, if the error is about a job.")


class Records(Answer):
    """Jobs, the newest first."""

    status: Literal["success"] = "success"
    jobs: list[Record] = Field(description="Their records.", examples=[[]])
    cursor: str | None = Field(
        description="Where the next page begins, to be sent as `cursor`; null if there is none.",
        examples=["1795409109927-8d3f0c6f2b1e4c55a6b1f0c2d4e6a798"],
    )

    def content(self) -> dict[str, Any]:
        """The object as it is sent, each record as it is sent alone."""
        return {"status": self.status, "jobs": [job.content() for job in self.jobs], "cursor": self.cursor}


class QueueState(BaseModel):
    """A queue."""

    name: str
    type: str = Field(description="The type of its jobs.")
    waiting: int = Field(ge=0, description="Jobs that wait.")
    running: int = Field(ge=0, description="Jobs that run.")
    capacity: int = Field(ge=0, description="Jobs that can run at once.")
    steps_per_second: float = Field(ge=0, description="Optimisation steps of all its jobs together.")


class WorkerState(BaseModel):
    """An inference server."""

    name: str
    weights: str | None = Field(description="The name of its weights set.")
    queues: list[str] = Field(description="The names of the queues that it serves.")
    running: int = Field(ge=0, description="Jobs that it runs.")
    started_at: Time
    seen_at: Time = Field(description="When it last gave a sign of life.")
    memory_bytes: int = Field(ge=0, description="Resident memory of its process.")


class Queues(Answer):
    """What waits and what runs."""

    status: Literal["success"] = "success"
    queues: list[QueueState] = Field(examples=[[]])
    workers: list[WorkerState] = Field(examples=[[]])


class Change(Answer):
    """The data of an event: the job after a change."""

    id: Id
    status: Status
    steps: Steps
    total_steps: TotalSteps = None
    loss: Loss = None
    rank: Rank | None = Field(None, description="Only in the first event of a queued job.")
    image: str | None = Field(None, description="The address of the picture, or the PNG in base64.")
    notes: Notes = None
    faces: Faces = None
    message: str | None = Field(None, description="Why there is no picture.")
    field: FieldAtFault = None


def example_of(answer: type[Answer]) -> dict[str, Any]:
    """An example made of the examples and defaults of an answer's fields."""
    example: dict[str, Any] = {}
    for name, field in answer.model_fields.items():
        if field.examples:
            example[name] = field.examples[0]
        elif not field.is_required() and field.default is not None:
            example[name] = field.default
    return example
