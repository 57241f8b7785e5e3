"""Redis that is not one process: Sentinels, a cluster, TLS, a prefix. Primaries are killed under load."""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead.cli.local_redis import free_port
from mead.folder_storage import FolderStorage
from mead.http.app import create_app
from mead.http.events import Events
from mead.queue.client import without_password
from mead.queue.errors import UnknownJobError
from mead.queue.job import new_ids
from mead.queue.jobs import Jobs
from mead.queue.keys import queue_folder_key
from mead.queue.prefix import PrefixPacker
from mead.queue.redis_check import check_rights
from mead.queue.redis_errors import NotReplicatedError
from mead.worker.worker import Worker
from tests.colours import ColourPipeline, make_engine
from tests.conftest import DATA, RedisServer, eventually, running
from tests.mead.queue.test_redis_check import documented_rules
from tests.redis_nodes import ClusterGroup, Group, Node, SentinelGroup

KILLS = 1  # of the primary, by each test
PARAMS = LatentRevisionsParams(prompt="teal", seed=1, iterations=5).model_dump(mode="json", exclude_none=True)


class Load:
    """Clients that keep queueing jobs and waiting for their ends, while others run them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.queue = settings.queues[0]
        self.accepted: list[str] = []
        self.told: dict[str, str] = {}  # how jobs ended, as clients were told
        self.refused = 0
        self._stop = threading.Event()
        self._stack = ExitStack()
        jobs = self.jobs()
        storage = FolderStorage(folder / "var")
        for name in ("one", "other"):
            engine = make_engine(ColourPipeline(), jobs, storage, queue=self.queue, worker=name)
            worker = Worker(name, [engine], jobs, storage, ttl=settings.worker_ttl)
            self._stack.enter_context(running(worker.run))
        self._events = Events(jobs)
        self._threads = [threading.Thread(target=self._enqueue) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def jobs(self) -> Jobs:
        return Jobs(connect(self.settings, 5), 600, self.settings.redis_wait_replicas)

    def _enqueue(self) -> None:
        jobs = self.jobs()
        while not self._stop.wait(0.005):
            job_id = secrets.token_hex(16)
            try:
                jobs.enqueue(job_id, "lr", self.queue, PARAMS)
                self.accepted.append(job_id)
                job = jobs.get(job_id)
                if job.ended:
                    self.told[job_id] = job.status
                for earlier in self.accepted[-20:-10]:
                    if (job := jobs.get(earlier)).ended:
                        self.told[earlier] = job.status
            except redis.RedisError:
                self.refused += 1
                time.sleep(0.05)

    def flows(self, count: int) -> None:
        """Wait until that many more jobs are accepted."""
        enough = len(self.accepted) + count
        eventually(lambda: len(self.accepted) >= enough)

    def check(self) -> None:
        """Stop queueing; every accepted job ends, as clients were told, and once."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        jobs = self.jobs()
        try:
            eventually(lambda: all(jobs.get(job_id).ended for job_id in self.accepted), "a job is stuck")
        except UnknownJobError as error:
            raise AssertionError(f"{error} is lost") from error
        finally:
            self._stack.close()
        ends = {job_id: jobs.get(job_id) for job_id in self.accepted}
        assert {job.status for job in ends.values()} == {"succeeded"}
        assert all(ends[job_id].status == status for job_id, status in self.told.items())
        every = [key.rpartition(":")[2] for key in jobs.redis.scan_iter("job:*")]
        succeeded = [job_id for job_id in every if jobs.get(job_id).status == "succeeded"]
        assert jobs.statistics()["lr"].ended["succeeded"] == len(succeeded)  # none has ended twice


def with_prefix(rules: list[str]) -> list[str]:
    """The rights of a user whose keys begin with {mead}:."""
    return [rule.replace("~", "~{mead}:").replace("&", "&{mead}:") for rule in rules]


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    with SentinelGroup(tmp_path_factory.mktemp("sentinels"), documented_rules()) as group:
        yield group


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterGroup]:
    with ClusterGroup(tmp_path_factory.mktemp("cluster"), with_prefix(documented_rules())) as group:
        yield group


