"""The settings of the service, read from environment variables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from mead.data_url import check_data_url
from mead.model_spec import ModelSpec
from mead.origins import normal_host, normal_origin
from mead.params import MAX_CUTOUTS, MAX_ITERATIONS, MAX_SIDE, SIDE_STEP, UPLOAD_SIDE
from mead.queue.keys import KEY_FAMILIES, SINGLE_KEYS, queue_of
from mead.queue_settings import QueueSettings
from mead.receivers import check_allowed
from mead.registry import MODELS
from mead.setting_checks import (
    Time,
    Wait,
    check_each,
    check_host,
    check_keys,
    check_together,
    check_webhook_secrets,
    split,
)
from mead.terminal import printable


class ServiceSettings(QueueSettings):
    """The settings; a field `some_name` is the environment variable SOME_NAME. An empty one counts as unset.

    Raises:
        pydantic.ValidationError: (a ValueError) naming each invalid variable, without its value, which may be
            a secret.
    """

    data_dir: Path = Field(Path("var"), description="Folder of uploads and results, shared by both servers.")
    data_url: Annotated[str, AfterValidator(check_data_url)] | None = Field(
        None,
        description="Where uploads and results are stored instead: s3://BUCKET/PREFIX or file:///FOLDER.",
    )
    result_link_seconds: int = Field(
        0,
        ge=0,
        le=7 * 24 * 3600,
        description="With s3://: seconds for which a presigned link to a result is valid; /jobs/ID/image "
        "redirects to one. 0: the server sends results itself.",
    )
    weights: str = Field("demo", description='Name of the weights set: "demo", "full" or one of your own.')
    default_weights: str | None = Field(
        None,
        description="Name of the weights set whose queues have the plain names; by default WEIGHTS. If it is "
        "another one, WEIGHTS has queues of its own, such as latentrevisions_queue:full.",
    )
    weights_dir: Path | None = Field(
        None,
        description="Folder of fetched weights and of your own sets; by default the checkout's weights/, or "
        "~/.local/share/mead/weights if the package is installed.",
    )
    device: str | None = Field(
        None, description='PyTorch device, such as "cpu" or "cuda:0"; by default the best one available.'
    )
    precision: Literal["bfloat16", "float16", "float32"] | None = Field(
        None,
        description="Number format that networks compute in; by default bfloat16 where the device has it, "
        "float16 on older GPUs, else float32.",
    )
    cuda_graphs: bool = Field(
        False,
        description="Whether the inference server records CUDA graphs at its start: steps launch faster, "
        "the start takes longer, and each number of jobs takes memory.",
    )
    torch_threads: int | None = Field(
        None, ge=1, le=1024, description="Number of CPU threads of PyTorch; by default its own choice."
    )

    host: Annotated[str, AfterValidator(check_host)] = Field(
        "127.0.0.1", description="Address that the HTTP servers listen on."
    )
    port: int = Field(5000, ge=0, le=65535, description="Port that the HTTP servers listen on.")
    http_processes: int = Field(
        2, ge=1, description="Number of processes of caching_server.py; each uses up to one CPU."
    )
    http_threads: int = Field(
        512, ge=1, description="Number of threads of each process; a waiting POST holds one."
    )
    sse_heartbeat: Wait = Field(15, description="Seconds between heartbeats on an idle stream of events.")
    max_open_requests: int | None = Field(
        None,
        ge=1,
        description="Maximum number of waiting POSTs and streams of events per process, less than "
        "HTTP_THREADS; by default three quarters of it.",
    )
    max_open_requests_per_client: int | None = Field(
        None,
        ge=1,
        description="The same per API key (per address without keys); by default five sixths of the total.",
    )
    header_timeout: Wait = Field(
        10, description="Seconds a client may take to send the headers of a request before it gets 408."
    )
    body_timeout: Wait = Field(
        300, description="Seconds a client may take to send the body of a request before it gets 408."
    )
    body_min_rate: int = Field(
        1000,
        ge=1,
        description="Minimum rate of a request's body, over any 10 seconds; bytes per second, else 408.",
    )
    keep_alive: Wait = Field(
        620, description="Seconds an idle connection is kept open; should be longer than in a proxy in front."
    )
    threaded: bool = Field(
        True, description="app.py: whether to serve requests in threads; jobs run one at a time anyway."
    )
    debug: bool = Field(
        False,
        description="Log at level DEBUG, with tracebacks; app.py: also Flask's debugger, on loopback only.",
    )

    api_keys: Annotated[
        tuple[SecretStr, ...], NoDecode, BeforeValidator(split), AfterValidator(check_keys)
    ] = Field(
        (),
        description="API keys, comma-separated; if empty, no key is required. After a key, its options may "
        "follow: KEY priority=4 jobs_per_minute=60.",
    )
    allow_anonymous: bool = Field(False, description="Whether to listen beyond loopback without API keys.")
    trusted_proxies: int = Field(
        0, ge=0, description="Number of reverse proxies in front whose X-Forwarded-* headers are trusted."
    )
    allowed_hosts: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(split), AfterValidator(check_each(normal_host))
    ] = Field(
        (),
        description="Host names of the service, comma-separated; checked if there are no API keys. * is any.",
    )
    cors_origins: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(split), AfterValidator(check_each(normal_origin))
    ] = Field(
        (), description="Origins whose pages may call the API from a browser, comma-separated; * is any."
    )
    webhook_secret: Annotated[
        tuple[SecretStr, ...], NoDecode, BeforeValidator(split), AfterValidator(check_webhook_secrets)
    ] = Field(
        (),
        description="Secrets that sign webhooks, comma-separated: whsec_ and base64. Without one they are "
        "not signed.",
    )
    webhook_allow: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(split), AfterValidator(check_each(check_allowed))
    ] = Field(
        (),
        description="Hosts and networks that webhooks may be sent to beside public addresses, each with "
        ":PORT for one port only, comma-separated; * is any.",
    )
    webhook_timeout: float = Field(
        10, gt=0, le=60, description="Seconds that the receiver of a webhook may take to answer."
    )
    webhook_retry_seconds: Time = Field(
        12 * 3600,
        description="Seconds after the end of a job for which a webhook that has failed is sent again.",
    )
    log_json: bool = Field(True, description="Whether to log JSON instead of plain text.")

    max_upload_bytes: int = Field(32 * 2**20, ge=2**10, description="Maximum size of a request body; bytes.")
    max_picture_pixels: int = Field(
        50_000_000, ge=256, description="Maximum size of an uploaded picture, width times height."
    )
    decode_seconds: Wait = Field(10, description="Maximum CPU time to decode an uploaded picture; seconds.")
    decode_memory_bytes: int = Field(
        2**30, ge=64 * 2**20, description="Maximum memory to decode an uploaded picture; bytes."
    )
    max_queue_length: int = Field(
        1000, ge=1, description="Maximum number of jobs in a queue; further ones get 429."
    )
    max_jobs_per_client: int = Field(
        0,
        ge=0,
        description="Maximum unfinished jobs per API key (per address without keys); 0 for no limit.",
    )
    max_jobs_per_minute: int = Field(
        0,
        ge=0,
        description="Maximum jobs made in a minute with an API key (without keys: by all clients together); "
        "0 for no limit.",
    )
    max_kept_jobs: int = Field(
        100_000,
        ge=0,
        description="Maximum number of job records; they expire JOB_TTL after the end. 0 for no limit.",
    )
    max_kept_bytes: int = Field(
        32 * 2**30, ge=0, description="Maximum size of all uploads and results; bytes, 0 for no limit."
    )
    max_client_kept_jobs: int = Field(
        50_000, ge=0, description="Like MAX_KEPT_JOBS, per API key (per address without keys)."
    )
    max_client_kept_bytes: int = Field(
        16 * 2**30, ge=0, description="Like MAX_KEPT_BYTES, per API key (per address without keys)."
    )
    max_keeps: int = Field(
        100,
        ge=0,
        description="Maximum jobs per API key (without keys: of all clients) kept beyond JOB_TTL at a "
        "client's request; 0: none.",
    )
    max_iterations: int = Field(
        MAX_ITERATIONS, ge=1, le=MAX_ITERATIONS, description="Maximum number of optimisation steps of a job."
    )
    max_side: int = Field(
        MAX_SIDE,
        ge=SIDE_STEP,
        le=MAX_SIDE,
        description="Maximum width and height of a new picture, before `upscale`; pixels.",
    )
    max_cutouts: int = Field(128, ge=1, le=MAX_CUTOUTS, description="Maximum number of cutouts per step.")
    max_job_pixels: int = Field(
        600_000_000,
        ge=2_000_000,  # one step of the largest size and most cutouts, so that every size can be used
        description="Maximum size of a job: steps times (width times height, plus 2048 per cutout of each "
        "CLIP), plus width times height if the picture is enlarged.",
    )
    min_free_disk_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="Minimum free disk space; below it, jobs are refused and /readyz fails. Bytes.",
    )
    image_width: int = Field(
        UPLOAD_SIDE, ge=16, description="Maximum width of stored uploads; the aspect ratio is kept."
    )
    image_height: int = Field(
        UPLOAD_SIDE, ge=16, description="Maximum height of stored uploads; the aspect ratio is kept."
    )
    max_photo_pixels: int = Field(
        25_000_000,
        ge=256,
        description="Maximum size of a photo that is to stay whole (`output`, `face`, /faces), width times "
        "height; it is stored at its own size.",
    )

    server_sleep: float = Field(
        1,
        gt=0,
        description="Seconds an idle engine waits on its queue at a time; first retry interval of Redis.",
    )
    client_sleep: Wait = Field(
        2, description="Seconds that clients are asked to wait before they poll or retry (Retry-After)."
    )

    @model_validator(mode="after")
    def _check_together(self) -> ServiceSettings:
        check_together(self)
        return self

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)  # lets mypy accept the fields of the models, which are added below

    @property
    def listening_at(self) -> str:
        """HOST:PORT as in a URL, with an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def queue(self, spec: ModelSpec) -> str:
        """The queue of a model's jobs for the weights set: the name of a Redis list, with the prefix."""
        weights = None if self.default_weights in (None, self.weights) else self.weights
        return queue_of(f"{self.redis_prefix}{getattr(self, spec.queue_setting)}", weights)

    def threads(self, spec: ModelSpec) -> int:
        """How many jobs of a model run in one batch."""
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
            raise ValueError(f"must differ from {spec.queue_setting.upper()}: each model needs its own queue")
    return queue


