"""Forms: from a request's fields and files to a job's parameters, or to an error that names the field."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Generic

from flask import Request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.datastructures import FileStorage

from mead.http import access
from mead.http.errors import ApiError, input_error
from mead.http.fields import Fields, check_body_type, check_fields, fields_of, read_fields, refuse_body
from mead.http.uploads import PendingUploads
from mead.imaging.decoder_pool import DecodeLimits, Decoders
from mead.imaging.encoding import Bitmap
from mead.imaging.fair_semaphore import BusyError
from mead.imaging.pictures import MAX_SIDE, PictureError, check_mask
from mead.limits import check_limits
from mead.params import JobParams, M, MissingError, P, ParamsError, check
from mead.receivers import AllowedReceivers
from mead.settings import Settings
from mead.webhooks.form import WebhookForm

CONCURRENT_CHECKS = 2
"""Forms that one process checks at a time. More threads would only compete for the interpreter."""


class IdForm(BaseModel):
    """A form that names a job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, description="The id of a job.")


class PhotoForm(BaseModel):
    """A form with a photo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    img_path: Path | None = Field(None, description="The photo.")


@dataclass(frozen=True)
class Form(Generic[P]):
    """A valid form.

    Attributes:
        params: the job's parameters; the pictures that they name are stored.
        fingerprint: equal only for equal fields and files.
        also: what the jobs' records hold beside their parameters.
    """

    params: P
    fingerprint: str
    also: Mapping[str, str]


class FormReader:
    """Reads the forms of jobs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        limits = DecodeLimits(
            settings.decode_seconds,
            settings.decode_memory_bytes,
            settings.max_picture_pixels,
            (settings.image_width, settings.image_height),
            settings.http_processes,
            settings.http_threads,
        )
        self._decoders = Decoders(limits)
        self._whole = Decoders(
            replace(limits, max_pixels=settings.max_photo_pixels, within=(MAX_SIDE, MAX_SIDE), in_memory=2)
        )
        self._receivers = AllowedReceivers(settings.webhook_allow)
        self._checks = threading.BoundedSemaphore(CONCURRENT_CHECKS)

    def read(
        self,
        request: Request,
        params: type[P],
        uploads: PendingUploads,
        required_files: tuple[str, ...] = (),
        *,
        webhooks: bool = False,
    ) -> Form[P]:
        """Check a form and store its pictures as `uploads`, for each of its `n` jobs.

        A parameter `x` is the text field `x`; a parameter `x_path` is the file field `x`. Its picture is
        decoded, reduced to the largest stored size and written as a new file, so that only valid pictures are
        queued.

        Args:
            required_files: file fields that must be sent.
            webhooks: whether the form may name a receiver of webhooks.

        Raises:
            ApiError: 400 missing, malformed, repeated or unknown field; 413 a picture is too large or takes
                too much to decode; 415 not a picture; 422 out of range; 429 too many pictures at once.
            OSError: a picture cannot be stored.
        """
        models = (params, WebhookForm) if webhooks else (params,)
        sent, files = read_fields(request, fields_of(*models))  # waits for slow clients
        texts = {name: text for name, text in sent.items() if name not in WebhookForm.model_fields}
        paths = {f"{field}_path": uploads.path(field) for field in files}
        try:
            with self._checks:
                missing_files = [field for field in required_files if field not in files]
                checked = _check(params, {**texts, **paths}, missing_files)
                check_limits(checked, self.settings)
                also = self.receiver(sent)
                fingerprint = fingerprint_of(request.path, sent, files)
                uploads.number(checked.n)
            for field, file in files.items():
                decoders = self._whole if field in checked.whole_pictures() else self._decoders
                stream: BinaryIO = file.stream  # type: ignore[assignment]
                is_mask = field in params.MASKS
                with decoders.decoded(stream, field, access.client(), is_mask) as bitmap:
                    if is_mask:
                        check_mask(bitmap.picture().getchannel(0), field)
                    uploads.write(field, bitmap, _size(file))
        except (ParamsError, PictureError) as error:
            raise input_error(error) from error
        except BusyError as error:
            raise ApiError(429, str(error), error.field) from error
        return Form(checked, fingerprint, also)

    def receiver(self, texts: Mapping[str, str]) -> dict[str, str]:
        """What the records of a form's jobs hold of who is to be told of them.

        Raises:
            ParamsError: naming the field.
        """
        fields = {name: text for name, text in texts.items() if name in WebhookForm.model_fields}
        webhook = check(WebhookForm, fields)
        webhook.check_receiver(self._receivers)
        return webhook.recorded()

    def whole_photo(self, file: BinaryIO, field: str) -> AbstractContextManager[Bitmap]:
        """A photo at its own size, for the length of a block.

        Raises:
            PictureError, BusyError: as `Decoders.decoded`.
        """
        return self._whole.decoded(file, field, access.client())


