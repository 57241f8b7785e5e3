"""The exceptions of the Python client."""

from __future__ import annotations


class MeadError(Exception):
    """Something that was asked of the service was not done.

    Attributes:
        message: why, and what would be right.
        field: the parameter or header at fault, if any.
        status: the HTTP status of the answer; None if there was none.
        job_id: the job that it is about, if any.
    """

    def __init__(
        self, message: str, field: str | None = None, status: int | None = None, job_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.status = status
        self.job_id = job_id


class UnreachableError(MeadError):
    """The service does not answer."""


class RefusedError(MeadError):
    """The service has answered with an error."""


class AddressError(RefusedError):
    """Something else than the service has answered at its address."""


class JobFailedError(MeadError):
    """The job has failed."""


class JobCancelledError(MeadError):
    """The job was cancelled."""
