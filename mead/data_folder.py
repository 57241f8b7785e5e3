"""Making sure that data folder, Redis and queues belong together.

The sweep removes files of jobs that Redis does not know, so two Redis servers must not use one folder at the
same time. And records name files, so all servers of a queue must use the same folder. A file in the folder
holds a random id; Redis holds the ids of its folders, and the id of each queue's folder.
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
"""How long a folder counts as in use after a server's last `hold_folder`."""
TOUCH_SECONDS = 20
"""How old the last mark must be for a server to renew it: an object store charges for each."""
SETTLING_SECONDS = 24 * 3600
"""How long Redis keeps the id of a folder whose first server stopped before it finished `claim_folder`."""


class FolderClaimedError(RuntimeError):
    """The data folder is used with another Redis, or the queue with another folder. Says what to do."""


def claim_folder(client: redis.Redis, storage: Storage, queues: Iterable[str]) -> None:
    """Claim the data folder for a Redis and its queues; to be called before a server touches files.

    A folder that no server uses any more may be claimed by another Redis, or by one that has lost its data.
    Any number of servers may call this at once.

    Raises:
        FolderClaimedError: the folder is in use with another Redis, or a queue uses another folder.
        redis.RedisError: Redis is away, or refuses writes.
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
                f"the data folder {storage} is in use with another Redis than the one at REDIS_URL. "
                f"Correct {storage.setting} or REDIS_URL, or wait until its servers have been stopped for "
                f"{IN_USE_SECONDS} s"
            )
        log.warning(
            "this Redis does not know the data folder, and takes it over",
            extra={"removed_after": "JOB_TTL, the pictures of jobs that it does not know"},
        )
    hold_folder(client, storage, queues)


def hold_folder(client: redis.Redis, storage: Storage, queues: Iterable[str]) -> None:
    """Mark the folder as in use, and check that the queues still use it.

    A Redis that has lost its data (FLUSHALL, a restart without persistence) learns the folder's id again.

    Raises:
        FolderClaimedError: a queue uses another folder, or the folder's id is missing.
        redis.RedisError: Redis is away, or refuses writes.
        OSError: the folder cannot be written to.
    """
    folder_id = storage.read_id()
    if folder_id is None:
        raise FolderClaimedError(f"{storage}/{storage.marker.name} is gone: start the servers again")
    for queue in queues:
        client.set(queue_folder_key(queue), folder_id, nx=True)
        if client.get(queue_folder_key(queue)) != folder_id:
            raise FolderClaimedError(
                f"the jobs of {queue} have their files in another folder than {storage}. Set "
                f"{storage.setting}, REDIS_URL or the queue right; or, if that folder no longer exists, "
                f"redis-cli DEL {queue_folder_key(queue)}"
            )
    client.set(folder_key(folder_id), 1)
    if time.time() - storage.held_at() > TOUCH_SECONDS:
        storage.touch_id()
