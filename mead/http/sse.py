"""Server-sent events, and telling that a client has hung up."""

from __future__ import annotations

import itertools
import json
import queue
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import redis
from flask import Request, Response, request, url_for

from mead.http.events import ClosedError, Events, Mailbox, Told
from mead.http.forms import ApiError
from mead.http.responses import Answer, Change, Error, failure
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.settings import Settings

EVENT_STREAM = "text/event-stream"
FAREWELLS: Mapping[type[Exception], str] = {
    ClosedError: "the server is stopping; the job goes on: ask again",
    UnknownJobError: "the job is not kept any more",
}
"""Why a job's events end before it has."""


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


class TakenOver(BaseException):  # no error, and nobody's to handle on the way to the server
    """The server goes on with the stream, which has been begun; its thread has no more to do with it."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream


class Stream:
    """What one client is told of a job, event by event.

    A thread that sends `chunks` may wait between them. A server that can write to the connection without a
    thread (its socket has `takes_over`) is given the stream once its first event is sent: it sets `wake`,
    then sends what `next_text` gives, `heartbeat` where that is quiet for long, until it is `over`.

    Args:
        seen: `seq` of the last event the client has seen; -1 if it has seen none.
        held: what is given back as the stream is closed.

    Attributes:
        wake: called, in any thread, when there is something to tell; must not wait.
        over: whether the last event has been told.

    Raises:
        UnknownJobError, redis.RedisError, ClosedError
    """

    def __init__(self, job_id: str, seen: int, heartbeat: float, events: Events, held: ExitStack) -> None:
        self.job_id = job_id
        self.wake: Callable[[], object] = lambda: None
        self.over = False
        self._seen = seen
        self._heartbeat = heartbeat
        self._events = events
        self._image = url_for("job_views.image", job_id=job_id)
        self._waited = False  # whether the event before told of a job that waits
        self._mailbox: Mailbox = queue.SimpleQueue()
        self._first = events.enter(job_id, self._hear)
        self._taken_over = False
        held.callback(events.leave, job_id, self._hear)
        self._held = held.pop_all()

    def chunks(self, takes_over: bool) -> Iterator[str]:
        """All of it, for a thread to send. With `takes_over`, what is known now; then raises TakenOver."""
        if text := self._text_of(self._first):
            yield text
        if takes_over and not self.over:
            self._taken_over = True
            raise TakenOver(self)
        heard = self._events.hear(self._mailbox, self._heartbeat)
        while not self.over:
            told = next(heard)
            if text := self.heartbeat() if told is None else self._text_of(told):
                yield text

    def next_text(self) -> str | None:
        """What is told next, if there is anything now."""
        while not self.over and not self._mailbox.empty():
            if text := self._text_of(self._mailbox.get_nowait()):
                return text
        return None

    def skip(self) -> None:
        """Leave out all but the latest of what is to be told. As `next_text`, for one thread."""
        while self._mailbox.qsize() > 1:
            self._mailbox.get_nowait()

    def heartbeat(self) -> str:
        """A comment, which keeps a quiet connection open."""
        self._events.listen_on()
        return ": still here\n\n"

    def end_chunks(self) -> None:
        """Close the stream, unless the server goes on with it."""
        if not self._taken_over:
            self.close()

    def close(self) -> None:
        """Tell nothing more, and give back what is held for it; a second call does nothing."""
        self.over = True
        self._held.close()

    def _hear(self, told: Told) -> None:
        self._mailbox.put(told)
        self.wake()

    def _text_of(self, told: Told) -> str:
        """What is told as an event; empty if the client has seen it."""
        if isinstance(told, type):
            self.over = True
            return event("closing", Error(message=FAREWELLS[told], field=None, id=self.job_id))
        job, waited = told.job, self._waited
        if not job.ended and job.seq <= self._seen:
            return ""
        self.over = job.ended
        self._waited = job.status == "queued"
        if self._waited and not waited:  # with a rank, which is another for whoever comes later
            return self._text(job, self._rank(job))
        if self._image not in told.texts:
            told.texts[self._image] = self._text(job, None)
        return told.texts[self._image]

    def _text(self, job: Job, rank: int | None) -> str:
        why = failure(job) if job.ended and job.out_path is None else None
        change = Change(
            id=job.id,
            status=job.status,
            steps=job.steps,
            total_steps=job.total_steps,
            loss=job.loss,
            rank=rank,
            image=self._image if job.status == "succeeded" else None,
            message=why and why.message,
            field=why and why.field,
        )
        return event("end" if job.ended else "progress", change, job.seq)

    def _rank(self, job: Job) -> int | None:
        try:
            return self._events.jobs.rank(job)
        except redis.RedisError:  # the stream rides out its absence
            return None


def stream_of(job_id: str, seen: int, settings: Settings, events: Events, held: ExitStack) -> Response:
    """A job's events from here on: `progress` after each change, at last `end`; a comment where it is quiet.

    Where no `end` can come, `closing` says why. A client that does not read as fast as the job changes is
    told the latest change.

    Args:
        seen: `seq` of the last event the client has seen; -1 if it has seen none.
        held: what is given back as the stream ends; it is empty afterwards.

    Raises:
        UnknownJobError, redis.RedisError, ApiError: before anything is sent.
    """
    try:
        told = Stream(job_id, seen, settings.sse_heartbeat, events, held)
    except ClosedError:
        raise ApiError(503, "the server is stopping; try again soon", job_id=job_id) from None
    begin_to_wait(request)
    takes_over = getattr(request.environ.get("gunicorn.socket"), "takes_over", False)
    answer = stream(told.chunks(takes_over), settings.client_sleep)
    answer.call_on_close(told.end_chunks)
    return answer
