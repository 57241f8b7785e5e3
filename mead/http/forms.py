"""Forms, checked: from what a request carries to a job's parameters, or to an error that names the field."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import threading
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Generic

from flask import Request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.datastructures import FileStorage

from mead.http import access
from mead.imaging.decoders import DecodeLimits, Decoders
from mead.imaging.pictures import PictureError
from mead.imaging.turns import BusyError
from mead.limits import check_limits
from mead.params import JobParams, P, ParamsError, check
from mead.settings import Settings
from mead.storage import Storage

_PICTURE_STATUS = {"too_large": 413, "not_a_picture": 415, "no_face": 422}

IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
CHECKING = 2
"""Forms that one process checks at a time: more threads would only wrestle for its interpreter."""
EVENT_ID = re.compile(r"[0-9]{1,15}", re.ASCII)
FORM_TYPES = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        message: what is wrong.
        field: the field or header at fault, if one is.
        job_id: the job the error is about, if there is one.
    """

    def __init__(
        self, status: int, message: str, field: str | None = None, job_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.job_id = job_id


class IdForm(BaseModel):
    """A form that names a job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, description="The id of a job.")


@dataclass(frozen=True)
class Form(Generic[P]):
    """A form that was good.

    Attributes:
        params: the job's parameters; the pictures they name are stored.
        fingerprint: the same for the same fields and files, and for no others.
    """

    params: P
    fingerprint: str


class Forms:
    """Reads the forms of jobs."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self.storage = storage
        self.settings = settings
        self._decoders = Decoders(
            DecodeLimits(
                settings.decode_seconds,
                settings.decode_memory_bytes,
                settings.max_picture_pixels,
                (settings.image_width, settings.image_height),
                settings.http_processes,
                settings.http_threads,
            )
        )
        self._checking = threading.BoundedSemaphore(CHECKING)

    def read(
        self, request: Request, params: type[P], job_id: str, required_files: tuple[str, ...] = ()
    ) -> Form[P]:
        """Check a multipart form and store its pictures for job `job_id`.

        A parameter `x` is the form field `x`; a parameter `x_path` is the file field `x`, whose picture is
        decoded now, shrunk to the largest stored size and written as a clean file, so that only pictures
        known to be good are queued.

        Args:
            required_files: files that must be there.

        Raises:
            ApiError: 400 missing, malformed, repeated or unknown field; 413 too large a picture, or one that
                takes too much to decode; 415 not a picture; 422 out of range; 429 too many pictures at once.
                Nothing is left in the storage then.
            OSError: they cannot be stored. Nothing is left then either.
        """
        texts, files = _read_fields(request, params)  # here a slow client is waited for
        paths = {f"{field}_path": self.storage.upload_path(job_id, field) for field in files}
        try:
            with self._checking:
                checked = self._check(params, required_files, {**texts, **paths}, files)
                fingerprint = _fingerprint(request.path, texts, files)
            for field, file in files.items():
                path = self.storage.upload_path(job_id, field)
                with self._decoders.decoded(file.stream, field, access.client()) as bitmap:  # type: ignore[arg-type]
                    self.storage.write_upload(bitmap, path, _length(file))
        except Exception as error:
            self.storage.remove_uploads(paths.values())
            if isinstance(error, ParamsError | PictureError):
                raise input_error(error) from error
            if isinstance(error, BusyError):
                raise ApiError(429, str(error), error.field) from error
            raise
        return Form(checked, fingerprint)

    def _check(
        self,
        params: type[P],
        required_files: tuple[str, ...],
        values: dict[str, Any],
        files: dict[str, FileStorage],
    ) -> P:
        checked = check(params, values)
        check_limits(checked, self.settings)
        for field in required_files:
            if field not in files:
                raise ApiError(400, f"{field}: must be sent, as a file", field)
        return checked


def read_id(request: Request) -> str:
    """The `id` of a form that holds nothing else.

    Raises:
        ApiError: 400.
    """
    _refuse_other_bodies(request)
    _refuse_unknown(request, set(IdForm.model_fields), set())
    job_id = request.form.get("id", "")
    if not job_id:
        raise ApiError(400, "id: give the id of a job", "id")
    return job_id


def refuse_fields(request: Request) -> None:
    """Refuse whatever a request carries beside its path, where that is all it may carry.

    Raises:
        ApiError: 400, naming the first field.
    """
    _refuse_unknown(request, set(), set())


def read_idempotency_key(request: Request) -> str | None:
    """The header Idempotency-Key: 1 to 255 visible ASCII characters.

    Raises:
        ApiError: 400.
    """
    return _read_header(request, "Idempotency-Key", IDEMPOTENCY_KEY, "give 1 to 255 visible ASCII characters")


def read_last_event_id(request: Request) -> int:
    """The header Last-Event-ID, as our events have it; -1 if there is none, or an empty one.

    Raises:
        ApiError: 400.
    """
    if not request.headers.get("Last-Event-ID"):
        return -1
    value = _read_header(request, "Last-Event-ID", EVENT_ID, "give the id of an event, a number")
    return int(value or -1)


def input_error(error: ValueError) -> ApiError:
    """What HTTP says of parameters and pictures that cannot be used."""
    if isinstance(error, PictureError):
        return ApiError(_PICTURE_STATUS[error.kind], str(error), error.field)
    if isinstance(error, ParamsError):
        return ApiError(422 if error.out_of_range else 400, str(error), error.field)
    return ApiError(422, str(error))


def _read_header(request: Request, name: str, good: re.Pattern[str], right: str) -> str | None:
    value = request.headers.get(name)
    if value is not None and not good.fullmatch(value):
        raise ApiError(400, f"{name}: {right}", name)
    return value


def _length(file: FileStorage) -> int:
    return file.stream.seek(0, os.SEEK_END)


def _fingerprint(route: str, texts: dict[str, str], files: dict[str, FileStorage]) -> str:
    digests = {}
    for field, file in files.items():
        file.stream.seek(0)
        digests[field] = hashlib.sha256(file.stream.read()).hexdigest()
    whole = json.dumps([route, texts, digests], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def _read_fields(request: Request, params: type[JobParams]) -> tuple[dict[str, str], dict[str, FileStorage]]:
    texts, pictures, must = _fields_of(params)
    _refuse_other_bodies(request)
    _refuse_unknown(request, texts, pictures)
    # A form in a browser sends a nameless empty part for a file that was not chosen.
    chosen = {field: file for field, file in request.files.items() if file.filename or file.stream.read(1)}
    for file in chosen.values():
        file.stream.seek(0)
    # And an empty text for what was not filled in.
    return {field: text for field, text in request.form.items() if text or field in must}, chosen


@functools.cache
def _fields_of(params: type[JobParams]) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """The form's texts, its files, and those fields that must be given."""
    names = frozenset(params.model_fields)
    pictures = frozenset(name.removesuffix("_path") for name in names if name.endswith("_path"))
    texts = frozenset(name for name in names if not name.endswith("_path"))
    return texts, pictures, frozenset(name for name in names if params.model_fields[name].is_required())


def _refuse_other_bodies(request: Request) -> None:
    """Refuse a body that is no form.

    Raises:
        ApiError: 415, saying what to send.
    """
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding != "identity":
        raise ApiError(415, f"Content-Encoding: send the form as it is, not as {coding}", "Content-Encoding")
    mimetype = request.mimetype
    if mimetype in FORM_TYPES:
        return
    if mimetype or request.content_length or "Transfer-Encoding" in request.headers:
        sent = f"{mimetype} is not read" if mimetype else "the body has no Content-Type"
        example = 'curl -F prompt="a red house" -F img=@photo.jpg'
        raise ApiError(415, f"{sent}: send a form (multipart/form-data), as {example} does")


def _refuse_unknown(request: Request, texts: Set[str], pictures: Set[str]) -> None:
    for field in request.args:
        raise ApiError(400, f"{field}: fields belong into the form, not into the address", field)
    for field, values in request.form.lists():
        if field in pictures:
            raise ApiError(400, f"{field}: must be sent as a file", field)
        if field not in texts:
            known = ", ".join(sorted(texts | pictures)) or "none"
            raise ApiError(400, f"{field}: unknown field; known are {known}", field)
        if len(values) > 1:
            raise ApiError(400, f"{field}: given {len(values)} times", field)
    for field, files in request.files.lists():
        if field in texts:
            raise ApiError(400, f"{field}: must be sent as text, not as a file", field)
        if field not in pictures:
            known = ", ".join(sorted(pictures)) or "none"
            raise ApiError(400, f"{field}: unknown file; known are {known}", field)
        if len(files) > 1:
            raise ApiError(400, f"{field}: given {len(files)} times", field)
