"""Server-sent events, and telling that a client has hung up."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable, Iterator

from flask import Request, Response

from mead.answers import Answer
from mead.events import ClosedError
from mead.job import Job
from mead.jobs import UnknownJobError

EVENT_STREAM = "text/event-stream"


def wants_events(request: Request) -> bool:
    """Whether a request asks for server-sent events rather than for JSON."""
    known = ["application/json", EVENT_STREAM]  # the first where a client takes anything
    return request.accept_mimetypes.best_match(known) == EVENT_STREAM


def hung_up(request: Request) -> bool:
    """Whether the client of this request has closed its connection; False where that cannot be told."""
    connection = request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
    if connection is None:
        return False
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:  # open, and nothing more to read: it waits
        return False
    except ValueError:  # TLS does not let us look
        return False
    except OSError:
        return True


def event(kind: str, data: Answer, seq: int | None = None) -> str:
    """One event as it goes over the wire."""
    identity = "" if seq is None else f"id: {seq}\n"
    return f"{identity}event: {kind}\ndata: {json.dumps(data.content())}\n\n"


def stream(chunks: Iterator[str], retry: float) -> Response:
    """An answer of server-sent events.

    Args:
        retry: seconds after which a client that lost the connection should come again.
    """
    begin = f"retry: {round(retry * 1000)}\n\n"
    answer = Response(itertools.chain([begin], chunks), mimetype=EVENT_STREAM)
    answer.cache_control.no_store = True
    answer.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return answer


def told(
    changes: Iterator[Job | None],
    seen: int,
    tell: Callable[[Job], Answer],
    gone: Callable[[], bool],
    farewell: Callable[[str], Answer],
) -> Iterator[str]:
    """The events of one job: `progress` after each change, at last `end`; a comment where it is quiet.

    Args:
        changes: from `Events.follow`.
        seen: `seq` of the last event the client has seen; -1 if it has seen none.
        tell: the data of an event.
        gone: whether the client has hung up.
        farewell: the data of the event `closing`, given the reason why no `end` came.
    """
    try:
        for job in changes:
            if gone():
                return
            if job is None:
                yield ": still here\n\n"
            elif job.ended or job.seq > seen:
                yield event("end" if job.ended else "progress", tell(job), job.seq)
    except ClosedError:
        yield event("closing", farewell("the server is stopping; the job goes on: ask again"))
    except UnknownJobError:
        yield event("closing", farewell("the job is not kept any more"))
