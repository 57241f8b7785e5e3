"""Which data folder and which Redis belong together.

The sweep removes the files of jobs that Redis does not know, so a folder must not serve two Redis at a time.
And a queue's jobs name files, so all servers of a queue must see the same folder. A file in the folder holds
a random id; Redis knows the ids of its folders, and which folder each queue has.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable

import redis

from mead.queue.keys import folder_key, queue_folder_key
from mead.storage import Storage

log = logging.getLogger(__name__)

IN_USE_SECONDS = 90
"""How long after a server's last `hold_folder` its folder counts as in use."""
SETTLING_SECONDS = 24 * 3600
"""How long Redis remembers the id of a folder whose first server did not get any further."""


class FolderClaimedError(RuntimeError):
    """The data folder is used with another Redis, or the queue with another folder; says what to do."""


def claim_folder(client: redis.Redis, storage: Storage, queues: Iterable[str]) -> None:
    """Make sure, before a server touches files, that folder, Redis and queues belong together.

    What is new is joined. So is a folder that no server uses any more to a Redis that does not know it, as
    after Redis has lost its data. Any number of servers may call this at once.

    Raises:
        FolderClaimedError: they do not belong together.
        redis.RedisError: Redis is away, or refuses to be written to.
        OSError: the folder cannot be written to.
    """
    folder_id = storage.read_id()
    if folder_id is None:
        made = secrets.token_hex(16)
        client.set(folder_key(made), 1, ex=SETTLING_SECONDS)
        storage.write_id(made)
        folder_id = storage.read_id() or made
    if not client.exists(folder_key(folder_id)):
        if time.time() - storage.held_at() < IN_USE_SECONDS:
            raise FolderClaimedError(
                f"DATA_DIR={storage.root} is in use with another Redis than the one at REDIS_URL, or was "
                f"until just now. Set them right, or wait {IN_USE_SECONDS} s after its servers have stopped"
            )
        log.warning(
            "this Redis does not know the data folder, and takes it over",
            extra={"removed_after": "JOB_TTL, the pictures of jobs that it does not know"},
        )
    hold_folder(client, storage, queues)


def hold_folder(client: redis.Redis, storage: Storage, queues: Iterable[str]) -> None:
    """Say that the folder is in use, and make sure that folder and queues still belong together.

    A Redis that has lost everything (FLUSHALL, a restart without persistence) is told again.

    Raises:
        FolderClaimedError: they do not, any more.
        redis.RedisError: Redis is away, or refuses to be written to.
        OSError: the folder cannot be written to.
    """
    folder_id = storage.read_id()
    if folder_id is None:
        raise FolderClaimedError(f"{storage.marker} is gone: start the servers again")
    for queue in queues:
        client.set(queue_folder_key(queue), folder_id, nx=True)
        if client.get(queue_folder_key(queue)) != folder_id:
            raise FolderClaimedError(
                f"the jobs of {queue} have their files in another folder than DATA_DIR={storage.root}. Set "
                "DATA_DIR, REDIS_URL or the queue right; or, if that folder is gone for good, "
                f"redis-cli DEL {queue_folder_key(queue)}"
            )
    client.set(folder_key(folder_id), 1)
    storage.touch_id()
