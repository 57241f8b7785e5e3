"""The operators' page: what it says of settings, metrics and Redis is so."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from caching_config import Settings
from mead.cli.local_redis import find_redis, local_redis
from mead.http.app import create_app
from mead.queue.heartbeats import EngineLoad
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from tests.conftest import RedisServer, report

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operating.md").read_text("utf-8")
QUEUE = "latentrevisions_queue"


def section(title: str) -> str:
    """The text below a heading, to the next one."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_setting_is_there_with_its_default_and_meaning() -> None:
    def default(value: object) -> str:
        if value is None or value == ():
            return "unset"
        return f"`{str(value).lower() if isinstance(value, bool) else value}`"

    settings = Settings.model_fields
    told = [[f"`{name.upper()}`", default(one.default), one.description] for name, one in settings.items()]
    assert rows("Settings") == told


def test_every_metric_is_there(settings: Settings, jobs: Jobs) -> None:
    jobs.enqueue("a", "lr", QUEUE, {"prompt": "a house"})
    jobs.heartbeat("worker", {QUEUE: EngineLoad()}, 600)
    text = create_app(settings).test_client().get("/metrics").text
    ours = {family.name for family in parse(text) if family.name.startswith("mead_")}
    told = set(re.findall(r"`(mead_\w+)`", "\n".join(row[0] for row in rows("Is it well?"))))
    assert {name.removesuffix("_total") for name in told} == ours


# What the lines for redis-cli say


@pytest.fixture
def queue(redis_server: RedisServer, jobs: Jobs) -> dict[str, str]:
    """One job runs, one failed, one was cancelled as it waited, two wait; their ids in the page's names."""
    for name in ("failed", "runs", "first", "cancelled", "second"):
        jobs.enqueue(name, "lr", QUEUE, {"prompt": f"the {name} house"}, longest=100)
    jobs.heartbeat("here-1-ab", {QUEUE: EngineLoad(running=1, capacity=4)}, 600)
    failed, runs = (jobs.claim(QUEUE, "here-1-ab") for _ in range(2))
    assert isinstance(failed, Job) and isinstance(runs, Job)
    jobs.fail(failed, "here-1-ab", "no such colour", "internal")
    report(jobs, runs, 7, 100)
    jobs.cancel("cancelled")
    return {"QUEUE": QUEUE, "ID": "runs", "FAILED": "failed", "WORKER": "here-1-ab"}


def said(question: str, names: dict[str, str], redis_server: RedisServer) -> str:
    """What the lines under a question of the page print, run as they stand there."""
    block = re.search(rf"\*\*{re.escape(question)}.*?```console\n(.*?)```", section(REDIS), re.DOTALL)
    assert block is not None, question
    lines = re.findall(r"^\$ (redis-cli EVAL .*?\$FAILED$|.*?$)", block[1], re.DOTALL | re.MULTILINE)
    assert lines, question
    client = find_redis().with_name(find_redis().name.replace("server", "cli"))
    # as a script, not a function: `timeout` runs programs only
    (redis_server.folder / "redis-cli").write_text(f'#!/bin/sh\nexec {client} -p {redis_server.port} "$@"\n')
    (redis_server.folder / "redis-cli").chmod(0o755)
    environment = {**os.environ, **names, "PATH": f"{redis_server.folder}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert not result.stderr
    return result.stdout


REDIS = "Looking in with redis-cli"


@pytest.mark.parametrize("page", ["README.md", "docs/operating.md"])
def test_the_lines_that_reach_our_own_redis(tmp_path: Path, page: str) -> None:
    lines = re.findall(
        r"^(?:export REDISCLI_AUTH|alias redis-cli)=.*var/redis.*$", (ROOT / page).read_text(), re.M
    )
    client = find_redis().with_name(find_redis().name.replace("server", "cli"))
    (tmp_path / "redis-cli").symlink_to(client)
    script = "\n".join(["shopt -s expand_aliases", *lines, "redis-cli lpush latentrevisions_queue a"])
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with local_redis(tmp_path / "var" / "redis"):
        said = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
    assert (said.stdout, said.stderr) == ("1\n", "")


def test_what_waits(queue: dict[str, str], redis_server: RedisServer) -> None:
    assert said("How many wait?", queue, redis_server).split() == ["3", "1"]
    waiting = [line.split("\t") for line in said("What waits?", queue, redis_server).splitlines()]
    assert [(one[0], one[2]) for one in waiting] == [
        ("first", "the first house"),
        ("cancelled", "the cancelled house"),
        ("second", "the second house"),
    ]
    assert all(one[1].endswith("+00:00") for one in waiting)


def test_who_works_and_what_runs(queue: dict[str, str], redis_server: RedisServer) -> None:
    names, heartbeat = said("Who works?", queue, redis_server).splitlines()
    assert names == "here-1-ab" and '"capacity":4' in heartbeat
    (line,) = said("What runs, where, since when, and how far is it?", queue, redis_server).splitlines()
    job_id, worker, since, steps, total = line.split("\t")
    assert (job_id, worker, steps, total) == ("runs", "here-1-ab", "7", "100") and since.endswith("+00:00")


def test_one_job(queue: dict[str, str], redis_server: RedisServer) -> None:
    told = said("What is known of one job?", queue, redis_server)
    assert "status\tprocessing" in told and "prompt\tthe runs house" in told and "events:runs" in told


def test_what_failed_and_why(queue: dict[str, str], redis_server: RedisServer) -> None:
    told = said("Why did it fail?", queue, redis_server).splitlines()
    assert told[:5] == ["failed", "internal", "no such colour", "here-1-ab", "1"]
    (line,) = said("What has failed?", queue, redis_server).splitlines()
    assert line.startswith("failed\t") and line.endswith("\tno such colour")
    assert said("How many jobs were there", queue, redis_server).split("\t")[:4] == ["5", "", "1", "1"]


def test_putting_a_failed_job_back(queue: dict[str, str], redis_server: RedisServer, jobs: Jobs) -> None:
    assert "it waits again" in said("Put a failed job back", queue, redis_server)
    assert "it has not failed" in said("Put a failed job back", queue, redis_server)
    job = jobs.get("failed")
    assert (job.status, job.attempts, job.error, job.worker) == ("queued", 0, None, None)
    assert jobs.redis.ttl("job:failed") == -1
    assert jobs.rank(job) == 2
    names = [jobs.claim(QUEUE, "here-1-ab") for _ in range(3)]
    assert [one.id for one in names if one] == ["first", "second", "failed"]
    assert jobs.succeed(names[-1], "here-1-ab", "/nowhere.png")
    assert jobs.get("failed").status == "succeeded" and jobs.redis.ttl("job:failed") > 0
