"""What happens to jobs, told to everyone in this process who waits, over one connection to Redis.

Nobody polls for progress: one thread hears of every change, and tells those who follow the job. But messages
can be lost, forged or stopped by a deleted record, so that the thread also reads the record of each job that
is followed every LOOK_SECONDS, and always before it believes that a job has ended.
"""

from __future__ import annotations

import json
import logging
import queue
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import redis

from mead.log import reason
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.queue.keys import events_key
from mead.queue.redis_errors import explain

log = logging.getLogger(__name__)

LOOK_SECONDS = 3.0  # between two looks at the record of a job that is followed
LOOKS_AT_ONCE = 16  # before the next message is heard
STRAY_SECONDS = 60.0  # between two lines in the log about messages that are not ours
QUIET = 10.0  # seconds without a message after which the connection is asked whether it lives, or let go
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries when Redis is away


class ClosedError(Exception):
    """The server is stopping; what is waited for has to be asked for again."""


@dataclass(eq=False)
class State:
    """A job after a change: one object for all who are told of it.

    Attributes:
        texts: what has been written of it, by whatever that depends on, so that it is written once.
    """

    job: Job
    texts: dict[Any, str] = field(default_factory=dict)


Told: TypeAlias = State | type[ClosedError] | type[UnknownJobError]
"""The job after a change; or why there is no more to tell."""
Tell: TypeAlias = Callable[[Told], object]
Mailbox: TypeAlias = "queue.SimpleQueue[Told]"


