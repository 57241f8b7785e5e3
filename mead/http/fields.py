"""The fields of a request: its texts and files by name, or an error that names the field."""

from __future__ import annotations

import functools
from collections.abc import Set
from dataclasses import dataclass

from flask import Request
from pydantic import BaseModel
from werkzeug.datastructures import FileStorage

from mead.http.errors import ApiError

FORM_TYPES = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


@dataclass(frozen=True)
class Fields:
    """The fields of a form: texts and files by name, and which of them are required."""

    texts: frozenset[str]
    files: frozenset[str]
    required: frozenset[str]


@functools.cache
def fields_of(*models: type[BaseModel]) -> Fields:
    """The fields of a form that is read into these models: a file for each `x_path`, a text for others."""
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    return Fields(
        texts=frozenset(name for name in fields if not name.endswith("_path")),
        files=frozenset(name.removesuffix("_path") for name in fields if name.endswith("_path")),
        required=frozenset(name for name, field in fields.items() if field.is_required()),
    )


def read_fields(request: Request, fields: Fields) -> tuple[dict[str, str], dict[str, FileStorage]]:
    """The texts and files that were filled in.

    Raises:
        ApiError: 400, naming the first wrong field; 415.
    """
    check_body_type(request)
    check_fields(request, fields.texts, fields.files)
    # Browsers send an empty part without a name for a file that was not chosen,
    chosen = {field: file for field, file in request.files.items() if file.filename or file.stream.read(1)}
    for file in chosen.values():
        file.stream.seek(0)
    # and an empty text for a field that was left empty.
    return {field: text for field, text in request.form.items() if text or field in fields.required}, chosen


def check_body_type(request: Request) -> None:
    """Refuse a body that is not a form.

    Raises:
        ApiError: 415, saying what to send.
    """
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding != "identity":
        raise ApiError(
            415,
            f"Content-Encoding: {coding} is not supported; send the form uncompressed",
            "Content-Encoding",
        )
    mimetype = request.mimetype
    if mimetype in FORM_TYPES:
        return
    if mimetype or request.content_length or "Transfer-Encoding" in request.headers:
        problem = f"{mimetype} is not supported" if mimetype else "the body has no Content-Type"
        example = 'curl -F prompt="a red house" -F img=@photo.jpg'
        raise ApiError(415, f"{problem}: send a form (multipart/form-data), as {example} does")


def check_fields(request: Request, texts: Set[str], files: Set[str]) -> None:
    """Refuse unknown and repeated fields, and texts sent as files or the reverse.

    Raises:
        ApiError: 400, naming the first such field.
    """
    for field in request.args:
        raise ApiError(400, f"{field}: send fields in the form, not in the query string", field)
    for field, values in request.form.lists():
        if field in files:
            raise ApiError(400, f"{field}: must be sent as a file", field)
        if field not in texts:
            known = ", ".join(sorted(texts | files)) or "none"
            raise ApiError(400, f"{field}: unknown field; the fields are {known}", field)
        if len(values) > 1:
            raise ApiError(400, f"{field}: given {len(values)} times", field)
    for field, sent in request.files.lists():
        if field in texts:
            raise ApiError(400, f"{field}: must be sent as text, not as a file", field)
        if field not in files:
            known = ", ".join(sorted(files)) or "none"
            raise ApiError(400, f"{field}: unknown file; the files are {known}", field)
        if len(sent) > 1:
            raise ApiError(400, f"{field}: given {len(sent)} times", field)


def refuse_fields(request: Request) -> None:
    """Refuse a request that has fields, for routes without any.

    Raises:
        ApiError: 400, naming the first field.
    """
    check_fields(request, set(), set())


def refuse_body(request: Request) -> None:
    """Refuse a request that has a form, for routes that read the query string.

    Raises:
        ApiError: 400, naming the first field.
    """
    for field in (*request.form, *request.files):
        raise ApiError(400, f"{field}: send it in the query string, not as a form", field)
