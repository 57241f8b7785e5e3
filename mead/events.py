"""What happens to jobs, told to everyone in this process who waits, over one connection to Redis.

Nobody polls: whoever follows a job sleeps on a queue of their own until something happens to it.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, TypeAlias

import redis

from mead.job import Job
from mead.jobs import Jobs
from mead.keys import events_key

log = logging.getLogger(__name__)

LOOK_AGAIN = object()  # events may have been missed
CLOSED = object()

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
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._mailboxes: dict[str, set[Mailbox]] = defaultdict(set)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def follow(self, job_id: str, pulse: float) -> Iterator[Job | None]:
        """The job as it stands, then again after each change, until it has ended; None after every `pulse`
        seconds of quiet. Rides out any absence of Redis, once the first look has succeeded.

        Raises:
            UnknownJobError: there is no such job, or not any more.
            redis.RedisError: Redis is away at the first look.
            ClosedError: the server is stopping.
        """
        mailbox: Mailbox = queue.SimpleQueue()
        self._enter(job_id, mailbox)
        try:
            job = self.jobs.get(job_id)
            yield job
            missed = False
            while not job.ended:
                try:
                    message = mailbox.get(timeout=pulse)
                except queue.Empty:
                    yield None
                    message = LOOK_AGAIN if missed else None
                if message is CLOSED:
                    raise ClosedError
                before = job
                if message is LOOK_AGAIN:
                    try:
                        job, missed = self.jobs.get(job_id), False
                    except redis.RedisError:
                        missed = True
                elif message is not None and message["seq"] > job.seq:
                    job = Job.model_validate({**dict(job), **message})
                if job.seq > before.seq:
                    yield job
        finally:
            self._leave(job_id, mailbox)

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
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="events", daemon=True)
                self._thread.start()

    def _leave(self, job_id: str, mailbox: Mailbox) -> None:
        with self._lock:
            self._mailboxes[job_id].discard(mailbox)
            if not self._mailboxes[job_id]:
                del self._mailboxes[job_id]

    def _tell(self, job_id: str, message: Any) -> None:
        with self._lock:
            for mailbox in self._mailboxes.get(job_id, ()):
                mailbox.put(message)

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
            except redis.RedisError as error:
                if self._mailboxes:  # else nobody misses it
                    log.warning("Redis is away", extra={"error": type(error).__name__, "pause": pause})
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
            self._tell_all(LOOK_AGAIN)
        elif message["type"] == "pmessage":
            job_id = message["channel"].removeprefix(events_key(""))
            if job_id in self._mailboxes:
                self._tell(job_id, json.loads(message["data"]))