class _Followed:
    """A job that is followed.

    Attributes:
        state: as it was told last; None until somebody has read the record.
        followers: how each is told; False for one who has not been given the first state yet.
        due: when its record is looked at next (time.monotonic).
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self.followers: dict[Tell, bool] = {}
        self.due = time.monotonic() + LOOK_SECONDS

    def tell(self, told: Told) -> None:
        """Tell all who follow; their order of hearing is the order of calls, as `Events._lock` is held."""
        if isinstance(told, State):
            self.state = told
        for tell, begun in self.followers.items():
            if begun:
                tell(told)


class Events:
    """Hands the events of all jobs to those who follow them.

    One thread listens to the channels of all jobs (PSUBSCRIBE). A follower starts it where there is none, and
    it ends when a quiet moment, or a lost connection, finds nobody who follows. Who follows a job is known
    before the record is read, so no event falls between looking and listening; each time the connection was
    lost, the records are read again. Events that a record already held are known by their `seq`. While
    nothing can be heard, changes are still found within LOOK_SECONDS.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._followed: OrderedDict[str, _Followed] = OrderedDict()  # by when they are due
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._trouble: str | None = None  # of the thread
        self._closed = False
        self._strays = 0  # since the log told of them
        self._strays_told = float("-inf")  # when (time.monotonic)

    # For those who follow

    def follow(self, job_id: str, pulse: float) -> Iterator[Job | None]:
        """The job as it stands, then again after each change, until it has ended; None after every `pulse`
        seconds of quiet. Rides out any absence of Redis, once the first look has succeeded.

        Raises:
            UnknownJobError: there is no such job, or not any more.
            redis.RedisError: Redis is away at the first look.
            ClosedError: the server is stopping.
        """
        mailbox: Mailbox = queue.SimpleQueue()
        job = self.enter(job_id, mailbox.put).job
        try:
            yield job
            heard = self.hear(mailbox, pulse)
            while not job.ended:
                told = next(heard)
                if isinstance(told, type):
                    raise told(job_id)
                if told is None:
                    yield None
                else:
                    yield (job := told.job)
        finally:
            self.leave(job_id, mailbox.put)

    def enter(self, job_id: str, tell: Tell) -> State:
        """Follow a job until `leave`; the job as it stands.

        Args:
            tell: called with each change from now on, perhaps before this returns, in another thread; it must
                neither raise nor wait, nor call this object.

        Raises:
            UnknownJobError, redis.RedisError, ClosedError: as `follow` does; then nobody follows.
        """
        with self._lock:
            if self._closed:
                raise ClosedError
            followed = self._followed.setdefault(job_id, _Followed())
            followed.followers[tell] = False
        try:
            self.listen_on()
            job = self.jobs.get(job_id)
            with self._lock:
                if self._closed:
                    raise ClosedError
                if followed.state is None or job.seq > followed.state.job.seq:
                    followed.tell(State(job))
                followed.followers[tell] = True
                assert followed.state is not None
                return followed.state
        except BaseException:
            self.leave(job_id, tell)
            raise

    def leave(self, job_id: str, tell: Tell) -> None:
        """Follow the job no more."""
        with self._lock:
            followed = self._followed.get(job_id)
            if followed is not None:
                followed.followers.pop(tell, None)
                if not followed.followers:
                    del self._followed[job_id]

    def hear(self, mailbox: Mailbox, pulse: float) -> Iterator[Told | None]:
        """What a follower is told whose `tell` puts it into the mailbox; None after every `pulse` seconds of
        quiet.
        """
        told = time.monotonic() - random.uniform(0, pulse / 2)  # not all of a crowd at the same time
        while True:
            now = time.monotonic()
            try:
                yield mailbox.get(timeout=max(0.0, min(told + pulse - now, LOOK_SECONDS)))
            except queue.Empty:
                self.listen_on()
                if time.monotonic() < told + pulse:
                    continue
                yield None
            told = time.monotonic()

    def listen_on(self) -> None:
        """Start the thread that listens, where there is none."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._listen, name="events", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the system gives no more threads; the next call tries again
                    log.error("nobody listens to the events of jobs", extra={"error": reason(error)})
                else:
                    self._thread = thread

    def problem(self) -> str | None:
        """Why those who follow jobs hear of changes late, in a few words; None if they do not."""
        with self._lock:
            if not self._followed:
                return None
            if self._thread is None or not self._thread.is_alive():
                return "nobody listens to the events of jobs"
            return self._trouble

    def close(self) -> None:
        """Tell all who follow, and let nobody follow any more."""
        with self._lock:
            self._closed = True
            for followed in self._followed.values():
                followed.tell(ClosedError)

    # The thread

    def _listen(self) -> None:
        pause = FIRST_PAUSE
        while self._anybody_follows():
            try:
                self._look_at_those_due()
                for message in self._messages():
                    pause = FIRST_PAUSE
                    if message is not None:
                        self._hand_over(message)
                    self._look_at_those_due()
            except Exception as error:  # whatever it is, those who follow need somebody who listens
                if not self._followed:
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
            if not self._followed:
                self._thread = None
            return bool(self._followed)

    def _messages(self) -> Iterator[dict[str, Any] | None]:
        """What comes over one subscription, until it breaks (redis.RedisError) or nobody follows any more;
        None when a look is due.
        """
        with self.jobs.redis.pubsub() as channel:
            channel.psubscribe(events_key("*"))
            heard, asked = time.monotonic(), False
            while True:
                message = channel.get_message(timeout=self._patience())
                if message is not None:
                    heard, asked = time.monotonic(), False
                elif time.monotonic() >= heard + QUIET:
                    if not self._followed:
                        return
                    if asked:
                        raise redis.ConnectionError("the subscription is silent")
                    channel.ping()  # a connection may die without a word
                    heard, asked = time.monotonic(), True
                yield message

    def _patience(self) -> float:
        """Seconds until the next look."""
        with self._lock:
            first = next(iter(self._followed.values()), None)
            wait = first.due - time.monotonic() if first else LOOK_SECONDS
        return max(0.0, min(wait, LOOK_SECONDS, QUIET))

    def _hand_over(self, message: dict[str, Any]) -> None:
        if message["type"] == "psubscribe":  # the first time, or anew: events may have been missed
            self._trouble = None
            with self._lock:
                for followed in self._followed.values():
                    followed.due = 0.0
        elif message["type"] == "pmessage":
            self._tell_of(message["channel"].removeprefix(events_key("")), message["data"])

    def _tell_of(self, job_id: str, message: str) -> None:
        """Tell those who follow a job of the change that a message tells of."""
        with self._lock:
            followed = self._followed.get(job_id)
            if followed is None:
                return
            if followed.state is not None:
                before = followed.state.job
                job = self._changed(before, message)
                if job is before:
                    return
                if not job.ended:
                    followed.tell(State(job))
                    return
        self._look(job_id, followed)  # the record decides

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
        self._strays += 1
        if time.monotonic() < self._strays_told + STRAY_SECONDS:
            return
        strays, self._strays, self._strays_told = self._strays, 0, time.monotonic()
        log.warning("stray messages are ignored", extra={"job": job_id, "messages": strays})

    def _look_at_those_due(self) -> None:
        """Look at a few records, those that have waited for longest first."""
        for _ in range(LOOKS_AT_ONCE):
            with self._lock:
                job_id, followed = next(iter(self._followed.items()), ("", None))
            if followed is None or followed.due > time.monotonic():
                return
            self._look(job_id, followed)

    def _look(self, job_id: str, followed: _Followed) -> None:
        """Read a record, and tell those who follow what is new.

        Raises:
            redis.RedisError: Redis is away.
        """
        with self._lock:
            before = followed.state
            followed.due = time.monotonic() + LOOK_SECONDS
            if self._followed.get(job_id) is followed:
                self._followed.move_to_end(job_id)
        try:
            job = self.jobs.get(job_id)
        except UnknownJobError:
            with self._lock:
                followed.tell(UnknownJobError)
            return
        with self._lock:
            state = followed.state
            # whoever has begun to follow meanwhile may have read a later one
            if state is None or job.seq > state.job.seq or (state is before and job.seq < state.job.seq):
                followed.tell(State(job))
