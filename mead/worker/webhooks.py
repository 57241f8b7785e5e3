"""Sending the webhooks in the outbox."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import redis
from pydantic import SecretStr

from mead.installation import version
from mead.job_record import record_of
from mead.queue.errors import UnknownJobError
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.queue.outbox import Entry, Outbox
from mead.queue.redis_errors import explain
from mead.receivers import AllowedReceivers, origin_of
from mead.webhooks.post import NotAllowedError, NotSentError, post
from mead.webhooks.signing import headers_of

log = logging.getLogger(__name__)

SLOTS = 16  # webhooks that are being sent at a time
PER_CLIENT, PER_RECEIVER = 8, 2  # of these, of one client's jobs, and to one host of them
BATCH = 50  # entries that are looked at per round trip
IDLE_PAUSE = 0.25  # seconds between two looks at the outbox
REDIS_PAUSE = 2.0  # seconds after Redis did not answer
LOOKUP_SECONDS = 10.0  # to look up a receiver's name; if it takes longer, the webhook may be sent twice
LONGEST_PAUSE = 3600.0  # seconds between two attempts
LONGEST_REST = 60.0  # seconds for which a receiver that does not answer is left alone
GONE = 410  # the receiver wants no more of it


class WebhookLoop:
    """Sends the webhooks in the outbox, several at a time; any number of workers may do so at once.

    That a job has ended is sent until a receiver answers with a status of 2xx, after pauses of 1, 2, 4
    seconds and so on, for `retry_seconds`. The other events are sent once.

    Args:
        worker: the worker's name.
        allowed: which receivers may be connected to.
        secrets: they sign what is sent.
        timeout: seconds that a receiver may take to answer.
        retry_seconds: after its end, for which a job's webhook is sent again.
    """

    def __init__(
        self,
        worker: str,
        jobs: Jobs,
        *,
        allowed: AllowedReceivers,
        secrets: Sequence[SecretStr] = (),
        timeout: float = 10.0,
        retry_seconds: float = 12 * 3600,
    ) -> None:
        self.worker = worker
        self.jobs = jobs
        self.outbox = Outbox(jobs.redis)
        self.allowed = allowed
        self.secrets = secrets
        self.timeout = timeout
        self.retry_seconds = retry_seconds
        self._lanes = Lanes()
        self._senders = ThreadPoolExecutor(SLOTS, "webhooks")  # threads start when needed

    def run(self, stop: threading.Event) -> None:
        """Send until `stop` is set. What is being sent then may be sent again by another worker."""
        while not stop.is_set():
            pause = IDLE_PAUSE
            try:
                while self.dispatch() and not stop.is_set():
                    pass
            except redis.RedisError as error:
                log.warning("webhooks wait: %s", explain(error), extra={"worker": self.worker})
                pause = REDIS_PAUSE
            stop.wait(pause)
        self._senders.shutdown(wait=False, cancel_futures=True)

    def dispatch(self) -> int:
        """Begin to send some of the webhooks that are due, and put the others off; returns how many were due.

        Raises:
            redis.RedisError: Redis is away, or refuses a command.
        """
        now, entries = self.outbox.take(BATCH, self.timeout + LOOKUP_SECONDS)
        put_off = {}
        for entry in entries:
            job = self._job_of(entry)
            if job is None:
                continue
            if wait := self._lanes.enter(job):
                put_off[entry] = now + int(1000 * wait)
            else:
                self._senders.submit(self._send, entry, job, now)
        self.outbox.postpone(put_off)
        return len(entries)

    def _job_of(self, entry: Entry) -> Job | None:
        """The job that an entry is about; None if nobody needs to be told any more: the entry is dropped."""
        try:
            job = self.jobs.get(entry.job_id)
        except UnknownJobError:
            if entry.event == "completed":
                self._give_up(entry, "its record is gone")
            else:
                self.outbox.drop([entry])
            return None
        current = job.ended if entry.event == "completed" else job.status == "processing"
        if job.webhook is None or not current:  # it was put back, or has ended meanwhile
            self.outbox.drop([entry])
            return None
        return job

    def _send(self, entry: Entry, job: Job, now: int) -> None:
        """Send one webhook, and note what came of it."""
        url = job.webhook or ""
        answered = False
        try:
            why, final, answered = self._post(entry, job, url)
            if why is None:
                self.outbox.delivered(entry)
                about = {"job": job.id, "of": entry.event, "to": origin_of(url)}
                log.info("webhook delivered", extra={**about, "attempts": entry.attempts + 1})
            else:
                self._failed(entry, url, why, final, now)
        except redis.RedisError as error:  # it will be sent again
            log.warning("webhooks wait: %s", explain(error), extra={"worker": self.worker})
        except Exception:  # a thread of a pool would swallow it
            log.exception("a webhook cannot be sent", extra={"job": job.id})
        finally:
            self._lanes.leave(job, answered)

    def _post(self, entry: Entry, job: Job, url: str) -> tuple[str | None, bool, bool]:
        """Why the receiver does not have it (None: it has), if that is final, if it has answered."""
        record = record_of(job, 0).model_copy(update={"webhook_status": None, "webhook_error": None})
        body = json.dumps(record.content()).encode()
        number = job.seq if entry.event == "output" else entry.number
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"mead-backend/{version()}",
            **headers_of(self.secrets, f"{job.id}.{entry.event}.{number}", int(time.time()), body),
        }
        try:
            status = post(url, body, headers, self.allowed, self.timeout)
        except NotSentError as error:
            return str(error), isinstance(error, NotAllowedError), False
        if 200 <= status < 300:
            return None, True, True
        return f"the receiver has answered {status}", status == GONE, True

    def _failed(self, entry: Entry, url: str, why: str, final: bool, now: int) -> None:
        extra = {"job": entry.job_id, "of": entry.event, "to": origin_of(url), "error": why}
        pause = random.uniform(0.75, 1.25) * min(2**entry.attempts, LONGEST_PAUSE)
        late = (now - entry.since) / 1000 + pause > self.retry_seconds
        if final or late or entry.event != "completed":
            self._give_up(entry, why, **extra)
            return
        log.info("webhook failed, sent again later", extra={**extra, "pause": round(pause)})
        self.outbox.try_again(entry, pause, why)

    def _give_up(self, entry: Entry, why: str, **extra: str) -> None:
        self.outbox.failed(entry, why)
        about = {"job": entry.job_id, "of": entry.event, "error": why, **extra}
        log.warning("webhook failed", extra={**about, "attempts": entry.attempts + 1})


@dataclass
class Lane:
    """One client's receiver: what is being sent to it, and until when it is left alone for not answering."""

    sending: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0  # time.monotonic


