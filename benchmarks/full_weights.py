"""The whole way of the full weights, on this machine: `python -m benchmarks.full_weights`.

Files in the formats of the full set, at full size and with made-up weights, are served by a mirror that cuts
connections, redirects, lies about lengths and sends wrong bytes; fetched, converted, verified and loaded as
the published ones are; and their outputs compared with the published implementations'. Then one byte of each
converted file is changed, and must be found. Needs 7 GB of disk, all of it given back.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mead.weights.building import build_network
from mead.weights.sets import FOLDER, WeightSet
from tests import full_size, parity
from tests.mirror import Mirror, cut_at, length_of, mirror, redirect_to, status


def main() -> None:
    """Run it; the exit status tells whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as folder, mirror() as server:
        os.environ["WEIGHTS_DIR"] = str(Path(folder) / "weights")
        sys.exit(0 if run(Path(folder), server) else 1)


def run(folder: Path, server: Mirror) -> bool:
    """All of the above, in a folder; whether it went well."""
    downloads = WeightSet.find("full", FOLDER / "manifest.toml").downloads
    files = {name: folder / name for name in downloads}
    began = time.perf_counter()
    for name, path in files.items():
        full_size.write(name, path)
        print(f"{name}: {path.stat().st_size / 1e6:,.0f} MB", flush=True)
    print(f"written in {time.perf_counter() - began:.0f} s")
    home = Path(os.environ["WEIGHTS_DIR"]) / "local"
    full_size.describe(home, files, {name: serve(server, path) for name, path in files.items()})

    well = mead("fetch", "local") == 0
    asked = {path: len(file.asked) for path, file in server.files.items() if path.startswith("/real")}
    print(f"requests: {asked}")
    well &= mead("fetch", "local") == 0
    well &= asked == {path: len(server.files[path].asked) for path in asked}
    well &= mead("verify", "local") == 0
    mead("list")
    weights = WeightSet.find("local")
    for network in weights.files:
        began = time.perf_counter()
        built = build_network(network, weights.read(network))
        seconds = time.perf_counter() - began
        for output, error in full_size.errors(network, built).items():
            well &= error < parity.TOLERANCE
            print(f"{network} {output}: off by {error:.1e} of the largest value (loaded in {seconds:.1f} s)")
        del built
    for file in weights.files.values():
        change_a_byte(file.path)
    done = subprocess.run(command("verify", "local"), capture_output=True, text=True, check=False)
    print(done.stderr)
    well &= done.returncode == 1
    well &= all(f"{file.path} has a wrong checksum" in done.stderr for file in weights.files.values())
    print("all is well" if well else "NOT all is well")
    return well


def serve(server: Mirror, path: Path) -> list[str]:
    """Serve a file at the last of three mirrors, badly; their addresses."""
    content = full_size.mapped(path)
    real = server.add(
        f"/real/{path.name}",
        content,
        cut_at(len(content) // 3),
        status(503),
        cut_at(len(content) // 2),
        length_of(len(content) + 10),
    )
    wrong = server.add(f"/wrong/{path.name}", bytes(100_000))
    moved = server.add(f"/moved/{path.name}", b"", *[redirect_to(real)] * 9)
    return [wrong, server.url("/gone"), moved]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mead", "weights", *arguments]


def mead(*arguments: str) -> int:
    """Run a weights command, and say how long it took."""
    began = time.perf_counter()
    code = subprocess.run(command(*arguments), check=False).returncode
    print(f"weights {' '.join(arguments)}: exit {code}, {time.perf_counter() - began:.0f} s", flush=True)
    return code


def change_a_byte(path: Path) -> None:
    """Change one in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


if __name__ == "__main__":
    main()
