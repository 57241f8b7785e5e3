"""Signatures of webhooks, as of the Standard Webhooks specification."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr

from mead.setting_checks import webhook_key


def headers_of(secrets: Sequence[SecretStr], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that identify a message and, if there are secrets, sign it with each of them.

    Args:
        secrets: of WEBHOOK_SECRET.
        message_id: the same whenever the message is sent again.
        timestamp: now, in seconds since 1970.
    """
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
    signatures = []
    for secret in secrets:
        digest = hmac.new(webhook_key(secret.get_secret_value()), signed, hashlib.sha256).digest()
        signatures.append(f"v1,{base64.b64encode(digest).decode()}")
    return {**headers, "webhook-signature": " ".join(signatures)} if signatures else headers
