"""The two Python classes up to where weights are loaded, and their run on a pipeline that needs none.

The set of weights asked for here does not exist, so that whatever is found wrong is found before it is
loaded.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from mead.model import Model, NoteWarning
from mead.params import JobParams
from mead.revision import Progress
from mead.weights.errors import WeightsError
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import StyleCLIP
from tests.conftest import ROOT, frames_of, psnr

both = pytest.mark.parametrize("model", [LatentRevisions, StyleCLIP])


def notes_in(warned: pytest.WarningsRecorder) -> list[Any]:
    """The notes among warnings, which may also tell of what other tests left open."""
    return [each for each in warned.list if each.category is NoteWarning]


@both
def test_notes_are_known_before_anything_is_loaded(model: Any) -> None:
    with pytest.warns(NoteWarning, match="not learned: cat") as warned:
        made = model("a cat")
    assert made.notes == ("the demo weights have not learned: cat",)
    (note,) = notes_in(warned)
    assert note.filename == __file__  # the line that the user wrote


def test_without_notes_there_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert LatentRevisions("a red house", w0=5, w1=0).notes == ()
    assert not notes_in(recwarn)
    with pytest.warns(NoteWarning) as warned:
        made = LatentRevisions("a red house", text_to_add="a star", w3=1)
    assert [str(note.message) for note in notes_in(warned)] == list(made.notes)
    assert made.notes == (
        "text_to_add has no effect: its weight w1 is 0",
        "w3 has no effect: there is no ne_img_enc",
    )


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Three picture files."""
    paths = [tmp_path / name for name in ("start.jpeg", "towards.jpeg", "away.jpeg")]
    for path in paths:
        Image.new("RGB", (16, 16), "teal").save(path)
    return [str(path) for path in paths]


@both
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("prompt", " "),
        ("prompt", 5),
        ("seed", -1),
        ("seed", "one"),
        ("iterations", 0),
        ("iterations", 10**6),
        ("device", "abacus"),
        ("device", "cpu:x"),
    ],
)
def test_a_wrong_argument_is_named(model: Any, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        model(**{"prompt": "a house", "weights": "none-such", argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("w0", "abc"),
        ("w0", 0),
        ("w1", float("nan")),
        ("w2", float("inf")),
        ("w3", 1e9),
        ("text_to_add", ""),
        ("cutouts", 0),
        ("size", (100, 100)),
        ("size", "large"),
        ("start", "dark"),
    ],
)
def test_a_wrong_argument_of_latentrevisions_is_named(argument: str, value: Any) -> None:
    given: dict[str, Any] = {argument: value}
    with pytest.raises(ValueError, match=f"^{argument}: "):
        LatentRevisions("a house", **given, weights="none-such")


@pytest.mark.parametrize("uid", ["", ".", "..", "a/b", "/a", "a/", "../a", "a\0b"])
def test_the_uid_is_a_plain_file_name(uid: str) -> None:
    with pytest.raises(ValueError, match=r"^uid: "):
        StyleCLIP("a house", uid, weights="none-such")


def test_the_method_of_styleclip_is_one_there_is() -> None:
    with pytest.raises(ValueError, match=r"^method: "):
        StyleCLIP("a house", method="magic", weights="none-such")


@pytest.mark.parametrize(
    ("model", "argument"),
    [
        (LatentRevisions, "img_path"),
        (LatentRevisions, "img_enc_path"),
        (LatentRevisions, "ne_img_enc_path"),
        (StyleCLIP, "img_path"),
    ],
)
def test_a_picture_that_is_not_there_is_named(model: Any, argument: str, tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):  # a folder is no picture either
        with pytest.raises(FileNotFoundError, match=f"^{argument}: .*{path}"):
            model("a house", **{argument: path}, weights="none-such")


def test_positional_order_of_latentrevisions(pictures: list[str]) -> None:
    start, towards, away = pictures
    model = LatentRevisions("a house", "out", start, 0.5, "a tree", 1, towards, 2, away, 3)
    assert model.output_path == Path("out")
    asked = model.params.model_dump(exclude={"seed", "n"}, exclude_none=True)
    assert asked == {
        "prompt": "a house",
        "img_path": Path(start),
        "w0": 0.5,
        "text_to_add": "a tree",
        "w1": 1.0,
        "img_enc_path": Path(towards),
        "w2": 2.0,
        "ne_img_enc_path": Path(away),
        "w3": 3.0,
    }
    too_many: list[Any] = ["a house", "out", start, 0.5, "a tree", 1, towards, 2, away, 3, 7]
    with pytest.raises(TypeError, match="positional"):
        LatentRevisions(*too_many)


def test_positional_order_of_styleclip(pictures: list[str]) -> None:
    model = StyleCLIP("a smile", "mona", "out", pictures[0])
    assert (model.params.prompt, model.name, model.output_path) == ("a smile", "mona", Path("out"))
    assert model.params.pictures() == {"img": Path(pictures[0])}
    too_many: list[Any] = ["a smile", "mona", "out", pictures[0], 7]
    with pytest.raises(TypeError, match="positional"):
        StyleCLIP(*too_many)


def test_what_is_left_out() -> None:
    latent_revisions, styleclip = LatentRevisions("a house"), StyleCLIP("a smile")
    assert latent_revisions.output_path == Path("./latentrevisions_out")
    assert styleclip.output_path == Path("./styleclip_out")
    for model in (latent_revisions, styleclip):
        assert (model.weights, model.name, model.callback) == ("demo", None, None)
        assert model.params.iterations is None and not model.params.pictures()
    weights = {"w0": 5.0, "w1": 0.0, "w2": 0.0, "w3": 0.0}
    assert latent_revisions.params.model_dump(include=weights.keys()) == weights


@both
def test_an_unknown_set_of_weights_is_named(model: Any) -> None:
    with pytest.raises(ValueError, match=r"^weights: there is no set 'none-such'"):
        model("a house", weights="none-such")


def test_weights_are_loaded_by_run(tmp_path: Path) -> None:
    def load(weights: str, device: str) -> Any:
        raise WeightsError("the file is not whole")

    parameters = (LatentRevisionsParams, {"prompt": "a house"}, load, tmp_path / "out", "demo", "cpu", None)
    made = Model(*parameters)
    with pytest.raises(WeightsError, match="not whole"):
        made.run()
    assert not list((tmp_path / "out").iterdir())


def never(weights: str, device: str) -> Any:
    raise AssertionError("weights are loaded")


def test_the_place_of_the_picture_is_tried_before_weights_are_loaded(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "mona.png").mkdir()

    def run(folder: Path | str, name: str | None = None) -> None:
        Model(
            LatentRevisionsParams, {"prompt": "a house"}, never, folder, "demo", "cpu", None, name=name
        ).run()

    for folder in (file, file / "below"):
        with pytest.raises(NotADirectoryError, match=f"^output_path: .*{file}"):
            run(folder)
    with pytest.raises(IsADirectoryError, match=r"^output_path: .*mona\.png is a folder"):
        run(tmp_path, "mona")
    with pytest.raises(OSError, match=r"^output_path: .*: File name too long"):
        run(tmp_path, "m" * 250)
    with pytest.raises(ValueError, match=r"^output_path: "):
        run("a\0b")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "mona.png"}


