"""`python -m mead weights`, and a set of one's own in every way in, as someone would type it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch
from PIL import Image

from LatentRevisions.LatentRevisions import LatentRevisions
from mead.cli.local_redis import free_port
from mead.weights.sets import FOLDER, WeightSet
from tests import originals
from tests.conftest import ROOT, Process, answers
from tests.mirror import Mirror, halt_at, mirror

LIMIT = 120  # seconds for what another process does
PROMPT = "a red circle"


@pytest.fixture
def server() -> Iterator[Mirror]:
    with mirror() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, server: Mirror) -> Path:
    """A WEIGHTS_DIR with a set "local" of one file, identity, to be fetched from `server`."""
    tensors = WeightSet.find("demo", FOLDER / "manifest.toml").read("identity")
    originals.identity(tensors, tmp_path / "ir_se50.pth")
    content = (tmp_path / "ir_se50.pth").read_bytes()
    folder = tmp_path / "the weights"
    (folder / "local").mkdir(parents=True)
    (folder / "local" / "manifest.toml").write_text(f"""
description = "From a mirror."
[downloads."ir_se50.pth"]
mirrors = ["{server.url("/gone")}", "{server.add("/ir_se50.pth", content)}"]
size = {len(content)}
sha256 = "{hashlib.sha256(content).hexdigest()}"
licence = "not for sale"
[files.identity]
download = "ir_se50.pth"
licence = "not for sale"
""")
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "WEIGHTS_DIR": str(folder), "OMP_NUM_THREADS": "1"}


def mead(folder: Path, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mead", *arguments]
    settings = environment(folder) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["paint"], ["fetch"], ["convert", "a.pt"]])
def test_what_is_not_understood_gives_the_usage(tmp_path: Path, arguments: list[str]) -> None:
    done = mead(tmp_path, "weights", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: python -m mead weights")


@pytest.mark.slow
def test_from_nothing_to_verified(folder: Path) -> None:
    listed = mead(folder, "weights", "list").stdout
    assert "local: From a mirror." in listed and f"are in {folder}" in listed
    assert (
        "identity           -  not here" in listed
        and "from ir_se50.pth (0.5 MB): identity; not for sale" in listed
    )

    done = mead(folder, "weights", "fetch", "local")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "local: complete (identity); use it with WEIGHTS=local\n"
    assert "ir_se50.pth: licence: not for sale" in done.stderr
    assert "HTTP 404" in done.stderr
    assert re.search(r"^ir_se50\.pth: 100%\|##########\| \d+k/\d+k \[.*B/s\]$", done.stderr, re.MULTILINE)
    assert not re.search("[\x00-\x09\x0b-\x1f]", done.stderr)
    assert f"converting ir_se50.pth to {folder / 'local' / 'identity.safetensors'}" in done.stderr

    done = mead(folder, "weights", "verify")
    assert done.returncode == 0, done.stderr
    assert f"local:\n  {folder / 'local' / 'identity.safetensors'}: good\n" in done.stdout
    assert "demo:\n" in done.stdout and "  LatentRevisions: good\n  StyleCLIP: good\n" in done.stdout
    assert "full:" not in done.stdout
    listed = mead(folder, "weights", "list").stdout
    assert (
        listed.count("here, verified 20") == len(WeightSet.find("demo").files) + 1
        and listed.count("not here") == 17
    )

    path = folder / "local" / "identity.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "here, changed since verified" in mead(folder, "weights", "list").stdout
    told = json.loads(mead(folder, "weights", "list", "--json").stdout)
    assert told["local"]["files"]["identity"]["here"] and told["demo"]["files"]["clip"]["size"] > 0
    done = mead(folder, "weights", "verify", "local")
    assert done.returncode == 1
    assert f"mead: {path} has a wrong checksum (sha256)" in done.stderr
    assert "run `python -m mead weights fetch local`" in done.stderr
    assert "verification of local failed" in done.stderr and "Traceback" not in done.stderr


def test_what_cannot_be_fetched(folder: Path, server: Mirror) -> None:
    del server.files["/ir_se50.pth"]
    done = mead(folder, "weights", "fetch", "local")
    assert done.returncode == 1
    assert "mead: ir_se50.pth could not be downloaded:" in done.stderr and "Traceback" not in done.stderr
    assert server.url("/gone") in done.stderr and server.url("/ir_se50.pth") in done.stderr
    assert str(folder / "local" / "originals" / "ir_se50.pth") in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fetch", "none-such"], "there is no set 'none-such'"),
        (["verify", "none-such"], "there is no set 'none-such'"),
        (["convert", "nowhere.pt", "--name", "mine"], "File 'nowhere.pt' does not exist"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, arguments: list[str], says: str) -> None:
    done = mead(folder, "weights", *arguments)
    assert done.returncode == 2
    assert "mead: " in done.stderr and says in done.stderr and "Traceback" not in done.stderr


HOSTILE = {
    "calls": b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touch\x85R.",
    "tuples": b"\x80\x02ctorch\ndevice\n(K\x01" + b"2\x86" * 60 + b"tR.",
    "keys": b"\x80\x02}(" + b"".join(b"L%dL\nN" % (n * ((1 << 61) - 1)) for n in range(1, 20_000)) + b"u.",
    "sets": b"\x80\x04" + b"\x8f" * 2_000_000 + b".",
    "name": b"\x80\x02cos\n\x1b[2J\n)R.",
    "old": pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    + b"\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian"
    b"\x88s.\x80\x02N.\x80\x02K\x05.",
    "nothing": b"\x80\x02}.",
}


CONVERT_EACH = """
import os, sys
from pathlib import Path
import torch  # once, not in each of the processes
import mead.cli.weights_commands, mead.weights.own_sets
from mead.cli.main import main
for path in sys.argv[1:]:
    if os.fork() == 0:
        sys.stderr = Path(path).with_suffix(".said").open("w")
        try:
            main(["weights", "convert", path, "--name", "mine"])
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code)  # taking PyTorch down in good order takes a second
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.mark.slow
def test_whatever_a_file_holds_it_is_a_message_that_names_it(folder: Path) -> None:
    paths = [folder / f"{name}.ckpt" for name in HOSTILE]
    for path, content in zip(paths, HOSTILE.values(), strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-c", CONVERT_EACH, *paths]
    statuses = subprocess.check_output(command, cwd=ROOT, env=environment(folder), text=True)
    assert statuses.split() == ["1"] * len(paths)
    for path in paths:
        said = path.with_suffix(".said").read_text()
        assert said.startswith(f"mead: {path} ") and said.count("\n") == 1 and said.strip().isprintable()
    assert not (folder / "mine").exists()


def heed_interrupts() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fetch_is_resumed(folder: Path, server: Mirror, number: signal.Signals) -> None:
    half, go_on = threading.Event(), threading.Event()
    file = server.files["/ir_se50.pth"]
    file.faults = [halt_at(400_000, half, go_on)]
    part = folder / "local" / "originals" / "ir_se50.pth.part"
    process = subprocess.Popen(
        [sys.executable, "-m", "mead", "weights", "fetch", "local"],
        cwd=ROOT,
        env=environment(folder),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert half.wait(LIMIT)
    while not (part.exists() and part.stat().st_size > 300_000):
        assert process.poll() is None
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT)
    go_on.set()
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "interrupted; what was downloaded is kept, run the same command again to resume" in said
        assert "Traceback" not in said
    assert not (folder / "local" / "identity.safetensors").exists()
    done = mead(folder, "weights", "fetch", "local")
    assert done.returncode == 0, done.stderr
    assert int(file.asked[-1]["Range"][6:-1]) > 300_000


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    (folder / "local").chmod(0o500)
    done = mead(folder, "weights", "fetch", "local")
    (folder / "local").chmod(0o700)
    assert done.returncode == 1 and "Permission denied" in done.stderr


@pytest.mark.slow
def test_a_set_of_ones_own_in_every_way_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = WeightSet.find("demo", FOLDER / "manifest.toml").read("vqgan")
    originals.vqgan({key: value for key, value in demo.items() if "." in key}, tmp_path / "last.ckpt")
    done = mead(folder, "weights", "convert", tmp_path / "last.ckpt", "--as", "vqgan", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert f"mine: vqgan converted to {folder / 'mine'}" in done.stdout
    others = sorted(
        WeightSet.find("demo", FOLDER / "manifest.toml").files.keys() - {"vqgan", "start", "denoiser"}
    )
    assert f"mine: {', '.join(others)} from demo" in done.stdout

    # the command line, in any folder, with a relative WEIGHTS_DIR
    out = tmp_path / "out"
    options = (
        "--seed",
        "1",
        "--iterations",
        "1",
        "--cutouts",
        "2",
        "--weights",
        "mine",
        "--output_path",
        out,
    )
    done = mead(Path("the weights"), "latent_revision", PROMPT, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    typed = Image.open(done.stdout.strip()).tobytes()

    # Python
    monkeypatch.setenv("WEIGHTS_DIR", str(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes, or sums round otherwise
    drawn = {
        weights: LatentRevisions(
            PROMPT, out, seed=1, iterations=1, cutouts=2, start="noise", weights=weights, device="cpu"
        ).run()
        for weights in ("mine", "demo")
    }
    torch.set_num_threads(threads)
    assert typed == Image.open(drawn["mine"]).tobytes() != Image.open(drawn["demo"]).tobytes()

    # HTTP
    port = str(free_port())
    settings = environment(folder) | {"PORT": port, "DATA_DIR": str(tmp_path / "var"), "WEIGHTS": "mine"}
    process = Process("app.py", settings, tmp_path / "app.log")
    url = f"http://127.0.0.1:{port}"
    try:
        process.wait_until(lambda: answers(url + "/healthz"))
        form = {"prompt": PROMPT, "seed": "1", "iterations": "1", "cutouts": "2"}
        answer = requests.post(f"{url}/latent_revision", form, timeout=LIMIT)
    finally:
        process.stop()
    assert answer.status_code == 200, answer.text
    png = base64.b64decode(answer.json()["image"])
    assert Image.open(io.BytesIO(png)).tobytes() == typed


@pytest.mark.slow
def test_weights_that_are_not_here_are_named_with_what_to_do(folder: Path) -> None:
    done = mead(folder, "latent_revision", "a cat", "--weights", "full")
    assert done.returncode == 1
    path = folder / "full" / "vqgan.safetensors"
    assert done.stderr == f"mead: {path} is missing; run `python -m mead weights fetch full`\n"
