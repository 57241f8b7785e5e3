"""How many jobs run before a job, and how many wait in a queue.

A job that has an owner has a place in its queue's order, and its rank there (ZRANK) takes O(log n). Other
jobs run in the order of their tickets: the rank is the difference between the job's and the highest ticket
claimed, less the cancelled jobs between them (ZCOUNT).
"""

from __future__ import annotations

from collections.abc import Sequence

import redis

from mead.queue.job import Job
from mead.queue.keys import cancelled_key, order_key, place, served_key


def read_ranks(client: redis.Redis, jobs: Sequence[Job]) -> list[int]:
    """The rank of each job, 0 unless it is queued; in one round trip (GET, ZCOUNT, ZRANK, LLEN, ZCARD)."""
    waiting = [job for job in jobs if job.status == "queued"]
    shared = list({job.queue for job in waiting if job.owner})
    with client.pipeline(transaction=False) as pipe:  # Redis refuses MULTI when it is out of memory
        for job in waiting:
            pipe.get(served_key(job.queue))
            pipe.zcount(cancelled_key(job.queue), "-inf", f"({job.ticket}")
            if job.owner:
                pipe.zrank(order_key(job.queue), place(job.ticket, job.id))
        for queue in shared:
            pipe.llen(queue)
            pipe.zcard(cancelled_key(queue))
            pipe.zcard(order_key(queue))
        answers = iter(pipe.execute() if waiting else [])
    found = {}
    places = {}
    for job in waiting:
        served, cancelled = int(next(answers) or 0), next(answers)
        found[job.id] = max(0, job.ticket - served - 1 - cancelled)
        if job.owner:
            places[job.id] = next(answers)
    # Jobs without a place, from before there were owners or places, came before those with one.
    others = {queue: max(0, next(answers) - next(answers) - next(answers)) for queue in shared}
    for job in waiting:
        if (rank := places.get(job.id)) is not None:
            found[job.id] = rank + others[job.queue]
    return [found.get(job.id, 0) for job in jobs]


def queue_length(client: redis.Redis, queue: str) -> int:
    """How many jobs wait in a queue (LLEN), without cancelled ones (ZCARD)."""
    with client.pipeline(transaction=False) as pipe:
        pipe.llen(queue)
        pipe.zcard(cancelled_key(queue))
        length, cancelled = pipe.execute()
    return max(0, length - cancelled)