class Lanes:
    """Shares the slots out, so that receivers that do not answer hold up nobody else's webhooks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[tuple[str, str], Lane] = {}  # by client and host
        self._clients: Counter[str] = Counter()

    def enter(self, job: Job) -> float:
        """Take a slot for a job's webhook: 0; or the seconds after which to ask again."""
        name = _lane_of(job)
        with self._lock:
            now = time.monotonic()
            lane = self._lanes.get(name) or Lane()
            if lane.rests_until > now:
                return lane.rests_until - now + random.uniform(0, 1)
            full = sum(self._clients.values()) >= SLOTS or self._clients[job.client] >= PER_CLIENT
            if full or lane.sending >= PER_RECEIVER:
                return random.uniform(0.1, 0.5)
            self._lanes = {each: one for each, one in self._lanes.items() if _matters(one, now)}
            self._lanes[name] = lane
            lane.sending += 1
            self._clients[job.client] += 1
            return 0.0

    def leave(self, job: Job, answered: bool) -> None:
        """Free the slot."""
        with self._lock:
            lane = self._lanes[_lane_of(job)]
            lane.sending -= 1
            self._clients -= Counter([job.client])
            lane.failures = 0 if answered else lane.failures + 1
            if not answered:
                lane.rests_until = time.monotonic() + min(2**lane.failures, LONGEST_REST)


def _matters(lane: Lane, now: float) -> bool:
    """Whether there is something to remember of a lane."""
    return lane.sending > 0 or now < lane.rests_until + LONGEST_REST * bool(lane.failures)


def _lane_of(job: Job) -> tuple[str, str]:
    return job.client, urlsplit(job.webhook or "").netloc.rpartition("@")[2].lower()
