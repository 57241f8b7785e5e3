"""Where the project's own files lie, in a checkout; tests/test_package.py tells of an installed package."""

import re

from mead import installation


def test_the_version_is_that_of_pyproject() -> None:
    pyproject = (installation.ROOT / "pyproject.toml").read_text("utf-8")
    assert re.findall('^version = "(.*)"', pyproject, re.MULTILINE) == [installation.version()]


def test_what_is_shipped_lies_where_the_checkout_has_it() -> None:
    assert installation.is_checkout()
    assert installation.shipped("weights") == installation.ROOT / "weights"
    assert (installation.shipped("tests/data") / "face.jpeg").is_file()
