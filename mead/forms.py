"""Forms, checked: from what a request carries to a job's parameters, or to an error that names the field."""

from __future__ import annotations

from flask import Request
from PIL import Image
from werkzeug.datastructures import FileStorage

from caching_config import Settings
from mead.images import PictureError, fit_within, read_picture
from mead.params import JobParams, P, ParamsError, check
from mead.storage import Storage, write_picture

_PICTURE_STATUS = {"too_large": 413, "not_a_picture": 415, "no_face": 422}


class ApiError(Exception):
    """An answer that is an error: HTTP status, what is wrong and, where one field is at fault, which."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field


def read_form(request: Request, params: type[P], job_id: str, storage: Storage, settings: Settings) -> P:
    """Check a multipart form and store its pictures for job `job_id`.

    A parameter `x` is the form field `x`; a parameter `x_path` is the file field `x`, whose picture is
    decoded here, shrunk to the largest stored size and written as a clean PNG, so that only pictures known to
    be good are queued.

    Raises:
        ApiError: 400 missing, malformed, repeated or unknown field; 413 too large a picture; 415 not a
            picture; 422 out of range. Nothing is left in `storage` then.
    """
    texts, files = _read_fields(request, params)
    paths = {f"{field}_path": storage.upload_path(job_id, field) for field in files}
    try:
        checked = check(params, {**texts, **paths})
        # All are decoded before the first is written: most errors leave no file behind.
        pictures = {field: _read_upload(file, field, settings) for field, file in files.items()}
        for field, picture in pictures.items():
            write_picture(picture, storage.upload_path(job_id, field))
    except (ParamsError, PictureError) as error:
        raise input_error(error) from error
    except OSError:
        storage.remove_uploads(job_id)
        raise
    return checked


def read_id(request: Request) -> str:
    """The `id` of a form that holds nothing else.

    Raises:
        ApiError: 400.
    """
    _refuse_unknown(request, {"id"}, set())
    job_id = request.form.get("id", "")
    if not job_id:
        raise ApiError(400, "id: give the id of a job", "id")
    return job_id


def input_error(error: ValueError) -> ApiError:
    """What HTTP says of parameters and pictures that cannot be used."""
    if isinstance(error, PictureError):
        return ApiError(_PICTURE_STATUS[error.kind], str(error), error.field)
    if isinstance(error, ParamsError):
        return ApiError(422 if error.out_of_range else 400, str(error), error.field)
    return ApiError(422, str(error))


def _read_fields(request: Request, params: type[JobParams]) -> tuple[dict[str, str], dict[str, FileStorage]]:
    names = set(params.model_fields)
    pictures = {name.removesuffix("_path") for name in names if name.endswith("_path")}
    texts = {name for name in names if not name.endswith("_path")}
    _refuse_unknown(request, texts, pictures)
    # A form in a browser sends a nameless empty part for a file that was not chosen.
    chosen = {field: file for field, file in request.files.items() if file.filename or file.stream.read(1)}
    for file in chosen.values():
        file.stream.seek(0)
    return dict(request.form.items()), chosen


def _refuse_unknown(request: Request, texts: set[str], pictures: set[str]) -> None:
    for field in request.args:
        raise ApiError(400, f"{field}: fields belong into the form, not into the address", field)
    for field, values in request.form.lists():
        if field in pictures:
            raise ApiError(400, f"{field}: must be sent as a file", field)
        if field not in texts:
            raise ApiError(
                400, f"{field}: unknown field; known are {', '.join(sorted(texts | pictures))}", field
            )
        if len(values) > 1:
            raise ApiError(400, f"{field}: given {len(values)} times", field)
    for field, files in request.files.lists():
        if field in texts:
            raise ApiError(400, f"{field}: must be sent as text, not as a file", field)
        if field not in pictures:
            raise ApiError(
                400, f"{field}: unknown file; known are {', '.join(sorted(pictures)) or 'none'}", field
            )
        if len(files) > 1:
            raise ApiError(400, f"{field}: given {len(files)} times", field)


def _read_upload(file: FileStorage, field: str, settings: Settings) -> Image.Image:
    picture = read_picture(file.stream, field, settings.max_picture_pixels)  # type: ignore[arg-type]
    return fit_within(picture, settings.image_width, settings.image_height)
