"""Redaction: what no log line may contain is replaced before the line is written."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from mead.api_keys import SHORTEST_KEY, parse_api_key
from mead.installation import ROOT
from mead.queue.client import redis_passwords, without_password
from mead.settings import Settings

_NUMBERS = (bool, int, float)
OTHER_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Variables with secrets that are no settings of ours, but of the object store's client."""


class Redactor:
    """Replaces secrets, and the folders of this machine, in the fields of log events."""

    def __init__(self, settings: Settings) -> None:
        self._replacements = _replacements(settings)

    def redact(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event, redacted. Values other than numbers and None become text."""
        redacted: dict[str, Any] = self._value(event) if self._may_contain_secret(event) else event
        return redacted

    def _may_contain_secret(self, event: dict[str, Any]) -> bool:
        """A quick check, since most events need no redaction."""
        texts = [value for value in event.values() if value is not None and type(value) not in _NUMBERS]
        try:
            joined = "\n".join(texts)
        except TypeError:  # not all of them are text
            return True
        return any(secret in joined for secret, _ in self._replacements)

    def _value(self, value: Any) -> Any:
        """A value, redacted before it is encoded: encoding could hide a secret from the search."""
        if value is None or isinstance(value, _NUMBERS):
            return value
        if isinstance(value, dict):
            return {self._text(str(name)): self._value(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return self._text(str(value))

    def _text(self, text: str) -> str:
        for secret, replacement in self._replacements:
            text = text.replace(secret, replacement)
        return text


def _replacements(settings: Settings) -> list[tuple[str, str]]:
    """Secrets and folders, each with its replacement; the longest first, since one may contain another."""

    def pairs() -> Iterator[tuple[str, str]]:
        secrets = {parse_api_key(entry.get_secret_value()).key: "***" for entry in settings.api_keys}
        secrets |= {secret.get_secret_value(): "***" for secret in settings.webhook_secret}
        for password in redis_passwords(settings.redis_url):
            secrets |= {f":{password}@": ":***@", f"password={password}": "password=***"}
            if len(password) >= SHORTEST_KEY:  # a shorter one may be part of ordinary words
                secrets[password] = "***"
        secrets |= {os.environ[name]: "***" for name in OTHER_SECRETS if os.environ.get(name)}
        secrets[settings.redis_url] = without_password(settings.redis_url)
        for secret, replacement in secrets.items():
            yield from ((spelling, replacement) for spelling in _spellings(secret))
        yield str(settings.data_dir.resolve()), "DATA_DIR"
        yield str(ROOT), "."
        yield sys.prefix, "PYTHON"

    return sorted(set(pairs()), key=lambda pair: (-len(pair[0]), pair))


def _spellings(secret: str) -> set[str]:
    """A secret as texts may contain it: plain, quoted as in JSON or Python, and percent-encoded."""
    encoded = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        ascii(secret)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        secret.replace("\\", "\\\\"),
        *encoded,
        *(re.sub("%..", lambda code: code[0].lower(), spelling) for spelling in encoded),
    }
