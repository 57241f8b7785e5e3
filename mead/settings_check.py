"""Settings that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mead.settings import ServiceSettings


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
