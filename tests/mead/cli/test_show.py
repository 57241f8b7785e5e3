"""`mead show`: the command that makes a picture again, and what is said of files that tell of none."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from LatentRevisions.params import LatentRevisionsParams
from mead.cli.main import main
from mead.cli.parser import CommandError
from mead.cli.show import command_of, differences, read_provenance
from mead.imaging.encoding import write_picture
from mead.provenance import Provenance, chunks_of
from StyleCLIP.params import StyleCLIPParams


def made(folder: Path, params: Any, model: str = "LatentRevisions", **changes: Any) -> Path:
    """A picture of a job, with some of what it says changed."""
    said = json.loads(chunks_of(params, 40, model, "demo")["mead"]) | changes
    picture = Image.new("RGB", (8, 8))
    picture.info["mead"] = json.dumps(said)
    write_picture(picture, folder / "picture.png")
    return folder / "picture.png"


def shown(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What the command prints: its output and its errors."""
    main(["show", str(file)])
    printed = capsys.readouterr()
    return printed.out.strip(), printed.err


def test_it_prints_what_is_not_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = LatentRevisionsParams(
        prompt="a 'red' house", seed=7, w0=0.5, prompts="at night:2", size=(64, 96), img_path=Path("x.png")
    )
    out, errors = shown(made(tmp_path, params), capsys)
    command, route, *options, prompt = shlex.split(out)
    assert (command, route, prompt) == ("mead", "generate", "a 'red' house")
    assert set(options) == {"--w0=0.5", "--prompts=at night:2", "--seed=7", "--size=64x96", "--img=FILE"}
    assert errors == ""


def test_of_the_other_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = StyleCLIPParams(prompt="-- a smile", seed=0, img_path=Path("face.jpeg"))
    out, _ = shown(made(tmp_path, params, "StyleCLIP"), capsys)
    assert shlex.split(out) == ["mead", "edit", "--seed=0", "FILE", "--", "-- a smile"]
    out, _ = shown(made(tmp_path, StyleCLIPParams(mapper="beard", seed=0), "StyleCLIP"), capsys)
    assert shlex.split(out) == ["mead", "styleclip", "--seed=0", "--method=mapper", "--mapper=beard"]


@pytest.mark.slow
def test_the_command_makes_the_same_file(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "mead"]
    given = ["generate", "a $HOME of `x`", "--iterations", "2", "--size", "64x64", "--story", "a boat"]
    first = subprocess.run([*program, *given, "--output_path", str(tmp_path)], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.strip())
    words = shlex.split(subprocess.run([*program, "show", str(path)], capture_output=True, text=True).stdout)
    assert words[0] == "mead"
    again = subprocess.run(
        [*program, words[1], "--output_path", str(tmp_path), *words[2:]], capture_output=True, text=True
    )
    assert Path(again.stdout.strip()).read_bytes() == path.read_bytes()


def test_other_weights_and_versions_are_named(tmp_path: Path) -> None:
    params = LatentRevisionsParams(prompt="a house", seed=7)
    said = Provenance.of("LatentRevisions", params, 40, "demo")
    assert differences(said) == []
    other = {**said.weights.sha256, "clip": "0" * 64}
    changed = said.model_copy(
        update={"version": "9.9", "weights": said.weights.model_copy(update={"sha256": other})}
    )
    old, weights = differences(changed)
    assert "9.9" in old and weights.endswith(": clip")
    gone = said.model_copy(update={"weights": said.weights.model_copy(update={"name": "nowhere"})})
    assert "nowhere, which are not here" in differences(gone)[0]
    assert "--weights=nowhere" in command_of(gone)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "Other"}, "this version does not have"),
        ({"parameters": {"prompt": "x", "w9": 1}}, "does not take: w9"),
        ({"parameters": {}}, "does not take: prompt"),
        ({"pictures": ["passwd"]}, "does not take: passwd_path"),
        ({"parameters": [1]}, "cannot be read"),
        ({"weights": None}, "cannot be read"),
    ],
)
def test_what_this_version_does_not_know(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    file = made(tmp_path, LatentRevisionsParams(prompt="a house", seed=7), **changes)
    with pytest.raises(CommandError, match=why):
        command_of(read_provenance(file))


def png(mead: str | None) -> bytes:
    file, texts = io.BytesIO(), PngInfo()
    if mead is not None:
        texts.add_text("mead", mead)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=texts)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a PNG"),
        (b"text", "not a PNG"),
        (png(None)[:40], "not a PNG"),
        (png(None), "does not say how it was made"),
        (png("no JSON"), "cannot be read"),
        (png("[" * 100_000), "cannot be read"),
        (png("null"), "cannot be read"),
    ],
)
def test_files_that_tell_of_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, why: str
) -> None:
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        main(["show", str(tmp_path / "picture.png")])
    assert caught.value.code == 2 and why in capsys.readouterr().err
