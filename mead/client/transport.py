"""Requests and replies as httpx2 has them."""

from __future__ import annotations

from typing import Any

import httpx2

from mead.client.flows import Operations
from mead.client.steps import Open, Reply, Request


def arguments(request: Request) -> dict[str, Any]:
    """A request as httpx2 takes it. Only the service gets the API key, not whom it sends us to."""
    elsewhere = {"auth": _without_key} if "://" in request.path else {}
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.query) or None,
        "data": dict(request.form) or None,
        "files": dict(request.files) or None,
        "headers": dict(request.headers),
        **elsewhere,
    }


def _without_key(request: httpx2.Request) -> httpx2.Request:
    request.headers.pop("X-API-Key", None)
    return request


def opening(step: Open, operations: Operations) -> dict[str, Any]:
    """The request of a stream as httpx2 takes it."""
    return {**arguments(step.request), "timeout": httpx2.Timeout(operations.timeout, read=step.longest)}


def reply_of(response: httpx2.Response, is_read: bool = True) -> Reply:
    """A reply, with its content if that was read."""
    return Reply(response.status_code, response.content if is_read else b"", response.headers)


def failure_of(error: httpx2.TransportError) -> Reply:
    """What comes of a request without an answer."""
    return Reply(failure=str(error) or type(error).__name__)
