"""The errors that the API answers with."""

from __future__ import annotations

import errno

from mead.imaging.pictures import PictureError
from mead.params import ParamsError

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DISK_FULL = "the disk is full; try again later"
NO_WORKER = "no inference server is running; try again later"

_PICTURE_STATUS = {"too_large": 413, "not_a_picture": 415, "no_face": 422, "no_mask": 422}


class ApiError(Exception):
    """An error answer.

    Attributes:
        status: the HTTP status.
        message: what is wrong, and what would be right; it begins with `field`, if there is one.
        field: the form field or header at fault, if any.
        job_id: the job that the error is about, if any.
        retry_seconds: when to try again; None: soon, infinity: that is not known.
    """

    def __init__(
        self,
        status: int,
        message: str,
        field: str | None = None,
        job_id: str | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.job_id = job_id
        self.retry_seconds = retry_seconds


class ShuttingDownError(ApiError):
    """503: the server is shutting down; the job continues."""

    def __init__(self, job_id: str | None = None) -> None:
        super().__init__(
            503, "the server is shutting down; the job continues: ask for it later", None, job_id
        )


class JobNotFoundError(ApiError):
    """404: there is no such job, or it belongs to another API key."""

    def __init__(self, job_id: str, field: str | None = None) -> None:
        at_fault = "" if field is None else f"{field}: "
        super().__init__(404, f"{at_fault}there is no job {job_id}", field)


class JobExpiredError(ApiError):
    """404: the job's record was removed while a client waited for it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(404, f"job {job_id} has expired", job_id=job_id)


class PictureExpiredError(ApiError):
    """404: the job has succeeded, but its picture, or what belongs to it, was removed."""

    def __init__(self, job_id: str, what: str = "picture") -> None:
        super().__init__(404, f"the {what} of job {job_id} has expired", job_id=job_id)


def input_error(error: ValueError) -> ApiError:
    """The answer to parameters or pictures that cannot be used."""
    if isinstance(error, PictureError):
        return ApiError(_PICTURE_STATUS[error.kind], str(error), error.field)
    if isinstance(error, ParamsError):
        return ApiError(422 if error.out_of_range else 400, str(error), error.field)
    return ApiError(422, str(error))
