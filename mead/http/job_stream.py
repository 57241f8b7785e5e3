"""A job's events, as one client receives them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import redis
from flask import Response, request, url_for

from mead.http.errors import JobExpiredError, ShuttingDownError
from mead.http.events import Events
from mead.http.job_updates import Update, UpdateQueue
from mead.http.request_socket import can_hand_over, start_waiting
from mead.http.responses import failure
from mead.http.schemas import Change, Error
from mead.http.services import Services
from mead.http.sse import HEARTBEAT, event_response, format_event
from mead.queue.job import Job


class Handover(BaseException):  # like GeneratorExit: no error, and not to be caught on the way
    """Raised in the thread that has started a stream, when the server's loop takes it over."""

    def __init__(self, stream: JobStream) -> None:
        super().__init__()
        self.stream = stream


class JobStream:
    """The stream of a job's events to one client.

    A thread that sends `events` may block between them. A server that can write without a thread takes the
    stream over after its first event: it sets `wake`, then sends what `next_event` returns, and `heartbeat`
    if the stream is idle, until it is `finished`.

    Args:
        last_seq: `seq` of the last event that the client has received; -1 for none.
        heartbeat: seconds between heartbeats.
        cleanup: closed with the stream; empty afterwards.

    Attributes:
        wake: called in any thread when there may be a next event; must not block.
        finished: whether the last event was returned.

    Raises:
        UnknownJobError, redis.RedisError, ShuttingDownError
    """

    def __init__(
        self, job_id: str, last_seq: int, heartbeat: float, events: Events, cleanup: ExitStack
    ) -> None:
        self.job_id = job_id
        self.wake: Callable[[], object] = lambda: None
        self.finished = False
        self._last_seq = last_seq
        self._heartbeat_seconds = heartbeat
        self._events = events
        self._image_url = url_for("job_views.image", job_id=job_id)
        self._was_queued = False  # at the previous event
        self._updates: UpdateQueue = queue.SimpleQueue()
        self._first = events.subscribe(job_id, self._on_update)
        self._handed_over = False
        cleanup.callback(events.unsubscribe, job_id, self._on_update)
        self._cleanup = cleanup.pop_all()

    def events(self, hand_over: bool) -> Iterator[str]:
        """All events, for a thread to send. With `hand_over`: the first one; then raises Handover."""
        if text := self._format(self._first):
            yield text
        if hand_over and not self.finished:
            self._handed_over = True
            raise Handover(self)
        updates = self._events.updates(self._updates, self._heartbeat_seconds)
        while not self.finished:
            update = next(updates)
            if text := self.heartbeat() if update is None else self._format(update):
                yield text

    def next_event(self) -> str | None:
        """The next event, if there is one now."""
        while not self.finished and not self._updates.empty():
            if text := self._format(self._updates.get_nowait()):
                return text
        return None

    def skip(self) -> None:
        """Drop all pending updates but the latest. Like `next_event`, for one thread only."""
        while self._updates.qsize() > 1:
            self._updates.get_nowait()

    def heartbeat(self) -> str:
        """A comment that keeps an idle connection open."""
        self._events.ensure_listening()
        return HEARTBEAT

    def end_response(self) -> None:
        """Close the stream, unless the server has taken it over."""
        if not self._handed_over:
            self.close()

    def close(self) -> None:
        """Unsubscribe, and run the cleanup. A second call does nothing."""
        self.finished = True
        self._cleanup.close()

    def _on_update(self, update: Update) -> None:
        self._updates.put(update)
        self.wake()

    def _format(self, update: Update) -> str:
        """An update as an event; empty if the client has already received it."""
        if isinstance(update, type):
            self.finished = True
            error = (
                ShuttingDownError(self.job_id)
                if update is ShuttingDownError
                else JobExpiredError(self.job_id)
            )
            return format_event("closing", Error(message=error.message, field=None, id=self.job_id))
        job, was_queued = update.job, self._was_queued
        if not job.ended and job.seq <= self._last_seq:
            return ""
        self.finished = job.ended
        self._was_queued = job.status == "queued"
        if self._was_queued and not was_queued:  # has a rank, which differs for later subscribers
            return self._format_job(job, self._rank(job))
        if self._image_url not in update.formatted:
            update.formatted[self._image_url] = self._format_job(job, None)
        return update.formatted[self._image_url]

    def _format_job(self, job: Job, rank: int | None) -> str:
        error = failure(job) if job.ended and job.status != "succeeded" else None
        change = Change(
            id=job.id,
            status=job.status,
            steps=job.steps,
            total_steps=job.total_steps,
            loss=job.loss,
            rank=rank,
            image=self._image_url if job.status == "succeeded" else None,
            notes=list(job.notes) or None,
            faces=list(job.faces) or None,
            message=error and error.message,
            field=error and error.field,
        )
        return format_event("end" if job.ended else "progress", change, job.seq)

    def _rank(self, job: Job) -> int | None:
        try:
            return self._events.jobs.rank(job)
        except redis.RedisError:  # the stream continues without Redis
            return None


def job_stream_response(job_id: str, last_seq: int, services: Services, cleanup: ExitStack) -> Response:
    """A job's events from now on: `progress` after each change, then `end`; heartbeats in between.

    If the job's end cannot be waited for, `closing` says why. A client that reads more slowly than the job
    changes receives the latest change.

    Args:
        last_seq: `seq` of the last event that the client has received; -1 for none.
        cleanup: closed when the stream ends; empty afterwards.

    Raises:
        UnknownJobError, redis.RedisError, ApiError: before anything is sent.
    """
    settings = services.settings
    stream = JobStream(job_id, last_seq, settings.sse_heartbeat, services.events, cleanup)
    start_waiting(request)
    response = event_response(stream.events(can_hand_over(request)), settings.client_sleep)
    response.call_on_close(stream.end_response)
    return response
