"""The steps of a flow, and the flow that sends a request.

A flow is a generator that does no input or output: it yields steps, is sent what comes of them, and returns
its result. `mead.client.blocking` and `mead.client.asynchronous` run the same flows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from mead.client.errors import MeadError, RefusedError, UnreachableError
from mead.client.results import Progress

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0  # seconds between two attempts
TRY_AGAIN = frozenset({429, 502, 503, 504})

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """A request. All of them can be repeated: those that make jobs have an Idempotency-Key."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer; or none, with the reason in `failure`."""

    status: int = 0
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""

    def json(self) -> Any:
        """The content, decoded.

        Raises:
            RefusedError: it is not JSON.
        """
        try:
            return json.loads(self.content)
        except ValueError:
            raise RefusedError("the answer is not that of a mead-backend", None, self.status) from None

    def error(self) -> MeadError:
        """The error that this answer is."""
        if self.failure:
            return UnreachableError(f"the service does not answer: {self.failure}")
        try:
            body = json.loads(self.content)
            return RefusedError(body["message"], body.get("field"), self.status, body.get("id"))
        except (ValueError, LookupError, TypeError, AttributeError):
            return RefusedError(f"the service has answered with HTTP status {self.status}", None, self.status)


@dataclass(frozen=True)
class Pause:
    """Seconds to wait."""

    seconds: float


@dataclass(frozen=True)
class Open:
    """Open a stream; what comes of it is the reply, without content if it is no error.

    Attributes:
        longest: seconds to wait for its next line.
    """

    request: Request
    longest: float | None


@dataclass(frozen=True)
class ReadLine:
    """Read a line of the stream; what comes of it is the line, or None when there are no more."""


Step: TypeAlias = Request | Pause | Open | ReadLine | Progress
"""A `Progress` is handed on to the user."""
Flow: TypeAlias = Generator[Step, Any, T]


def send(request: Request, patience: float) -> Flow[Reply]:
    """Send a request until there is an answer that will not change soon.

    Args:
        patience: seconds after which it is not repeated any more.

    Raises:
        UnreachableError, RefusedError
    """
    until = time.monotonic() + patience
    pause = FIRST_PAUSE
    while True:
        reply = yield request
        if not reply.failure and reply.status < 400:
            return reply
        wait = max(pause, _retry_after(reply))
        if not (reply.failure or reply.status in TRY_AGAIN) or time.monotonic() + wait > until:
            raise reply.error()
        yield Pause(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


def _retry_after(reply: Reply) -> float:
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
