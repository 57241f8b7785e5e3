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

from mead.client.errors import AddressError, MeadError, RefusedError, UnreachableError
from mead.client.results import Progress

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0  # seconds between two attempts
TRY_AGAIN = frozenset({429, 502, 503, 504})
NO_SUCH_PATH = "The requested URL was not found"
"""What the service, as any Flask application, says of a path that it does not have."""

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

    def json(self, address: str) -> Any:
        """The content, decoded.

        Args:
            address: the service's, as errors show it.

        Raises:
            AddressError: it is not JSON.
        """
        try:
            return json.loads(self.content)
        except ValueError:
            raise self._wrong_address(address) from None

    def error(self, address: str | None) -> MeadError:
        """The error that this answer is.

        Args:
            address: the service's, as errors show it; None if an object store was asked.
        """
        asked = "the object store" if address is None else f"the service at {address}"
        if self.failure:
            return UnreachableError(f"{asked} does not answer: {self.failure}")
        try:
            body = json.loads(self.content)
            if not (self.status == 404 and body["message"].startswith(NO_SUCH_PATH)):
                return RefusedError(body["message"], body.get("field"), self.status, body.get("id"))
        except (ValueError, LookupError, TypeError, AttributeError):
            pass
        if self.status == 404 and address is not None:
            return self._wrong_address(address)
        return RefusedError(f"{asked} has answered with HTTP status {self.status}", None, self.status)

    def _wrong_address(self, address: str) -> AddressError:
        what = f"what answers there, with HTTP status {self.status}, is something else"
        return AddressError(f"{address} is not the address of a mead-backend: {what}", None, self.status)


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


def send(request: Request, patience: float, address: str) -> Flow[Reply]:
    """Send a request until there is an answer that will not change soon.

    Args:
        patience: seconds after which it is not repeated any more.
        address: the service's, as errors show it.

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
            raise reply.error(None if "://" in request.path else address)
        yield Pause(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


def _retry_after(reply: Reply) -> float:
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
