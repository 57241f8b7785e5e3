"""The settings, and the first version's names for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import caching_config
from caching_config import Settings, connect
from mead.setting_checks import doubts, open_requests
from mead.settings import describe_problems
from tests.conftest import RedisServer

FIRST_VERSION = [
    *(
        "IMAGE_WIDTH",
        "IMAGE_HEIGHT",
        "IMAGE_CHANS",
        "STYLECLIP_QUEUE",
        "LATENTREVISIONS_QUEUE",
        "SERVER_SLEEP",
    ),
    *(
        "CLIENT_SLEEP",
        "db",
        "STYLECLIP_THREADS",
        "LATENTREVISIONS_THREADS",
        "HOST",
        "PORT",
        "THREADED",
        "DEBUG",
    ),
]


def test_the_names_of_the_first_version() -> None:
    for name in FIRST_VERSION:
        assert getattr(caching_config, name) is not None
    assert caching_config.LATENTREVISIONS_QUEUE == "latentrevisions_queue"
    assert caching_config.STYLECLIP_QUEUE == "styleclip_queue"
    with pytest.raises(AttributeError):
        _ = caching_config.NO_SUCH_NAME


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTREVISIONS_QUEUE", "another_queue")
    monkeypatch.setenv("PORT", "8080")
    monkeypatch.setenv("DATA_DIR", "/data")
    settings = Settings()
    assert settings.port == 8080 and settings.data_dir == Path("/data")
    assert caching_config.LATENTREVISIONS_QUEUE == settings.queues[0] == "another_queue"


def test_an_empty_variable_is_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "HOST", "PORT", "API_KEYS"):
        monkeypatch.setenv(name, "")
    assert Settings() == Settings.model_construct() and not Settings().model_fields_set


def test_whatever_url_redis_takes(redis_server: RedisServer) -> None:
    urls = [
        f"redis://127.0.0.1:{redis_server.port}",
        f"redis://localhost:{redis_server.port}?db=3&protocol=2",
    ]
    for url in urls:
        assert connect(Settings(redis_url=url)).ping()
    assert (
        connect(Settings(redis_url="unix:///no/such.sock?db=1")).connection_pool.connection_kwargs["db"] == 1
    )
    with pytest.raises(ValidationError, match="redis_url") as wrong:
        Settings(redis_url="redis://:pa/ss@host:6379/0")
    assert "ss@host" not in str(wrong.value)


def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "eighty")
    with pytest.raises(ValidationError, match="port"):
        Settings()


def test_db_connects_on_its_first_command(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """In a process of its own, as `db` belongs to the whole process."""
    code = "import caching_config; from caching_config import db; print(db is caching_config.db, db.ping())"
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    root = Path(caching_config.__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["True", "True"]


def test_the_door_does_not_load_torch() -> None:
    code = "import sys, caching_server; print('torch' in sys.modules)"
    root = Path(caching_config.__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().api_keys == () and Settings().cors_origins == ()
    monkeypatch.setenv("API_KEYS", " first-key-1, second-key-2 ,")
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example,https://b.example:8443")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["first-key-1", "second-key-2"]
    assert settings.cors_origins == ("https://a.example", "https://b.example:8443")
    assert "first-key-1" not in repr(settings)


def test_a_second_set_of_weights_has_queues_of_its_own() -> None:
    for more in ({}, {"default_weights": "full"}):
        plain = Settings(weights="full", redis_prefix="{mead}:", **more)
        assert plain.queues == ("{mead}:latentrevisions_queue", "{mead}:styleclip_queue")
    second = Settings(weights="my-set", default_weights="full", redis_prefix="{mead}:")
    assert second.queues == ("{mead}:latentrevisions_queue:my-set", "{mead}:styleclip_queue:my-set")
    for name in ("processing", "order", "a set", "a:b"):
        with pytest.raises(ValidationError, match=f"WEIGHTS={name} cannot be part of a queue's name"):
            Settings(weights=name, default_weights="full")


@pytest.mark.parametrize(
    "keys",
    [
        "short",
        "long-enough-1,short",
        "with a blank in it",
        "schlüssel-eins",
        "long-enough-1 priority=0",
        "long-enough-1 priority=101",
        "long-enough-1 priority=2 priority=3",
        "long-enough-1 jobs_per_minute=-1",
        "long-enough-1 secret=1",
    ],
)
def test_a_key_that_is_too_weak_or_cannot_be_sent(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("API_KEYS", keys)
    with pytest.raises(ValidationError, match="api_keys") as caught:
        Settings()
    assert keys not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://:pass/word@host:1", "redis://:pass?word@host", "host:6379", "http://h"]
)
def test_a_url_that_is_no_rediss_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError, match="redis_url") as caught:
        Settings(redis_url=url)
    assert (
        "pass/" not in str(caught.value) and "pass?" not in str(caught.value) and "%2F" in str(caught.value)
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("CORS_ORIGINS", "https://a.example/app", "'https://a.example/app' is not an origin"),
        ("CORS_ORIGINS", "*,a.example", "'a.example' is not an origin"),
        ("ALLOWED_HOSTS", "https://a.example", "'https://a.example' is not a host"),
        ("ALLOWED_HOSTS", "a.example:8080", "'a.example:8080' is not a host"),
    ],
)
def test_origins_and_hosts_are_checked(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()) as caught:
        Settings()
    assert told in str(caught.value)
    monkeypatch.setenv(name, "*")
    assert getattr(Settings(), name.lower()) == ("*",)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:pa%40ss@host:1/2", "redis://:***@host:1/2"),
        ("rediss://ann:secret@host/0?timeout=3", "rediss://ann:***@host/0?timeout=3"),
        ("redis://:p@ss:word@host:1/2", "redis://:***@host:1/2"),
        ("redis://secret@host:1/2", "redis://***@host:1/2"),
        ("redis://host:1?db=2&password=secret", "redis://host:1?db=2&password=***"),
        ("redis://host:1?password=a@b&%70assword=secret", "redis://host:1?password=***&%70assword=***"),
        ("rediss://host:1?ssl_password=secret", "rediss://host:1?ssl_password=***"),
        ("redis://host:1?password=sec#ret", "redis://host:1?password=***#***"),
        ("unix:///run/redis.sock?db=0", "unix:///run/redis.sock?db=0"),
        (
            "unix://ann:secret@/run/redis.sock?password=secret",
            "unix://ann:***@/run/redis.sock?password=***",
        ),
        ("redis://:se/cret@host:1", "***"),
        ("redis://:1?secret@host:1", "***"),
        ("redis://:se#cret@host:1", "***"),
        (":secret@host:1", "***"),
    ],
)
def test_a_redis_without_its_password(url: str, shown: str) -> None:
    assert caching_config.without_password(url) == shown


@pytest.mark.parametrize("queue", ["workers", "statistics", "kept", "job:x", "worker:", "kept:bytes"])
def test_a_queue_is_no_other_key(queue: str) -> None:
    for name in ("latentrevisions_queue", "styleclip_queue"):
        with pytest.raises(ValidationError, match="another key of the service"):
            Settings(**{name: queue})


@pytest.mark.parametrize("queue", ["a", "a:processing:me", "a:cancelled"])
def test_each_model_has_a_queue_of_its_own(queue: str) -> None:
    with pytest.raises(ValidationError, match="must differ from LATENTREVISIONS_QUEUE"):
        Settings(latentrevisions_queue="a", styleclip_queue=queue)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["app.py", "caching_server.py", "inference_server.py"])
def test_a_server_names_the_wrong_setting_in_a_line(script: str) -> None:
    root = Path(caching_config.__file__).parent
    environment = {**os.environ, "PORT": "tcp://x"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("mead: PORT: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "setting", "told"),
    [
        (
            ["-m", "mead", "serve"],
            {"WEIGHTS": "full"},
            "clip.safetensors is missing; run `python",
        ),
        (["caching_server.py"], {"WEIGHTS": "nope"}, "weights: there is no set 'nope'"),
        (["app.py"], {"WEIGHTS": "full"}, "clip.safetensors is missing; run `python"),
        (["inference_server.py"], {"DEVICE": "gpu9"}, "device: 'gpu9' cannot be used"),
    ],
)
def test_weights_and_device_are_checked_first(
    tmp_path: Path, command: list[str], setting: dict[str, str], told: str
) -> None:
    root = Path(caching_config.__file__).parent
    places = {"WEIGHTS_DIR": str(tmp_path), "DATA_DIR": str(tmp_path / "var")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env={**os.environ, **places, **setting},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and told in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            {"HTTP_THREADS": "8", "MAX_OPEN_REQUESTS": "9"},
            "MAX_OPEN_REQUESTS=9 must be less than HTTP_THREADS=8",
        ),
        (
            {"HTTP_THREADS": "8", "MAX_OPEN_REQUESTS": "8"},
            "MAX_OPEN_REQUESTS=8 must be less than HTTP_THREADS=8",
        ),
        ({"MAX_OPEN_REQUESTS": "600"}, "MAX_OPEN_REQUESTS=600 must be less than HTTP_THREADS=512"),
        (
            {"MAX_OPEN_REQUESTS": "5", "MAX_OPEN_REQUESTS_PER_CLIENT": "6"},
            "MAX_OPEN_REQUESTS_PER_CLIENT=6 must not be more than MAX_OPEN_REQUESTS=5",
        ),
        (
            {"HTTP_THREADS": "8", "MAX_OPEN_REQUESTS_PER_CLIENT": "7"},
            "MAX_OPEN_REQUESTS_PER_CLIENT=7 must not be more than MAX_OPEN_REQUESTS=6",
        ),
        ({"MAX_KEPT_BYTES": "1000"}, "MAX_KEPT_BYTES=1000 must not be less than MAX_UPLOAD_BYTES=33554432"),
        ({"MAX_CLIENT_KEPT_BYTES": "9"}, "MAX_CLIENT_KEPT_BYTES=9 must not be less than MAX_UPLOAD_BYTES"),
        ({"SERVER_SLEEP": "60"}, "SERVER_SLEEP=60 must be less than the 30 seconds that Redis may take"),
        ({"REDIS_URL": "redis://h?socket_timeout=0.5"}, "SERVER_SLEEP=1 must be less than the 0.5 seconds"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], named: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (problem,) = describe_problems(refused.value)
    assert problem.startswith(named)


@pytest.mark.parametrize(
    "name", ["API_KEYS", "ALLOWED_HOSTS", "CORS_ORIGINS", "WEBHOOK_SECRET", "WEBHOOK_ALLOW"]
)
def test_a_list_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for nothing in (" , ", " "):
        monkeypatch.setenv(name, nothing)
        with pytest.raises(ValidationError) as refused:
            Settings()
        assert describe_problems(refused.value) == [
            f"{name}: has nothing but separators: list something, or leave it unset"
        ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_KEYS", "long-enough-1, long-enough-1"),
        ("API_KEYS", "long-enough-1 priority=2, long-enough-1"),
        ("SSE_HEARTBEAT", "inf"),
        ("KEEP_ALIVE", "1e7"),  # longer than a socket can wait
        ("JOB_TTL", str(10**19)),  # longer than Redis can count
        ("TORCH_THREADS", "100000"),
        ("HOST", "127.0.0.1:5000"),
        ("HOST", "http://studio"),
        ("MAX_UPLOAD_BYTES", "32"),  # meant as megabytes
        ("MAX_PICTURE_PIXELS", "50"),
        ("REDIS_URL", "redis://host/database"),
        ("REDIS_URL", "redis://host?no_such_option=1"),
        ("REDIS_URL", "redis+sentinel://host/mymaster?no_such_option=1"),
    ],
)
def test_a_value_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (problem,) = describe_problems(refused.value)
    assert problem.startswith(f"{name}: ") and "long-enough" not in problem


def test_a_probable_mistake_is_told() -> None:
    assert not list(doubts(Settings(weights="full", default_weights="demo")))
    (typo,) = doubts(Settings(weights="full", default_weights="dmeo"))
    assert typo.startswith("DEFAULT_WEIGHTS=dmeo: there is no such set here, only demo, full")
    assert typo.endswith("'full' go to latentrevisions_queue:full and styleclip_queue:full")
    (idle,) = doubts(Settings(result_link_seconds=60, data_url="file:///data"))
    assert idle.startswith("RESULT_LINK_SECONDS has no effect")


def test_limits_that_fit_together() -> None:
    Settings(http_threads=2, max_open_requests=1, max_open_requests_per_client=1)
    Settings(max_kept_bytes=0, max_client_kept_bytes=0)  # no limit
    assert open_requests(Settings(http_threads=1)) == 1
    fewer = Settings(max_open_requests=500).model_copy(update={"http_threads": 10})  # few open files
    assert open_requests(fewer) == 9
