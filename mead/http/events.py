"""What happens to jobs, told to everyone in this process who waits, over one connection to Redis.

Nobody polls for progress: whoever follows a job sleeps on a queue of their own until something happens to it.
But messages can be lost, forged or stopped by a deleted record, so that each follower also reads the record
itself every LOOK_SECONDS, and always before it believes that a job has ended.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, TypeAlias

import redis

from mead.log import reason
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.queue.keys import events_key
from mead.queue.redis_errors import explain

log = logging.getLogger(__name__)

LOOK_AGAIN = object()  # events may have been missed
CLOSED = object()

LOOK_SECONDS = 3.0  # between two looks at the record of a job that is followed
STRAY_SECONDS = 60.0  # between two lines in the log about messages that are not ours
TOLD_AT_ONCE, TELLING_PAUSE = 4, 0.002  # followers of one job; seconds
QUIET = 10.0  # seconds without a message after which the connection is asked whether it lives, or let go
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries when Redis is away

Mailbox: TypeAlias = "queue.SimpleQueue[Any]"


class ClosedError(Exception):
    """The server is stopping; what is waited for has to be asked for again."""


class Events:
    """Hands the events of all jobs to those who follow them.

    One thread listens to the channels of all jobs (PSUBSCRIBE). A follower starts it where there is none, and
    it ends when a quiet moment, or a lost connection, finds nobody who follows. A follower's mailbox is there
    before the record is read, so no event falls between looking and listening; each time the connection was
    lost, every follower reads the record again. Events that the record already held are known by their `seq`.
    Without the thread, followers still hear of every change within LOOK_SECONDS.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._mailboxes: dict[str, set[Mailbox]] = defaultdict(set)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._trouble: str | None = None  # of the thread
        self._closed = False
        self._strays = 0  # since the log told of them
        self._strays_told = float("-inf")  # when (time.monotonic)

    def follow(self, job_id: str, pulse: float) -> Iterator[Job | None]:
        """The job as it stands, then again after each change, until it has ended; None after every `pulse`
        seconds of quiet. Rides out any absence of Redis, once the first look has succeeded.

        Raises:
            UnknownJobError: there is no such job, or not any more.
            redis.RedisError: Redis is away at the first look.
            ClosedError: the server is stopping.
        """
        mailbox: Mailbox = queue.SimpleQueue()
        try:
            self._enter(job_id, mailbox)
            job = self.jobs.get(job_id)
            yield job
            now = time.monotonic()  # a crowd that came at once does not look all at once
            looked, told = now - random.uniform(0, LOOK_SECONDS), now - random.uniform(0, pulse / 2)
            while not job.ended:
                before = job
                message = _next(mailbox, until=min(looked + LOOK_SECONDS, told + pulse))
                if message is CLOSED:
                    raise ClosedError
                if isinstance(message, str):
                    job = self._changed(job, message)
                if message is LOOK_AGAIN or job.ended or time.monotonic() >= looked + LOOK_SECONDS:
                    job, looked = self._look(before), time.monotonic()
                if job.seq != before.seq:
                    yield job
                elif time.monotonic() >= told + pulse:
                    yield None
                else:
                    continue
                told = time.monotonic()
        finally:
            self._leave(job_id, mailbox)

    def problem(self) -> str | None:
        """Why those who follow jobs hear of changes late, in a few words; None if they do not."""
        with self._lock:
            if not self._mailboxes:
                return None
            if self._thread is None or not self._thread.is_alive():
                return "nobody listens to the events of jobs"
            return self._trouble

    def _look(self, job: Job) -> Job:
        """The job as its record has it now; as it was while Redis is away."""
        self._listen_on()
        try:
            return self.jobs.get(job.id)
        except redis.RedisError:
            return job

    def _changed(self, job: Job, message: str) -> Job:
        """The job after the change that a message tells of; as it was if the message is not one of ours."""
        try:
            change = json.loads(message)
            return Job.model_validate({**dict(job), **change}) if change["seq"] > job.seq else job
        except (ValueError, TypeError, LookupError, RecursionError):
            self._log_stray(job.id)
            return job

    def _log_stray(self, job_id: str) -> None:
        """Log that messages came that are not ours, now and then."""
        with self._lock:
            self._strays += 1
            if time.monotonic() < self._strays_told + STRAY_SECONDS:
                return
            strays, self._strays, self._strays_told = self._strays, 0, time.monotonic()
        log.warning("stray messages are ignored", extra={"job": job_id, "messages": strays})

    def close(self) -> None:
        """Wake all who follow, and let nobody follow any more."""
        with self._lock:
            self._closed = True
        self._tell_all(CLOSED)

    def _enter(self, job_id: str, mailbox: Mailbox) -> None:
        with self._lock:
            if self._closed:
                raise ClosedError
            self._mailboxes[job_id].add(mailbox)
        self._listen_on()

    def _leave(self, job_id: str, mailbox: Mailbox) -> None:
        with self._lock:
            self._mailboxes[job_id].discard(mailbox)
            if not self._mailboxes[job_id]:
                del self._mailboxes[job_id]

    def _listen_on(self) -> None:
        """Start the thread that listens, where there is none."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._listen, name="events", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the system gives no more threads; the next look tries again
                    log.error("nobody listens to the events of jobs", extra={"error": reason(error)})
                else:
                    self._thread = thread

    def _tell(self, job_id: str, message: Any) -> None:
        """Tell those who follow a job: a crowd bit by bit, so that its threads leave room for others."""
        with self._lock:
            mailboxes = list(self._mailboxes.get(job_id, ()))
        for number, mailbox in enumerate(mailboxes, 1):
            mailbox.put(message)
            if number % TOLD_AT_ONCE == 0:
                time.sleep(TELLING_PAUSE)

    def _tell_all(self, message: Any) -> None:
        with self._lock:
            for mailboxes in self._mailboxes.values():
                for mailbox in mailboxes:
                    mailbox.put(message)

    def _listen(self) -> None:
        pause = FIRST_PAUSE
        while self._anybody_follows():
            try:
                for message in self._messages():
                    pause = FIRST_PAUSE
                    self._hand_over(message)
            except Exception as error:  # whatever it is, those who follow need somebody who listens
                if not self._mailboxes:
                    continue  # nobody misses it
                self._trouble = f"the events of jobs cannot be heard ({type(error).__name__})"
                what = "the events of jobs cannot be heard"
                why = explain(error) if isinstance(error, redis.RedisError) else what
                log.warning(why, extra={"error": reason(error), "pause": pause})
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _anybody_follows(self) -> bool:
        """Whether the thread has anything to do. If not it ends, and the next follower starts another."""
        with self._lock:
            if not self._mailboxes:
                self._thread = None
            return bool(self._mailboxes)

    def _messages(self) -> Iterator[dict[str, Any]]:
        """What comes over one subscription, until it breaks (redis.RedisError) or nobody follows any more."""
        with self.jobs.redis.pubsub() as channel:
            channel.psubscribe(events_key("*"))
            asked = False
            while True:
                message = channel.get_message(timeout=QUIET)
                if message is not None:
                    asked = False
                    yield message
                elif not self._mailboxes:
                    return
                elif asked:
                    raise redis.ConnectionError("the subscription is silent")
                else:  # a connection may die without a word
                    channel.ping()
                    asked = True

    def _hand_over(self, message: dict[str, Any]) -> None:
        if message["type"] == "psubscribe":  # the first time, or anew
            self._trouble = None
            self._tell_all(LOOK_AGAIN)
        elif message["type"] == "pmessage":
            self._tell(message["channel"].removeprefix(events_key("")), message["data"])


def _next(mailbox: Mailbox, until: float) -> Any:
    """The next message; None if there is none until then (time.monotonic)."""
    try:
        return mailbox.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
        return None
