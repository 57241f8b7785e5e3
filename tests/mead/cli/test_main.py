"""The command line, as far as it needs no networks."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mead.installation import version
from mead.registry import MODELS

REPOSITORY = Path(__file__).parents[3]


ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # PyTorch's threads in several processes wait for each other


def mead(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mead", *arguments]
    environment = {**ONE_THREAD, **environment}
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["generate", "x"], ["edit", "tests/data/face.jpeg", "x"], ["faces", "tests/data/face.jpeg"]],
    ids=lambda arguments: arguments[0],
)
def test_the_setting_weights_holds_here_too(arguments: list[str]) -> None:
    done = mead(*arguments, WEIGHTS="nope")
    assert done.returncode == 2 and "there is no set 'nope'" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["paint"], ["latent_revision"], ["styleclip", "x", "--w0", "1"]])
def test_what_is_not_understood_gives_the_usage(arguments: list[str]) -> None:
    done = mead(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: python -m mead") and "\nmead: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["latent_revision", "x", "--w0", "abc"], "mead: w0: "),
        (["latent_revision", "x", "--w0", "nan"], "mead: w0: "),
        (["latent_revision", " "], "mead: prompt: "),
        (["latent_revision", "x", "--size", "100x100"], "mead: size: "),
        (["styleclip", "x", "--iterations", "0"], "mead: iterations: "),
        (["generate", "x", "-n", "17"], "mead: n: must be at most 16"),
        (
            ["generate", "x", "--img", "none.jpg"],
            "mead: Invalid value for '--img': File 'none.jpg' does not exist.",
        ),
        (["edit", "none.jpg", "x"], "mead: Invalid value for 'IMG': File 'none.jpg' does not exist."),
        (["generate", "x", "--start", "dark"], "mead: Invalid value for '--start': 'dark' is not one of"),
        (["generate", "x", "--frames", "101"], "mead: frames: must be at most 100"),
        (["generate", "x", "--timelapse", "a.webp"], "'--timelapse': no frames are kept; give --frames"),
        (["generate", "x", "--frames", "2", "--timelapse", "a.gif"], "'a.gif' ends neither in"),
        (
            ["generate", "x", "-o", "picture.jpg"],
            "mead: Invalid value for '-o' / '--out': 'picture.jpg' does not end",
        ),
        (["generate", "x", "-o", "no/such/a.png"], "'-o' / '--out': the folder 'no/such' does not exist"),
        (["wait", "0", "-o", "no/such/a.png"], "'-o' / '--out': the folder 'no/such' does not exist"),
        (["generate", "x", "--frames", "2", "--timelapse", "no/a.webp"], "the folder 'no' does not exist"),
        (["faces", "none.jpg"], "mead: Invalid value for 'FILE': File 'none.jpg' does not exist."),
        (["show", "none.png"], "mead: Invalid value for 'FILE': File 'none.png' does not exist."),
        (["jobs", "--url", "localhost:5000"], "mead: url: 'localhost:5000' is not the address of a service"),
        (["jobs", "--key", "clé"], "mead: key: an API key has only letters"),
    ],
)
def test_a_wrong_value_is_named(arguments: list[str], says: str) -> None:
    done = mead(*arguments)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr


def test_an_address_that_is_none_is_named() -> None:
    done = mead("jobs", MEAD_URL="http://me:secret@here:port")
    says = "mead: MEAD_URL: 'here:port' is not the address of a service, such as http://127.0.0.1:5000\n"
    assert done.returncode == 2 and done.stderr == says


@pytest.mark.parametrize("command", ["latent_revision", "styleclip"])
def test_the_output_path_is_tried_first(command: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "none").mkdir()
    done = mead(command, "a red heart", "--output_path", str(file), WEIGHTS_DIR=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr == f"mead: output_path: {file} is not a folder\n" and not done.stdout
    done = mead(command, "a red heart", "-o", str(file / "a.png"), WEIGHTS_DIR=str(tmp_path / "none"))
    assert done.returncode == 1 and done.stderr == f"mead: out: {file} is not a folder\n"


@pytest.mark.parametrize("command", [["edit", "-o", "a.png", "FILE", "a queen"], ["faces", "FILE"]])
def test_a_file_that_is_no_picture(command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("# no picture")
    done = mead(*(str(file) if word == "FILE" else word for word in command))
    assert done.returncode == 2 and done.stderr.startswith("mead: img: not a picture that can be read")


def test_the_demo_tries_its_folders_first(tmp_path: Path) -> None:
    (tmp_path / "styleclip_out").touch()
    command = [sys.executable, "-m", "mead", "demo"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr == "mead: output_path: styleclip_out is not a folder\n"


def test_convert_tries_where_weights_go_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    command = ["weights", "convert", str(tmp_path / "checkpoint.pt"), "--name", "mine"]
    done = mead(*command, WEIGHTS_DIR=str(tmp_path / "file"))
    assert done.returncode == 1
    assert done.stderr == f"mead: WEIGHTS_DIR: {tmp_path / 'file'} is not a folder\n"


def test_what_can_be_made() -> None:
    done = mead("models")
    assert done.returncode == 0
    for said in ("make drawings", '"a boat on the sea at sunset"', "w0: -1000 to 1000, default 5.0"):
        assert said in done.stdout
    full = mead("models", "--weights", "full").stdout
    assert "The full weights paint" in full and "size: default 512x512" in full
    unknown = mead("models", "--weights", "nowhere")
    assert unknown.returncode == 2 and "there is no set 'nowhere'" in unknown.stderr


@pytest.mark.slow
def test_the_faces_of_a_photo() -> None:
    result = mead("faces", "tests/data/face.jpeg")
    assert result.returncode == 0
    assert re.fullmatch(r"1: \d+,\d+ to \d+,\d+, turned by -?\d+ degrees\n", result.stdout), result.stdout
    cup = mead("faces", "tests/data/coffee.jpg")
    assert (cup.returncode, cup.stdout) == (
        0,
        "",
    ) and "there is no face in tests/data/coffee.jpg" in cup.stderr


def test_notes_are_said_beside_the_path(tmp_path: Path) -> None:
    options = ["--iterations", "1", "--size", "64x64", "--w2", "1", "--output_path", str(tmp_path)]
    done = mead("latent_revision", "a cat astronaut", *options)
    assert Path(done.stdout.strip()).parent == tmp_path and done.returncode == 0
    assert "mead: the demo weights have not learned: cat, astronaut\n" in done.stderr
    assert "mead: w2 has no effect: there is no img_enc\n" in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_pictures_made_here(tmp_path: Path, face: Path) -> None:
    """Into a pipe goes what a program needs, and nothing else."""
    few = ["--iterations", "1", "--upscale", "1"]
    small = [*few, "--size", "64x64"]
    first = tmp_path / "house.png"
    lapse = ["--frames", "2", "--timelapse", str(tmp_path / "house.webp")]
    done = mead("generate", "a red house", *small, "--seed", "7", "-n", "2", "-o", str(first), *lapse)
    assert done.returncode == 0 and done.stderr == ""
    for name in ("house.webp", "house-2.webp"):
        assert (tmp_path / name).read_bytes()[:4] == b"RIFF"
    assert done.stdout.splitlines() == [str(first), str(first.with_name("house-2.png"))]
    folder = ["--output_path", str(tmp_path / "new")]
    alone = mead("generate", "a red house", *small, "--seed", "8", *folder, "--json")
    told = json.loads(alone.stdout)
    assert told["notes"] == [] and told["pictures"][0]["seed"] == 8
    assert Path(told["pictures"][0]["path"]).read_bytes() == first.with_name("house-2.png").read_bytes()
    edited = tmp_path / "face.png"
    done = mead("edit", str(face), "a person with glasses", *few, "-o", str(edited))
    assert done.stdout == f"{edited}\n" and edited.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_terminal_shows_the_seed_and_a_bar(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mead",
        "generate",
        "a red house",
        "--iterations",
        "3",
        "--seed",
        "12345",
    ]
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        [*command, "--output_path", str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=inside,
        env=ONE_THREAD,
    ) as process:
        os.close(inside)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while part := os.read(terminal, 4096):
                shown += part
    assert process.returncode == 0
    assert b"seed 12345\r\n" in shown and b"3/3" in shown


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status", "--help"], ["doctor", "--help"]])
def test_what_needs_no_networks_imports_no_pytorch(arguments: list[str]) -> None:
    code = (
        "import sys; from mead.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr


def test_every_parameter_is_an_option() -> None:
    for spec in MODELS.values():
        names = {name.removesuffix("_path") for name in spec.params.model_fields} - {"prompt"}
        for command in ([spec.route], [spec.command], ["submit", spec.command]):
            text = mead(*command, "--help").stdout
            there = set(re.findall(r"--(\w+)", text)) | {
                name.lower() for name in re.findall(r"[A-Z]{2,}", text)
            }
            assert names <= there, command


def test_help_lists_commands_and_exit_codes() -> None:
    text = mead("--help").stdout
    for command in (
        "generate",
        "edit",
        "submit",
        "status",
        "wait",
        "cancel",
        "jobs",
        "queue",
        "retry",
        "doctor",
    ):
        assert f"\n  {command} " in text
    assert "latent_revision" not in text and "3    the service does not answer" in text


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str) -> None:
    script = mead("completion", shell, PATH=os.environ["PATH"])
    assert script.returncode == 0 and f"_MEAD_COMPLETE={shell}_complete" in script.stdout
    words = {"COMP_WORDS": "mead generate --st", "COMP_CWORD": "2"}
    completed = mead(_MEAD_COMPLETE=f"{shell}_complete", **words)
    assert "--start" in completed.stdout and "--seed" not in completed.stdout


def test_the_doctor(tmp_path: Path) -> None:
    """Everything is there but the weights."""
    (tmp_path / "weights").mkdir()
    environment = {"DATA_DIR": str(tmp_path / "var"), "PATH": os.environ["PATH"]}
    done = mead("doctor", "--json", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert {"Python", "PyTorch", "GPU", "Redis", "weights", "disk", "port", "open files"} <= found.keys()
    assert {finding["state"] for finding in found.values()} <= {"good", "note"}
    away = {"DATA_URL": "s3://pictures/studio", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    away |= {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    away |= {"DATA_DIR": __file__, "DEFAULT_WEIGHTS": "dmeo", "DEVICE": "abacus"}
    ill = mead("doctor", **{**environment, **away}, WEIGHTS="none-such", REDIS_URL="redis://127.0.0.1:1/0")
    assert "note  settings: DEFAULT_WEIGHTS=dmeo: there is no such set here" in ill.stdout
    assert f"bad   DATA_DIR: {__file__} is not a folder" in ill.stdout
    assert ill.returncode == 1 and "bad   Redis: " in ill.stdout
    assert "bad   weights: there is no set 'none-such'" in ill.stdout
    assert "bad   DEVICE: 'abacus' cannot be used" in ill.stdout
    assert "bad   DATA_URL: s3://pictures/studio: the object store does not answer" in ill.stdout
    lacks = "DEVICE, Redis, weights, DATA_DIR, DATA_URL"
    assert ill.stderr == f"mead: the service cannot work here yet: {lacks}\n"


def test_the_version() -> None:
    assert mead("--version").stdout == f"{version()}\n"


def test_help_names_every_setting() -> None:
    done = mead("serve", "--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("REDIS_URL", "DATA_DIR", "PORT", "STYLECLIP_THREADS"))


def test_serve_says_when_redis_does_not_answer(tmp_path: Path) -> None:
    done = mead("serve", REDIS_URL="redis://127.0.0.1:1/0", DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "Redis at redis://127.0.0.1:1/0 does not answer" in done.stderr
