"""The texts and examples of `/openapi.json` that belong to no single route or model."""

from __future__ import annotations

from typing import Any

ABOUT = """
Makes and edits pictures from words. The two POSTs that make a picture **wait** and answer with it. With
`Prefer: respond-async` they answer at once with the job's id; with `Accept: text/event-stream` they stream
the job's progress. If a client disconnects, its job continues and the result is kept.
"""

TAGS = {
    "pictures": "Make and edit pictures.",
    "jobs": "Follow, cancel and read jobs.",
    "service": "Health, metrics and documentation.",
}

ERRORS = {
    400: "A field or header is missing, malformed, repeated or unknown.",
    401: "The API key is missing or unknown.",
    403: "The request comes from another site's page, names an unknown host, or asks for what is turned off.",
    404: "There is no such job, or it has expired.",
    409: "The job was cancelled, has already ended, or has no picture or time-lapse.",
    413: "The request or a picture is too large.",
    415: "A file is not a supported picture, or the body is not a form.",
    422: "A value is out of range, no face was found, or the Idempotency-Key was used for another form.",
    429: "The queue is full, or this client has too many jobs or requests.",
    500: "The job failed because of an internal error.",
    501: "The server makes no videos: a package is not installed.",
    503: "Redis, the storage or all inference servers are unavailable, or the server is shutting down.",
}

HEADERS: dict[str, tuple[str, set[int]]] = {
    "X-Request-ID": ("The id of the request in the server's log.", set()),
    "Location": ("The address of the job's record, or of its picture.", {202, 302}),
    "Retry-After": ("Seconds to wait before asking again.", {202, 429, 503}),
    "Preference-Applied": ("The preference that was applied.", {202}),
    "WWW-Authenticate": ("How to send an API key.", {401}),
}
"""Response headers: their descriptions, and the statuses that have them (all, if empty)."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "Prefer": {
        "description": "`respond-async` (RFC 7240): answer 202 at once instead of waiting.",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
    "Idempotency-Key": {
        "description": "A repeated request with the same key returns the first job instead of a new one.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        "example": "4f0c1d2e-order-17",
    },
    "Last-Event-ID": {
        "description": "The id of the last event received. Only later events are sent.",
        "schema": {"type": "string", "pattern": "^[0-9]{0,15}$"},  # empty: no event was received
        "example": "12",
    },
}
"""Request headers."""

SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

EVENT_STREAM = "text/event-stream"
MEDIA_TYPES: dict[str, dict[str, Any]] = {
    EVENT_STREAM: {
        "schema": {
            "type": "object",
            "description": "One event: `progress` after each change; finally `end`, or `closing` if the "
            "server shuts down or the job expires first. The data of `closing` is an Error.",
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
    "image/webp": {"schema": {"type": "string", "format": "binary"}},
    "video/mp4": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {"schema": {}},  # of any type: generators know no lists of types
    "text/html": {"schema": {"type": "string"}},
    "text/plain": {"schema": {"type": "string"}},
    "application/openmetrics-text": {"schema": {"type": "string"}},
}

ID_PATTERN = "^[0-9a-f]{32}$"
JOB_ID = {"description": "The job's id.", "schema": {"type": "string", "pattern": ID_PATTERN}}
