"""Every setting of the service, each readable from the environment under its own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mead.model_spec import ModelSpec
from mead.origins import normal_host, normal_origin
from mead.params import MAX_CUTOUTS, MAX_ITERATIONS, MAX_SIDE, SIDE_STEP
from mead.queue.client import check_redis_url
from mead.queue.keys import KEY_FAMILIES, SINGLE_KEYS
from mead.registry import MODELS

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


class ServiceSettings(BaseSettings):
    """The service's settings; a field `some_name` is the environment variable SOME_NAME (unset, if empty).

    Raises:
        pydantic.ValidationError: (a ValueError) naming each variable that is wrong, never a value that may
            be a secret.
    """

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    redis_url: Annotated[str, AfterValidator(check_redis_url)] = Field(
        "redis://127.0.0.1:6379/0", description="Where Redis is, with its password if it has one."
    )
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

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)  # the fields of the models' queues are added below

    @property
    def listening_at(self) -> str:
        """HOST:PORT as in a URL, where an IPv6 address stands in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def queue(self, spec: ModelSpec) -> str:
        """The Redis list of a model's waiting jobs."""
        return str(getattr(self, spec.queue_setting))

    def threads(self, spec: ModelSpec) -> int:
        """How many jobs of a model are optimised in one batch."""
        return int(getattr(self, spec.threads_setting))

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues of all models."""
        return tuple(map(self.queue, MODELS.values()))


def _check_queue(queue: str, info: ValidationInfo) -> str:
    if queue in SINGLE_KEYS or queue.partition(":")[0] in KEY_FAMILIES:
        raise ValueError("is the name of another key of the service in Redis")
    for spec in MODELS.values():
        other = info.data.get(spec.queue_setting)  # of the fields before this one
        if other is not None and (f"{queue}:".startswith(f"{other}:") or f"{other}:".startswith(f"{queue}:")):
            raise ValueError(
                f"must differ from {spec.queue_setting.upper()}: each model has a queue of its own"
            )
    return queue


def _with_models(base: type[ServiceSettings]) -> type[ServiceSettings]:
    """The settings with those of each model: NAME_QUEUE and NAME_THREADS."""
    fields: dict[str, Any] = {}
    for spec in MODELS.values():
        about_queue = f"Redis list of waiting {spec.name} jobs."
        about_threads = f"{spec.name} jobs optimised in one batch."
        fields[spec.queue_setting] = (str, Field(spec.queue_setting, description=about_queue))
        fields[spec.threads_setting] = (int, Field(4, ge=1, description=about_threads))
    names = [spec.queue_setting for spec in MODELS.values()]
    return create_model(
        "Settings",
        __base__=base,
        __module__=__name__,
        __doc__=base.__doc__,
        __validators__={"check_queue": field_validator(*names)(_check_queue)},
        **fields,
    )


if TYPE_CHECKING:
    Settings = ServiceSettings
else:
    Settings = _with_models(ServiceSettings)
