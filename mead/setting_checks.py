"""How some settings are read and checked, alone and together."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field, SecretStr, ValidationInfo

from mead.api_keys import parse_api_key
from mead.origins import normal_host
from mead.queue.client import ANSWER_SECONDS
from mead.queue.keys import QUEUE_PARTS
from mead.queue.redis_url import parse_redis_url
from mead.weights.sets import set_names

if TYPE_CHECKING:
    from mead.settings import ServiceSettings


LONGEST_WAIT = 7 * 24 * 3600
"""Seconds; a socket's timeout may be three times as long."""
LONGEST_TIME = 100 * 365 * 24 * 3600
"""Seconds; about a third of what a thread can wait, and far less than Redis can count."""

Wait: TypeAlias = Annotated[float, Field(gt=0, le=LONGEST_WAIT)]
"""How long something may take; seconds."""
Time: TypeAlias = Annotated[int, Field(ge=0, le=LONGEST_TIME)]
"""How long something is kept or may go on; seconds."""


def split(value: Any) -> Any:
    """The parts of a comma-separated text, stripped and without empty ones.

    Raises:
        ValueError: all of them are empty. Whoever sets a list of API keys wants them to be required.
    """
    if isinstance(value, str):
        parts = tuple(part for part in (part.strip() for part in value.split(",")) if part)
        if not parts:
            raise ValueError("has nothing but separators: list something, or leave it unset")
        return parts
    return value


def check_host(host: str) -> str:
    """An address or name to listen on, an IPv6 address without the brackets of a URL.

    Raises:
        ValueError: it is neither.
    """
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            normal_host(host)
        except ValueError:
            raise ValueError(
                "must be an address such as 0.0.0.0 or ::1, or a host name; the port is another setting"
            ) from None
    return host


def check_keys(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """The API keys, if each is one, with right options, and listed once; else raises ValueError."""
    listed = [parse_api_key(key.get_secret_value()).key for key in keys]
    if len(set(listed)) < len(listed):
        raise ValueError("an API key is listed twice; only one of its entries could count")
    return keys


def webhook_key(secret: str) -> bytes:
    """The key that a secret for webhooks stands for.

    Raises:
        ValueError: it is not "whsec_" and 24 to 64 bytes in base64.
    """
    prefix, encoded = secret[:6], secret[6:]
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if prefix != "whsec_" or not 24 <= len(key) <= 64:
        raise ValueError(
            'a secret must be whsec_ and 24 to 64 bytes in base64: echo "whsec_$(openssl rand -base64 32)"'
        )
    return key


def check_webhook_secrets(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """The secrets of webhooks, if each is one; else raises ValueError."""
    for secret in secrets:
        webhook_key(secret.get_secret_value())
    return secrets


def check_each(check: Callable[[str], str]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """A validator that applies `check` to each value of a list, except *."""

    def check_all(values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value != "*":
                check(value)
        return values

    return check_all


def check_hash_tag(prefix: str, info: ValidationInfo) -> str:
    """The prefix of keys, if it suits the Redis of the settings; else raises ValueError."""
    if parse_redis_url(info.data.get("redis_url", "redis://")).kind == "cluster" and "{" not in prefix:
        raise ValueError("a Redis Cluster needs a prefix with a hash tag, such as {mead}:")
    return prefix


def check_together(settings: ServiceSettings) -> None:
    """Check that no setting makes another one meaningless.

    Raises:
        ValueError: one does; names both.
    """
    waiting, threads = settings.max_open_requests, settings.http_threads
    if waiting is not None and waiting >= threads:
        raise ValueError(
            f"MAX_OPEN_REQUESTS={waiting} must be less than HTTP_THREADS={threads}: waiting POSTs would "
            "take all threads"
        )
    of_one, of_all = settings.max_open_requests_per_client, open_requests(settings)
    if of_one is not None and of_one > of_all:
        raise ValueError(
            f"MAX_OPEN_REQUESTS_PER_CLIENT={of_one} must not be more than MAX_OPEN_REQUESTS={of_all}"
        )
    if settings.default_weights not in (None, settings.weights):
        name = settings.weights
        if name in QUEUE_PARTS or not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise ValueError(f"WEIGHTS={name} cannot be part of a queue's name, as DEFAULT_WEIGHTS asks for")
    timeout = parse_redis_url(settings.redis_url).options.get("socket_timeout", ANSWER_SECONDS)
    if settings.server_sleep >= timeout:
        raise ValueError(
            f"SERVER_SLEEP={settings.server_sleep:g} must be less than the {timeout:g} seconds that Redis "
            "may take to answer (socket_timeout in REDIS_URL): waiting for a job would fail"
        )
    for name in ("max_kept_bytes", "max_client_kept_bytes"):
        if 0 < getattr(settings, name) < settings.max_upload_bytes:
            raise ValueError(
                f"{name.upper()}={getattr(settings, name)} must not be less than "
                f"MAX_UPLOAD_BYTES={settings.max_upload_bytes}: the largest uploads could never be kept"
            )


def open_requests(settings: ServiceSettings) -> int:
    """How many POSTs and streams may wait in a process: MAX_OPEN_REQUESTS, or its default."""
    if settings.max_open_requests is None:
        return max(1, settings.http_threads * 3 // 4)
    # A process has fewer threads than it was checked for if it may open few files.
    return min(settings.max_open_requests, max(1, settings.http_threads - 1))


def doubts(settings: ServiceSettings) -> Iterator[str]:
    """What in the settings is probably a mistake, each in a sentence. A server logs it at its start.

    Raises:
        WeightsError: WEIGHTS_DIR cannot be used, or weights/manifest.toml.
    """
    default = settings.default_weights
    if default is not None and default not in (names := set_names()):  # it may be a set of other machines
        yield (
            f"DEFAULT_WEIGHTS={default}: there is no such set here, only {', '.join(names)}; the jobs of "
            f"{settings.weights!r} go to {' and '.join(settings.queues)}"
        )
    if settings.result_link_seconds and not (settings.data_url or "").startswith("s3:"):
        yield "RESULT_LINK_SECONDS has no effect without DATA_URL=s3://BUCKET/PREFIX"