def _check(params: type[P], given: Mapping[str, Any], missing_files: Sequence[str]) -> P:
    """The parameters of a form, checked.

    Raises:
        ParamsError: as `mead.params.check`; missing texts and files are named together.
    """
    try:
        checked = check(params, given)
    except MissingError as error:
        raise MissingError([*error.fields, *missing_files], error.instead) from None
    if missing_files:
        raise MissingError(missing_files)
    return checked


def read_params(request: Request, params: type[P], settings: Settings) -> P:
    """The parameters of a form of which nothing is made: its pictures are not looked at, so that empty files
    will do.

    Raises:
        ApiError: 400, 415, 422: as `FormReader.read`.
    """
    texts, files = read_fields(request, fields_of(params))
    try:
        checked = check(params, {**texts, **{f"{field}_path": Path(field) for field in files}})
        check_limits(checked, settings)
    except ParamsError as error:
        raise input_error(error) from error
    return checked


def check_one(params: JobParams) -> None:
    """Check that a form asks for one job, as a stream of events is of one.

    Raises:
        ApiError: 400.
    """
    if params.n > 1:
        raise ApiError(400, "n: a stream of events is of one job; send Prefer: respond-async instead", "n")


def read_query(request: Request, kind: type[M]) -> M:
    """The parameters in the query string of a request without a body.

    Raises:
        ApiError: 400, 422.
    """
    refuse_body(request)
    for name, values in request.args.lists():
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise ApiError(400, f"{name}: unknown parameter; the parameters are {known}", name)
        if len(values) > 1:
            raise ApiError(400, f"{name}: given {len(values)} times", name)
    try:
        return check(kind, request.args.to_dict())
    except ParamsError as error:
        raise input_error(error) from error


def read_photo(request: Request) -> BinaryIO:
    """The photo of a form that has nothing else, the file field `img`.

    Raises:
        ApiError: 400, 415: as `FormReader.read`.
    """
    _, files = read_fields(request, fields_of(PhotoForm))
    if "img" not in files:
        raise ApiError(400, "img: must be sent as a file", "img")
    photo: BinaryIO = files["img"].stream  # type: ignore[assignment]
    return photo


def read_id(request: Request) -> str:
    """The `id` of a form with no other field.

    Raises:
        ApiError: 400.
    """
    check_body_type(request)
    check_fields(request, set(IdForm.model_fields), set())
    job_id = request.form.get("id", "")
    if not job_id:
        raise ApiError(400, "id: send the id of a job", "id")
    return job_id


def _size(file: FileStorage) -> int:
    return file.stream.seek(0, os.SEEK_END)


def read_texts(request: Request, names: Set[str]) -> dict[str, str]:
    """The texts that were filled in of a form with these fields and no others.

    Raises:
        ApiError: 400, 415: as `FormReader.read`.
    """
    return read_fields(request, Fields(frozenset(names), frozenset(), frozenset()))[0]


def fingerprint_of(route: str, texts: Mapping[str, str], files: Mapping[str, FileStorage]) -> str:
    """What tells a request from others: equal only for equal fields and files."""
    digests = {}
    for field, file in files.items():
        file.stream.seek(0)
        digests[field] = hashlib.sha256(file.stream.read()).hexdigest()
    content = json.dumps([route, texts, digests], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