def settings_of(url: str, **more: Any) -> Settings:
    return Settings(redis_url=url, redis_wait_replicas=1, worker_ttl=3, **more)


def has_replicas(node: Node, count: int) -> bool:
    return node.ask("INFO", "replication").count("state=online") == count


def is_replaced(node: Node, cluster: ClusterGroup) -> bool:
    return cluster.primary_of("{mead}:workers") is not node


@pytest.mark.slow
def test_sentinels_name_another_primary(sentinels: SentinelGroup, tmp_path: Path) -> None:
    """It is killed under load: nothing that was accepted is lost."""
    settings = settings_of(sentinels.url)
    load = Load(settings, tmp_path)
    primary = sentinels.primary
    for kill in range(1, KILLS + 1):
        load.flows(100)
        killed = primary
        killed.kill()
        load.flows(100)
        primary = sentinels.node(connect(settings).info("server")["tcp_port"])
        assert primary is not killed
        if kill < KILLS:
            killed.start()
            eventually(partial(has_replicas, primary, 2))
    load.check()


@pytest.mark.slow
def test_a_cluster_promotes_a_replica(cluster: ClusterGroup, tmp_path: Path) -> None:
    settings = settings_of(cluster.url, redis_prefix="{mead}:")
    load = Load(settings, tmp_path)
    for _ in range(KILLS):
        load.flows(100)
        killed = cluster.primary_of("{mead}:workers")
        killed.kill()
        eventually(partial(is_replaced, killed, cluster))
        killed.start()  # as the replica of its replica; until then no job has two copies or is accepted
        load.flows(100)
    load.check()
    keys = {key for node in cluster.nodes for key in node.ask("KEYS", "*")}
    assert keys and all(key.startswith("{mead}:") for key in keys)


