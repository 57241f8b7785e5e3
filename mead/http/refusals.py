"""Answers to requests that do not reach the app, in the shape of its own."""

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

from mead.http.responses import Error
from mead.terminal import printable

log = logging.getLogger(__name__)

OURS = (InvalidResponseHeader, InvalidResponseHeaderName)  # headers that the app tried to send
MALFORMED = {
    LimitRequestLine: 414,
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    UnsupportedTransferCoding: 501,
}
"""By gunicorn's error, the status of what is not 400."""


def refusal(status: int, message: str, retry_after: float) -> bytes:
    """A whole answer for a request that does not reach the app; the last on its connection."""
    body = json.dumps(Error(message=message, field=None).content()).encode() + b"\n"
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        head += f"Retry-After: {max(1, round(retry_after))}\r\n"
    return head.encode() + b"\r\n" + body


def malformed(error: BaseException) -> bytes | None:
    """The answer to a request that gunicorn's parser does not take; None for any other error."""
    if not isinstance(error, ParseException) or isinstance(error, OURS):
        return None
    log.info("malformed request", extra={"error": type(error).__name__})
    why = printable(str(error)) or type(error).__name__
    return refusal(MALFORMED.get(type(error), 400), f"malformed request: {why}", 0)
