"""Changes of jobs, delivered to all subscribers in this process over one connection to Redis.

Nobody polls for progress: one thread receives every change and passes it to the job's subscribers. Messages
may be lost, forged, or stop because a record was deleted. So the thread also reads the record of each
followed job every REFRESH_SECONDS, and always before it reports that a job has ended.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import redis

from mead.http.errors import ShuttingDownError
from mead.http.job_updates import JobState, Subscriber, Topic, Update, UpdateQueue
from mead.log import reason
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.queue.keys import events_key
from mead.queue.redis_errors import explain

log = logging.getLogger(__name__)

REFRESH_SECONDS = 3.0  # between two reads of a followed job's record
REFRESH_BATCH = 16  # records that are read before the next message
FOREIGN_LOG_SECONDS = 60.0  # between two log lines about invalid messages
IDLE_SECONDS = 10.0  # without a message, after which the connection is checked, or closed if unused
FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 2.0  # seconds between two attempts to reconnect
NOT_LISTENING = "no thread listens to the events of jobs"


class Events:
    """Delivers the changes of jobs to their subscribers.

    One thread listens to the channels of all jobs (PSUBSCRIBE). The first subscriber starts it; it ends when
    it is idle, or loses its connection, while nobody subscribes. A subscriber is registered before the record
    is read, so no change is missed in between; after a lost connection the records are read again. A change
    that the record already contains is recognised by its `seq`. If nothing can be received, changes are still
    found within REFRESH_SECONDS.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._topics: OrderedDict[str, Topic] = OrderedDict()  # by when they are due
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._problem: str | None = None
        self._closed = False
        self._foreign = 0  # invalid messages since the last log line about them
        self._foreign_logged = float("-inf")  # time.monotonic

    # For subscribers

    def follow(self, job_id: str, pulse: float) -> Iterator[Job | None]:
        """The job now, then after each change, until it has ended; None after every `pulse` idle seconds.

        Redis may be unavailable in the meantime, once the record was read.

        Raises:
            UnknownJobError: there is no such job, or it has expired.
            redis.RedisError: Redis is unavailable at first.
            ShuttingDownError: the server is shutting down.
        """
        updates: UpdateQueue = queue.SimpleQueue()
        job = self.subscribe(job_id, updates.put).job
        try:
            yield job
            received = self.updates(updates, pulse)
            while not job.ended:
                update = next(received)
                if isinstance(update, type):
                    raise update(job_id)
                if update is None:
                    yield None
                else:
                    yield (job := update.job)
        finally:
            self.unsubscribe(job_id, updates.put)

    def subscribe(self, job_id: str, subscriber: Subscriber) -> JobState:
        """Subscribe to a job's changes, and return its current state.

        Args:
            subscriber: called with each update, possibly before this returns, in another thread; must neither
                raise nor block, nor call this object.

        Raises:
            UnknownJobError, redis.RedisError, ShuttingDownError: as `follow`; nothing is subscribed then.
        """
        with self._lock:
            if self._closed:
                raise ShuttingDownError(job_id)
            topic = self._topics.setdefault(job_id, Topic(time.monotonic() + REFRESH_SECONDS))
            topic.subscribers[subscriber] = False
        try:
            self.ensure_listening()
            job = self.jobs.get(job_id)
            with self._lock:
                if self._closed:
                    raise ShuttingDownError(job_id)
                if topic.state is None or job.seq > topic.state.job.seq:
                    topic.publish(JobState(job))
                topic.subscribers[subscriber] = True
                assert topic.state is not None
                return topic.state
        except BaseException:
            self.unsubscribe(job_id, subscriber)
            raise

    def unsubscribe(self, job_id: str, subscriber: Subscriber) -> None:
        """Deliver no more changes of the job."""
        with self._lock:
            topic = self._topics.get(job_id)
            if topic is not None:
                topic.subscribers.pop(subscriber, None)
                if not topic.subscribers:
                    del self._topics[job_id]

    def updates(self, updates: UpdateQueue, pulse: float) -> Iterator[Update | None]:
        """The updates that a subscriber puts into its queue; None after every `pulse` idle seconds."""
        last = time.monotonic() - random.uniform(0, pulse / 2)  # spreads the pulses of many subscribers
        while True:
            now = time.monotonic()
            try:
                yield updates.get(timeout=max(0.0, min(last + pulse - now, REFRESH_SECONDS)))
            except queue.Empty:
                self.ensure_listening()
                if time.monotonic() < last + pulse:
                    continue
                yield None
            last = time.monotonic()

    def ensure_listening(self) -> None:
        """Start the thread that listens, unless it is running."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._listen, name="events", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads can be started; the next call tries again
                    log.error(NOT_LISTENING, extra={"error": reason(error)})
                else:
                    self._thread = thread

    def followed_jobs(self) -> frozenset[str]:
        """The ids of the jobs that have subscribers."""
        with self._lock:
            return frozenset(self._topics)

    def problem(self) -> str | None:
        """Why changes are delivered late, in a few words; None if they are not."""
        with self._lock:
            if not self._topics:
                return None
            if self._thread is None or not self._thread.is_alive():
                return NOT_LISTENING
            return self._problem

    def close(self) -> None:
        """Tell all subscribers that the server is shutting down, and refuse new ones."""
        with self._lock:
            self._closed = True
            for topic in self._topics.values():
                topic.publish(ShuttingDownError)

    # The thread

    def _listen(self) -> None:
        backoff = FIRST_BACKOFF
        while self._has_subscribers():
            try:
                self._refresh_due()
                for message in self._messages():
                    backoff = FIRST_BACKOFF
                    if message is not None:
                        self.handle_message(message)
                    self._refresh_due()
            except Exception as error:  # subscribers need this thread, whatever has happened
                if not self._topics:
                    continue
                what = "the events of jobs cannot be received"
                self._problem = f"{what} ({type(error).__name__})"
                why = explain(error) if isinstance(error, redis.RedisError) else what
                log.warning(why, extra={"error": reason(error), "pause": backoff})
                time.sleep(backoff)
                backoff = min(2 * backoff, LONGEST_BACKOFF)

    def _has_subscribers(self) -> bool:
        """Whether the thread is needed. If not, it ends, and the next subscriber starts another one."""
        with self._lock:
            if not self._topics:
                self._thread = None
            return bool(self._topics)

    def _messages(self) -> Iterator[dict[str, Any] | None]:
        """The messages of one subscription, until it breaks (redis.RedisError) or nobody needs it; None when
        a record is due.
        """
        with self.jobs.redis.pubsub() as channel:
            channel.psubscribe(events_key("*"))
            received, pinged = time.monotonic(), False
            while True:
                message = channel.get_message(timeout=self._seconds_until_due())
                if message is not None:
                    received, pinged = time.monotonic(), False
                elif time.monotonic() >= received + IDLE_SECONDS:
                    if not self._topics:
                        return
                    if pinged:
                        raise redis.ConnectionError("the subscription is silent")
                    channel.ping()  # a connection may break silently
                    received, pinged = time.monotonic(), True
                yield message

    def _seconds_until_due(self) -> float:
        with self._lock:
            first = next(iter(self._topics.values()), None)
            seconds = first.due - time.monotonic() if first else REFRESH_SECONDS
        return max(0.0, min(seconds, REFRESH_SECONDS, IDLE_SECONDS))

    def handle_message(self, message: dict[str, Any]) -> None:
        """Handle a message of the subscription. Called by the thread."""
        if message["type"] == "psubscribe":  # first, or after a reconnection: changes may have been missed
            self._problem = None
            with self._lock:
                for topic in self._topics.values():
                    topic.due = 0.0
        elif message["type"] == "pmessage":
            self._handle_change(message["channel"].rpartition(events_key(""))[2], message["data"])

    def _handle_change(self, job_id: str, change: str) -> None:
        """Publish a change, unless the job has ended by it: then the record decides."""
        with self._lock:
            topic = self._topics.get(job_id)
            if topic is None:
                return
            if topic.state is not None:
                before = topic.state.job
                job = self._changed(before, change)
                if job is before:
                    return
                if not job.ended:
                    topic.publish(JobState(job))
                    return
        self._refresh(job_id, topic)

    def _changed(self, job: Job, message: str) -> Job:
        """The job after a change; unchanged if the message is invalid or old."""
        try:
            change = json.loads(message)
            return Job.model_validate({**dict(job), **change}) if change["seq"] > job.seq else job
        except (ValueError, TypeError, LookupError, RecursionError):
            self._log_foreign(job.id)
            return job

    def _log_foreign(self, job_id: str) -> None:
        """Log invalid messages, at most once every FOREIGN_LOG_SECONDS."""
        self._foreign += 1
        if time.monotonic() < self._foreign_logged + FOREIGN_LOG_SECONDS:
            return
        count, self._foreign, self._foreign_logged = self._foreign, 0, time.monotonic()
        log.warning("stray messages are ignored", extra={"job": job_id, "messages": count})

    def _refresh_due(self) -> None:
        """Read a few records, those that have been due for longest first."""
        for _ in range(REFRESH_BATCH):
            with self._lock:
                job_id, topic = next(iter(self._topics.items()), ("", None))
            if topic is None or topic.due > time.monotonic():
                return
            self._refresh(job_id, topic)

    def _refresh(self, job_id: str, topic: Topic) -> None:
        """Read a record, and publish it if it has changed.

        Raises:
            redis.RedisError: Redis is unavailable.
        """
        with self._lock:
            before = topic.state
            topic.due = time.monotonic() + REFRESH_SECONDS
            if self._topics.get(job_id) is topic:
                self._topics.move_to_end(job_id)
        try:
            job = self.jobs.get(job_id)
        except UnknownJobError:
            with self._lock:
                topic.publish(UnknownJobError)
            return
        with self._lock:
            state = topic.state
            # a new subscriber may have read a later record in the meantime
            if state is None or job.seq > state.job.seq or (state is before and job.seq < state.job.seq):
                topic.publish(JobState(job))
