"""A Redis that answers, but not as wished: each state on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from benchmarks.failover import Name, fail_over, follow
from caching_config import Settings, connect
from mead.http.app import create_app
from mead.queue.errors import UnknownJobError
from mead.queue.job import JobProgress
from mead.queue.jobs import Jobs
from mead.queue.redis_errors import LASTING, MEANINGS, code_of, explain
from mead.queue.scripts import TimelyScript
from tests.conftest import RedisServer

QUEUE = "latentrevisions_queue"
QUEUES = (QUEUE, "styleclip_queue")


@pytest.fixture
def server(mortal_redis: RedisServer) -> RedisServer:
    """A Redis whose configuration the test may change."""
    return mortal_redis


def out_of_memory(root: redis.Redis) -> Callable[[], object]:
    root.config_set("maxmemory", "1kb")
    return lambda: root.config_set("maxmemory", "0")


def too_few_replicas(root: redis.Redis) -> Callable[[], object]:
    root.config_set("min-replicas-to-write", "1")
    return lambda: root.config_set("min-replicas-to-write", "0")


def read_only(root: redis.Redis) -> Callable[[], object]:
    root.execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: root.execute_command("REPLICAOF", "NO", "ONE")


def without_primary(root: redis.Redis) -> Callable[[], object]:
    root.config_set("replica-serve-stale-data", "no")
    return read_only(root)


def no_right(root: redis.Redis) -> Callable[[], object]:
    root.execute_command("ACL", "SETUSER", "default", "-evalsha")
    return lambda: root.execute_command("ACL", "SETUSER", "default", "+evalsha")


def wrong_type(root: redis.Redis) -> Callable[[], object]:
    root.rename(QUEUE, "aside")
    root.set(QUEUE, "text")
    return lambda: (root.delete(QUEUE), root.rename("aside", QUEUE))


STATES = {
    "OOM": out_of_memory,
    "NOREPLICAS": too_few_replicas,
    "READONLY": read_only,
    "MASTERDOWN": without_primary,
    "NOPERM": no_right,
    "WRONGTYPE": wrong_type,
}


@pytest.mark.parametrize("code", STATES)
def test_clients_are_told_and_it_heals(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(TimelyScript, "SECONDS", 1.0)  # for which a useless connection is tried again
    settings = Settings(redis_url=server.url, data_dir=tmp_path / "var")
    jobs, root = Jobs(connect(settings), 600), redis.Redis.from_url(server.url)
    jobs.heartbeat("me", QUEUES, 600)
    door = create_app(settings).test_client()
    asked = {"data": {"prompt": "a house"}, "headers": {"Prefer": "respond-async"}}
    assert door.post("/latent_revision", **asked).status_code == 202

    heal = STATES[code](root)
    refused = door.post("/latent_revision", **asked)
    assert refused.status_code == 503, refused.text
    assert ("Retry-After" in refused.headers) == (code not in LASTING), "to repeat it would not help"
    said = f"the key {QUEUE} in Redis is not a list" if code == "WRONGTYPE" else MEANINGS[code]
    assert refused.get_json()["message"].startswith(said)
    assert set(root.scan_iter("job:*")) if code != "MASTERDOWN" else True
    heal()
    assert door.post("/latent_revision", **asked).status_code == 202
    assert jobs.queue_length(QUEUE) == 2
    assert len(jobs.redis.keys("job:*")) == 2, "what was refused left a record"


def test_reads_go_on_while_memory_is_full(server: RedisServer, tmp_path: Path) -> None:
    settings = Settings(redis_url=server.url, data_dir=tmp_path / "var")
    jobs, root = Jobs(connect(settings), 600), redis.Redis.from_url(server.url)
    jobs.heartbeat("me", QUEUES, 600)
    for name in "abc":
        jobs.enqueue(name, "lr", QUEUE, {"prompt": "a house"})
    job = jobs.claim(QUEUE, "me")
    assert job is not None
    out_of_memory(root)
    door = create_app(settings).test_client()
    assert [door.get(f"/jobs/{name}").get_json()["rank"] for name in "abc"] == [0, 0, 1]
    assert door.post("/check", data={"id": "c"}).get_json()["status"] == "processing"
    assert door.get("/jobs/unknown").status_code == 404
    assert door.get("/readyz").status_code == 503
    root.expire("worker:me", 5)
    jobs.heartbeat("me", QUEUES, 600)
    assert root.ttl("worker:me") > 5, "the heartbeat lives on"
    assert not jobs.report(QUEUE, "me", [JobProgress("a", 1, 2, 0.5)]).lost
    assert jobs.succeed(job, "me", "a.png") and jobs.cancel("b"), "jobs that run go on and end"
    with pytest.raises(redis.RedisError) as wrong:
        jobs.heartbeat("newcomer", QUEUES, 600)
    assert code_of(wrong.value) == "OOM"


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    primary, replica = RedisServer(tmp_path / "a"), RedisServer(tmp_path / "b")
    follow(replica.port, primary.port)
    yield primary, replica
    primary.stop()
    replica.stop()


@pytest.mark.slow
def test_a_planned_failover(replicas: tuple[RedisServer, RedisServer]) -> None:
    """Open connections stay on the old primary, which is read-only now; each is given up as it says so."""
    old, new = replicas
    name = Name(old.port)
    client = connect(Settings(redis_url=f"redis://127.0.0.1:{name.port}/0"))
    jobs = Jobs(client, 600)
    with client.pubsub() as busy:  # holds a connection of its own
        busy.subscribe("something")
        jobs.enqueue("a", "lr", QUEUE, {"prompt": "a"})
        fail_over(old.port, new.port, name)
        assert jobs.claim(QUEUE, "me") is not None, "the first command after the failover already succeeds"
        jobs.enqueue("b", "lr", QUEUE, {"prompt": "b"})
        assert redis.Redis.from_url(new.url).lrange(QUEUE, 0, -1) == [b"b"]
    name.close()


@pytest.mark.slow
def test_a_record_that_a_replica_does_not_have_yet(replicas: tuple[RedisServer, RedisServer]) -> None:
    """A connection that only reads, left on an old primary that lags, does not deny a job that exists."""
    old, new = replicas
    name = Name(old.port)
    reader, writer = (
        Jobs(connect(Settings(redis_url=f"redis://127.0.0.1:{name.port}/0")), 600) for _ in range(2)
    )
    reader.workers()  # opens a connection
    fail_over(old.port, new.port, name)
    with redis.Redis(port=old.port) as root:  # it follows a server that is not there, and so learns nothing
        root.execute_command("REPLICAOF", "127.0.0.1", 1)
    writer.enqueue("a", "lr", QUEUE, {"prompt": "a"})
    assert reader.workers() == {}, "the connection is still open"
    assert reader.redis.exists("job:a") == 0, "and leads to the old primary"
    assert reader.get("a").id == "a"

    again = Jobs(connect(Settings(redis_url=f"redis://127.0.0.1:{name.port}/0")), 600)
    name.target = old.port
    again.workers()
    name.target = new.port
    assert again.outcomes(["b", "a"]).keys() == {"a"}
    with pytest.raises(UnknownJobError):
        again.get("b")
    name.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            redis.ResponseError("Error running script (call to f_12): @user_script:3: -READONLY You can't"),
            "READONLY",
        ),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (
            redis.exceptions.BusyLoadingError(
                "Redis is loading the dataset in memory", status_code="LOADING"
            ),
            "LOADING",
        ),
        (redis.AuthenticationError("invalid password"), "WRONGPASS"),
        (redis.ResponseError("ERR The user executing the script can't publish to the channel"), "NOPERM"),
        (redis.ConnectionError("Connection refused"), None),
        (redis.ResponseError("ERR unknown command"), None),
    ],
)
def test_what_an_error_means(error: redis.RedisError, code: str | None) -> None:
    assert code_of(error) == code
    if code:
        assert explain(error) == MEANINGS[code]


def test_what_is_no_answer() -> None:
    assert explain(redis.ConnectionError("refused")) == explain(redis.TimeoutError()) == "Redis is away"