def test_a_job_that_no_replica_has_is_not_accepted(
    redis_server: RedisServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mead.queue.jobs.ACCEPT_SECONDS", 0.1)
    jobs = Jobs(connect(settings), 600, replicas=1)
    with pytest.raises(NotReplicatedError):
        jobs.enqueue("a", "lr", settings.queues[0], PARAMS)
    group = dict.fromkeys(new_ids(3), PARAMS)
    with pytest.raises(NotReplicatedError):
        jobs.enqueue_group(group, "lr", settings.queues[0])
    assert {jobs.get(job_id).status for job_id in ("a", *group)} == {"cancelled"}
    assert jobs.claim(settings.queues[0], "me") is None


def test_what_was_not_accepted_may_be_sent_again_with_its_idempotency_key(
    jobs: Jobs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time it is another job, not the one that was cancelled; and a job that there is stays."""
    monkeypatch.setattr("mead.queue.jobs.ACCEPT_SECONDS", 0.1)
    queue, strict = settings.queues[0], Jobs(connect(settings), 600, replicas=1)
    again = {"idempotency_key": "k", "fingerprint": "f"}
    with pytest.raises(NotReplicatedError):
        strict.enqueue("a", "lr", queue, PARAMS, **again)
    assert jobs.enqueue("b", "lr", queue, PARAMS, **again) == "b"
    with pytest.raises(NotReplicatedError):
        strict.enqueue("c", "lr", queue, PARAMS, **again)
    assert jobs.enqueue("d", "lr", queue, PARAMS, **again) == "b" and jobs.get("b").status == "queued"


def test_a_job_that_no_replica_knows_to_run_again(
    jobs: Jobs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mead.queue.jobs.ACCEPT_SECONDS", 0.1)
    jobs.enqueue("a", "lr", settings.queues[0], PARAMS)
    job = jobs.claim(settings.queues[0], "me")
    assert job and jobs.fail(job, "me", "the disk is full", "internal")
    with pytest.raises(NotReplicatedError):
        Jobs(connect(settings), 600, replicas=1).retry("a")
    assert jobs.get("a").status == "queued"


# Prefix


def test_all_keys_have_the_prefix(settings: Settings, client: redis.Redis, tmp_path: Path) -> None:
    """And two services on one Redis do not meet."""
    load = Load(settings.model_copy(update={"redis_prefix": "mead:", "worker_ttl": 3}), tmp_path)
    load.flows(5)
    load.check()
    Jobs(client, 600).enqueue("a", "lr", settings.queues[0], PARAMS)
    ours = {key for key in client.keys("*") if key.startswith("mead:")}
    assert {"mead:statistics", "mead:kept", "mead:latentrevisions_queue:data_folder"} <= ours
    assert set(client.keys("*")) - ours >= {"job:a", "latentrevisions_queue"}


def test_the_api_with_a_prefix(settings: Settings) -> None:
    changed = settings.model_copy(update={"redis_prefix": "mead:"})
    jobs = Jobs(connect(changed), 600)
    jobs.heartbeat("me", changed.queues, 60)
    http = create_app(changed).test_client()
    assert http.get("/readyz").status_code == 200
    accepted = http.post("/latent_revision", data={"prompt": "teal"}, headers={"Prefer": "respond-async"})
    job_id = accepted.json["id"]
    assert http.get(f"/jobs/{job_id}").json["rank"] == 0
    assert 'mead_queue_length{queue="mead:latentrevisions_queue"} 1.0' in http.get("/metrics").text
    assert http.delete(f"/jobs/{job_id}").status_code == 200
    assert "event: end" in http.get(f"/jobs/{job_id}/events").text


@pytest.mark.parametrize("place", ["one", pytest.param("cluster", marks=pytest.mark.slow)])
def test_groups_and_lists_with_a_prefix(
    place: str, settings: Settings, client: redis.Redis, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """And jobs that run again; also where all keys of a script must be in one slot."""
    changed = settings.model_copy(update={"redis_prefix": "{mead}:"})
    if place == "cluster":
        url = request.getfixturevalue("cluster").url
        changed = settings_of(url, redis_prefix="{mead}:", data_dir=tmp_path / "var")
    jobs = Jobs(connect(changed), 600, changed.redis_wait_replicas)
    jobs.heartbeat("me", changed.queues, 60)
    jobs.redis.delete(*map(queue_folder_key, changed.queues))  # the folder of the test before
    http: Any = create_app(changed).test_client()
    form = {"prompt": "a smile", "n": "3", "img": (DATA / "coffee.jpg").open("rb")}
    headers = {"Prefer": "respond-async", "Idempotency-Key": "k"}
    ids = http.post("/styleclip", data=form, headers=headers).json["ids"]
    assert {job["id"] for job in http.get("/jobs?limit=3").json["jobs"]} == set(ids)
    assert [job["rank"] for job in http.get(f"/jobs?group={ids[0]}").json["jobs"]] == [0, 1, 2]
    assert http.get("/queues").json["queues"][1]["waiting"] == 3
    job = jobs.claim(changed.queues[1], "me")
    assert job and job.id == ids[0] and jobs.fail(job, "me", "the disk is full", "internal")
    assert http.post(f"/jobs/{ids[0]}/retry").json["rank"] == 2
    assert http.delete(f"/jobs/{ids[1]}").status_code == 200
    assert http.delete(f"/jobs?group={ids[0]}").json["ids"] == [ids[0], ids[2]]
    assert http.get(f"/jobs/{'0' * 32}").status_code == 404
    assert all(key.startswith("{mead}:") for key in client.keys("*"))


def test_events_arrive_with_a_prefix(settings: Settings) -> None:
    jobs = Jobs(connect(settings.model_copy(update={"redis_prefix": "mead:"})), 600)
    jobs.enqueue("a", "lr", "mead:q", PARAMS)
    followed = Events(jobs).follow("a", pulse=60)
    assert next(followed).status == "queued"
    jobs.cancel("a")
    assert next(followed).status == "cancelled"


def test_which_arguments_are_keys() -> None:
    packer = PrefixPacker("mead:")
    for command, prefixed in (
        (["GET", "a"], ["GET", "mead:a"]),
        (["GET", "mead:a"], ["GET", "mead:a"]),
        (["MGET", "a", "b"], ["MGET", "mead:a", "mead:b"]),
        (["BLMOVE", "a", "b", "LEFT", "LEFT", 1], ["BLMOVE", "mead:a", "mead:b", "LEFT", "LEFT", 1]),
        (["EVAL", "return 1", 1, "a", "b"], ["EVAL", "return 1", 1, "mead:a", "b"]),
        (["SCAN", 0, b"MATCH", "job:*", "COUNT", 9], ["SCAN", 0, b"MATCH", "mead:job:*", "COUNT", 9]),
        (["PSUBSCRIBE", "events:*"], ["PSUBSCRIBE", "mead:events:*"]),
        (["PING"], ["PING"]),
    ):
        assert packer.prefixed(command) == prefixed


@pytest.mark.parametrize("prefix", ["mead", "a b:", "{}:", "job:", "workers:", "*:", "mead::"])
def test_prefixes_that_cannot_be(prefix: str) -> None:
    with pytest.raises(ValueError, match="redis_prefix"):
        Settings(redis_prefix=prefix)


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host",
        "redis+sentinel:///studio",
        "redis+sentinel://a:1,:2/studio",
        "redis+cluster://a,b/1",
        "redis+cluster://",
        "redis+nothing://a",
    ],
)
def test_urls_that_name_no_redis(url: str) -> None:
    with pytest.raises(ValueError, match="is not the URL of a Redis"):
        Settings(redis_url=url, redis_prefix="{mead}:")


def test_a_cluster_needs_a_hash_tag() -> None:
    with pytest.raises(ValueError, match="a Redis Cluster needs a prefix with a hash tag"):
        Settings(redis_url="redis+cluster://a:1", redis_prefix="mead:")


def test_passwords_of_several_hosts_are_hidden() -> None:
    url = "rediss+sentinel://user:secret@a:1,[::1]:2/studio/3?sentinel_password=hidden"
    assert without_password(url) == "rediss+sentinel://user:***@a:1,[::1]:2/studio/3?sentinel_password=***"


# TLS and rights


@pytest.fixture
def tls_redis(tmp_path: Path) -> Iterator[tuple[Node, str]]:
    """A Redis that talks TLS only and asks for client certificates, with the least rights; its URL."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    subject = ("-subj", "/CN=localhost", "-days", "2")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-batch")
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", "-days", "2")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=localhost")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", *subject[2:])
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", "names", *signed)
    (tmp_path / "nodes").mkdir()
    with Group(tmp_path / "nodes") as group:
        node = group.add(
            f"tls-ca-cert-file {tmp_path}/ca.crt",
            f"tls-cert-file {tmp_path}/server.crt",
            f"tls-key-file {tmp_path}/server.key",
            f"user mead {' '.join(with_prefix(documented_rules()))}",
            "user default off",
            "tls-auth-clients yes",
            f"tls-port {(port := free_port())}",
        )
        log = node.folder / "log"
        eventually(
            lambda: node.process.poll() is not None or "Ready to accept connections" in log.read_text()
        )
        if node.process.poll() is not None and "Bad directive" in log.read_text():
            pytest.skip("this Redis was built without TLS")
        files = f"ssl_ca_certs={tmp_path}/ca.crt&ssl_certfile={tmp_path}/client.crt"
        files += f"&ssl_keyfile={tmp_path}/client.key"
        yield node, f"rediss://mead:secret@127.0.0.1:{port}/0?{files}"


def test_tls_with_client_certificates_and_the_least_rights(tls_redis: tuple[Node, str]) -> None:
    node, url = tls_redis
    settings = Settings(redis_url=url, redis_prefix="{mead}:")
    client = connect(settings)
    eventually(lambda: node.process.poll() is None and answers(client))
    check_rights(client, settings.queues)
    jobs = Jobs(client, 600)
    jobs.enqueue("a", "lr", settings.queues[0], PARAMS)
    assert jobs.claim(settings.queues[0], "me").id == "a"
    with pytest.raises(redis.exceptions.NoPermissionError):
        connect(Settings(redis_url=url)).get("job:a")
    stranger = url.partition("&ssl_certfile")[0]
    with pytest.raises(redis.RedisError):
        connect(Settings(redis_url=stranger)).ping()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
