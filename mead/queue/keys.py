"""Every key there is in Redis: what each is called, its type, what it holds.

A queue's own list is called as the settings say (LATENTREVISIONS_QUEUE, STYLECLIP_QUEUE): the ids of the jobs
that wait, the oldest at the left.
"""

from __future__ import annotations


def job_key(job_id: str) -> str:
    """Hash: a job's record."""
    return f"job:{job_id}"


def events_key(job_id: str) -> str:
    """Channel: each change of a job's record, as a JSON object of the fields that changed and `seq`."""
    return f"events:{job_id}"


def preview_key(job_id: str) -> str:
    """String with a short time to live: somebody looks at the picture so far."""
    return f"preview:{job_id}"


def processing_key(queue: str, worker: str) -> str:
    """List: ids of the jobs a worker holds."""
    return f"{queue}:processing:{worker}"


def tickets_key(queue: str) -> str:
    """Number: the last ticket drawn."""
    return f"{queue}:tickets"


def served_key(queue: str) -> str:
    """Number: the highest ticket taken by a worker."""
    return f"{queue}:served"


def cancelled_key(queue: str) -> str:
    """Sorted set: ids in the queue's list that were cancelled, by their tickets."""
    return f"{queue}:cancelled"


def worker_key(worker: str) -> str:
    """String with a time to live: a worker's heartbeat, as JSON."""
    return f"worker:{worker}"


def idempotency_key(owner: str, key: str) -> str:
    """String: id of the job that this owner made with this idempotency key."""
    return f"idempotency:{owner}:{key}"


def unfinished_key(client: str) -> str:
    """Set: ids of a client's jobs that have not ended, kept when their number is limited."""
    return f"unfinished:{client}"


def folder_key(folder_id: str) -> str:
    """String: this Redis knows the data folder with this id."""
    return f"data_folder:{folder_id}"


def queue_folder_key(queue: str) -> str:
    """String: the id of the data folder that holds the files of a queue's jobs."""
    return f"{queue}:data_folder"


def kept_key(client: str) -> str:
    """Sorted set: a client's jobs whose records are kept, as ID:BYTES, by the second in which they expire."""
    return f"{KEPT_KEY}:{client}"


def kept_bytes_key(kept: str) -> str:
    """Number: the sum of the bytes in a sorted set of kept jobs."""
    return f"{kept}:bytes"


KEPT_KEY = "kept"
"""Sorted set: as `kept_key`, of all clients."""

WORKERS_KEY = "workers"
"""Set: names of all workers; a dead one stays until its jobs are back in their queues."""

STATISTICS_KEY = "statistics"
"""Hash: counts since ever: TYPE:accepted, TYPE:recovered, TYPE:END, TYPE:wait:BUCKET and TYPE:run:BUCKET."""

SINGLE_KEYS = frozenset({WORKERS_KEY, STATISTICS_KEY, KEPT_KEY})
KEY_FAMILIES = frozenset(
    {"job", "events", "preview", "worker", "idempotency", "unfinished", "kept", "data_folder"}
)
"""What the keys of several things begin with, before a colon; no queue may be called so."""
