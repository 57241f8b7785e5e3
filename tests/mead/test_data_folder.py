"""Which data folder and which Redis belong together."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from caching_config import Settings, connect
from mead.data_folder import FolderClaimedError, claim_folder, hold_folder
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.queue.jobs import Jobs
from mead.redaction import Redactor
from tests.conftest import RedisServer

QUEUES = ["latentrevisions_queue", "styleclip_queue"]


@pytest.fixture
def other(client: redis.Redis, settings: Settings) -> Iterator[redis.Redis]:
    """Another Redis: another database of the tests' own."""
    with connect(
        settings.model_copy(update={"redis_url": settings.redis_url.removesuffix("0") + "1"})
    ) as client:
        yield client


def abandon(storage: FolderStorage) -> None:
    """As if no server had used the folder for a while."""
    os.utime(storage.marker, (0, 0))


def test_the_first_server_joins_folder_and_redis(client: redis.Redis, storage: FolderStorage) -> None:
    claim_folder(client, storage, QUEUES)
    made = storage.read_id()
    assert made and len(made) == 32 and client.ttl(f"data_folder:{made}") == -1
    assert [client.get(f"{queue}:data_folder") for queue in QUEUES] == [made, made]
    assert stat.S_IMODE(storage.marker.stat().st_mode) == 0o600
    for _ in range(2):
        claim_folder(client, FolderStorage(storage.root), QUEUES)
    hold_folder(client, storage, QUEUES)
    assert storage.read_id() == made and [path.name for path in storage.root.iterdir()] == [".mead-id"]


def test_many_servers_may_start_at_once(settings: Settings, storage: FolderStorage) -> None:
    def start(_: int) -> str | None:
        mine = FolderStorage(storage.root)
        claim_folder(connect(settings), mine, QUEUES)
        return mine.read_id()

    with ThreadPoolExecutor(16) as pool:
        (only,) = set(pool.map(start, range(64)))
    assert connect(settings).ttl(f"data_folder:{only}") == -1


def test_another_redis_is_refused_while_the_folder_is_in_use(
    client: redis.Redis, other: redis.Redis, storage: FolderStorage
) -> None:
    claim_folder(client, storage, QUEUES)
    with pytest.raises(FolderClaimedError, match="in use with another Redis"):
        claim_folder(other, storage, QUEUES)
    assert not other.keys("*")
    abandon(storage)
    hold_folder(client, storage, QUEUES)
    with pytest.raises(FolderClaimedError, match="in use with another Redis"):
        claim_folder(other, storage, QUEUES)


def test_logs_tell_which_settings_to_correct(
    client: redis.Redis, other: redis.Redis, settings: Settings, storage: FolderStorage
) -> None:
    """Logs say DATA_DIR for the folder itself, and the sentence still reads well."""
    claim_folder(client, storage, QUEUES)
    with pytest.raises(FolderClaimedError) as refused:
        claim_folder(other, storage, QUEUES)
    logged = Redactor(settings.model_copy(update={"data_dir": storage.root})).redact(
        {"event": str(refused.value)}
    )
    assert logged["event"].startswith("the data folder DATA_DIR is in use with another Redis than the one at")
    assert ". Correct DATA_DIR or REDIS_URL, or wait until " in logged["event"]


def test_a_redis_that_was_emptied_gets_its_folder_back(client: redis.Redis, storage: FolderStorage) -> None:
    claim_folder(client, storage, QUEUES)
    made = storage.read_id()
    client.flushall()
    hold_folder(client, storage, QUEUES)  # by a server that runs
    assert client.get(f"{QUEUES[0]}:data_folder") == made
    client.flushall()
    abandon(storage)
    claim_folder(client, storage, QUEUES)  # by one that starts, when none runs
    assert client.get(f"{QUEUES[0]}:data_folder") == made == storage.read_id()


def test_a_queue_has_one_folder(client: redis.Redis, storage: FolderStorage, tmp_path: Path) -> None:
    """Two services on one Redis need queues of their own."""
    claim_folder(client, storage, QUEUES)
    elsewhere = FolderStorage(tmp_path / "elsewhere")
    with pytest.raises(FolderClaimedError, match="redis-cli DEL latentrevisions_queue:data_folder"):
        claim_folder(client, elsewhere, QUEUES)
    claim_folder(client, elsewhere, ["other_latentrevisions_queue", "other_styleclip_queue"])
    claim_folder(client, storage, QUEUES)
    for queue in QUEUES:
        client.delete(f"{queue}:data_folder")
    claim_folder(client, elsewhere, QUEUES)
    with pytest.raises(FolderClaimedError):
        hold_folder(client, storage, QUEUES)


def test_a_marker_that_is_gone(client: redis.Redis, storage: FolderStorage) -> None:
    claim_folder(client, storage, QUEUES)
    storage.marker.unlink()
    with pytest.raises(FolderClaimedError, match="is gone"):
        hold_folder(client, storage, QUEUES)


def test_a_redis_that_refuses_to_be_written_to(mortal_redis: RedisServer, storage: FolderStorage) -> None:
    client = connect(Settings(redis_url=mortal_redis.url))
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.RedisError):
        claim_folder(client, storage, QUEUES)
    assert storage.read_id() is None
    client.config_set("maxmemory", 0)
    claim_folder(client, storage, QUEUES)


def test_clients_are_told(settings: Settings, jobs: Jobs, tmp_path: Path) -> None:
    """A caching server whose folder is not that of the queue takes no job; the answer names no folder."""
    jobs.heartbeat("me", QUEUES, 600)
    claim_folder(jobs.redis, FolderStorage(tmp_path / "elsewhere"), QUEUES)
    door = create_app(settings).test_client()
    asked = {"data": {"prompt": "a house"}, "headers": {"Prefer": "respond-async"}}
    for answer in (door.post("/latent_revision", **asked), door.get("/readyz")):
        assert answer.status_code == 503 and "another folder" in answer.get_json()["message"]
        assert str(tmp_path) not in answer.text
    for queue in QUEUES:
        jobs.redis.delete(f"{queue}:data_folder")
    assert door.get("/readyz").status_code == 200
    assert door.post("/latent_revision", **asked).status_code == 202
