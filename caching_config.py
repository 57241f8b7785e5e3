"""Every setting of the service, each readable from the environment under its own name.

`Settings()` reads them all. The first version's module-level names (`LATENTREVISIONS_QUEUE`, `db`, ...) still
import from here; what comes from the environment is read when the name is asked for, and `db` connects on its
first command.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, unquote_plus, urlsplit

import redis
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.connection import parse_url

from mead.origins import normal_host, normal_origin
from mead.params import MAX_CUTOUTS, MAX_ITERATIONS, MAX_SIDE, SIDE_STEP
from mead.queue.keys import KEY_FAMILIES, SINGLE_KEYS
from mead.queue.redis_errors import Reconnect

IMAGE_CHANS = 3
"""Channels of every stored picture: red, green, blue. Not a setting: the networks take nothing else."""
SHORTEST_KEY = 8
"""Characters of the shortest API key. `openssl rand -hex 16` makes a good one."""


def _split(value: Any) -> Any:
    """The parts of a comma-separated text, without blanks around them and without empty ones."""
    if isinstance(value, str):
        return tuple(part for part in (part.strip() for part in value.split(",")) if part)
    return value


def _without_brackets(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _check_keys(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for key in keys:
        text = key.get_secret_value()
        if len(text) < SHORTEST_KEY or not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError(
                f"a key is {SHORTEST_KEY} or more ASCII letters, digits and signs, without blanks"
            )
    return keys


def _check_each(check: Callable[[str], str]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """Lets a list pass where `check` raises ValueError for none of its values but *, which is any."""

    def check_all(values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value != "*":
                check(value)
        return values

    return check_all


def _check_redis_url(url: str) -> str:
    try:
        parse_url(url)
    except ValueError:  # its own words may hold part of the password
        raise ValueError(
            "is not the URL of a Redis, as in redis://:PASSWORD@host:6379/0, rediss://host:6379/0 or "
            "unix:///path/of/socket?db=0 (`/`, `@`, `#` and the like in a password are written %2F, %40, %23)"
        ) from None
    return url


class Settings(BaseSettings):
    """The service's settings; a field `some_name` is the environment variable SOME_NAME (unset, if empty).

    Raises:
        pydantic.ValidationError: (a ValueError) naming each variable that is wrong, never a value that may
            be a secret.
    """

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    redis_url: Annotated[str, AfterValidator(_check_redis_url)] = Field(
        "redis://127.0.0.1:6379/0", description="Where Redis is, with its password if it has one."
    )
    latentrevisions_queue: str = Field(
        "latentrevisions_queue", description="Redis list of waiting LatentRevisions jobs."
    )
    styleclip_queue: str = Field("styleclip_queue", description="Redis list of waiting StyleCLIP jobs.")
    job_ttl: int = Field(24 * 3600, ge=1, description="Seconds a finished job's record and result are kept.")
    job_attempts: int = Field(
        3, ge=1, description="Times a job is started before it fails because its workers died."
    )
    max_job_seconds: int = Field(
        3600,
        ge=0,
        description="Seconds a job may run in an inference server before it fails; 0: any time.",
    )
    worker_ttl: int = Field(
        15, ge=1, description="Seconds after its last heartbeat that a worker counts as alive."
    )

    data_dir: Path = Field(
        Path("var"), description="Folder of uploads and results; both servers must see the same one."
    )
    weights: str = Field("demo", description='The set of weights: "demo", "full" or one of your own.')
    weights_dir: Path | None = Field(
        None,
        description="Folder of fetched weights and of your own sets; when unset, the checkout's weights/, or "
        "~/.local/share/mead/weights where the package is installed.",
    )
    device: str | None = Field(
        None, description='Where the networks run ("cpu", "cuda:0"); the best there is when unset.'
    )
    latentrevisions_threads: int = Field(4, ge=1, description="LatentRevisions jobs optimised in one batch.")
    styleclip_threads: int = Field(4, ge=1, description="StyleCLIP jobs optimised in one batch.")
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of PyTorch; its own choice when unset."
    )

    host: Annotated[str, AfterValidator(_without_brackets)] = Field(
        "127.0.0.1", description="Address the HTTP servers listen on."
    )
    port: int = Field(5000, ge=0, le=65535, description="Port the HTTP servers listen on.")
    http_processes: int = Field(
        2, ge=1, description="Processes of caching_server.py; one makes use of one processor."
    )
    http_threads: int = Field(
        512, ge=1, description="Requests one such process serves at once; a waiting POST is one."
    )
    sse_heartbeat: float = Field(
        15, gt=0, description="Seconds between comments that keep a quiet stream of events open."
    )
    max_open_requests: int | None = Field(
        None,
        ge=1,
        description="POSTs that wait and streams of events one process holds at once; "
        "three quarters of HTTP_THREADS when unset.",
    )
    max_open_requests_per_client: int | None = Field(
        None,
        ge=1,
        description="Of those, one API key's (one address's, without keys); five sixths of them when unset.",
    )
    header_timeout: float = Field(
        10, gt=0, description="Seconds a client may take to send a request's headers; else 408."
    )
    body_timeout: float = Field(
        300, gt=0, description="Seconds a client may take to send a request's body; else 408."
    )
    body_min_rate: int = Field(
        1000,
        ge=1,
        description="Bytes a second a request's body must come in at, over any 10 seconds; else 408.",
    )
    keep_alive: float = Field(
        620,
        gt=0,
        description="Seconds an idle connection is kept: longer than a proxy or balancer in front keeps it.",
    )
    threaded: bool = Field(
        True, description="app.py: whether requests are taken in threads (jobs run one by one anyway)."
    )
    debug: bool = Field(
        False, description="app.py: Flask's debugger, on loopback only; all: log at level DEBUG, with traces."
    )

    api_keys: Annotated[
        tuple[SecretStr, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_keys)
    ] = Field((), description="Keys that open the API, comma-separated; without any, no key is asked for.")
    allow_anonymous: bool = Field(
        False, description="Whether to listen beyond loopback although there are no API keys."
    )
    trusted_proxies: int = Field(
        0, ge=0, description="Reverse proxies in front of the service, whose X-Forwarded-* headers count."
    )
    allowed_hosts: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_each(normal_host))
    ] = Field(
        (),
        description="Without API keys: names under which the service is reached, comma-separated; * is any.",
    )
    cors_origins: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_each(normal_origin))
    ] = Field(
        (), description="Origins whose pages may call the API from a browser, comma-separated; * is any."
    )
    log_json: bool = Field(True, description="Whether a log line is JSON; else it is plain text.")

    max_upload_bytes: int = Field(32 * 2**20, ge=1, description="Largest request body.")
    max_picture_pixels: int = Field(
        50_000_000, ge=1, description="Largest uploaded picture, width times height."
    )
    decode_seconds: float = Field(
        10, gt=0, description="Processor time that decoding one uploaded picture may take; seconds."
    )
    decode_memory_bytes: int = Field(
        2**30, ge=64 * 2**20, description="Memory that decoding one uploaded picture may take."
    )
    max_queue_length: int = Field(
        1000, ge=1, description="Jobs that may wait in one queue; one more is answered 429."
    )
    max_jobs_per_client: int = Field(
        0,
        ge=0,
        description="Unfinished jobs one API key may have (one address, without keys); 0 is no limit.",
    )
    max_kept_jobs: int = Field(
        100_000,
        ge=0,
        description="Records kept of all jobs; each goes JOB_TTL after its end. 0 is no limit.",
    )
    max_kept_bytes: int = Field(
        32 * 2**30, ge=0, description="Bytes kept of all jobs' uploads and results; 0 is no limit."
    )
    max_client_kept_jobs: int = Field(
        50_000, ge=0, description="As MAX_KEPT_JOBS, of one API key (one address, without keys)."
    )
    max_client_kept_bytes: int = Field(
        16 * 2**30, ge=0, description="As MAX_KEPT_BYTES, of one API key (one address, without keys)."
    )
    max_iterations: int = Field(
        MAX_ITERATIONS, ge=1, le=MAX_ITERATIONS, description="Most optimisation steps a request may ask for."
    )
    max_side: int = Field(
        MAX_SIDE,
        ge=SIDE_STEP,
        le=MAX_SIDE,
        description="Largest width and height of a new picture a request may ask for.",
    )
    max_cutouts: int = Field(
        128, ge=1, le=MAX_CUTOUTS, description="Most cutouts a request may ask for in each step."
    )
    max_job_pixels: int = Field(
        600_000_000,
        ge=2_000_000,  # a step of the largest size and most cutouts, so that no size alone is too much
        description="Largest job: its steps times (width times height, and 2048 more for each cutout).",
    )
    min_free_disk_bytes: int = Field(
        256 * 2**20, ge=0, description="Free disk space below which no new job is taken and /readyz says so."
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

    @field_validator("latentrevisions_queue", "styleclip_queue")
    @classmethod
    def _has_a_key_of_its_own(cls, queue: str) -> str:
        if queue in SINGLE_KEYS or queue.partition(":")[0] in KEY_FAMILIES:
            raise ValueError("is the name of another key of the service in Redis")
        return queue

    @field_validator("styleclip_queue")
    @classmethod
    def _is_not_the_other_models(cls, queue: str, info: ValidationInfo) -> str:
        other = str(info.data.get("latentrevisions_queue"))
        if queue == other or f"{queue}:".startswith(f"{other}:") or f"{other}:".startswith(f"{queue}:"):
            raise ValueError("must differ from LATENTREVISIONS_QUEUE: each model has a queue of its own")
        return queue

    @property
    def listening_at(self) -> str:
        """HOST:PORT as in a URL, where an IPv6 address stands in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def connect(settings: Settings, patience: float = 30) -> redis.Redis:
    """A client of the service's Redis that gives strings; it connects on its first command.

    A command that meets a dropped connection, or one that leads to a Redis that takes no writes any more, is
    sent once more at once over a new one; every script of `mead.queue.jobs` bears that. Longer absences are
    for the caller to wait out.

    Args:
        patience: seconds to wait for an answer, twice at most; more than the longest blocking command takes.
    """
    over_tcp = {} if settings.redis_url.startswith("unix:") else {"socket_keepalive": True}
    return redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        encoding_errors="replace",  # what others wrote is no reason to fail here
        retry=Reconnect(),
        socket_connect_timeout=5,
        socket_timeout=patience,
        max_connections=4096,  # a thread each while it speaks; redis-py's own limit is 100
        **over_tcp,
    )


