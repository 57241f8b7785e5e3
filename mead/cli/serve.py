"""The commands that run the whole service: `mead serve` and `mead demo`."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import requests

from mead import log
from mead.cli.local_service import LocalService, local_service
from mead.cli.progress_bar import ProgressBar
from mead.files import write_whole
from mead.installation import shipped
from mead.model_spec import ModelSpec
from mead.output import try_output
from mead.processes.child import ServiceError
from mead.registry import MODELS, networks
from mead.settings import Settings
from mead.terminal import say
from mead.weights.sets import WeightSet, weights_dir

REDIS_PORT = 6380
"""Of our Redis in a new data folder; 6379 is often taken by another."""

PHOTOS = shipped("tests/data")
"""Where the samples of the demonstration are."""


def serve_command(name: str) -> click.Command:
    """`mead serve`."""
    return click.Command(
        name,
        callback=serve,
        help="Run the service (API, web page and inference) until Ctrl-C.",
        epilog="Settings are environment variables. If REDIS_URL is unset, a Redis server is started too.\n\n"
        + _settings_help(),
    )


def demo_command(name: str) -> click.Command:
    """`mead demo`."""
    return click.Command(
        name,
        callback=demo,
        help="Start the service on free ports, make two pictures through its API, and stop it.",
    )


def _settings_help() -> str:
    lines = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f" [{field.default}]"
        lines.append(f"\b\n{name.upper()}{default}\n    {field.description}")
    return "\n\n".join(lines)


def serve() -> None:
    """Run the service until SIGINT, SIGTERM or SIGHUP."""
    settings = Settings()
    WeightSet.find(settings.weights).check_present(networks())  # before anything is started
    log.set_up(settings)
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:  # closed ones must not be reused for our pipes
        pass
    os.close(file)
    with (
        suppress(KeyboardInterrupt),
        local_service(
            settings.data_dir,
            settings.host,
            settings.port,
            _redis_url(settings),
            environment=_weights_environment(),
            redis_port=REDIS_PORT,
            restart=True,
        ) as service,
    ):
        up = f"The service is up at {service.url} with Redis at {service.shown_redis_url}; Ctrl-C stops it."
        if (command := service.redis_cli()) is not None:
            up += f"\nTo look into Redis: {command}"
        _say(up)
        try:
            while True:
                time.sleep(0.5)
                service.check()
        except KeyboardInterrupt:
            _say("\nstopping")


def _say(text: str) -> None:
    """Print, if anyone reads it: the terminal may be closed, or the output piped to `head -1`."""
    try:
        say(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def demo() -> None:
    """Start the service, make a picture with each model through its API, stop the service.

    Raises:
        ServiceError: a job fails; with the end of the servers' logs.
    """
    began = time.monotonic()
    specs = [spec for spec in MODELS.values() if spec.demo]
    for spec in specs:
        try_output(Path(spec.output_path) / "demo.png", "output_path")
    # At a shared Redis, other servers must not take the demo's jobs.
    queues = f"demo_{secrets.token_hex(4)}"
    environment = {
        **_weights_environment(),
        **{spec.queue_setting.upper(): f"{queues}_{spec.queue_setting}" for spec in MODELS.values()},
        "API_KEYS": "",
        "DATA_URL": "",
    }
    with tempfile.TemporaryDirectory(prefix="mead-demo-") as folder:
        data_dir, logs = Path(folder) / "data", Path(folder) / "logs"
        say("starting Redis, the inference server and the caching server ...", file=sys.stderr, flush=True)
        with local_service(
            data_dir, redis_url=_redis_url(Settings()), logs=logs, environment=environment
        ) as service:
            say(f"the service is up at {service.url} ({time.monotonic() - began:.0f} s)", file=sys.stderr)
            for spec in specs:
                try:
                    path, seconds = _demo_job(service, spec)
                except (ServiceError, requests.RequestException) as error:
                    service.check()  # that a server has ended explains more
                    raise ServiceError(f"{spec.route}: {error}\n{_last_lines(service)}") from error
                say(f"{path}  ({seconds:.1f} s)", flush=True)
    say(f"done in {time.monotonic() - began:.0f} s", file=sys.stderr)


def _redis_url(settings: Settings) -> str | None:
    """REDIS_URL, if it is set."""
    return settings.redis_url if "redis_url" in settings.model_fields_set else None


def _weights_environment() -> dict[str, str]:
    """WEIGHTS_DIR as an absolute path: the servers run in another folder than this process."""
    return {"WEIGHTS_DIR": str(weights_dir())}


def _demo_job(service: LocalService, spec: ModelSpec) -> tuple[Path, float]:
    """Send one job, wait for it and save its picture; the picture's path and the seconds it took."""
    began = time.monotonic()
    assert spec.demo is not None
    fields, samples = spec.demo
    route, folder = spec.route, Path(spec.output_path)
    say(f'{route}: "{fields["prompt"]}" and {", ".join(samples.values())}', file=sys.stderr)
    files = {name: (sample, (PHOTOS / sample).read_bytes()) for name, sample in samples.items()}
    headers, http = {"Prefer": "respond-async"}, service.session
    job = _json(http.post(f"{service.url}/{route}", fields, files=files, headers=headers, timeout=60))
    job_url = f"{service.url}/jobs/{job['id']}"
    bar = ProgressBar(route, unit="step")
    while (job := _json(http.get(job_url, timeout=60)))["status"] in ("queued", "processing"):
        bar.show(job.get("steps", 0), job.get("total_steps") or 0)
        service.check()
        time.sleep(0.2)
    bar.end()
    if job["status"] != "succeeded":
        raise ServiceError(f"the job {job['status']}: {job.get('error')}")
    png = http.get(f"{job_url}/image", timeout=60)
    if not png.ok:
        raise ServiceError(_response_text(png))
    folder.mkdir(exist_ok=True)
    path = folder / f"demo_{job['id']}.png"
    write_whole(path, png.content)
    return path, time.monotonic() - began


def _json(response: requests.Response) -> dict[str, Any]:
    if not response.ok:
        raise ServiceError(_response_text(response))
    record: dict[str, Any] = response.json()
    return record


def _response_text(response: requests.Response) -> str:
    request = f"{response.request.method} {response.url}"
    return f"{request}: HTTP {response.status_code}: {response.text.strip()}"


def _last_lines(service: LocalService) -> str:
    lines = []
    for child in service.children:
        lines += [f"the end of the log of the {child.name}:", *child.last_lines()]
    return "\n".join(lines)
