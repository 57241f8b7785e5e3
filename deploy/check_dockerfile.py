"""Runs the lines of the Dockerfile in a root made by debootstrap, where there is no Docker; as root:

    debootstrap --variant=minbase trixie /tmp/image
    python deploy/check_dockerfile.py /tmp/image -- python -m mead doctor

Each RUN runs in the root by chroot, with the variables and the user that the lines before it set, and with
its bind mounts of the build context; COPY copies. The context is what .dockerignore leaves. At the end the
command after `--` runs as the image's user, in its folder and with its variables, as `docker run IMAGE
COMMAND` would.

`--bind FILE` and `--env NAME=VALUE` lend the RUN lines what this machine's pip and apt need, such as a
proxy's certificate; a real build has build arguments and secrets for that.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_IN_THE_FILES = {"VOLUME", "EXPOSE", "HEALTHCHECK", "LABEL", "FROM", "ENTRYPOINT"}
"""Instructions that change nothing in the image's files."""


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: each keyword, and what follows it."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(keyword.upper(), rest.strip()) for keyword, _, rest in found]


def patterns_of(file: Path) -> list[str]:
    """The patterns in a .dockerignore."""
    lines = [line.strip() for line in file.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def context_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of the build context: those of `folder` that .dockerignore does not leave out.

    Args:
        patterns: its lines; the last one that matches a file, or a folder that holds it, decides.
    """

    def ignored(path: Path) -> bool:
        names = [str(path), *map(str, path.parents)]
        found = False
        for pattern in patterns:
            bare = pattern.removeprefix("!")
            places = path.parts if bare.startswith("**/") else names
            if any(fnmatch.fnmatchcase(place, bare.removeprefix("**/")) for place in places):
                found = not pattern.startswith("!")
        return found

    def holds_some(path: Path) -> bool:
        return not ignored(path) or any(pattern.startswith(f"!{path}/") for pattern in patterns)

    kept = []
    for at, folders, files in os.walk(folder):
        place = Path(at).relative_to(folder)
        folders[:] = [name for name in folders if holds_some(place / name)]
        kept += [place / name for name in files if not ignored(place / name)]
    return kept


@dataclass
class Image:
    """The image so far.

    Attributes:
        root: its files.
        context: the build context.
        lent: files of this machine that RUN lines see.
        variables: of ENV and ARG.
    """

    root: Path
    context: Path
    lent: Sequence[Path] = ()
    arguments: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "root"
    folder: str = "/"
    command: list[str] = field(default_factory=list)

    def build(self, given: Sequence[tuple[str, str]], borrowed: Mapping[str, str]) -> None:
        """Follow the instructions.

        Raises:
            ValueError: one is not known here.
            SystemExit: a RUN line failed.
        """
        for keyword, rest in given:
            print(f"{keyword} {rest}", flush=True)
            if keyword == "RUN":
                self.run(rest, borrowed)
            elif keyword == "COPY":
                *sources, target = shlex.split(rest)
                for source in sources:
                    self.copy(source, target)
            elif keyword in ("ENV", "ARG"):
                known = self.variables if keyword == "ENV" else self.arguments
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    known[name] = re.sub(r"\$(\w+)", lambda match: self.variables.get(match[1], ""), value)
            elif keyword == "USER":
                self.user = rest
            elif keyword == "WORKDIR":
                self.folder = rest
                self.inside(rest).mkdir(parents=True, exist_ok=True)
            elif keyword == "CMD":
                self.command = json.loads(rest)
            elif keyword not in NOT_IN_THE_FILES:
                raise ValueError(f"{keyword} is not known to this script")

    def inside(self, path: str) -> Path:
        """Where a path of the image lies on this machine."""
        return self.root / Path("/", self.folder, path).relative_to("/")

    def copy(self, source: str, target: str) -> None:
        """COPY a file or the contents of a folder."""
        place = self.inside(target)
        if (self.context / source).is_dir():
            shutil.copytree(self.context / source, place, dirs_exist_ok=True)
        else:
            shutil.copy(self.context / source, place)

    def run(self, line: str, borrowed: Mapping[str, str]) -> None:
        """RUN a line, with its bind mounts."""
        with ExitStack() as stack:
            while match := re.match(r"--mount=(\S+)\s+", line):
                options = dict(option.split("=", 1) for option in match[1].split(","))
                if options.get("type") != "bind":
                    raise ValueError(f"{match[0]}: only bind mounts are known to this script")
                source = self.context / options.get("source", ".")
                stack.enter_context(bound(source, self.inside(options["target"])))
                line = line[match.end() :]
            for file in (Path("/etc/resolv.conf"), *self.lent):
                stack.enter_context(bound(file, self.root / file.relative_to("/")))
            self.execute(["/bin/sh", "-c", line], {**self.arguments, **borrowed})

    def execute(self, command: Sequence[str], more: Mapping[str, str]) -> None:
        """Execute a command as the image's user, in its folder, with its variables.

        Raises:
            SystemExit: it failed.
        """
        variables = [f"{name}={value}" for name, value in {**self.variables, **more}.items()]
        enter = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        chroot = ["chroot", f"--userspec={self.user}", str(self.root), "/usr/bin/env", "-i", *variables]
        with ExitStack() as stack:
            stack.enter_context(bound(Path("/dev"), self.root / "dev"))
            stack.enter_context(mounted(["-t", "proc", "proc"], self.root / "proc"))
            status = subprocess.run([*chroot, "/bin/sh", "-c", enter], check=False).returncode
        if status:
            sys.exit(f"check_dockerfile: status {status}: {shlex.join(command)}")


@contextmanager
def mounted(what: Sequence[str | Path], place: Path) -> Iterator[None]:
    """Mount something, and unmount it at the end."""
    subprocess.run(["mount", *what, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def bound(source: Path, place: Path) -> Iterator[None]:
    """Show a file or folder of this machine at a place in the image; leave no trace of it there."""
    new = not place.exists()
    if new and source.is_dir():
        place.mkdir(parents=True)
    elif new:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    try:
        with mounted(["--bind", source], place):
            yield
    finally:
        if new:
            place.rmdir() if source.is_dir() else place.unlink()


def main() -> None:
    """Build, and run the command."""
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="made by debootstrap; becomes the image")
    parser.add_argument("--built", action="store_true", help="it has been built: only run the command")
    parser.add_argument("--bind", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        sys.exit("check_dockerfile: chroot and mount need root")
    given = instructions((ROOT / "Dockerfile").read_text())
    borrowed = dict(pair.split("=", 1) for pair in options.env)
    if options.built:
        given = [one for one in given if one[0] not in ("RUN", "COPY")]
    with tempfile.TemporaryDirectory() as context:
        for name in context_files(ROOT, patterns_of(ROOT / ".dockerignore")):
            (Path(context) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, Path(context) / name)
        image = Image(options.root.resolve(), Path(context), options.bind)
        image.build(given, borrowed)
        image.execute(command or image.command, {})


if __name__ == "__main__":
    main()