def without_password(url: str) -> str:
    """A Redis's URL that may be shown; "***" where it is malformed: anything in it may be the password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "***"
    user, at, host = parts.netloc.rpartition("@")
    if at:
        name, colon, _ = user.partition(":")
        user = f"{name}:***" if colon else "***"  # a password without a user's colon is a usual mistake
    shown = f"{host}{parts.path}"
    if parts.query:
        shown += "?" + "&".join(_without_secret(pair) for pair in parts.query.split("&"))
    if parts.fragment:
        shown += "#***"
    return "***" if not parts.scheme or "@" in shown else f"{parts.scheme}://{user}{at}{shown}"


def redis_passwords(url: str) -> set[str]:
    """The passwords in a Redis's URL, as they stand there and as they are meant."""
    parts = urlsplit(url)
    query = [pair.partition("=") for pair in parts.query.split("&")]
    found = {value for name, _, value in query if _is_secret(name)} | {parts.password or ""}
    return {one for written in found if written for one in (written, unquote(written), unquote_plus(written))}


def _without_secret(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}=***" if equals and _is_secret(name) else pair


def _is_secret(name: str) -> bool:
    """Whether a parameter of a Redis's URL (password, ssl_password) holds a secret."""
    return "pass" in unquote_plus(name).lower()


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
