"""The command `doctor`: what this machine has and lacks for the service, and what to do about it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal

import click
import redis

from mead.cli.local_redis import find_redis
from mead.cli.parser import CommandError, json_option, print_json
from mead.data_url import open_storage
from mead.processes.child import ServiceError
from mead.queue.client import connect, without_password
from mead.queue.redis_check import check_rights, warnings
from mead.queue.redis_errors import MissingRightsError, explain
from mead.registry import networks
from mead.setting_checks import doubts
from mead.settings import Settings
from mead.terminal import format_size, say
from mead.weights.errors import WeightsError
from mead.weights.sets import WeightSet

OPEN_FILES = 4096
"""How many files a caching server should be able to open; see docs/operating.md."""


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        state: "good"; "note", which may matter; or "bad": the service cannot work.
        do: what to do about it.
    """

    subject: str
    state: Literal["good", "note", "bad"]
    what: str
    do: str = ""


def doctor_command(name: str) -> click.Command:
    """`mead doctor`."""

    @click.command(name)
    @json_option
    def doctor(as_json: bool) -> None:
        """Check this machine: Python, PyTorch, GPU, Redis, weights, disk, port; and say what to do.

        Exits with 1 if something keeps the service from working.
        """
        settings = Settings()
        findings = []
        for check in CHECKS:
            for finding in check(settings):
                findings.append(finding)
                if not as_json:
                    advice = f"; {finding.do}" if finding.do else ""
                    say(f"{finding.state:<4}  {finding.subject}: {finding.what}{advice}", flush=True)
        if as_json:
            print_json([asdict(finding) for finding in findings])
        bad = [finding.subject for finding in findings if finding.state == "bad"]
        if bad:
            raise CommandError(f"the service cannot work here yet: {', '.join(bad)}")

    return doctor


def _python(settings: Settings) -> Iterator[Finding]:
    yield Finding("Python", "good", f"{platform.python_version()} on {platform.machine()}")


def _torch(settings: Settings) -> Iterator[Finding]:
    try:
        import torch

        from mead.nn.precision import Precision, best_device, check_device
    except ImportError as error:
        yield Finding("PyTorch", "bad", f"cannot be imported: {error}", "run ./setup.sh, or pip install .")
        return
    yield Finding("PyTorch", "good", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")
    device = settings.device or best_device()
    try:
        check_device(device)
    except ValueError as error:
        yield Finding("DEVICE", "bad", str(error).removeprefix("device: "), "correct DEVICE, or unset it")
        return
    precision = str(Precision(torch.device(device)).dtype).removeprefix("torch.")
    if device.startswith("cuda"):
        yield Finding("GPU", "good", f"{torch.cuda.get_device_name(device)}, computes in {precision}")
    else:
        do = "fine for the demo weights; the full ones want a CUDA device"
        yield Finding("GPU", "note", f"none is used; the CPU computes in {precision}", do)


def _redis(settings: Settings) -> Iterator[Finding]:
    where = without_password(settings.redis_url)
    client = connect(settings.redis_url, 5, settings.redis_prefix)
    try:
        client.ping()
        check_rights(client, settings.queues, settings.redis_wait_replicas)
        found = warnings(client)
    except MissingRightsError as error:
        yield Finding("Redis", "bad", str(error), "give the user these rights")
    except redis.RedisError as error:
        yield from _own_redis(f"{where}: {explain(error)}", "redis_url" in settings.model_fields_set)
    else:
        for warning in found:
            yield Finding("Redis", "note", warning)
        if not found:
            yield Finding("Redis", "good", f"{where} keeps what it is given")


def _own_redis(why: str, is_set: bool) -> Iterator[Finding]:
    """Without a Redis at REDIS_URL, `serve` starts one."""
    if is_set:
        yield Finding("Redis", "bad", why, "start it, or correct REDIS_URL")
        return
    try:
        program = find_redis()
    except ServiceError as error:
        yield Finding("Redis", "bad", str(error), "install redis-server, or set REDIS_URL")
    else:
        yield Finding("Redis", "good", f"none is running; `mead serve` starts {program}")


def _weights(settings: Settings) -> Iterator[Finding]:
    do = f"`mead weights fetch {settings.weights}`, or correct WEIGHTS"
    try:
        weights = WeightSet.find(settings.weights)
        weights.check_present(networks())
    except WeightsError as error:
        yield Finding("weights", "bad", str(error).removeprefix("weights: "), do)
        return
    unchecked = [name for name, file in weights.files.items() if file.last_verified is None]
    do = f"`mead weights verify {weights.name}` checks them"
    if unchecked:
        yield Finding("weights", "note", f"{weights.name}: all here, never verified", do)
    else:
        yield Finding("weights", "good", f"{weights.name}: all here and verified")


def _settings(settings: Settings) -> Iterator[Finding]:
    with suppress(WeightsError):  # said of the weights
        for doubt in doubts(settings):
            yield Finding("settings", "note", doubt)


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir.resolve()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    least = settings.min_free_disk_bytes
    what = f"{format_size(free)} free for {folder}"
    if not there.is_dir():
        yield Finding("DATA_DIR", "bad", f"{there} is not a folder", "set another DATA_DIR")
    elif not os.access(there, os.W_OK):
        yield Finding("DATA_DIR", "bad", f"{there} cannot be written to", "set another DATA_DIR")
    elif free < least:
        yield Finding("disk", "bad", what, f"make room: jobs are refused below {format_size(least)}")
    else:
        yield Finding("disk", "good", what)


def _object_store(settings: Settings) -> Iterator[Finding]:
    storage = open_storage(settings.data_url, settings.data_dir)
    if storage.setting != "DATA_URL":
        return
    try:
        storage.check()
    except OSError as error:
        do = "correct DATA_URL and what AWS_... says of the store, or start it"
        yield Finding("DATA_URL", "bad", f"{storage}: {error.strerror or error}", do)
    else:
        yield Finding("DATA_URL", "good", f"{storage} can be written to")


def _port(settings: Settings) -> Iterator[Finding]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            what = f"{settings.listening_at} cannot be listened on: {error.strerror}"
            yield Finding("port", "note", what, "if this is not your service, set another PORT")
        else:
            yield Finding("port", "good", f"{settings.listening_at} is free")


def _open_files(settings: Settings) -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < OPEN_FILES:
        what = f"a process may open {most}"
        yield Finding(
            "open files", "note", what, f"raise the limit to {OPEN_FILES} (ulimit -n) for many clients"
        )
    else:
        yield Finding("open files", "good", f"a process may open {'any number' if most < 0 else most}")


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _torch,
    _redis,
    _weights,
    _settings,
    _disk,
    _object_store,
    _port,
    _open_files,
)
