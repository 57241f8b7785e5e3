"""What goes wrong with sets of weights."""

from __future__ import annotations


class WeightsError(RuntimeError):
    """Weights that are missing, damaged or wrongly described; the message names the file and the remedy."""


class UnknownSetError(WeightsError, ValueError):
    """There is no set of that name."""


class DownloadError(RuntimeError):
    """No mirror has a file; the message gives the reason for each."""
