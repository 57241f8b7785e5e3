"""Which Redis a data folder belongs to."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from caching_config import Settings, connect
from mead.data_folder import FolderClaimedError, claim_folder, hold_folder
from mead.storage import Storage
from tests.conftest import RedisServer

KEY = "data_folder"


@pytest.fixture
def other(client: redis.Redis, settings: Settings) -> Iterator[redis.Redis]:
    """Another Redis: another database of the tests' own."""
    with connect(
        settings.model_copy(update={"redis_url": settings.redis_url.removesuffix("0") + "1"})
    ) as one:
        yield one


def test_the_first_server_joins_folder_and_redis(client: redis.Redis, storage: Storage) -> None:
    claim_folder(client, storage)
    made = client.get(KEY)
    assert storage.read_id() == made and len(str(made)) == 32 and client.ttl(KEY) == -1
    assert stat.S_IMODE(storage.marker.stat().st_mode) == 0o600
    for _ in range(2):
        claim_folder(client, Storage(storage.root))
    hold_folder(client, storage)
    assert storage.read_id() == made == client.get(KEY)


def test_many_servers_may_start_at_once(settings: Settings, storage: Storage) -> None:
    def start(_: int) -> str | None:
        mine = Storage(storage.root)
        claim_folder(connect(settings), mine)
        return mine.read_id()

    with ThreadPoolExecutor(16) as pool:
        (only,) = set(pool.map(start, range(64)))
    client = connect(settings)
    assert client.get(KEY) == only and client.ttl(KEY) == -1


def test_a_start_that_was_cut_off_is_no_claim(client: redis.Redis, storage: Storage) -> None:
    """Killed between the two: the next start ends what was begun."""
    client.set(KEY, "1" * 32, ex=60)
    claim_folder(client, storage)
    assert storage.read_id() == "1" * 32 and client.ttl(KEY) == -1
    client.expire(KEY, 60)
    claim_folder(client, storage)
    assert client.ttl(KEY) == -1


def test_another_redis_is_refused(client: redis.Redis, other: redis.Redis, storage: Storage) -> None:
    claim_folder(client, storage)
    before = storage.read_id()
    for look in (claim_folder, hold_folder):
        if look is hold_folder:
            other.set(KEY, "2" * 32)
        with pytest.raises(FolderClaimedError, match="belongs to another Redis"):
            look(other, storage)
    assert storage.read_id() == before == client.get(KEY)


def test_another_folder_is_refused(client: redis.Redis, storage: Storage, tmp_path: Path) -> None:
    claim_folder(client, storage)
    elsewhere = Storage(tmp_path / "elsewhere")
    with pytest.raises(FolderClaimedError, match="belongs to another folder"):
        claim_folder(client, elsewhere)
    assert not elsewhere.root.exists()


def test_live_servers_tell_a_flushed_redis_its_folder(client: redis.Redis, storage: Storage) -> None:
    claim_folder(client, storage)
    client.flushall()
    hold_folder(client, storage)
    claim_folder(client, storage)
    assert client.get(KEY) == storage.read_id() and client.ttl(KEY) == -1


def test_the_ways_out(client: redis.Redis, other: redis.Redis, storage: Storage, tmp_path: Path) -> None:
    """Each message names what helps, and it helps."""
    claim_folder(client, storage)
    client.flushall()  # while no server was there
    with pytest.raises(FolderClaimedError, match=f"delete {storage.marker}"):
        claim_folder(client, storage)
    storage.marker.unlink()
    claim_folder(client, storage)

    storage.marker.unlink()  # the folder was emptied
    with pytest.raises(FolderClaimedError, match="redis-cli DEL data_folder"):
        claim_folder(client, storage)
    client.delete(KEY)
    claim_folder(client, storage)

    claim_folder(other, Storage(tmp_path / "elsewhere"))
    with pytest.raises(FolderClaimedError, match=f"delete {storage.marker} and `redis-cli DEL data_folder`"):
        claim_folder(other, storage)
    storage.marker.unlink()
    other.delete(KEY)
    claim_folder(other, storage)


def test_a_damaged_id_is_refused(client: redis.Redis, storage: Storage) -> None:
    claim_folder(client, storage)
    storage.marker.write_bytes(b"\xff\0")
    with pytest.raises(FolderClaimedError):
        claim_folder(client, storage)


def test_a_redis_that_refuses_to_be_written_to_may_be_the_right_one(
    mortal_redis: RedisServer, storage: Storage
) -> None:
    client = connect(Settings(redis_url=mortal_redis.url))
    claim_folder(client, storage)
    client.config_set("maxmemory", 1)
    hold_folder(client, storage)
    client.config_set("maxmemory", 0)
    client.flushall()
    client.config_set("maxmemory", 1)
    with pytest.raises(FolderClaimedError):
        hold_folder(client, storage)
    client.config_set("maxmemory", 0)
