"""How some settings are read and checked, alone and together."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationInfo

from mead.api_keys import parse_api_key
from mead.queue.keys import QUEUE_PARTS
from mead.queue.redis_url import parse_redis_url

if TYPE_CHECKING:
    from mead.settings import ServiceSettings


def split(value: Any) -> Any:
    """The parts of a comma-separated text, stripped and without empty ones."""
    if isinstance(value, str):
        return tuple(part for part in (part.strip() for part in value.split(",")) if part)
    return value


def without_brackets(host: str) -> str:
    """An IPv6 address without the brackets of a URL; any other host as it is."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def check_keys(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """The API keys, if each is one, with right options; else raises ValueError."""
    for key in keys:
        parse_api_key(key.get_secret_value())
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
