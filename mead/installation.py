"""Where the project's own files lie, in a checkout or an installed package, and its version."""

from __future__ import annotations

import importlib.metadata
import sys
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds `mead` and the servers' scripts: the checkout, or site-packages."""


def is_checkout() -> bool:
    """Whether this is a source checkout, and not what `pip install` has copied out of one."""
    return (ROOT / "weights" / "manifest.toml").is_file()


def shipped(folder: str) -> Path:
    """A folder of data that comes with the project, by its place in a checkout, as in "weights".

    An installed package has these below `mead/shipped`; pyproject.toml says which.
    """
    return ROOT / folder if is_checkout() else ROOT / "mead" / "shipped" / folder


@cache
def version() -> str:
    """The project's version, which stands in pyproject.toml."""
    if is_checkout():  # another version may be installed beside it
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        return str(project["version"])
    return importlib.metadata.version("mead-backend")
