"""Old and new servers side by side: `python -m benchmarks.rolling COMMIT`.

Takes an older version out of the repository, and runs its caching server and its inference server beside
those of this version: four processes, one Redis, one folder, the demo weights. Two API keys send jobs through
both caching servers; meanwhile each inference server is killed once (SIGKILL) and started again. Every job
must succeed with a picture that both caching servers answer with. Then the old servers stop, and the records
of new jobs say which weights they are for.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import requests

from mead.cli.local_redis import free_port, local_redis
from mead.installation import ROOT
from mead.queue.client import connect
from mead.queue.jobs import Jobs

KEYS = ("the-key-of-anna", "the-key-of-ben")
JOBS = 24
STEPS = 15
SECONDS = 180.0  # that anything may take
QUEUES = ("latentrevisions_queue", "styleclip_queue")


class Server:
    """A server of some version, as a process.

    Args:
        code: the folder of its version.
        script: its door.
        logs: folder of its log.
    """

    def __init__(self, name: str, code: Path, script: str, environment: dict[str, str], logs: Path) -> None:
        self.code = code
        self.script = script
        self.environment = {**os.environ, **environment}
        self.log = (logs / f"{name}.log").open("ab")
        self.start()

    def start(self) -> None:
        """Start it, at first or again."""
        self.process = subprocess.Popen(
            [sys.executable, self.script],
            cwd=self.code,
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
        )

    def stop(self) -> None:
        """Stop it as an operator does."""
        self.process.terminate()
        self.process.wait(60)

    def kill(self) -> None:
        """Kill it with all that it runs."""
        self.process.kill()
        self.process.wait()


def take_out(commit: str, folder: Path) -> None:
    """Write the files of a commit into a folder."""
    archive = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], stdin=archive.stdout, check=True)
    if archive.wait():
        raise SystemExit(f"there is no commit {commit}")


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it takes longer than SECONDS.
    """
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


def post(address: str, key: str, **form: object) -> list[str]:
    """Send a form; the ids of its jobs."""
    headers = {"X-API-Key": key, "Prefer": "respond-async"}
    answer = requests.post(f"{address}/latent_revision", data=form, headers=headers, timeout=30)
    answer.raise_for_status()
    said = answer.json()
    return list(said.get("ids", [said["id"]]))


def check(jobs: Jobs, made: Sequence[tuple[str, str]], addresses: Sequence[str]) -> Counter[str]:
    """Wait for jobs, made with the key beside each, to succeed; how many each worker has ended."""
    ran: Counter[str] = Counter()
    for job_id, key in made:
        until(lambda job_id=job_id: jobs.get(job_id).ended, f"job {job_id} does not end")  # type: ignore[misc]
        job = jobs.get(job_id)
        if job.status != "succeeded":
            raise AssertionError(f"job {job_id} {job.status}: {job.error}")
        for address in addresses:
            answer = requests.get(f"{address}/jobs/{job_id}/image", headers={"X-API-Key": key}, timeout=30)
            if answer.status_code != 200 or not answer.content.startswith(b"\x89PNG"):
                raise AssertionError(f"{address} answers {answer.status_code} for job {job_id}")
        ran[job.worker or ""] += 1
    return ran


def main() -> None:
    """Run it; raises AssertionError or TimeoutError if a job is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", help="the older version")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        old = folder / "old"
        old.mkdir()
        take_out(parser.parse_args().commit, old)
        _, url = stack.enter_context(local_redis(folder / "redis", folder))
        jobs = Jobs(connect(url), 3600)
        ports = [free_port(), free_port()]
        addresses = [f"http://127.0.0.1:{port}" for port in ports]
        settings = {"REDIS_URL": url, "DATA_DIR": str(folder / "var"), "API_KEYS": ",".join(KEYS)}
        settings |= {"TORCH_THREADS": "1", "WORKER_TTL": "3", "HTTP_PROCESSES": "1"}
        servers = []
        for name, code, port in zip(("old", "new"), (old, ROOT), ports, strict=True):
            environment = {**settings, "PORT": str(port)}
            for script in ("inference_server.py", "caching_server.py"):
                server = Server(f"{name}_{script[:-3]}", code, script, environment, folder)
                stack.callback(server.stop)
                servers.append(server)
        until(lambda: len(jobs.workers()) == 2, "the inference servers do not start")
        for address in addresses:
            until(lambda address=address: _is_ready(address), f"{address} is not ready")  # type: ignore[misc]

        older = any(beat.weights_digest is None for beat in jobs.workers().values())
        made = []
        ways = itertools.cycle(itertools.product(addresses, KEYS))
        for number, (address, key) in zip(range(JOBS // 2), ways, strict=False):
            ids = post(address, key, prompt="a red house", seed=number, iterations=STEPS, upscale=1, n=2)
            made += [(job_id, key) for job_id in ids]
        for server in (servers[0], servers[2]):
            until(lambda: any(jobs.get(job_id).steps for job_id, _ in made), "nothing runs")
            server.kill()
            server.start()
        ran = check(jobs, made, addresses)
        if older and any(jobs.get(job_id).weights for job_id, _ in made):
            raise AssertionError("a record has weights, which the old inference server takes for a parameter")
        for queue in QUEUES:
            if jobs.queue_length(queue):
                raise AssertionError(f"jobs are left in {queue}")
        print(f"side by side: {len(made)} jobs succeeded; by inference server: {sorted(ran.values())}")

        for server in servers[:2]:
            server.stop()
        until(lambda: len(jobs.workers()) == 1, "the old inference server does not deregister")
        time.sleep(2)  # the caching server asks for workers once a second
        (last,) = post(addresses[1], KEYS[0], prompt="a red house", iterations=5)
        check(jobs, [(last, KEYS[0])], addresses[1:])
        print(f"new alone: the record has the weights {jobs.get(last).weights!r}")


def _is_ready(address: str) -> bool:
    try:
        return requests.get(f"{address}/readyz", timeout=10).status_code == 200
    except requests.ConnectionError:
        return False


if __name__ == "__main__":
    main()
