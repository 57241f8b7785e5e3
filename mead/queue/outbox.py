"""The outbox: webhooks that are to be sent.

The script that changes a job also puts the event into the sorted set `webhooks`, so that neither is lost
without the other. An entry is EVENT:ID:NUMBER:ATTEMPTS:SINCE, where EVENT is

- start: a worker has claimed the job for the NUMBERth time;
- output: the job has done steps. Its NUMBER, ATTEMPTS and SINCE are 0, so that a job has one such entry;
- completed: the job has ended, with the NUMBERth change of its record.

ATTEMPTS counts those that have failed, SINCE is when the event happened, in ms since 1970 by Redis's clock.
The score is when the entry is due, by the same clock. A sender leases entries: nobody else sends them until
the lease ends, and then somebody does, unless they were settled. So each is sent at least once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, cast

import redis

from mead.queue.keys import WEBHOOK_COUNTS_KEY, WEBHOOKS_KEY, job_key
from mead.queue.scripts import load_script

Event: TypeAlias = Literal["start", "output", "completed"]
EVENTS: tuple[Event, ...] = ("start", "output", "completed")


@dataclass(frozen=True)
class Entry:
    """An event that is to be sent."""

    event: Event
    job_id: str
    number: int
    attempts: int
    since: int

    @classmethod
    def parse(cls, text: str) -> Entry:
        """An entry of the sorted set.

        Raises:
            ValueError: it is none.
        """
        event, job_id, *numbers = text.split(":")
        number, attempts, since = map(int, numbers)
        if event not in EVENTS:
            raise ValueError(text)
        return cls(event, job_id, number, attempts, since)

    def __str__(self) -> str:
        return f"{self.event}:{self.job_id}:{self.number}:{self.attempts}:{self.since}"

    def next_attempt(self) -> Entry:
        """The entry after one more attempt that has failed."""
        return replace(self, attempts=self.attempts + 1)


class OutboxCounts(NamedTuple):
    """How many webhooks wait, and how many were delivered or have failed for good since Redis was empty.

    Attributes:
        late: seconds for which the first one that is due waits for a sender.
    """

    waiting: int
    delivered: int
    failed: int
    late: float = 0.0


class Outbox:
    """The webhooks in one Redis. Every method raises redis.RedisError, as those of `mead.queue.jobs.Jobs`."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self._take = load_script(client, "take_webhooks")
        self._settle = load_script(client, "settle_webhook")

    def take(self, most: int, lease: float) -> tuple[int, list[Entry]]:
        """Lease the entries that are due (ZRANGEBYSCORE, ZADD).

        Args:
            lease: seconds after which they are due again.

        Returns:
            The time by Redis's clock in ms since 1970, and the entries, the oldest first.
        """
        answer = self._take(most, int(1000 * lease), keys=[WEBHOOKS_KEY])
        now, *due = cast("list[str]", answer)
        entries = []
        for text in due:
            try:
                entries.append(Entry.parse(text))
            except ValueError:  # not ours
                self.redis.zrem(WEBHOOKS_KEY, text)
        return int(now), entries

    def postpone(self, due: Mapping[Entry, int]) -> None:
        """Set when entries are due, in ms since 1970, without an attempt (ZADD)."""
        if due:
            self.redis.zadd(WEBHOOKS_KEY, {str(entry): at for entry, at in due.items()}, xx=True)

    def delivered(self, entry: Entry) -> None:
        """Take out an entry that a receiver has (ZREM), and tell the record of a completed job (HSET)."""
        self._settled(entry, "delivered")

    def failed(self, entry: Entry, why: str) -> None:
        """Take out an entry that will not be sent any more, and tell the record of a completed job why."""
        self._settled(entry, "failed", why=why)

    def try_again(self, entry: Entry, pause: float, why: str) -> None:
        """Put an entry back for its next attempt in `pause` seconds, and tell the record why (ZADD, HSET)."""
        self._settled(entry, "again", str(entry.next_attempt()), int(1000 * pause), why)

    def drop(self, entries: Sequence[Entry]) -> None:
        """Take out entries that nobody needs to know of any more (ZREM)."""
        if entries:
            self.redis.zrem(WEBHOOKS_KEY, *map(str, entries))

    def counts(self) -> OutboxCounts:
        """How many wait (ZCARD), were delivered and have failed (HGETALL), and how late they are (ZRANGE)."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.zcard(WEBHOOKS_KEY)
            pipe.hgetall(WEBHOOK_COUNTS_KEY)
            pipe.zrange(WEBHOOKS_KEY, 0, 0, withscores=True)
            pipe.time()
            waiting, counted, first, (seconds, microseconds) = pipe.execute()
        now = seconds + microseconds / 1e6
        late = max((now - due / 1000 for _, due in first), default=0.0)
        return OutboxCounts(
            waiting, int(counted.get("delivered", 0)), int(counted.get("failed", 0)), max(0.0, late)
        )

    def _settled(self, entry: Entry, outcome: str, again: str = "", pause: int = 0, why: str = "") -> None:
        told = entry.job_id if entry.event == "completed" else ""
        keys = [WEBHOOKS_KEY, WEBHOOK_COUNTS_KEY, job_key(entry.job_id)]
        self._settle(str(entry), outcome, again, pause, told, why, keys=keys)
