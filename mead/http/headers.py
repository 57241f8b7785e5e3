"""Request headers of the API, checked."""

from __future__ import annotations

import re

from flask import Request

from mead.http.errors import ApiError

IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
EVENT_ID = re.compile(r"[0-9]{1,15}", re.ASCII)


def read_idempotency_key(request: Request) -> str | None:
    """The header Idempotency-Key: 1 to 255 visible ASCII characters.

    Raises:
        ApiError: 400.
    """
    return _read(request, "Idempotency-Key", IDEMPOTENCY_KEY, "must be 1 to 255 visible ASCII characters")


def read_last_event_id(request: Request) -> int:
    """The header Last-Event-ID, the id of one of our events; -1 if it is missing or empty.

    Raises:
        ApiError: 400.
    """
    if not request.headers.get("Last-Event-ID"):
        return -1
    value = _read(request, "Last-Event-ID", EVENT_ID, "must be the id of an event, a number")
    return int(value or -1)


def prefers_async(request: Request) -> bool:
    """Whether the header Prefer has the preference `respond-async` (RFC 7240)."""
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)


def _read(request: Request, name: str, pattern: re.Pattern[str], rule: str) -> str | None:
    value = request.headers.get(name)
    if value is not None and not pattern.fullmatch(value):
        raise ApiError(400, f"{name}: {rule}", name)
    return value
