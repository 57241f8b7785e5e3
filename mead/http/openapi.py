"""The API's description (OpenAPI 3.1): read off the routes themselves and the models that check and answer.

A route says beside its view what the models cannot know (`@describe`); forms, ranges and answers come from
the models that check the forms and make the answers. So a description cannot fall behind what it describes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import resources
from inspect import cleandoc
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from flask import Blueprint, Flask, Response, current_app, jsonify, request, send_from_directory
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from mead.http.access import is_open
from mead.http.responses import (
    Accepted,
    Alive,
    Answer,
    Cancelled,
    Change,
    Error,
    Picture,
    Processing,
    Record,
    example_of,
)
from mead.imaging.formats import FORMATS
from mead.installation import version
from mead.limits import CUTOUT_PIXELS
from mead.params import size_pattern
from mead.settings import Settings

Route = TypeVar("Route", bound=Callable[..., Any])
Content: TypeAlias = "type[Answer] | str"
"""What an answer holds: a JSON object, or something of a media type."""

ABOUT = """
Makes and edits pictures from words. The two POSTs that make a picture **wait** and answer with it; with
`Prefer: respond-async` they answer at once with the job's id, with `Accept: text/event-stream` they tell how
the job gets on. A client that hangs up loses nothing: the job goes on, and its result is kept.
"""

ERRORS = {
    400: "A field or header is missing, malformed, given twice or unknown.",
    401: "The API key is missing or not known.",
    403: "A page of another site may not ask for this, nor may anybody under an unknown host name.",
    404: "There is no such job, or it is not kept any more.",
    409: "The job is in the wrong state: it was cancelled, or has ended, or has no picture.",
    413: "The request or a picture is too large.",
    415: "A file is not a picture that can be read, or the body is no form.",
    422: "A value is out of range, there is no face, or the Idempotency-Key was used for another form.",
    429: "The queue is full, or this client has too many unfinished jobs.",
    500: "The job failed for a reason of the server's own.",
    503: "Redis or every inference server is away, the disk is full, or the server is stopping.",
}

HEADERS: dict[str, tuple[str, set[int]]] = {
    "X-Request-ID": ("The request's id, as the log has it.", set()),
    "Location": ("The address of the job's record.", {202}),
    "Retry-After": ("Seconds after which to look or try again.", {202, 429, 503}),
    "Preference-Applied": ("The preference of the request that was followed.", {202}),
    "WWW-Authenticate": ("How to send a key.", {401}),
}
"""Headers of answers: what they say, and with which statuses they come (all, if none is named)."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "Prefer": {
        "description": "`respond-async` (RFC 7240): answer 202 at once instead of waiting.",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
    "Idempotency-Key": {
        "description": "Repeating a request with the same key gives the first one's job, never a second job.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        "example": "4f0c1d2e-order-17",
    },
    "Last-Event-ID": {
        "description": "The id of the last event that was seen; only what came after it is sent.",
        "schema": {"type": "string", "pattern": "^[0-9]{0,15}$"},  # empty: none was seen
        "example": "12",
    },
}
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
EVENTS = "text/event-stream"
MEDIA: dict[str, dict[str, Any]] = {
    EVENTS: {
        "schema": {
            "type": "object",
            "description": "One event. `progress` after each change; at last `end`, or `closing` when the "
            "server stops before: ask again. The data of `closing` is an Error.",
            "properties": {
                "id": {"type": "string", "pattern": "^[0-9]+$"},
                "event": {"enum": ["progress", "end", "closing"]},
                "retry": {"type": "integer", "description": "Milliseconds."},
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"$ref": "#/components/schemas/Change"},
                },
            },
            "required": ["event", "data"],
        },
        "example": {
            "id": "7",
            "event": "progress",
            "data": '{"id": "8d3f0c6f2b1e4c55a6b1f0c2d4e6a798", "status": "processing", "steps": 5}',
        },
    },
    "image/png": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {"schema": {"type": ["object", "string"]}},
    "text/html": {"schema": {"type": "string"}},
    "text/plain": {"schema": {"type": "string"}},
    "application/openmetrics-text": {"schema": {"type": "string"}},
}
JOB_ID = {"description": "The job's id.", "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}}
MODELS = (Accepted, Alive, Cancelled, Change, Error, Picture, Processing, Record)


SUBJECTS = {
    "pictures": "Make and edit pictures.",
    "jobs": "Look after jobs.",
    "service": "How the service is, and what it is.",
}


@dataclass(frozen=True)
class Description:
    """What a route's models cannot tell.

    Args:
        answers: what it answers when all is well, by status; several kinds where the request chooses.
        errors: the statuses of its errors.
        form: the model that checks its form.
        required_files: files the form must hold, beyond the model's own required fields.
        headers: the request headers it heeds, of PARAMETERS.
        examples: whole forms.
        about: what it is about, of SUBJECTS.
    """

    answers: Mapping[int, Sequence[Content]]
    errors: Sequence[int] = ()
    form: type[BaseModel] | None = None
    required_files: Sequence[str] = ()
    headers: Sequence[str] = ()
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    about: str = "service"


def describe(description: Description) -> Callable[[Route], Route]:
    """Put a description beside a view; the view's docstring is its text."""

    def put(view: Route) -> Route:
        view.description = description  # type: ignore[attr-defined]
        return view

    return put


def pages(settings: Settings) -> Blueprint:
    """/openapi.json, and /docs, which shows it and loads nothing from any other site."""
    routes = Blueprint("openapi", __name__)
    own = Path(__file__).parent / "docs"
    swagger = Path(str(resources.files("flask_openapi3_swagger"))) / "templates" / "swagger"

    @routes.get("/openapi.json")
    @describe(Description({200: ["application/json"]}))
    def openapi() -> Response:
        """This description."""
        here = {"servers": [{"url": f"{request.script_root}/"}]}  # below the path a proxy may give us
        return jsonify(openapi_of(current_app, settings) | here)

    @routes.get("/docs")
    @describe(Description({200: ["text/html"]}))
    def docs() -> Response:
        """This description as a page."""
        return send_from_directory(own, "index.html")

    @routes.get("/docs/<path:name>")
    def part(name: str) -> Response:
        return send_from_directory(own if (own / name).is_file() else swagger, name, max_age=3600)

    return routes


def openapi_of(app: Flask, settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every described route of `app`."""
    paths: dict[str, dict[str, Any]] = {}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        view = app.view_functions[rule.endpoint]
        if not hasattr(view, "description"):
            continue
        path = paths.setdefault(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), {})
        name = rule.endpoint.rpartition(".")[2]
        methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        for method in methods:
            operation_id = name if len(methods) == 1 else f"{method.lower()}_{name}"
            path[method.lower()] = {"operationId": operation_id, **_operation(rule, view, settings)}
    _, schemas = models_json_schema(
        [(model, "serialization") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "mead-backend", "version": version(), "description": cleandoc(ABOUT)},
        "tags": [{"name": name, "description": about} for name, about in SUBJECTS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            **({"securitySchemes": KEYS} if settings.api_keys else {}),
        },
    }


def _operation(rule: Rule, view: Any, settings: Settings) -> dict[str, Any]:
    description: Description = view.description
    text = cleandoc(view.__doc__)
    parameters = [{"name": name, "in": "path", "required": True, **JOB_ID} for name in sorted(rule.arguments)]
    parameters += [{"name": name, "in": "header", **PARAMETERS[name]} for name in description.headers]
    needs_key = bool(settings.api_keys) and not is_open(rule.rule)
    errors = {*description.errors, *([401] if needs_key else [])}
    operation: dict[str, Any] = {
        "tags": [description.about],
        "summary": text.partition("\n")[0],
        "description": text,
        "parameters": parameters,
        "responses": {
            **{str(status): _answer(status, contents) for status, contents in description.answers.items()},
            **{str(status): _error(status) for status in sorted(errors)},
        },
    }
    if description.form is not None:
        operation["requestBody"] = _body(description, settings)
    if needs_key:
        operation["security"] = [{name: []} for name in KEYS]
    return operation


def _answer(status: int, contents: Sequence[Content]) -> dict[str, Any]:
    models = [content for content in contents if not isinstance(content, str)]
    media = {content: MEDIA[content] for content in contents if isinstance(content, str)}
    if models:
        schemas = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
        media["application/json"] = {
            "schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas},
            "examples": {model.__name__: {"value": example_of(model)} for model in models},
        }
    told = [cleandoc(model.__doc__ or "") for model in models]
    answer: dict[str, Any] = {"description": " ".join(told) or "As asked for.", "headers": _headers(status)}
    if media:
        answer["content"] = media
    if status == HTTPStatus.ACCEPTED:  # where to go on from here
        answer["links"] = {
            operation: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
            for operation in ("record", "image", "preview", "events", "cancel")
        }
    return answer


def _error(status: int) -> dict[str, Any]:
    example = {"status": "error", "message": ERRORS[status], "field": None}
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": ERRORS[status],
        "headers": _headers(status),
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _headers(status: int) -> dict[str, Any]:
    return {
        name: {"description": about, "required": name == "X-Request-ID", "schema": {"type": "string"}}
        for name, (about, statuses) in HEADERS.items()
        if not statuses or status in statuses
    }


def _body(description: Description, settings: Settings) -> dict[str, Any]:
    """The form a model checks: a parameter `x` is the field `x`, a parameter `x_path` the file field `x`."""
    assert description.form is not None
    schema = description.form.model_json_schema()
    fields, files = {}, []
    for name, own in schema["properties"].items():
        about = {
            key: value for key, value in own.items() if key not in {"title", "anyOf"} and value is not None
        }
        about |= next((kind for kind in own.get("anyOf", []) if kind != {"type": "null"}), {})
        if name.endswith("_path"):
            name = name.removesuffix("_path")
            files.append(name)
            here = " Must be sent here." if name in description.required_files else ""
            about = {"type": "string", "format": "binary", "description": own["description"] + here}
        fields[name] = about
    largest = (
        f" Fewer for large pictures: steps times (width times height + {CUTOUT_PIXELS} for each cutout) may "
        f"be {settings.max_job_pixels:,} at most."
    )
    limits = {
        "iterations": {
            "maximum": settings.max_iterations,
            "description": fields.get("iterations", {}).get("description", "") + largest,
        },
        "cutouts": {"maximum": settings.max_cutouts},
        "size": {"pattern": size_pattern(settings.max_side)},
    }
    for name, limit in limits.items():
        if name in fields:
            fields[name] |= limit
    form = {
        "type": "object",
        "properties": fields,
        "required": [*schema.get("required", []), *description.required_files],
        "additionalProperties": False,
    }
    media: dict[str, Any] = {"schema": form}
    if files:
        kinds = ", ".join(f"image/{kind.lower()}" for kind in FORMATS)
        media["encoding"] = {name: {"contentType": kinds} for name in files}
    if description.examples:
        media["examples"] = {name: {"value": dict(value)} for name, value in description.examples.items()}
    kinds_of_form = (
        ["multipart/form-data"] if files else ["application/x-www-form-urlencoded", "multipart/form-data"]
    )
    return {"required": True, "content": dict.fromkeys(kinds_of_form, media)}
