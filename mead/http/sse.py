"""Server-sent events, and telling that a client has hung up."""

from __future__ import annotations

import itertools
import json
import select
import socket
from collections.abc import Iterator

import redis
from flask import Request, Response, request, url_for

from mead.http.concurrency import ConcurrencyLimit
from mead.http.events import ClosedError, Events
from mead.http.forms import ApiError
from mead.http.responses import Answer, Change, Error, failure
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.settings import Settings

EVENT_STREAM = "text/event-stream"


def wants_events(request: Request) -> bool:
    """Whether a request asks for server-sent events rather than for JSON."""
    known = ["application/json", EVENT_STREAM]  # the first where a client takes anything
    return request.accept_mimetypes.best_match(known) == EVENT_STREAM


def hung_up(request: Request) -> bool:
    """Whether the client of this request has closed its connection, or its own side of it, whatever it has
    sent before; False where that cannot be told.
    """
    connection = request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
    if connection is None:
        return False
    if hasattr(select, "POLLRDHUP"):
        poll = select.poll()
        poll.register(connection, select.POLLRDHUP)  # POLLHUP and POLLERR need not be asked for
        return bool(poll.poll(0))
    try:  # elsewhere only what is unread would tell
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:  # open, and nothing more to read: it waits
        return False
    except ValueError:  # TLS does not let us look
        return False
    except OSError:
        return True


def begin_to_wait(request: Request) -> None:
    """Let the server know that this request takes no work from here on: another may be worked on."""
    tell = getattr(request.environ.get("gunicorn.socket"), "begin_to_wait", None)
    if tell is not None:
        tell()


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


def stream_of(
    job_id: str, seen: int, settings: Settings, events: Events, open_requests: ConcurrencyLimit
) -> Response:
    """A job's events from here on: `progress` after each change, at last `end`; a comment where it is quiet.

    Where no `end` can come, `closing` says why. A client that has hung up is noticed as it is sent the next
    event or comment; one that has closed its own side only is sent all of them.

    Args:
        seen: `seq` of the last event the client has seen; -1 if it has seen none.

    Raises:
        UnknownJobError, redis.RedisError, ApiError: before anything is sent.
    """
    changes = events.follow(job_id, settings.sse_heartbeat)
    try:
        first = next(changes)
    except ClosedError:
        raise ApiError(503, "the server is stopping; try again soon", job_id=job_id) from None
    image = url_for("looking.image", job_id=job_id)

    def events_of_job() -> Iterator[str]:
        waited = False
        try:
            for job in itertools.chain([first], changes):
                if job is None:
                    yield ": still here\n\n"
                elif job.ended or job.seq > seen:
                    with open_requests.at_work:
                        told = event("end" if job.ended else "progress", change(job, waited), job.seq)
                    waited = job.status == "queued"
                    yield told
        except ClosedError:
            yield event("closing", farewell("the server is stopping; the job goes on: ask again"))
        except UnknownJobError:
            yield event("closing", farewell("the job is not kept any more"))

    def change(job: Job, waited: bool) -> Change:
        """The job after a change; its rank only as it begins to wait, since Redis is asked for it."""
        why = failure(job) if job.ended and job.out_path is None else None
        return Change(
            id=job.id,
            status=job.status,
            steps=job.steps,
            total_steps=job.total_steps,
            loss=job.loss,
            rank=rank(job) if job.status == "queued" and not waited else None,
            image=image if job.status == "succeeded" else None,
            message=why and why.message,
            field=why and why.field,
        )

    def rank(job: Job) -> int | None:
        try:
            return events.jobs.rank(job)
        except redis.RedisError:  # the stream rides out its absence
            return None

    def farewell(why: str) -> Error:
        return Error(message=why, field=None, id=job_id)

    begin_to_wait(request)
    return stream(events_of_job(), settings.client_sleep)
