"""Which Redis a data folder belongs to.

The sweep removes the files of jobs that Redis does not know, so no folder may serve two of them: a file in
the folder and a key in Redis hold the same random id. Whichever server starts first makes both.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

import redis

from mead.keys import DATA_FOLDER_KEY
from mead.storage import Storage

SETTLING_SECONDS = 60
"""How long a new id may stand in Redis alone, before it is in the folder too."""


class FolderClaimedError(RuntimeError):
    """The data folder belongs to another Redis, or this Redis to another folder; says what to do."""


def claim_folder(client: redis.Redis, storage: Storage) -> None:
    """Make sure, as a server starts, that folder and Redis belong together; join them if both are new.

    Any number of servers may call this at once.

    Raises:
        FolderClaimedError: they do not.
        redis.RedisError: Redis is away, or refuses to be written to.
        OSError: the folder cannot be written to.
    """
    if storage.read_id() is None:
        client.set(DATA_FOLDER_KEY, secrets.token_hex(16), nx=True, ex=SETTLING_SECONDS)
    known, lasts = _look(client)
    written = storage.read_id()  # after Redis was asked: an id that stays there is in the folder already
    if written is None and known is not None and not lasts:
        storage.write_id(known)
        written = known
    _compare(storage, written, known)
    if not lasts:
        client.persist(DATA_FOLDER_KEY)


def hold_folder(client: redis.Redis, storage: Storage) -> None:
    """Make sure, as a server works, that folder and Redis still belong together.

    A Redis that has lost everything (FLUSHALL, a restart without persistence) is told its folder again.

    Raises:
        FolderClaimedError: they do not, any more.
        redis.RedisError: Redis is away.
        OSError: the folder cannot be read.
    """
    written = storage.read_id()
    if written is not None:
        with suppress(redis.ResponseError):  # it may refuse to be written to, and still be the right one
            client.set(DATA_FOLDER_KEY, written, nx=True)
    _compare(storage, written, _look(client)[0])


def _look(client: redis.Redis) -> tuple[str | None, bool]:
    """The id that Redis has, and whether it is there to stay."""
    with client.pipeline(transaction=False) as pipe:  # a full Redis answers no transaction
        pipe.get(DATA_FOLDER_KEY)
        pipe.ttl(DATA_FOLDER_KEY)
        known, seconds = pipe.execute()
    return known, seconds < 0


def _compare(storage: Storage, written: str | None, known: str | None) -> None:
    if written == known:
        return
    folder, marker, forget = storage.root, storage.marker, f"`redis-cli DEL {DATA_FOLDER_KEY}`"
    if known is None:
        raise FolderClaimedError(
            f"DATA_DIR={folder} belongs to another Redis than the one at REDIS_URL, or that one was emptied. "
            f"Set them right; or, to use them together from now on, delete {marker}: "
            "pictures of jobs that this Redis does not know go after JOB_TTL"
        )
    if written is None:
        raise FolderClaimedError(
            f"the Redis at REDIS_URL belongs to another folder than DATA_DIR={folder}: "
            "all servers on one Redis must see the same folder. Set them right; or, if the folder is new or "
            f"was emptied, {forget} and start all servers again"
        )
    raise FolderClaimedError(
        f"DATA_DIR={folder} belongs to another Redis than the one at REDIS_URL, and that to another folder. "
        f"Set them right; or, to use them together from now on, delete {marker} and {forget}"
    )
