"""Error answers to requests that do not reach the app, in the same format as its own."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)

from mead.http.responses import retry_after
from mead.http.schemas import Error
from mead.terminal import printable

log = logging.getLogger(__name__)

RESPONSE_ERRORS = (InvalidResponseHeader, InvalidResponseHeaderName)  # of headers that the app sends
MALFORMED = {
    LimitRequestLine: 414,
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    UnsupportedTransferCoding: 501,
}
"""Statuses of gunicorn's errors; 400 for all others."""


def refusal(status: int, message: str, retry_seconds: float) -> bytes:
    """A complete answer, the last one on its connection."""
    body = json.dumps(Error(message=message, field=None).content()).encode() + b"\n"
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        head += f"Retry-After: {retry_after(retry_seconds)}\r\n"
    return head.encode() + b"\r\n" + body


def malformed(error: BaseException) -> bytes | None:
    """The answer to a request that gunicorn's parser refuses; None for any other error."""
    if not isinstance(error, ParseException) or isinstance(error, RESPONSE_ERRORS):
        return None
    log.info("malformed request", extra={"error": type(error).__name__})
    why = printable(str(error)) or type(error).__name__
    return refusal(MALFORMED.get(type(error), 400), f"malformed request: {why}", 0)
