"""Server-sent events: their format, and responses made of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from flask import Request, Response

from mead.http.openapi_texts import EVENT_STREAM
from mead.job_record import Answer

HEARTBEAT = ": heartbeat\n\n"
"""A comment, which keeps an idle connection open."""


def wants_events(request: Request) -> bool:
    """Whether a request prefers server-sent events to JSON."""
    types = ["application/json", EVENT_STREAM]  # the first one if the client accepts anything
    return request.accept_mimetypes.best_match(types) == EVENT_STREAM


def format_event(name: str, data: Answer, event_id: int | None = None) -> str:
    """One event as it is sent."""
    first = "" if event_id is None else f"id: {event_id}\n"
    return f"{first}event: {name}\ndata: {json.dumps(data.content())}\n\n"


def event_response(events: Iterator[str], retry: float) -> Response:
    """A response of server-sent events.

    Args:
        retry: seconds after which a client that lost the connection should reconnect.
    """
    first = f"retry: {round(retry * 1000)}\n\n"
    response = Response(itertools.chain([first], events), mimetype=EVENT_STREAM)
    response.cache_control.no_store = True
    response.headers["X-Accel-Buffering"] = "no"  # nginx would buffer the events
    return response
