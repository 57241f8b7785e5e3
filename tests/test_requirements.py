"""The locks hold what the requirements ask for, with checksums, whatever the Python and the machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def lines(name: str) -> list[str]:
    """A file's requirements: without comments, options and checksums, those of `-r FILE` among them."""
    text = re.sub(r"\s*\\\n\s*", " ", (ROOT / name).read_text("utf-8"))
    given = [re.split(r" #| --hash", line)[0] for line in text.splitlines() if line and line[0] not in "# "]
    included = [line.removeprefix("-r ") for line in given if line.startswith("-r ")]
    return [line for line in given if line[0] != "-"] + [one for name in included for one in lines(name)]


def versions(name: str, environment: dict[str, str]) -> dict[str, str]:
    """What a file asks for in an environment, by package."""
    wanted = [Requirement(line) for line in lines(name)]
    here = [one for one in wanted if one.marker is None or one.marker.evaluate(environment)]
    return {re.sub("[-_.]+", "-", one.name).lower(): str(one.specifier) for one in here}


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_locks_hold_what_is_asked_for(python: str, machine: str, system: str) -> None:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.4",
        "platform_machine": machine,
        "sys_platform": system,
    }
    locked = versions("requirements.lock", environment)
    for name, lock in (
        ("requirements.txt", locked),
        ("requirements-dev.txt", versions("requirements-dev.lock", environment)),
    ):
        for package, version in versions(name, environment).items():
            assert lock[package] == version, f"{name} was changed: run ./setup.sh lock"
        assert locked.items() <= lock.items()


@pytest.mark.parametrize("python", ["3.10", "3.11"])
def test_the_client_needs_what_the_service_has_too(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(line) for line in project["optional-dependencies"]["client"]]
    environment = {"python_version": python}
    here = {one.name: str(one.specifier) for one in wanted if one.marker and one.marker.evaluate(environment)}
    full = {**environment, "platform_machine": "x86_64", "sys_platform": "linux"}
    assert here.keys() == {"httpx2"} and here.items() <= versions("requirements.txt", full).items()


def test_the_tests_have_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {str(Requirement(line)) for extra in extras.values() for line in extra}
    assert wanted <= {str(Requirement(line)) for line in lines("requirements-dev.txt")}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_package_has_a_checksum_and_no_index_is_named(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    packages = re.findall(r"^\S+==\S+.*\n +--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(packages) == len(lines(name)) > 50
    assert "://" not in text and not re.search(r"^-", text, re.MULTILINE)
