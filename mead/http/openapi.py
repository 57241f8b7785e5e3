"""The OpenAPI 3.1 document of the API, made from its routes and models.

Each view has a `Description` for what its models do not say. Forms, ranges and answers come from the models
that check the forms and make the answers, so the document always matches what the API does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from mead.http.access import is_public
from mead.http.description import Content, Description
from mead.http.form_schema import field_schema, form_schema, weight_set
from mead.http.openapi_texts import (
    ABOUT,
    ERRORS,
    HEADERS,
    ID_PATTERN,
    JOB_ID,
    MEDIA_TYPES,
    PARAMETERS,
    SECURITY_SCHEMES,
    TAGS,
)
from mead.http.schemas import (
    Accepted,
    Alive,
    Cancelled,
    Change,
    Error,
    FormNotes,
    GroupCancelled,
    Models,
    PhotoFaces,
    Picture,
    Processing,
    Queues,
    Ready,
    Records,
    example_of,
)
from mead.imaging.formats import FORMATS
from mead.installation import version
from mead.job_record import Record
from mead.params import JobParams
from mead.registry import spec_of
from mead.resuming import FIELD
from mead.settings import Settings

SCHEMAS = (
    Accepted,
    Alive,
    Cancelled,
    Change,
    Error,
    FormNotes,
    GroupCancelled,
    Models,
    PhotoFaces,
    Picture,
    Processing,
    Queues,
    Ready,
    Record,
    Records,
)


def openapi_of(app: Flask, settings: Settings) -> dict[str, Any]:
    """The OpenAPI document of all described routes of `app`."""
    _, schemas = models_json_schema(
        [(model, "serialization") for model in SCHEMAS], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "mead-backend", "version": version(), "description": _about(settings)},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": _paths(app, settings),
        "components": {
            "schemas": schemas["$defs"],
            **({"securitySchemes": SECURITY_SCHEMES} if settings.api_keys else {}),
        },
    }


def _about(settings: Settings) -> str:
    """What the API does, and what its weights draw."""
    draws = weight_set(settings.weights).draws
    return "\n\n".join(filter(None, [cleandoc(ABOUT), draws]))


def _paths(app: Flask, settings: Settings) -> dict[str, dict[str, Any]]:
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
    return paths


def _operation(rule: Rule, view: Any, settings: Settings) -> dict[str, Any]:
    description: Description = view.description
    text = cleandoc(view.__doc__)
    parameters = [{"name": name, "in": "path", "required": True, **JOB_ID} for name in sorted(rule.arguments)]
    parameters += [{"name": name, "in": "header", **PARAMETERS[name]} for name in description.headers]
    parameters += _query_parameters(description.query) if description.query is not None else []
    needs_key = bool(settings.api_keys) and not is_public(rule.rule)
    errors = {*description.errors, *([401] if needs_key else [])}
    operation: dict[str, Any] = {
        "tags": [description.tag],
        "summary": text.partition("\n")[0],
        "description": text,
        "parameters": parameters,
        "responses": {
            **{str(status): _answer(status, contents) for status, contents in description.answers.items()},
            **{str(status): _error(status) for status in sorted(errors)},
        },
    }
    if description.form is not None:
        operation["requestBody"] = _request_body(description, settings)
    if needs_key:
        operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
    return operation


def _query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    schema = query.model_json_schema()
    parameters = []
    for name, field in schema["properties"].items():
        kind = field_schema(field)
        about = kind.pop("description")
        required = name in schema.get("required", [])
        parameters.append(
            {"name": name, "in": "query", "required": required, "description": about, "schema": kind}
        )
    return parameters


def _answer(status: int, contents: Sequence[Content]) -> dict[str, Any]:
    models = [content for content in contents if not isinstance(content, str)]
    media = {content: MEDIA_TYPES[content] for content in contents if isinstance(content, str)}
    if models:
        schemas = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
        media["application/json"] = {
            "schema": schemas[0] if len(schemas) == 1 else {"oneOf": schemas},
            "examples": {model.__name__: {"value": example_of(model)} for model in models},
        }
    texts = [cleandoc(model.__doc__ or "") for model in models]
    answer: dict[str, Any] = {
        "description": " ".join(texts) or HTTPStatus(status).phrase,
        "headers": _headers(status),
    }
    if media:
        answer["content"] = media
    if status == HTTPStatus.ACCEPTED:
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
        name: {"description": text, "required": name == "X-Request-ID", "schema": {"type": "string"}}
        for name, (text, statuses) in HEADERS.items()
        if not statuses or status in statuses
    }


def _request_body(description: Description, settings: Settings) -> dict[str, Any]:
    assert description.form is not None
    form = form_schema(description.form, description.required_files, settings)
    if description.further is not None:
        form["properties"] |= form_schema(description.further, (), settings)["properties"]
    if description.continues:
        form = _continuing(form, description.continues)
    files = [name for name, field in form["properties"].items() if field.get("format") == "binary"]
    media: dict[str, Any] = {"schema": form}
    if files:
        types = ", ".join(f"image/{form.lower()}" for form in FORMATS)
        media["encoding"] = {name: {"contentType": types} for name in files}
    if examples := _examples(description, settings):
        media["examples"] = {name: {"value": dict(value)} for name, value in examples.items()}
    # urlencoded forms are taken too, but generators of clients know one type for each form
    return {"required": True, "content": {"multipart/form-data": media}}


def _continuing(form: Mapping[str, Any], about: str) -> dict[str, Any]:
    """The schema of a form that may name a job to go on with, and what that is for."""
    own = {"type": "string", "pattern": ID_PATTERN, "description": about}
    # `required` stays: what JSON Schema has for "or" is beyond the tools that read this
    return {**form, "properties": {**form["properties"], FIELD: own}}


def _examples(description: Description, settings: Settings) -> dict[str, Mapping[str, Any]]:
    """Examples of a form, by title: the view's, and the prompts that work with the weights set."""
    examples = dict(description.examples)
    if description.form is not None and issubclass(description.form, JobParams):
        prompts = weight_set(settings.weights).examples.get(spec_of(description.form).name, ())
        examples |= {prompt: {"prompt": prompt} for prompt in prompts}
    return examples