@both
def test_the_output_path_is_a_path(model: Any) -> None:
    with pytest.raises(ValueError, match=r"^output_path: "):
        model("a house", output_path=5)


@both
@pytest.mark.parametrize("path", ["a\0b", "", "n" * 300, "/dev/zero"])
def test_what_is_no_picture_file_is_named(model: Any, path: str) -> None:
    with pytest.raises(OSError, match=r"^img_path: "):
        model("a house", img_path=path)


@both
def test_a_pipe_is_not_waited_for(model: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match=r"^img_path: .*pipe' is not a file"):
        model("a house", img_path=tmp_path / "pipe")


def test_what_the_callback_raises_comes_out_and_nothing_is_written(colours: Any, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    given = {"prompt": "teal", "iterations": 4}
    made = Model(LatentRevisionsParams, given, lambda *_: colours, tmp_path, "demo", "cpu", interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert not list(tmp_path.iterdir())
    made.callback = None
    assert Path(made.run()).is_file()


def test_run_writes_one_png_and_says_where(colours: Any, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []
    seen: list[Progress] = []
    sizes: list[tuple[int, int]] = []

    def load(weights: str, device: str) -> Any:
        asked.append((weights, device))
        return colours

    def callback(progress: Progress) -> None:
        seen.append(progress)
        sizes.append(progress.image().size)

    def model(name: str | None) -> Model:
        given = {"prompt": "teal", "seed": 3, "iterations": 4, "text_to_add": None}
        folder = tmp_path / "deep" / "out"
        return Model(LatentRevisionsParams, given, load, folder, "demo", "cpu", callback, name=name)

    named, other = Path(model("mona").run()), Path(model(None).run())
    assert named == tmp_path / "deep" / "out" / "mona.png"
    assert set(named.parent.iterdir()) == {named, other}  # and nothing half-written
    assert named.read_bytes() == other.read_bytes()
    with Image.open(named) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (8, 8))
    assert asked == [("demo", "cpu")] * 2
    assert [(progress.step, progress.steps) for progress in seen] == [(step, 4) for step in (1, 2, 3, 4)] * 2
    assert all(progress.loss >= 0 and progress.seconds >= 0 for progress in seen)
    assert sizes == [(8, 8)] * 8


def test_a_loss_that_is_not_finite_is_an_error(colours: Any, tmp_path: Path) -> None:
    spoilt = colours.start(LatentRevisionsParams(prompt="teal", iterations=4))
    colours.start = lambda params: spoilt

    def spoil(progress: Progress) -> None:
        spoilt.latents.data.fill_(float("nan"))

    def load(weights: str, device: str) -> Any:
        return colours

    model = Model(LatentRevisionsParams, {"prompt": "teal"}, load, tmp_path / "out", "demo", "cpu", spoil)
    with pytest.raises(FloatingPointError, match="step 2 of 4: the loss is nan"):
        model.run()
    assert not list((tmp_path / "out").iterdir())


def described(model: type[Model]) -> dict[str, str]:
    """Each argument of a class, and what its docstring says of it, on one line."""
    text = inspect.getdoc(model.__init__) or ""
    arguments = text.partition("Args:\n")[2].partition("\n\nRaises:")[0]
    entries = re.split(r"^    (?=\w)", arguments, flags=re.MULTILINE)[1:]
    return {name: " ".join(said.split()) for name, _, said in (entry.partition(": ") for entry in entries)}


def range_of(schema: dict[str, Any]) -> str:
    """The range of a parameter, from its JSON schema, as docstrings say it; empty if any value will do."""
    schema = next((kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}), schema)
    if "pattern" in schema and "x" in schema["pattern"] and "maxLength" not in schema:
        return "each a multiple of 16, 16 to 1024"
    if "maxLength" in schema:
        return f"{schema['minLength']} to {schema['maxLength']} characters"
    if "minimum" in schema:
        return f"{schema['minimum']:g} to {schema['maximum']}".removesuffix(".0")
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return " or ".join(json.dumps(value) for value in values)


@pytest.mark.parametrize(
    ("model", "params"), [(LatentRevisions, LatentRevisionsParams), (StyleCLIP, StyleCLIPParams)]
)
def test_the_docstring_lists_every_argument_with_its_range_and_default(
    model: type[Model], params: type[JobParams]
) -> None:
    arguments = inspect.signature(model).parameters
    said = described(model)
    assert list(said) == list(arguments)
    assert params.model_fields.keys() <= arguments.keys()
    for name, schema in params.model_json_schema()["properties"].items():
        assert range_of(schema) in said[name], name
        assert name == "seed" or arguments[name].default in (inspect.Parameter.empty, schema.get("default"))
    for name, argument in arguments.items():
        default = json.dumps(argument.default) if isinstance(argument.default, str) else argument.default
        required = argument.default is inspect.Parameter.empty
        assert ("default" not in said[name]) if required else (f"default {default}" in said[name]), name


def test_frames_that_there_are_no_steps_for(colours: Any, tmp_path: Path) -> None:
    given = {"prompt": "teal", "iterations": 2, "frames": 4}
    model = Model(LatentRevisionsParams, given, lambda *_: colours, tmp_path, "demo", "cpu", None)
    before = list(model.notes)
    with pytest.warns(NoteWarning, match="3 frames are kept, not 4: there are 2 steps"):
        model.run()
    model.run()
    assert list(model.notes) == [*before, "3 frames are kept, not 4: there are 2 steps"]


def test_run_all_makes_a_picture_for_each_seed(colours: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def model(seed: int, n: int, name: str | None = None) -> Model:
        given = {"prompt": "teal", "seed": seed, "n": n, "iterations": 2}
        return Model(
            LatentRevisionsParams,
            given,
            lambda weights, device: colours,
            tmp_path,
            "demo",
            "cpu",
            lambda progress: seen.append((progress.variant, progress.step)),
            name=name,
        )

    paths = [Path(path) for path in model(7, 6, "teal").run_all()]
    assert [path.name for path in paths] == ["teal.png", *(f"teal-{number}.png" for number in range(2, 7))]
    assert colours.batches == [4, 4, 2, 2]  # four at a time
    assert sorted(seen) == [(variant, step) for variant in range(6) for step in (1, 2)]
    alone = [Path(model(seed, 1).run()).read_bytes() for seed in range(7, 13)]
    assert [path.read_bytes() for path in paths] == alone and len(set(alone)) == 6
    assert Path(model(7, 6).run()).read_bytes() == alone[0]


def test_a_time_lapse_of_each_picture(colours: Any, tmp_path: Path) -> None:
    def model(**more: Any) -> Model:
        given = {"prompt": "teal", "seed": 7, "iterations": 4, **more}
        load = lambda weights, device: colours  # noqa: E731
        return Model(LatentRevisionsParams, given, load, tmp_path, "demo", "cpu", None)

    made = model(n=5, frames=3)
    with pytest.raises(IndexError, match="variant: 0, of 0 pictures"):
        made.timelapse(tmp_path / "a.webp")
    paths = made.run_all()
    for variant in (0, 4):
        path = Path(made.timelapse(tmp_path / f"{variant}.webp", variant))
        frames = frames_of(path)
        assert len(frames) == 3
        with Image.open(paths[variant]) as picture:
            assert psnr(frames[2], picture) > 12 > psnr(frames[0], picture)  # 8 x 8, of compressed colours
    assert Path(made.timelapse(tmp_path / "a.mp4")).read_bytes()[4:8] == b"ftyp"
    for name in ("a.gif", "a"):
        with pytest.raises(ValueError, match=r"^path: .* ends neither in"):
            made.timelapse(tmp_path / name)
    alone = model()
    assert Path(alone.run()).read_bytes() == Path(paths[0]).read_bytes()  # the frames change nothing
    with pytest.raises(ValueError, match=r"^frames: none were kept"):
        alone.timelapse(tmp_path / "b.webp")


def test_the_repr_says_what_will_be_made(face: Path) -> None:
    made = LatentRevisions("a house", w0=5, w1=2, text_to_add="a tree", size=(64, 96), seed=3, device="cpu")
    assert repr(made) == (
        "LatentRevisions('a house', seed=3, text_to_add='a tree', w1=2.0, size=(64, 96), weights='demo', "
        "device='cpu')"
    )
    edit = StyleCLIP("a smile", img_path=face, start="inversion", iterations=9, device="cpu")
    assert repr(edit) == (
        f"StyleCLIP('a smile', seed={edit.params.seed}, iterations=9, img_path={str(face)!r}, "
        "start='inversion', weights='demo', device='cpu')"
    )
    again = eval(repr(edit), {"StyleCLIP": StyleCLIP})  # noqa: S307
    assert again.params == edit.params


def test_progress_shows_a_bar_on_stderr(
    colours: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def made(progress: bool) -> Model:
        given = {"prompt": "teal", "iterations": 4}
        return Model(
            LatentRevisionsParams,
            given,
            lambda *_: colours,
            tmp_path,
            "demo",
            "cpu",
            lambda progress: seen.append(progress.step),
            progress,
        )

    made(progress=False).run()
    assert capsys.readouterr() == ("", "")
    made(progress=True).run()
    out, err = capsys.readouterr()
    assert out == "" and "Model: 100%" in err and "4/4" in err and "loss=" in err
    assert seen == [1, 2, 3, 4] * 2


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository, with nothing in its environment but what is given."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


SERVERS = {"PORT": "tcp://10.0.0.1:5000", "DEBUG": "release", "REDIS_URL": "none", "HTTP_THREADS": "many"}
"""Settings that no server would start with, as other programs and Docker's links set them."""


@pytest.mark.slow
def test_the_classes_read_no_setting_of_the_servers(tmp_path: Path) -> None:
    code = (
        "from LatentRevisions.LatentRevisions import LatentRevisions\n"
        "from StyleCLIP.StyleCLIP import StyleCLIP\n"
        f"print(LatentRevisions('a house', {str(tmp_path)!r}, iterations=1, size=(64, 64)).run())\n"
        f"print(StyleCLIP('a smile', None, {str(tmp_path)!r}, iterations=1).run())\n"
    )
    ended = python("-c", code, **SERVERS)
    assert ended.returncode == 0, ended.stderr
    assert {Path(line) for line in ended.stdout.splitlines()} == set(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["latent_revision", "styleclip"])
def test_nor_do_their_commands(tmp_path: Path, command: str) -> None:
    options = ["--iterations", "1", "--output_path", str(tmp_path)]
    ended = python("-m", "mead", command, "a house", *options, **SERVERS)
    assert ended.returncode == 0, ended.stderr
    assert [Path(ended.stdout.strip())] == list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "other"), [("LatentRevisions", "StyleCLIP"), ("StyleCLIP", "LatentRevisions")]
)
def test_a_model_imports_neither_the_servers_nor_the_other_model(model: str, other: str) -> None:
    code = f"import sys, {model}.{model}; print(*sys.modules)"
    loaded = python("-c", code).stdout.split()
    assert f"{model}.{model}" in loaded
    barred = (other, "mead.http", "mead.queue", "mead.worker", "mead.cli", "caching_config", "redis", "flask")
    assert not [name for name in loaded if any(f"{name}.".startswith(f"{module}.") for module in barred)]
