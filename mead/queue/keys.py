"""The keys in Redis: their names, types and contents.

A queue is a list under the name in its setting, such as LATENTREVISIONS_QUEUE. It holds the ids of waiting
jobs, the oldest at the left.
"""

from __future__ import annotations


def job_key(job_id: str) -> str:
    """Hash: a job's record."""
    return f"job:{job_id}"


def events_key(job_id: str) -> str:
    """Channel: each change of a job's record, as a JSON object of the changed fields and `seq`."""
    return f"events:{job_id}"


def preview_key(job_id: str) -> str:
    """String with a short time to live: a client wants previews of the job."""
    return f"preview:{job_id}"


QUEUE_PARTS = frozenset({"processing", "tickets", "served", "cancelled", "order", "turns", "data_folder"})
"""What follows the name of a queue and a colon in other keys; see below."""


def queue_of(name: str, weights: str | None) -> str:
    """List: the queue of that name whose jobs are for a weights set; None for the default one."""
    return name if weights is None else f"{name}:{weights}"


def processing_key(queue: str, worker: str) -> str:
    """List: ids of the jobs that a worker holds."""
    return f"{queue}:processing:{worker}"


def tickets_key(queue: str) -> str:
    """Number: the last ticket drawn."""
    return f"{queue}:tickets"


def served_key(queue: str) -> str:
    """Number: the highest ticket claimed by a worker."""
    return f"{queue}:served"


def cancelled_key(queue: str) -> str:
    """Sorted set: ids in the queue's list whose jobs were cancelled, by ticket."""
    return f"{queue}:cancelled"


def order_key(queue: str) -> str:
    """Sorted set: the waiting jobs that have an owner, as `place`, by their turns: the order they run in."""
    return f"{queue}:order"


def turns_key(queue: str) -> str:
    """Sorted set: the owners of jobs in a queue, by the turn of each one's next job."""
    return f"{queue}:turns"


def place(ticket: int, job_id: str) -> str:
    """A job's entry in its queue's order: of equal turns, the lowest ticket comes first."""
    return f"{10**15 + ticket}:{job_id}"


def worker_key(worker: str) -> str:
    """String with a time to live: a worker's heartbeat, as JSON."""
    return f"worker:{worker}"


def idempotency_key(owner: str, key: str) -> str:
    """String: id of the job that the owner created with this idempotency key."""
    return f"idempotency:{owner}:{key}"


def unfinished_key(client: str) -> str:
    """Set: ids of a client's unfinished jobs; only written when their number is limited."""
    return f"unfinished:{client}"


def folder_key(folder_id: str) -> str:
    """String: marks the data folder with this id as belonging to this Redis."""
    return f"data_folder:{folder_id}"


def queue_folder_key(queue: str) -> str:
    """String: the id of the data folder that holds the files of a queue's jobs."""
    return f"{queue}:data_folder"


def kept_key(client: str) -> str:
    """Sorted set: a client's jobs whose records are kept, as ID:BYTES, by the second of their expiry."""
    return f"{KEPT_KEY}:{client}"


def kept_latents_key(kept: str) -> str:
    """Sorted set: the jobs of a sorted set of kept jobs that can go on, as ID:BYTES of latents and uploads,
    by the second until which they can.
    """
    return f"{kept}:latents"


def kept_bytes_key(kept: str) -> str:
    """Number: the sum of the bytes in a sorted set of kept jobs, and of their latents."""
    return f"{kept}:bytes"


def kept_jobs_key(owner: str) -> str:
    """Sorted set: ids of an owner's jobs whose records are kept, by their creation in ms since 1970."""
    return f"kept_jobs:{owner}"


def keeps_key(owner: str) -> str:
    """Set: ids of an owner's jobs that are kept until they are released."""
    return f"keeps:{owner}"


KEPT_KEY = "kept"
"""Sorted set: as `kept_key`, of all clients."""

WORKERS_KEY = "workers"
"""Set: names of all workers; a dead worker's stays until its jobs have been recovered."""

STATISTICS_KEY = "statistics"
"""Hash: counts TYPE:accepted, TYPE:recovered, TYPE:STATUS, TYPE:failed:KIND, TYPE:wait:BUCKET and
TYPE:run:BUCKET."""

WEBHOOKS_KEY = "webhooks"
"""Sorted set: the outbox of webhooks (`mead.queue.outbox`), by when each is due in ms since 1970."""

WEBHOOK_COUNTS_KEY = f"{WEBHOOKS_KEY}:counts"
"""Hash: how many webhooks were delivered, and how many have failed for good."""

SINGLE_KEYS = frozenset({WORKERS_KEY, STATISTICS_KEY, KEPT_KEY, WEBHOOKS_KEY, WEBHOOK_COUNTS_KEY})
KEY_FAMILIES = frozenset(
    {"job", "events", "preview", "worker", "idempotency", "unfinished", "kept", "kept_jobs", "data_folder"}
    | {"webhooks", "keeps"}
)
"""Prefixes of keys, before the first colon; a queue must not have such a name."""