def _with_models() -> type[ServiceSettings]:
    """The settings, with those of each model: NAME_QUEUE and NAME_THREADS."""
    fields: dict[str, Any] = {}
    for spec in MODELS.values():
        about_queue = f"Redis list of queued {spec.name} jobs."
        about_threads = f"Maximum number of {spec.name} jobs in a batch."
        fields[spec.queue_setting] = (str, Field(spec.queue_setting, description=about_queue))
        fields[spec.threads_setting] = (int, Field(4, ge=1, description=about_threads))
    names = [spec.queue_setting for spec in MODELS.values()]
    return create_model(
        "Settings",
        __base__=ServiceSettings,
        __module__=__name__,
        __doc__=ServiceSettings.__doc__,
        __validators__={"check_queue": field_validator(*names)(_check_queue)},
        **fields,
    )


if TYPE_CHECKING:
    Settings = ServiceSettings
else:
    Settings = _with_models()


def describe_problems(error: ValidationError) -> list[str]:
    """What is wrong with the settings, each naming its variable, as in "PORT: Input should be ..."."""
    return [
        "".join(f"{part}: ".upper() for part in problem["loc"][:1])
        + problem["msg"].removeprefix("Value error, ")
        for problem in error.errors()
    ]


def read_settings() -> ServiceSettings:
    """The settings of a server's process; ends it with status 2 if the environment has a wrong one.

    Raises:
        SystemExit: after naming on stderr what is wrong.
    """
    try:
        return Settings()
    except ValidationError as error:
        for problem in describe_problems(error):
            print(f"mead: {printable(problem)}", file=sys.stderr)
        sys.exit(2)
