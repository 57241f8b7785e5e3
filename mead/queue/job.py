"""A job: its record in Redis, as a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict

Status: TypeAlias = Literal["queued", "processing", "succeeded", "failed", "cancelled"]
ENDED = frozenset({"succeeded", "failed", "cancelled"})


class Job(BaseModel):
    """A job's record as it stood when it was read. The job's parameters are `parameters`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    type: str  # "lr" or "sc"
    queue: str
    status: Status
    seq: int = 0  # of the last change
    ticket: int
    created_at: datetime
    attempts: int = 0  # times a worker took it; not those it was handed back from
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    steps: int = 0  # done
    total_steps: int | None = None  # known once it has started
    loss: float | None = None
    out_path: str | None = None  # name of its picture's file; older records hold a whole path
    error: str | None = None
    error_kind: Literal["input", "internal"] | None = None  # whose fault: what was asked for, or ours
    error_field: str | None = None
    owner: str = ""  # short hash of the API key it was made with
    client: str = ""  # whose unfinished jobs it counts among
    idempotency_key: str | None = None
    fingerprint: str = ""  # of the request that made it
    bytes: int = 0  # that its files take on the disk

    @property
    def parameters(self) -> dict[str, str]:
        """What the job was asked to do, field by field, as strings for a params model to read."""
        return cast("dict[str, str]", self.model_extra)

    @property
    def pictures(self) -> list[Path]:
        """The files among its parameters: their names, or whole paths in older records."""
        return [Path(value) for name, value in self.parameters.items() if name.endswith("_path")]

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def runs_alone(self) -> bool:
        """Whether a worker died with it before, so that it must share its process with no other job."""
        return self.attempts > 1


@dataclass(frozen=True)
class End:
    """How far a job has come, in short."""

    status: Status
    out_path: str | None
    error_kind: str | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def needs_uploads(self) -> bool:
        """Whether the job may still run, also as one that failed and is put back.

        One that cannot be done as it was asked would only fail again.
        """
        return not self.ended or (self.status == "failed" and self.error_kind != "input")
