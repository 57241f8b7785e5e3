"""Jobs as records in Redis, and what is reported and decided about them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, field_validator

from mead.imaging.faces import FoundFace

Status: TypeAlias = Literal["queued", "processing", "succeeded", "failed", "cancelled"]
ENDED = frozenset({"succeeded", "failed", "cancelled"})


def new_ids(n: int) -> list[str]:
    """New ids of a job or of a group of `n` jobs, 32 hex digits each. The last two count those of a group."""
    return ids_of_group(secrets.token_hex(15) + "00", n)


def ids_of_group(first: str, n: int) -> list[str]:
    """The ids of a group's `n` jobs, as their seeds go up, by the first one's."""
    return [first, *(f"{first[:-2]}{number:02x}" for number in range(1, n))]


class Job(BaseModel):
    """A job's record as it was when it was read."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    type: str  # the model's, as in "lr"
    queue: str
    status: Status
    seq: int = 0  # number of the last change
    ticket: int
    created_at: datetime
    created_ms: int | None = None  # the same in milliseconds since 1970; None in records of older versions
    attempts: int = 0  # times a worker claimed it and did not hand it back
    worker: str | None = None
    started_at: datetime | None = None
    started_ms: int | None = None  # as created_ms
    finished_at: datetime | None = None
    steps: int = 0  # done
    total_steps: int | None = None  # known once it has started
    loss: float | None = None
    out_path: str | None = None  # name of its picture's file; in records of older versions its path
    notes: tuple[str, ...] = ()  # a JSON list in the record; see `mead.weights.notes`
    faces: tuple[FoundFace, ...] = ()  # found in its photo, from the left; a JSON list in the record
    error: str | None = None
    error_kind: Literal["input", "internal"] | None = None  # what is at fault: the request or the service
    error_field: str | None = None
    owner: str = ""  # short hash of the API key that created it
    client: str = ""  # the client whose limits it counts towards
    webhook: str | None = None  # the URL of whoever is to be told of it
    webhook_events_filter: tuple[str, ...] = ()  # of what; separated by commas in the record
    webhook_status: str | None = None  # of its end: delivered, failed, or waiting after an attempt
    webhook_error: str | None = None  # why the last attempt has failed
    continues: str | None = None  # the id of the job that it goes on with
    latents: str | None = None  # name of the upload with that job's latents, a copy
    weights: str | None = None  # the weights set that it was checked against; None if that is not known
    weights_digest: str | None = None  # of the set's files
    group: str | None = None  # the first one's id, if it was made together with others
    n: int = 1  # how many were made together
    idempotency_key: str | None = None
    fingerprint: str = ""  # of the request that created it
    kept: datetime | None = None  # since when it is kept beyond the retention time
    bytes: int = 0  # size of its files on the disk

    @field_validator("notes", mode="before")
    @classmethod
    def _read_notes(cls, value: Any) -> Any:
        """A record that was edited by hand must not be lost for its notes."""
        if not isinstance(value, str):
            return value
        try:
            notes = json.loads(value)
        except (ValueError, RecursionError):
            return ()
        return [str(note) for note in notes] if isinstance(notes, list) else ()

    @field_validator("faces", mode="before")
    @classmethod
    def _read_faces(cls, value: Any) -> Any:
        """Likewise."""
        if not isinstance(value, str):
            return value
        try:
            return [FoundFace.model_validate(face) for face in json.loads(value)]
        except (ValueError, TypeError, RecursionError):
            return ()

    @field_validator("webhook_events_filter", mode="before")
    @classmethod
    def _read_events(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @property
    def parameters(self) -> dict[str, str]:
        """The job's parameters, as strings for a params model to read."""
        return cast("dict[str, str]", self.model_extra)

    @property
    def pictures(self) -> list[Path]:
        """The files among its parameters: names, or paths in records of older versions."""
        return [Path(value) for name, value in self.parameters.items() if name.endswith("_path")]

    @property
    def uploads(self) -> list[Path]:
        """Its pictures, and the latents that it goes on with."""
        return [*self.pictures, *([] if self.latents is None else [Path(self.latents)])]

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def runs_alone(self) -> bool:
        """Whether a worker died while running it, so that it must not share a process with other jobs."""
        return self.attempts > 1


@dataclass(frozen=True)
class JobOutcome:
    """The fields of a record that decide which of the job's files are still needed."""

    status: Status
    out_path: str | None
    error_kind: str | None = None
    finished_at: str | None = None  # as in the record

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def needs_uploads(self) -> bool:
        """Whether the job may still run, or run again: an operator can requeue a failed job.

        A job that failed because of its input would only fail again.
        """
        return not self.ended or (self.status == "failed" and self.error_kind != "input")

    def succeeded_within(self, seconds: float) -> bool:
        """Whether the job has succeeded in the last `seconds`."""
        if self.status != "succeeded" or self.finished_at is None:
            return False
        try:
            ago = datetime.now(timezone.utc) - datetime.fromisoformat(self.finished_at)
        except (ValueError, TypeError):  # the record was edited by hand
            return False
        return ago.total_seconds() < seconds


class KeptLimits(NamedTuple):
    """The most records and bytes of files that may be kept until the records expire; 0 is no limit."""

    kept_jobs: int = 0
    kept_bytes: int = 0
    client_kept_jobs: int = 0
    client_kept_bytes: int = 0


@dataclass(frozen=True)
class JobProgress:
    """How far a job is.

    Attributes:
        notes: to be written into its record; none are written if empty.
        faces: likewise.
    """

    job_id: str
    steps: int
    total_steps: int
    loss: float
    notes: Sequence[str] = ()
    faces: Sequence[FoundFace] = ()


@dataclass(frozen=True)
class ReportReply:
    """The answer to a worker's report.

    Attributes:
        lost: ids of reported jobs that the worker no longer holds and must drop.
        watched: ids of reported jobs whose preview is wanted.
        held: ids of all jobs that the worker holds.
    """

    lost: frozenset[str]
    watched: frozenset[str]
    held: tuple[str, ...]
