"""The settings, and the first version's names for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import caching_config
from caching_config import Settings

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
    assert caching_config.LATENTREVISIONS_QUEUE == settings.latentrevisions_queue == "another_queue"


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
