"""Jobs while inference servers and Redis are killed, suspended and restarted: real processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead.folder_storage import FolderStorage
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from tests.conftest import Process, RedisServer, end_of, eventually, recover

pytestmark = pytest.mark.service

QUEUE, OTHER_QUEUE = "latentrevisions_queue", "styleclip_queue"
LIMIT = 120  # seconds; far more than anything here takes


class Cluster:
    """A Redis and inference servers on the small pipeline, to be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis_server = RedisServer(folder)
        self.redis = connect(Settings(redis_url=self.redis_server.url))
        self.jobs = Jobs(self.redis, 600)
        self.storage = FolderStorage(folder / "var")
        self.processes: list[Process] = []

    def start(self) -> Process:
        """Start one more inference server and wait until it is at work."""
        environment = {
            "REDIS_URL": self.redis_server.url,
            "DATA_DIR": str(self.folder / "var"),
            "WORKER_TTL": "1",
            "OMP_NUM_THREADS": "1",
        }
        log = self.folder / f"inference-{len(self.processes)}.log"
        process = Process("tests/colour_server.py", environment, log)
        self.processes.append(process)
        process.wait_until(lambda: self.name_of(process) in self.jobs.workers())
        return process

    def name_of(self, process: Process) -> str:
        """The name under which a server works."""
        alike = [name for name in self.jobs.workers() if f"-{process.process.pid}-" in name]
        return alike[0] if alike else "none"

    def put(self, job_id: str, prompt: str = "teal", iterations: int = 5, queue: str = QUEUE) -> None:
        """Queue a job."""
        params = LatentRevisionsParams(prompt=prompt, seed=1, iterations=iterations)
        self.jobs.enqueue(job_id, "lr", queue, params.model_dump(mode="json", exclude_none=True))

    def runs(self, job_id: str) -> bool:
        """Whether a job has done a step."""
        job = self.jobs.get(job_id)
        return job.status == "processing" and job.steps > 0

    def end_of(self, job_id: str) -> Job:
        """A job once it has ended."""
        return end_of(self.jobs, job_id)

    def check(self, *succeeded: str) -> None:
        """Each of these has its picture; no other file is there, and no worker holds a job."""
        paths = {str(self.jobs.get(job_id).out_path) for job_id in succeeded}
        eventually(lambda: {path.name for path in self.storage.results.iterdir()} == paths)
        assert not self.redis.keys("*:processing:*")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster without servers."""
    cluster = Cluster(tmp_path)
    yield cluster
    for process in cluster.processes:
        process.process.kill()
        process.process.wait()
    cluster.redis_server.stop()


def test_a_killed_server_loses_no_job(cluster: Cluster) -> None:
    first = cluster.start()
    for name in "abcd":
        cluster.put(name, iterations=150)
    for name in "ef":  # wait for a place
        cluster.put(name)
    cluster.put("x", iterations=150, queue=OTHER_QUEUE)
    eventually(lambda: all(map(cluster.runs, "abcdx")))
    first.process.kill()
    first.process.wait()
    cluster.start()
    for name in "abcdefx":
        job = cluster.end_of(name)
        assert job.status == "succeeded" and job.attempts == (1 if name in "ef" else 2)
    cluster.check(*"abcdefx")
    assert cluster.jobs.statistics()["lr"].recovered == 5
    assert cluster.jobs.statistics()["lr"].ended["succeeded"] == 7


def test_a_job_that_kills_its_servers_fails_alone(cluster: Cluster) -> None:
    """Four jobs and one of the other model share the first server with it; only it fails in the end."""
    for name, prompt in (("a", "teal"), ("b", "teal"), ("poison", "black"), ("c", "teal")):
        cluster.put(name, prompt, iterations=60)
    cluster.put("x", iterations=200, queue=OTHER_QUEUE)
    cluster.put("late", iterations=5)
    deaths = 0
    process = cluster.start()
    while not cluster.jobs.get("poison").ended:  # as a process manager does
        if process.process.poll() is not None:
            assert process.process.returncode == -signal.SIGKILL
            deaths += 1
            process = cluster.start()
        time.sleep(0.02)
    poison = cluster.jobs.get("poison")
    assert poison.status == "failed" and poison.error == "its worker died 3 times" and deaths == 3
    assert poison.error_kind == "internal"
    for name in ("a", "b", "c", "x", "late"):
        job = cluster.end_of(name)
        assert job.status == "succeeded" and job.attempts <= 2
    cluster.check("a", "b", "c", "x", "late")


def test_a_stopped_server_that_comes_back_drops_its_jobs(cluster: Cluster) -> None:
    sleeper = cluster.start()
    for name in "ab":
        cluster.put(name, iterations=200)
    eventually(lambda: all(map(cluster.runs, "ab")))
    sleeper.process.send_signal(signal.SIGSTOP)
    cluster.start()
    for name in "ab":
        job = cluster.end_of(name)
        assert job.status == "succeeded" and job.attempts == 2
    sleeper.process.send_signal(signal.SIGCONT)
    eventually(lambda: sleeper.log.read_text().count("job dropped") == 2)
    assert [cluster.jobs.get(name).attempts for name in "ab"] == [2, 2]
    assert cluster.jobs.statistics()["lr"].ended["succeeded"] == 2
    cluster.check(*"ab")
    cluster.put("c")
    assert cluster.end_of("c").status == "succeeded"


def test_a_long_step_is_not_taken_for_death_and_does_not_delay_the_end(cluster: Cluster) -> None:
    """A step takes six times as long as a heartbeat lasts, while another server looks for dead workers."""
    first, second = cluster.start(), cluster.start()
    second.process.send_signal(signal.SIGSTOP)
    cluster.put("slow", "silver", iterations=3)
    eventually(lambda: cluster.jobs.get("slow").status == "processing")
    second.process.send_signal(signal.SIGCONT)
    eventually(lambda: cluster.runs("slow"))
    slow = cluster.jobs.get("slow")
    assert slow.attempts == 1 and slow.worker == cluster.name_of(first)

    second.process.kill()  # so that it does not claim the job that the first one hands back
    second.process.wait()
    asked = time.monotonic()
    first.process.terminate()
    assert first.process.wait(LIMIT) == 0
    assert time.monotonic() - asked < 5
    assert cluster.redis.lrange(QUEUE, 0, -1) == ["slow"]
    assert cluster.jobs.get("slow").attempts == 0
    assert cluster.redis.get(f"worker:{slow.worker}") is None


def test_redis_goes_and_comes_back(cluster: Cluster) -> None:
    """Killed in the middle of jobs; they go on from the step they were at, in the server that had them."""
    process = cluster.start()
    for name in "abcd":
        cluster.put(name, iterations=200)
    for name in "ef":  # wait for a place
        cluster.put(name)
    eventually(lambda: all(map(cluster.runs, "abcd")))
    cluster.redis_server.process.kill()
    cluster.redis_server.process.wait()
    eventually(lambda: process.log.read_text().count("Redis is away") >= 2)
    cluster.redis_server.start()
    for name in "abcdef":
        job = cluster.end_of(name)
        assert job.status == "succeeded" and job.attempts == 1
    cluster.check(*"abcdef")

    cluster.put("g", iterations=2000)
    eventually(lambda: cluster.runs("g"))
    cluster.redis_server.stop()
    asked = time.monotonic()
    process.process.terminate()
    assert process.process.wait(LIMIT) == 0  # also while Redis is away
    assert time.monotonic() - asked < 5
    cluster.redis_server.start()


def test_a_job_ends_once_when_it_was_given_away_while_its_server_could_not_reach_redis(
    cluster: Cluster,
) -> None:
    """The server drops the job when it comes back."""
    process = cluster.start()
    cluster.put("a", iterations=1000)
    eventually(lambda: cluster.runs("a"))
    holder = cluster.name_of(process)
    process.process.send_signal(signal.SIGSTOP)
    eventually(lambda: not cluster.redis.exists(f"worker:{holder}"))
    assert recover(cluster.jobs, [QUEUE, OTHER_QUEUE]) == ["a"]
    job = cluster.jobs.claim(QUEUE, "another")
    assert job is not None
    cluster.jobs.heartbeat("another", [QUEUE], LIMIT)
    process.process.send_signal(signal.SIGCONT)
    eventually(lambda: "job dropped" in process.log.read_text())
    assert cluster.jobs.get("a").worker == "another"
    assert cluster.jobs.succeed(job, "another", "elsewhere.png")
    eventually(lambda: holder in cluster.jobs.workers())
