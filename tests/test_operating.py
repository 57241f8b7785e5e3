"""The operators' page: what it says of settings, metrics and Redis is so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families as parse

from caching_config import Settings
from mead.cli.local_redis import find_redis, free_port, local_redis, no_answer
from mead.http.app import create_app
from mead.queue.heartbeats import EngineLoad
from mead.queue.job import Job
from mead.queue.jobs import Jobs
from mead.queue.recovery import Recovery
from tests.conftest import RedisServer, report
from tests.test_docs import missing_from_the_code

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
        if value in (None, (), ""):
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
    told = set(re.findall(r"`(mead_\w+)`", "\n".join(row[0] for row in rows("Health and metrics"))))
    assert {name.removesuffix("_total") for name in told} == ours


def test_every_event_of_the_log_is_one_that_the_code_logs() -> None:
    events = re.findall(r"`(.+?)`", "\n".join(row[0] for row in rows("The log")))
    assert len(events) > 10
    assert missing_from_the_code(events) == set()


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


def script(question: str, redis_server: RedisServer) -> list[str]:
    """The lines under a question of the page, after those that the page has for a Redis of one's own."""
    block = re.search(rf"\*\*{re.escape(question)}.*?```console\n(.*?)```", section(REDIS), re.DOTALL)
    assert block is not None, question
    lines = re.findall(r"^\$ (.*?)$", block[1], re.MULTILINE)
    alias = re.search(r"`(alias redis-cli='redis-cli -u redis://host:port/0')`", section(REDIS))
    assert lines and alias, question
    own = alias[1].replace("host:port", f"127.0.0.1:{redis_server.port}")
    return ["shopt -s expand_aliases", own, *lines]


def shell(lines: Iterable[str], folder: Path, **names: str) -> subprocess.Popen[str]:
    """Runs lines of the page in `folder`, with the redis-cli that belongs to our Redis."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "redis-cli").unlink(missing_ok=True)
    (programs / "redis-cli").symlink_to(find_redis().with_name(find_redis().name.replace("server", "cli")))
    return subprocess.Popen(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env={**os.environ, **names, "PATH": f"{programs}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a script's background ignores it
    )


def said(question: str, names: dict[str, str], redis_server: RedisServer) -> str:
    """What the lines under a question of the page print, run as they stand there."""
    with shell(script(question, redis_server), redis_server.folder, **names) as process:
        output, errors = process.communicate(timeout=60)
    assert not errors
    return output


REDIS = "Looking in with redis-cli"


@pytest.mark.parametrize("page", ["README.md", "docs/operating.md"])
def test_the_lines_that_reach_our_own_redis(tmp_path: Path, page: str) -> None:
    lines = re.findall(
        r"^(?:export REDISCLI_AUTH|alias redis-cli)=.*var/redis.*$", (ROOT / page).read_text(), re.M
    )
    with local_redis(tmp_path / "var" / "redis"):
        process = shell(
            ["shopt -s expand_aliases", *lines, "redis-cli lpush latentrevisions_queue a"], tmp_path
        )
        assert process.communicate(timeout=60) == ("1\n", "")


def test_the_configuration_of_a_redis_of_ones_own(tmp_path: Path) -> None:
    told = re.search(r"`redis.conf`:\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert told is not None
    (tmp_path / "redis.conf").write_text(told[1])
    port = free_port()
    command = [find_redis(), tmp_path / "redis.conf", "--port", str(port), "--dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            while no_answer(url := f"redis://:SECRET@127.0.0.1:{port}/0") is not None:
                assert server.poll() is None, "Redis does not take the configuration"
                time.sleep(0.05)
            client = redis.Redis.from_url(url, decode_responses=True)
            assert client.config_get("appendonly", "appendfsync", "maxmemory-policy") == {
                "appendonly": "yes",
                "appendfsync": "always",
                "maxmemory-policy": "noeviction",
            }
        finally:
            server.terminate()


def test_what_waits(queue: dict[str, str], redis_server: RedisServer) -> None:
    assert said("How many jobs wait?", queue, redis_server).split() == ["3", "1"]
    waiting = [line.split("\t") for line in said("Which jobs wait?", queue, redis_server).splitlines()]
    assert [(one[0], one[2]) for one in waiting] == [
        ("first", "the first house"),
        ("cancelled", "the cancelled house"),
        ("second", "the second house"),
    ]
    assert all(one[1].endswith("+00:00") for one in waiting)


def test_whose_turn_it_is(redis_server: RedisServer, jobs: Jobs) -> None:
    for name in ("a0", "a1", "b0"):
        jobs.enqueue(name, "lr", QUEUE, {"prompt": "a house"}, owner=name[0])
    lines = [
        line.split("\t") for line in said("Whose turn is it?", {"QUEUE": QUEUE}, redis_server).splitlines()
    ]
    assert [(entry.partition(":")[2], turn) for entry, turn in lines[:3]] == [
        ("a0", "0"),
        ("b0", "0"),
        ("a1", "1"),
    ]
    assert lines[3:] == [["b", "1"], ["a", "2"]]


def test_who_works_and_what_runs(queue: dict[str, str], redis_server: RedisServer) -> None:
    names, heartbeat = said("Which workers are there?", queue, redis_server).splitlines()
    assert names == "here-1-ab" and '"capacity":4' in heartbeat
    (line,) = said("Which jobs run?", queue, redis_server).splitlines()
    job_id, worker, since, steps, total = line.split("\t")
    assert (job_id, worker, steps, total) == ("runs", "here-1-ab", "7", "100") and since.endswith("+00:00")


def test_one_job(queue: dict[str, str], redis_server: RedisServer) -> None:
    told = said("What does a job's record hold?", queue, redis_server)
    assert "status\tprocessing" in told and "prompt\tthe runs house" in told


@pytest.mark.slow
def test_following_a_job(queue: dict[str, str], redis_server: RedisServer, jobs: Jobs) -> None:
    process = shell(script("What is a job doing now?", redis_server), redis_server.folder, **queue)
    output = iter(process.stdout.readline, "")
    assert [next(output) for _ in range(3)] == ["subscribe\n", "events:runs\n", "1\n"]
    running = jobs.get("runs")
    assert report(jobs, running, 8, 100)
    assert [next(output), next(output)] == ["message\n", "events:runs\n"]
    assert '"steps":8' in next(output)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    process.communicate(timeout=60)


def test_what_failed_and_why(queue: dict[str, str], redis_server: RedisServer) -> None:
    told = said("Why did a job fail?", queue, redis_server).splitlines()
    assert told[:5] == ["failed", "internal", "no such colour", "here-1-ab", "1"]
    (line,) = said("Which jobs failed?", queue, redis_server).splitlines()
    assert line.startswith("failed\t") and line.endswith("\tno such colour")
    assert said("How many jobs were there", queue, redis_server).split("\t")[:4] == ["5", "", "1", "1"]


def test_emptying_a_queue(queue: dict[str, str], redis_server: RedisServer, jobs: Jobs) -> None:
    client = jobs.redis
    assert said("Empty a queue.", queue, redis_server) == "3\n"
    assert sorted(client.keys("job:*")) == ["job:failed", "job:runs"]
    Recovery(jobs, [QUEUE], 3).forget_deleted()
    assert sorted(client.zrange("kept", 0, -1)) == ["failed:0", "runs:0"]
    assert jobs.claim(QUEUE, "here-1-ab") is None and jobs.queue_length(QUEUE) == 0
