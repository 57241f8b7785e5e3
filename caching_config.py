"""Every setting of the service, each readable from the environment under its own name.

`Settings()` reads them all. The first version's module-level names (`LATENTREVISIONS_QUEUE`, `db`, ...) still
import from here; what comes from the environment is read when the name is asked for, and `db` connects on its
first command.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import redis
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.backoff import NoBackoff
from redis.retry import Retry

IMAGE_CHANS = 3
"""Channels of every stored picture: red, green, blue. Not a setting: the networks take nothing else."""


class Settings(BaseSettings):
    """The service's settings; a field `some_name` is the environment variable SOME_NAME.

    Raises:
        pydantic.ValidationError: (a ValueError) naming each variable that is wrong.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Where Redis is, with its password if it has one."
    )
    latentrevisions_queue: str = Field(
        "latentrevisions_queue", description="Redis list of waiting LatentRevisions jobs."
    )
    styleclip_queue: str = Field("styleclip_queue", description="Redis list of waiting StyleCLIP jobs.")
    job_ttl: int = Field(24 * 3600, ge=1, description="Seconds a finished job's record and result are kept.")
    worker_ttl: int = Field(
        15, ge=1, description="Seconds after its last heartbeat that a worker counts as alive."
    )

    data_dir: Path = Field(
        Path("var"), description="Folder of uploads and results; both servers must see the same one."
    )
    weights: str = Field("demo", description="Section of weights/manifest.toml.")
    device: str | None = Field(
        None, description='Where the networks run ("cpu", "cuda:0"); the best there is when unset.'
    )
    latentrevisions_threads: int = Field(4, ge=1, description="LatentRevisions jobs optimised in one batch.")
    styleclip_threads: int = Field(4, ge=1, description="StyleCLIP jobs optimised in one batch.")
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of PyTorch; its own choice when unset."
    )

    host: str = Field("127.0.0.1", description="Address the HTTP servers listen on.")
    port: int = Field(5000, ge=0, le=65535, description="Port the HTTP servers listen on.")
    http_threads: int = Field(
        256, ge=1, description="Requests caching_server.py serves at once; a waiting POST is one."
    )
    threaded: bool = Field(
        True, description="app.py: whether requests are taken in threads (jobs run one by one anyway)."
    )
    debug: bool = Field(False, description="app.py: Flask's debugger; both servers: log at level DEBUG.")

    max_upload_bytes: int = Field(32 * 2**20, ge=1, description="Largest request body.")
    max_picture_pixels: int = Field(
        50_000_000, ge=1, description="Largest uploaded picture, width times height."
    )
    image_width: int = Field(1024, ge=16, description="Uploads are stored at most this wide, aspect kept.")
    image_height: int = Field(1024, ge=16, description="Uploads are stored at most this high, aspect kept.")

    server_sleep: float = Field(
        1,
        gt=0,
        description="Seconds an idle engine waits on its queue at a time; first pause when Redis is away.",
    )
    client_sleep: float = Field(
        2,
        gt=0,
        description="Pause asked of clients (Retry-After) before they look again or try again; seconds.",
    )


def connect(settings: Settings) -> redis.Redis:
    """A client of the service's Redis that gives strings; it connects on its first command.

    A command that meets a dropped connection is sent once more at once (a restarted Redis leaves dead
    connections in the pool); every script of `mead.jobs` bears that. Longer absences are for the caller to
    wait out.
    """
    return redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        retry=Retry(NoBackoff(), retries=1),
        socket_connect_timeout=5,
        socket_timeout=30,  # far above the longest blocking command
        socket_keepalive=True,
    )


@cache
def _db() -> redis.Redis:
    return connect(Settings())


def __getattr__(name: str) -> Any:
    """The first version's names: `db`, and each setting in capitals, as the environment has it now."""
    if name == "db":
        return _db()
    if name.isupper() and name.lower() in Settings.model_fields:
        return getattr(Settings(), name.lower())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
