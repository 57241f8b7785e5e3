"""The checks of the Redis user's rights and of Redis's settings, on real servers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis

from caching_config import Settings, connect
from mead.queue.job import JobProgress
from mead.queue.jobs import Jobs
from mead.queue.recovery import Recovery
from mead.queue.redis_check import check_rights, commands_tried, warnings
from mead.queue.redis_errors import MissingRightsError
from tests.conftest import ROOT, RedisServer, recover

QUEUES = ("latentrevisions_queue", "styleclip_queue")


def documented_rules() -> list[str]:
    """The least rights, as docs/operating.md gives them."""
    lines = (ROOT / "docs" / "operating.md").read_text().splitlines()
    (rule,) = (line for line in lines if line.startswith("ACL SETUSER mead"))
    return rule.replace(">SECRET", ">secret").split()[3:]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis whose users and configuration tests may change."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


def as_user(server: RedisServer, *rules: str) -> redis.Redis:
    """A client of a user with just these rights."""
    root = redis.Redis.from_url(server.url)
    root.flushall()
    root.execute_command("ACL", "SETUSER", "mead", "reset", *rules)
    return connect(Settings(redis_url=server.url.replace("redis://", "redis://mead:secret@")))


def test_the_documented_rights_are_enough(server: RedisServer) -> None:
    client = as_user(server, *documented_rules())
    check_rights(client, QUEUES)
    assert warnings(client) == [] and client.keys("*") == []
    jobs = Jobs(client, 600)
    jobs.heartbeat("me", QUEUES, 60)
    for name in "abcd":
        jobs.enqueue(name, "lr", QUEUES[0], {"prompt": name}, idempotency_key=name, longest=9, most=9)
    first, second = jobs.claim(QUEUES[0], "me"), jobs.claim(QUEUES[0], "dead")
    assert first and second
    jobs.report(QUEUES[0], "me", [JobProgress(first.id, 1, 2, 0.5)])
    assert jobs.succeed(first, "me", "a.png") and recover(jobs, QUEUES) == ["b"] and jobs.cancel("c")
    jobs.ask_preview("b")
    jobs.wait_for_work(QUEUES[0], 1)
    Recovery(jobs, QUEUES, 3).register_holders()
    assert Recovery(jobs, QUEUES, 3).restore() == [] and jobs.requeue(QUEUES[0], "me") == []
    assert jobs.rank(jobs.get("d")) == 1 and jobs.queue_length(QUEUES[0]) == 2
    jobs.deregister("me", QUEUES)


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        ("&events:*", "the channels events:*"),
        ("~kept*", "the keys kept:*"),
        ("~job:*", "the keys job:*"),
        ("~styleclip_queue*", "the keys styleclip_queue"),
        ("+evalsha", "the command EVALSHA"),
        ("+multi", "the command MULTI"),
        ("+psubscribe", "the command PSUBSCRIBE"),
        ("+publish", "the command PUBLISH"),
    ],
)
def test_a_missing_right_is_named(server: RedisServer, taken: str, named: str) -> None:
    client = as_user(server, *(rule for rule in documented_rules() if rule != taken))
    with pytest.raises(MissingRightsError) as wrong:
        check_rights(client, QUEUES)
    assert named in str(wrong.value)


def test_every_missing_command_is_named(server: RedisServer) -> None:
    everything = [*documented_rules(), "+@all"]
    client = as_user(server, *everything, "-lpos", "-zcount", "-hincrbyfloat", "-blmove", "-expireat")
    with pytest.raises(MissingRightsError) as wrong:
        check_rights(client, QUEUES)
    for command in ("LPOS", "ZCOUNT", "HINCRBYFLOAT", "BLMOVE", "EXPIREAT"):
        assert f"the command {command}" in str(wrong.value)


def test_waiting_for_replicas_needs_a_right(server: RedisServer) -> None:
    client = as_user(server, *documented_rules(), "-wait")
    check_rights(client, QUEUES)
    with pytest.raises(MissingRightsError, match="the command WAIT"):
        check_rights(client, QUEUES, replicas=1)
    check_rights(as_user(server, *documented_rules(), "+wait"), QUEUES, replicas=1)


def test_the_commands_tried_are_those_of_the_scripts() -> None:
    used: set[str] = set()
    for script in (ROOT / "mead" / "queue" / "lua").glob("*.lua"):
        used |= set(re.findall(r"redis\.p?call\('(\w+)'", script.read_text()))
    assert used and used <= commands_tried()


def test_a_redis_that_forgets(server: RedisServer) -> None:
    root = redis.Redis.from_url(server.url)
    client = as_user(server, "on", ">secret", "~*", "&*", "+@all")
    root.config_set("maxmemory", "100mb")
    root.config_set("maxmemory-policy", "allkeys-lru")
    root.config_set("appendonly", "no")
    try:
        evicts, forgets = warnings(client)
        assert "maxmemory-policy allkeys-lru" in evicts and "appendonly yes" in forgets
        root.config_set("maxmemory-policy", "noeviction")
        assert warnings(client) == [forgets]
    finally:
        root.config_set("appendonly", "yes")
        root.config_set("maxmemory", "0")
    (unknown,) = warnings(as_user(server, *(rule for rule in documented_rules() if rule != "+info")))
    assert "may not run INFO" in unknown


def test_half_a_job_is_none(server: RedisServer) -> None:
    """Whichever right is missing, what is refused leaves no job, and what is accepted is whole."""
    every = set()
    for rule in documented_rules():
        if rule[0] not in "~&+" or rule in {"+@connection", "+evalsha", "+eval"}:
            continue
        client = as_user(server, *(other for other in documented_rules() if other != rule))
        jobs, root = Jobs(client, 600), Jobs(connect(Settings(redis_url=server.url)), 600)
        asked = {"owner": "me", "idempotency_key": "k", "fingerprint": "f", "most": 5}
        try:
            jobs.enqueue("a", "lr", QUEUES[0], {"prompt": "a"}, **asked)
        except redis.RedisError:
            every.add(rule)
            assert not root.redis.exists("job:a"), rule
            again = root.enqueue("b", "lr", QUEUES[0], {"prompt": "a"}, **asked)
            assert again == "b" and root.get("b").status == "queued", rule
        claimed = root.claim(QUEUES[0], "me")
        assert claimed is not None and claimed.prompt == "a", rule  # type: ignore[attr-defined]
    assert {"~job:*", "~kept*", "~latentrevisions_queue*", "+@write"} <= every
